"""The page of one run: what can be moved along its path or triangle, its tables, its pictures."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from experiments.report import document, explorers
from experiments.results.styles import METRICS, QUANTITIES, SUBSPACES, deployed, style_of_run
from experiments.results.tables import cells_of, mean_of, run_rows

Metrics = Mapping[str, Any]
Cells = list[list[str]]

_BINS = (
    "A bar is the accuracy of the predictions of one range of confidence, the hatched box its "
    "distance to their mean confidence: bars below the diagonal are overconfident, bars above "
    "it underconfident. The grey strip is the share of predictions in each bin."
)
# How each picture is read: its title, what is seen (for those who can't), how to read it.
_CAPTIONS = {
    "path": (
        "The trained subspace",
        "Accuracy, NLL and ECE of points of the subspace and of ensembles.",
        "Every point of the subspace is one network; the marked midpoint or centre is deployed, "
        "and open circles are ensembles, which cost as many evaluations as they have members. "
        "Higher is better for accuracy, lower for NLL and ECE; the axes do not start at 0.",
    ),
    "triangle": (
        "The triangle as a map",
        "Accuracy, NLL and ECE as colours over the triangle of three endpoints.",
        "Dots are evaluated points, the star is the midpoint; colours between them are interpolated "
        "linearly.",
    ),
    "plane": (
        "The loss around what was trained",
        "A plane through the networks with the test loss as colour.",
        "Batch-norm statistics are recalibrated at every point; distances are L2, of weights.",
    ),
    "reliability": ("Calibration", "Reliability diagram of the deployed network.", _BINS),
    "history": (
        "Training",
        "Training loss, training accuracy and learning rate by epoch.",
        "Means over each epoch, measured at the random points that training visits; the "
        "cosine penalty, which training adds to the loss, is drawn on its own.",
    ),
}
# What the script draws, in order: the part of its data, a title, how to read it and use it.
_EXPLORERS = {
    "path": (
        "Along the path",
        "Every position α is one network. Move the slider or touch a panel; Page Up and Page Down go "
        "from one evaluated point to the next. Dots are evaluated points, and numbers between them are "
        "interpolated linearly. At the midpoint an ensemble of opposite points is one network. Higher "
        "is better for accuracy, lower for NLL and ECE; axes do not start at 0. " + _BINS,
    ),
    "triangle": (
        "The triangle as a map",
        "Every position is one network, mixed from the three endpoints. Move the pointer over the "
        "triangle, or focus it and use the arrow keys. Dots are evaluated points, the star is the "
        "midpoint; colours and numbers between them are interpolated linearly. " + _BINS,
    ),
    "point": ("Calibration", _BINS),
    "plane": (
        "The loss around what was trained",
        "The test loss on a plane through the networks. Batch-norm statistics are recalibrated at every "
        "point of it; distances are L2, of weights.",
    ),
    "history": (
        "Training",
        "Means over each epoch, measured at the random points that training visits.",
    ),
}

# What a run can predict with, in the order in which it is shown; others come after.
_PLACES = ("midpoint", "endpoints", "ensemble", "mc ensemble", "chosen point")


def run_page(metrics: Metrics, pictures: Mapping[str, bytes]) -> str:
    """The page of one run; see `pages.page`."""
    config = metrics.get("config", {})
    title = f"One run: {style_of_run(config).label}"
    data = explorers.data_of(metrics)
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in _sentences(metrics))
    figures = "".join(
        document.figure(png, *_CAPTIONS.get(name, (name,) * 3)) for name, png in pictures.items()
    )
    body = [
        f"<h1>{escape(title)}</h1>",
        document.section("verdict", sentences),
        *(_explorer(part) for part in _parts(data)),
        _rivals(metrics),
        _points(metrics),
        _corruptions(metrics),
        _costs(metrics),
        _geometry(metrics),
        *_details(metrics),
        # Open where no script closes it.
        f'<details class="papers" open><summary>Pictures for papers</summary>{figures}</details>'
        if figures
        else "",
        document.provenance(metrics.get("provenance", {}), config),
    ]
    return document.document(title, body, data)


def _parts(data: Metrics) -> list[str]:
    """What is drawn; one network's diagram only where none follows a slider or pointer."""
    moved = {"path", "triangle"} & data.keys()
    # The triangle is drawn on its plane.
    left_out = ({"point"} if moved else set()) | ({"plane"} if "triangle" in data else set())
    return [part for part in _EXPLORERS if part in data and part not in left_out]


def _explorer(part: str) -> str:
    title, how = _EXPLORERS[part]
    return (
        f'<section class="interactive" id="{part}"><h2>{escape(title)}</h2>'
        f'<div class="part"></div><p class="how">{escape(how)}</p></section>'
    )


def _sentences(metrics: Metrics) -> list[str]:
    point = deployed(metrics.get("points", ()))
    if point is None:
        return []
    values = [mean_of({"mean": point[name]}, name) for name in METRICS]
    what = "midpoint" if len(metrics["points"]) > 1 else "network"
    return [f"The {what} has accuracy {values[0]} %, NLL {values[1]} nats and ECE {values[2]} %."]


def _rivals(metrics: Metrics) -> str:
    """All that the run can predict with: what it costs, and what it is worth."""
    places = metrics.get("places", {})
    names = [*METRICS, "scaled.nll", "scaled.ece"]
    labels = [*(QUANTITIES[name].label for name in METRICS), "Scaled NLL", "Scaled ECE"]
    header = ["Place", "Passes", *labels, "Temperature"]
    rank = {place: i for i, place in enumerate(_PLACES)}
    cells = []
    for place, record in sorted(places.items(), key=lambda item: rank.get(item[0], len(rank))):
        flat = {**record, **{f"scaled.{k}": v for k, v in record.get("scaled", {}).items()}}
        cells.append(
            [_place_said(place, record, metrics), str(record.get("inference_passes", ""))]
            + [mean_of({"mean": flat[name]}, name) if name in flat else "" for name in names]
            + [_number(record["temperature"], ".3g") if "temperature" in record else ""]
        )
    caption = "What to predict with; scaled: by a temperature that validation images chose"
    return document.table(caption, header, cells) if cells else ""


def _place_said(place: str, record: Metrics, metrics: Metrics) -> str:
    if place == "midpoint" and metrics.get("config", {}).get("recipe", "line") not in SUBSPACES:
        return "network"
    if place == "endpoints":
        return "endpoints, their mean"
    if "coords" in record:  # of the chosen point
        name = "α" if isinstance(record["coords"], int | float) else "weights"
        return f"best on validation, {name} = {_coords(record['coords'], '.2g')}"
    return place


def _points(metrics: Metrics) -> str:
    rows = run_rows(metrics)
    return document.table("Points and ensembles", *cells_of(rows)) if rows else ""


def _corruptions(metrics: Metrics) -> str:
    """Accuracy of every place that predicts corrupted images, by corruption and severity."""
    cells, severities = [], {}
    for place, record in metrics.get("places", {}).items():
        for name, by_severity in record.get("corruptions", {}).items():
            severities |= dict.fromkeys(by_severity)
            cells.append([_place_said(place, record, metrics), name.replace("_", " "), by_severity])
    rows = [
        [place, name]
        + [mean_of({"mean": by[s]["accuracy"]}, "accuracy") if s in by else "" for s in severities]
        for place, name, by in cells
    ]
    header = ["Place", "Corruption", *(f"Severity {severity}" for severity in severities)]
    caption = "Accuracy on corrupted test images [%]"
    return document.table(caption, header, rows, 2) if rows else ""


def _costs(metrics: Metrics) -> str:
    record = metrics.get("provenance", {})
    rows = [
        ("Training, passes forward and backward of an image", "gradient_passes", "{:,.0f}"),
        ("Training [s]", "training_seconds", "{:,.1f}"),
        ("Evaluation [s]", "evaluation_seconds", "{:,.1f}"),
        ("The last command, from start to report [s]", "wall_seconds", "{:,.1f}"),
        ("Training images per second", "images_per_second", "{:,.0f}"),
    ]
    cells = [[name, text.format(record[key])] for name, key, text in rows if record.get(key)]
    points = len(metrics.get("points", ()))
    cells += [["Networks evaluated", f"{points}"]] if points else []
    return document.table("Cost", ["", ""], cells) if record and cells else ""


def _geometry(metrics: Metrics) -> str:
    geometry = metrics.get("geometry", {})
    distances, cosines = geometry.get("distances", ()), geometry.get("squared_cosines", ())
    pairs = [(i, j) for j in range(len(distances)) for i in range(j)]
    cells = [
        [f"{i}, {j}", _number(distances[i][j], ".3g"), _number(cosines[i][j], ".3g")]
        for i, j in pairs
    ]
    header = ["Endpoints", "Distance", "Squared cosine"]
    return document.table("Geometry of the endpoints", header, cells) if cells else ""


def _details(metrics: Metrics) -> list[str]:
    """Every scalar metric of every point and ensemble, folded away."""
    return [
        _every("point", "coords", metrics.get("points", ())),
        _every("ensemble", "members", metrics.get("ensembles", ())),
    ]


def _every(kind: str, key: str, entries: Sequence[Metrics]) -> str:
    first = entries[0] if entries else {}
    names = [name for name, value in first.items() if isinstance(value, int | float)]
    names = [name for name in names if name not in ("coords", "num_bins")]
    cells = [
        [f"{_coords(entry[key])} {entry.get('name', entry.get('average', ''))}"]
        + [_number(entry.get(name), ".4g") for name in names]
        for entry in entries
    ]
    header = [kind.capitalize(), *(name.replace("_", " ") for name in names)]
    table = document.table(f"Every {kind}, fractions", header, cells) if cells else ""
    return document.folded(f"All metrics of every {kind}", table)


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)


def _coords(coords: Any, form: str = ".3g") -> str:
    if isinstance(coords, int | float):
        return format(coords, form)
    return f"({', '.join(_coords(item, form) for item in coords)})"
