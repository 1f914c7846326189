"""The metrics of a run or of the digits suite as tables and as one self-contained HTML page.

A *row* is a dict with `"accuracy"`, `"nll"` and `"ece"`, each `{"mean", "stderr"}`, and any of
`"setting"`, `"label_noise"`, `"method"`, `"place"` and `"num_seeds"`: an entry of the suite's
`"table"`, or of `run_rows`.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from experiments import claims, markdown
from experiments.styles import (
    METRICS,
    QUANTITIES,
    SUBSPACES,
    deployed,
    order_of,
    shown,
    style_of,
    style_of_run,
)

Metrics = Mapping[str, Any]
Cells = list[list[str]]

# Columns of what a row costs.
_COSTS = {
    "training_cost": ("Training", lambda cost: f"{cost:.3g} x"),
    "inference_passes": ("Inference", lambda passes: f"{passes} x"),
}
# What each suite is, by its name and scale.
_INTRODUCTIONS = {
    "digits": "Small convolutional networks on scikit-learn's digits: 1,000 training images, 297 "
    "validation images, 500 test images, 20 epochs. They show how the methods behave; they do not "
    "settle the article's claims.",
    "cifar10 small": "ResNet-8 of width 8 on 10,000 images of CIFAR-10: a small-scale version, its "
    "numbers are not the article's.",
    "cifar10 full": "cResNet20 on CIFAR-10 by the article's protocol, but for 5,000 training images "
    "that are held out for choices.",
    "tiny_imagenet full": "ResNet18 on Tiny-ImageNet by the article's protocol, but for the training "
    "images that are held out for choices.",
}
_SUITE_INTRODUCTION = (
    "A line, curve or simplex of networks is trained at random points between its endpoints, and its "
    "midpoint is the network to deploy. Standard (matched) is ordinary training with the learning rate "
    "divided by the number of endpoints, the weight decay multiplied by it and the start at a "
    "midpoint: it differs from a subspace's midpoint in where gradients are taken, and in having no "
    "cosine penalty. Wrong labels replace true ones in "
    "the training images alone and are never the true ones. Article setting: the article's recipe for "
    "all methods. Tuned setting: learning rate and weight decay chosen for each method by accuracy on "
    "validation images with true labels. Claims are tested by paired t-tests over seeds at 5 %, "
    "corrected by Holm's method within each of three groups: the article's, the controls, tuned "
    "against tuned; seeds vary initialisation, batches and wrong labels, not the test images. "
    "Training costs are relative to standard training, inference costs to one network."
)
# How each picture is read: its title, what is seen (for those who can't), how to read it.
_DOTS = (
    "A dot is the mean over seeds, its whisker one standard error, and the vertical line marks the "
    "first method. Further right is better for accuracy, further left for NLL and ECE; every panel has "
    "its own scale."
)
_ALONG = (
    "Left, each curve is the accuracy of single networks on a path, a mean over seeds, its marker the "
    "midpoint that is deployed; horizontal lines are methods without a path, and bands are one "
    "standard error. Right, every method's deployed prediction. The axes do not start at 0."
)
_SUITE_CAPTIONS = {
    "fig1": (
        "Figure 1: subspaces in the landscape",
        "Planes through trained networks with the loss as colour.",
        "Real two-parameter slices of the loss of the first seed, with what was trained drawn on them, "
        "and beside the line an independently trained network.",
    ),
    "fig2": (
        "Figure 2: the plane through a trained triangle",
        "Accuracy and loss as colours over a plane with a triangle.",
        "Batch-norm statistics are recalibrated at every point; distances are L2, of weights. "
        "Above, means over the grid inside the triangle, and over the rest of the square.",
    ),
    "fig3": ("Figure 3: accuracy along the paths, clean labels", "Curves and dots.", _ALONG),
    "fig4": (
        "Figure 4: number of endpoints",
        "Lines with error bars against the number of endpoints.",
        "Midpoint accuracy against the number of endpoints of a simplex, beside averages of as many "
        "models and the matched control. With one, all of them are the same standard training. Error "
        "bars are one standard error.",
    ),
    "fig5": (
        "Figure 5: calibration",
        "Dots with whiskers.",
        _DOTS + " Scaled: after temperature scaling fitted on validation images.",
    ),
    "fig6": (
        "Figure 6: snow",
        "Lines of accuracy against the severity of snow.",
        "Test images corrupted by snow, {snow}; trained with clean labels, batch-norm statistics of "
        "clean images. Error bars are one standard error.",
    ),
    "fig7": ("Figure 7: accuracy along the paths, wrong labels", "Curves and dots.", _ALONG),
    "rivals": ("Every rival", "Dots with whiskers.", _DOTS),
    "tuned": ("Tuned against tuned", "Dots with whiskers.", _DOTS),
    "curvature": (
        "Curvature along the path",
        "Lines of the largest eigenvalue of the Hessian along each path.",
        "Of the training loss, with the statistics of the batch: as it is, and filter-normalised. As it "
        "is, it also falls as weights grow, which batch norm leaves free, so compare networks by the "
        "filter-normalised one. Right, the test error.",
    ),
    "reliability": (
        "Calibration in bins",
        "Reliability diagrams, one per method.",
        "A bar is the accuracy of the predictions of one range of confidence, the hatched box its "
        "distance to their mean confidence: bars below the diagonal are overconfident, bars above "
        "it underconfident. The grey strip is the share of predictions in each bin. All seeds are "
        "pooled first, so that the ECE written here is at most the mean ECE in the table.",
    ),
    "selection": (
        "Which predictions to trust",
        "Curves of risk against coverage, and dots of AUROC for foreign images.",
        "Left, the share of errors among the most confident predictions, by how many are kept; lower is "
        "better. Right, the area under the ROC curve of telling test images from images of no class by "
        "the confidence of the prediction; further right is better, 50 is chance. Means over seeds, "
        "bands and whiskers are one standard error.",
    ),
}
_RUN_CAPTIONS = {
    "path": (
        "The trained subspace",
        "Accuracy, NLL and ECE of points of the subspace and of ensembles.",
        "Every point of the subspace is one network; the marked midpoint or centre is deployed, "
        "and open circles are ensembles, which cost as many evaluations as they have members. "
        "Higher is better for accuracy, lower for NLL and ECE; the axes do not start at 0.",
    ),
    "reliability": (
        "Calibration",
        "Reliability diagram of the deployed network.",
        "A bar is the accuracy of the predictions of one range of confidence, the hatched box its "
        "distance to their mean confidence: bars below the diagonal are overconfident, bars above "
        "it underconfident. The grey strip is the share of predictions in each bin.",
    ),
    "history": (
        "Training",
        "Training loss, training accuracy and learning rate by epoch.",
        "Means over each epoch, measured at the random points that training visits; a penalty is "
        "drawn on its own and is not part of the loss.",
    ),
}

_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --soft: #5a5a5a; --page: #fff; --line: #d5d5d5;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --soft: #a8a8a8; --page: #16181b; --line: #3c4046; --mark: #56b4e9; } }
body { margin: 0 auto; padding: 1rem; max-width: 64rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
.verdict { padding: .2rem 0 .2rem 1rem; border-left: .25rem solid var(--mark); }
.verdict p { margin: .4rem 0; font-size: 1.1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem .6rem; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th:first-child, td:first-child, .text { text-align: left; }
.scroll th:first-child, .scroll td:first-child { position: sticky; left: 0;
  background: var(--page); }
@media (max-width: 40rem) { .scroll table { font-size: .8rem; }
  .scroll th, .scroll td { padding: .25rem .35rem; } .scroll .text { white-space: normal; } }
thead th { color: var(--soft); font-weight: 600; }
figure { margin: 2.5rem 0; }
.card { background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: .75rem;
  overflow-x: auto; }
.card img { display: block; margin: auto; width: 100%; height: auto; }
figcaption { color: var(--soft); margin-top: .5rem; } figcaption b { color: var(--text); }
.facts th { color: var(--soft); text-align: left; vertical-align: top; }
.facts td { white-space: normal; text-align: left; overflow-wrap: anywhere; }
pre { overflow-x: auto; font-size: .85rem; } summary { cursor: pointer; }
"""


def text_table(rows: Sequence[Metrics]) -> str:
    """The rows as a table for the terminal, aligned, one line per row under a header."""
    header, cells, num_texts = _cells(rows)
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]

    def line(row):
        parts = [
            cell.ljust(width) if i < num_texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return "\n".join(map(line, [header, ["-" * width for width in widths], *cells]))


def run_rows(metrics: Metrics) -> list[Metrics]:
    """Rows for the named points of one run, and for the ensembles of its endpoints."""
    points = metrics.get("points", ())
    ends = {str(p["coords"]): p["name"][9:] for p in points if p["name"].startswith("endpoint ")}
    entries = [(name, p) for p in points if (name := p["name"])] or [("", p) for p in points]
    if len(entries) == 1:
        entries = [("network", entries[0][1])]
    for ensemble in metrics.get("ensembles", ()):
        members = [ends.get(str(member)) for member in ensemble["members"]]
        if all(members) and ensemble["average"] == "probability":
            entries.append((f"ensemble of endpoints {', '.join(members)}", ensemble))
    return [
        {"place": place, **{name: {"mean": entry[name], "stderr": None} for name in METRICS}}
        for place, entry in entries
    ]


def page(metrics: Metrics, pictures: Mapping[str, bytes]) -> str:
    """One HTML page with everything inside it: it refers to no other file and no network.

    Args:
      metrics: of one run or of the digits suite; parts that are missing are left out.
      pictures: PNG files by name, of the figures of `run_figures` or `suite_figures`.
    """
    suite = "verdict" in metrics
    config = metrics.get("config", {})
    title = (
        f"Subspaces of networks and their rivals: {_suite_name(config)}"
        if suite
        else f"One run: {style_of_run(config).label}"
    )
    captions = _suite_captions(config) if suite else _RUN_CAPTIONS
    sentences = metrics.get("verdict", ()) if suite else _run_sentences(metrics)
    tables = _suite_tables(metrics) if suite else _run_tables(metrics)
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_introduction(config))}</p>" if suite else "",
        _section("verdict", "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences)),
        *(_claims(metrics) if suite else []),
        *tables,
        *(_figure(data, *captions.get(name, (name,) * 3)) for name, data in pictures.items()),
        *([] if suite else _details(metrics)),
        _provenance(metrics.get("provenance", {}), config),
    ]
    content = "\n".join(filter(None, body))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{content}\n</body></html>\n"
    )


def _suite_name(config: Metrics) -> str:
    return " ".join(dict.fromkeys((config.get("suite", ""), config.get("scale", ""))))


def _introduction(config: Metrics) -> str:
    return f"{_INTRODUCTIONS.get(_suite_name(config), '')} {_SUITE_INTRODUCTION}".strip()


def _suite_captions(config: Metrics) -> dict[str, tuple[str, ...]]:
    """The captions, with where corrupted images come from."""
    evaluation = config.get("run", {}).get("evaluation", {})
    source = evaluation.get("corruption_source", "generated")
    made = "made by this project and not the official files"
    if config.get("suite") == "digits":
        made += " (at 32 x 32 pixels in colour, then shrunk)"
    snow = made if source == "generated" else f"of {source}"
    return {
        name: tuple(part.format(snow=snow) for part in caption)
        for name, caption in _SUITE_CAPTIONS.items()
    }


def _claims(metrics: Metrics) -> list[str]:
    """Every claim with its test, what survives of the gains, and what failed."""
    verdicts = claims.from_json(metrics.get("claims", ()))
    rows = [claims.cells(v) for v in verdicts if v.outcome != claims.NOT_RUN]
    parts = []
    if rows:
        parts.append(f"<p>{escape(metrics.get('counts', ''))}</p>")
        table = _html_table("Every claim with its test", claims.HEADER, list(map(list, rows)), 2)
        parts.append(f"<details><summary>Every claim with its test</summary>{table}</details>")
    if survival := metrics.get("survival"):
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in survival)
        parts.append(
            f"<details><summary>How much of each gain survives</summary><ul>{items}</ul></details>"
        )
    if chosen := markdown.chosen_said(metrics):
        items = "".join(f"<li>{escape(sentence)}</li>" for sentence in chosen)
        parts.append(f"<details><summary>What was chosen</summary><ul>{items}</ul></details>")
    if failed := metrics.get("failed"):
        items = "".join(f"<li>{escape(f['id'])}: {escape(f['error'])}</li>" for f in failed)
        parts.append(f"<h2>Runs that failed</h2><ul>{items}</ul>")
    return parts


def _cells(rows: Sequence[Metrics]) -> tuple[list[str], Cells, int]:
    """Header, cells, and how many columns are text; methods in order, only columns in use."""
    texts = {
        "setting": ("Setting", str),
        "label_noise": ("Noise", lambda noise: f"{100 * noise:.0f} %"),
        "method": ("Method", lambda method: style_of(method).label),
        "place": ("Place", str),
    }
    texts = {key: text for key, text in texts.items() if any(key in row for row in rows)}
    has_seeds = any("num_seeds" in row for row in rows)
    header = [name for name, _ in texts.values()]
    costs = [key for key in _COSTS if any(row.get(key) is not None for row in rows)]
    header += [_COSTS[key][0] for key in costs]
    metrics = shown(rows)
    header += [QUANTITIES[name].label for name in metrics] + ["Seeds"] * has_seeds
    settings = list(dict.fromkeys(row.get("setting") for row in rows))

    def rank(row):
        setting = settings.index(row.get("setting"))
        return setting, row.get("label_noise", 0.0), order_of(row.get("method", ""))

    cells = []
    for row in sorted(rows, key=rank):
        row = {**row}
        if row.get("place") == "midpoint" and row.get("method", "line") not in SUBSPACES:
            row["place"] = "network"
        cells.append(
            [show(row[key]) if key in row else "" for key, (_, show) in texts.items()]
            + [_COSTS[key][1](row[key]) if row.get(key) is not None else "" for key in costs]
            + [_mean(row[name], name) if name in row else "" for name in metrics]
            + [str(row.get("num_seeds", ""))] * has_seeds
        )
    return header, cells, len(texts)


def _mean(value: Metrics, name: str) -> str:
    """`mean ± stderr` in the unit of the metric; the mean alone where one seed has no error."""
    _, scale, decimals = QUANTITIES[name]
    mean = f"{scale * _number(value['mean']):.{decimals}f}"
    if value.get("stderr") is None:
        return mean
    return f"{mean} ± {scale * _number(value['stderr']):.{decimals}f}"


def _number(value: Any) -> float:
    """A number as JSON may hold it: null is NaN."""
    return float("nan") if value is None else float(value)


def _section(kind: str, content: str) -> str:
    return f'<div class="{kind}">{content}</div>' if content else ""


def _html_table(caption: str, header: Sequence[str], cells: Cells, num_texts: int = 1) -> str:
    def line(row: Iterable[str], tag: str) -> str:
        kinds = [' class="text"' if i < num_texts else "" for i in range(len(header))]
        return "".join(
            f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, row, strict=True)
        )

    lines = "\n".join(f"<tr>{line(row, 'td')}</tr>" for row in cells)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption>{escape(caption)}</caption>"
        f"<thead><tr>{line(header, 'th')}</tr></thead>\n<tbody>{lines}</tbody></table></div>"
    )


def _suite_tables(metrics: Metrics) -> list[str]:
    """One table per setting and label noise."""
    groups: dict[tuple[str, float], list[Metrics]] = {}
    for row in metrics.get("table", ()):
        rest = {k: v for k, v in row.items() if k not in ("setting", "label_noise")}
        groups.setdefault((row["setting"], row["label_noise"]), []).append(rest)
    note = "<p>Means ± one standard error over seeds. NLL and ECE: lower is better.</p>"
    tables = [note] if groups else []
    for (setting, noise), rows in groups.items():
        labels = f"{100 * noise:.0f} % wrong labels" if noise else "clean labels"
        tables.append(_html_table(f"{setting.capitalize()} setting, {labels}", *_cells(rows)))
    return tables


def _run_sentences(metrics: Metrics) -> list[str]:
    point = deployed(metrics.get("points", ()))
    if point is None:
        return []
    values = [_mean({"mean": point[name]}, name) for name in METRICS]
    what = "midpoint" if len(metrics["points"]) > 1 else "network"
    return [f"The {what} has accuracy {values[0]} %, NLL {values[1]} nats and ECE {values[2]} %."]


def _run_tables(metrics: Metrics) -> list[str]:
    rows, geometry = run_rows(metrics), metrics.get("geometry", {})
    tables = [_html_table("Points and ensembles", *_cells(rows))] if rows else []
    distances, cosines = geometry.get("distances", ()), geometry.get("squared_cosines", ())
    pairs = [(i, j) for j in range(len(distances)) for i in range(j)]
    cells = [
        [f"{i}, {j}", f"{_number(distances[i][j]):.3g}", f"{_number(cosines[i][j]):.3g}"]
        for i, j in pairs
    ]
    if cells:
        header = ["Endpoints", "Distance", "Squared cosine"]
        tables.append(_html_table("Geometry of the endpoints", header, cells))
    return tables


def _figure(png: bytes, title: str, alt: str, caption: str) -> str:
    # A PNG file holds its width at byte 16; 1.5 of its pixels are one of the page.
    width = round(int.from_bytes(png[16:20], "big") / 1.5)
    data = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><div class="card" tabindex="0"><img alt="{escape(alt)}" '
        f'style="max-width: {width}px; min-width: min({width}px, 36rem)" '
        f'src="data:image/png;base64,{data}"></div>'
        f"<figcaption><b>{escape(title)}.</b> {escape(caption)}</figcaption></figure>"
    )


def _details(metrics: Metrics) -> list[str]:
    """Every scalar metric of every point and ensemble, folded away."""
    tables = []
    for kind, key in (("point", "coords"), ("ensemble", "members")):
        entries = metrics.get(f"{kind}s", ())
        names = [
            n for n, v in (entries[0] if entries else {}).items() if isinstance(v, int | float)
        ]
        names = [name for name in names if name not in ("coords", "num_bins")]
        cells = [
            [f"{_coords(entry[key])} {entry.get('name', entry.get('average', ''))}"]
            + [f"{_number(entry.get(name)):.4g}" for name in names]
            for entry in entries
        ]
        if cells:
            header = [kind.capitalize(), *(name.replace("_", " ") for name in names)]
            table = _html_table(f"Every {kind}, fractions", header, cells)
            tables.append(
                f"<details><summary>All metrics of every {kind}</summary>{table}</details>"
            )
    return tables


def _coords(coords: Any) -> str:
    if isinstance(coords, int | float):
        return f"{coords:.3g}"
    return f"({', '.join(map(_coords, coords))})"


def _provenance(provenance: Metrics, config: Metrics) -> str:
    """What was run, where and for how long, and the config folded away."""
    facts = []
    for name, value in provenance.items():
        if value in (None, ""):
            continue
        if isinstance(value, Mapping):
            value = ", ".join(f"{key} {item}" for key, item in value.items())
        elif isinstance(value, list | tuple):
            value = ", ".join(map(str, value))
        elif isinstance(value, float):
            value = f"{value:,.1f}"
        facts.append(f"<tr><th>{escape(name.replace('_', ' '))}</th><td>{escape(str(value))}</td>")
    parts = []
    if facts:
        parts.append(f'<h2>Provenance</h2><table class="facts">{"</tr>".join(facts)}</tr></table>')
    if config:
        text = escape(json.dumps(config, indent=2, default=str))
        parts.append(f"<details><summary>Config</summary><pre>{text}</pre></details>")
    return "\n".join(parts)
