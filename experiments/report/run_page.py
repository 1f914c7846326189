"""The page of one run: what can be moved along its path or triangle, its tables, its pictures."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from experiments.report import document, explorers
from experiments.results.styles import METRICS, QUANTITIES, deployed, style_of_run
from experiments.results.wording import mean_of, place_said

Metrics = Mapping[str, Any]

BINS = (
    "A bar is the accuracy of the predictions of one range of confidence, the hatched box its "
    "distance to their mean confidence: bars below the diagonal are overconfident, bars above "
    "it underconfident. The grey strip is the share of predictions in each bin."
)
_PERCENT = ("accuracy", "ece", "adaptive_ece", "classwise_ece", "max_calibration_error")
# Each part that is drawn, in order: its title, what its picture shows (for those who can't see it), how
# it is read, and how it is used where the script draws it.
_PARTS = {
    "path": (
        "Along the path",
        "Accuracy, NLL and ECE of points of the subspace and of ensembles.",
        "Every point is one network, and the midpoint or centre is deployed; an ensemble costs as many "
        "evaluations as it has members. Higher is better for accuracy, lower for NLL and ECE; axes do "
        "not start at 0.",
        "Move the slider or touch a panel; Page Up and Page Down go to the next evaluated point. Dots "
        f"are evaluated points, and numbers between them are interpolated linearly. {BINS}",
    ),
    "triangle": (
        "The triangle as a map",
        "Accuracy, NLL and ECE as colours over the triangle of three endpoints.",
        "Every position is one network, mixed from the three endpoints. Dots are evaluated points, the "
        "star is the midpoint; what lies between them is interpolated linearly.",
        f"Move the pointer over the triangle, or focus it and use the arrow keys. {BINS}",
    ),
    "reliability": ("Calibration", "Reliability diagram of the deployed network.", BINS, ""),
    "plane": (
        "The loss around what was trained",
        "A plane through the networks with the test loss as colour.",
        "Batch-norm statistics are recalibrated at every point; distances are L2, of weights.",
        "",
    ),
    "history": (
        "Training",
        "Training loss, training accuracy and learning rate by epoch.",
        "Means over each epoch, measured at the random points that training visits; the "
        "cosine penalty, which training adds to the loss, is drawn on its own.",
        "",
    ),
}


def run_page(metrics: Metrics, pictures: Mapping[str, bytes]) -> str:
    """One HTML page of a run and of PNG files by their names; parts that are missing are left out."""
    config = metrics.get("config", {})
    title = f"One run: {style_of_run(config).label}"
    data = explorers.data_of(metrics)
    figures = "".join(document.figure(png, *_PARTS[name][:3]) for name, png in pictures.items())
    body = [
        f"<h1>{escape(title)}</h1>",
        _verdict(metrics),
        *_explorers(data),
        _rivals(metrics),
        _geometry(metrics),
        _every("point", "coords", metrics.get("points", ())),
        _every("ensemble", "members", metrics.get("ensembles", ())),
        # Open where no script closes it.
        f'<details class="papers" open><summary>Pictures for papers</summary>{figures}</details>'
        if figures
        else "",
        document.provenance(metrics.get("provenance", {}), config),
    ]
    return document.document(title, body, data)


def _explorers(data: Metrics) -> Iterator[str]:
    """What is drawn; one network's diagram only where none follows a slider or pointer."""
    left_out = {"reliability"} if {"path", "triangle"} & data.keys() else set()
    left_out |= {"plane"} if "triangle" in data else set()  # which is drawn on it
    for part, (title, _, how, use) in _PARTS.items():
        if part in data and part not in left_out:
            content = f'<div class="part"></div><p class="how">{escape(f"{how} {use}".strip())}</p>'
            yield document.section(part, title, content, "interactive")


def _verdict(metrics: Metrics) -> str:
    point = deployed(metrics.get("points", ()))
    if point is None:
        return ""
    accuracy, nll, ece = (mean_of({"mean": point[name]}, name) for name in METRICS)
    what = "midpoint" if len(metrics["points"]) > 1 else "network"
    said = f"The {what} has accuracy {accuracy} %, NLL {nll} nats and ECE {ece} %."
    if metrics.get("config", {}).get("quick"):
        said += " It is of a first look with --quick, and no result."
    return f'<div class="verdict"><p>{said}</p></div>'


def _rivals(metrics: Metrics) -> str:
    """All that the run can predict with: what it costs, and what it is worth."""
    names = [*METRICS, "scaled.nll", "scaled.ece"]
    header = ["Place", "Passes", *(QUANTITIES[name].label for name in names), "Temperature"]
    places = metrics.get("places", {})
    cells = []
    for place in sorted(places, key=lambda place: (place != "midpoint", place)):
        record = places[place]
        flat = record | {f"scaled.{k}": v for k, v in record.get("scaled", {}).items()}
        cells.append(
            [_place_said(place, metrics), str(record.get("inference_passes", ""))]
            + [mean_of({"mean": flat[name]}, name) if name in flat else "" for name in names]
            + [_number(record["temperature"], ".3g") if "temperature" in record else ""]
        )
    caption = "What to predict with; scaled: by a temperature that validation images chose"
    return document.table(caption, header, cells)


def _place_said(place: str, metrics: Metrics) -> str:
    coords = metrics["places"][place].get("coords")
    if place == "endpoints":
        return "endpoints, their mean"
    if coords is not None:  # of the chosen point
        name = "α" if isinstance(coords, int | float) else "weights"
        return f"best on validation, {name} = {_coords(coords, '.2g')}"
    return place_said(place, metrics.get("config", {}).get("recipe", "line"))


def _geometry(metrics: Metrics) -> str:
    geometry = metrics.get("geometry", {})
    distances, cosines = geometry.get("distances", ()), geometry.get("squared_cosines", ())
    cells = [
        [f"{i}, {j}", _number(distances[i][j], ".3g"), _number(cosines[i][j], ".3g")]
        for j in range(len(distances))
        for i in range(j)
    ]
    header = ["Endpoints", "Distance", "Squared cosine"]
    return document.table("Geometry of the endpoints", header, cells)


def _every(kind: str, key: str, entries: Sequence[Metrics]) -> str:
    """Every scalar metric of every point or ensemble, folded away."""
    first = entries[0] if entries else {}
    names = [name for name, value in first.items() if isinstance(value, int | float)]
    names = [name for name in names if name not in ("coords", "num_bins")]
    cells = [
        [f"{_coords(entry[key])} {entry.get('name', entry.get('average', ''))}"]
        + [_number(entry.get(name), ".2%" if name in _PERCENT else ".4g") for name in names]
        for entry in entries
    ]
    header = [kind.capitalize(), *(name.replace("_", " ").replace("ece", "ECE") for name in names)]
    table = document.table(f"Every {kind}", header, cells)
    return document.folded(f"All metrics of every {kind}", table)


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form).replace("%", " %")


def _coords(coords: Any, form: str = ".3g") -> str:
    if isinstance(coords, int | float):
        return format(coords, form)
    return f"({', '.join(_coords(item, form) for item in coords)})"
