"""What each figure of a suite shows, in one sentence that is made from the suite's record."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.configs.recipes import product_of
from experiments.results import claims, styles, wording
from experiments.results.claims import AGREE, DISAGREE, NOT_SIGNIFICANT, Verdict

Metrics = Mapping[str, Any]

_LINES = ("layerwise_line", "line")
_FOREIGN = {"noise": "uniform noise", "shuffled": "shuffled pixels"}


def of(metrics: Metrics) -> dict[str, str]:
    """A sentence for each figure whose record has what it is about, by the figure's name."""
    verdicts = claims.from_json(metrics.get("claims", ()))
    found = {
        "fig1": "The test loss around what was trained: brighter is lower.",
        "fig2": _verdict(verdicts, "fig2", "accuracy"),
        "fig3": _verdict(verdicts, "fig3", "accuracy"),
        "fig4": _averages(verdicts),
        "fig5": _verdict(verdicts, "fig5", "ece"),
        "fig6": _severities(verdicts),
        "fig7": _verdict(verdicts, "fig7", "accuracy"),
        "rivals": _best(metrics),
        "tuned": _verdict(verdicts, "tuned", "accuracy"),
        "curvature": _sharpness(metrics),
        "reliability": _calibrated(metrics),
        "selection": _foreign(metrics),
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def _verdict(verdicts: Sequence[Verdict], figure: str, metric: str) -> str:
    """The figure's comparison with standard training, or its first, with the noisiest labels."""
    found = [
        v
        for v in verdicts
        if v.claim.figure == figure and v.claim.metric == metric and v.outcome != claims.NOT_RUN
    ]

    def rank(verdict):
        ours, theirs = verdict.claim.ours[0], verdict.claim.theirs[0]
        place = _LINES.index(ours) if ours in _LINES else len(_LINES)
        return theirs != "standard", -verdict.claim.label_noise, place

    return claims.plain(min(found, key=rank)) if found else ""


def _averages(verdicts: Sequence[Verdict]) -> str:
    found = [v for v in verdicts if v.claim.figure == "fig4" and v.outcome != claims.NOT_RUN]
    if not found:
        return "Accuracy by the number of endpoints."
    count = sum(v.outcome == AGREE for v in found)
    if count in (0, len(found)):
        return (
            f"{'Every' if count else 'No'} simplex is significantly more accurate than an average of "
            "as many models."
        )
    return (
        "Simplexes are significantly more accurate than an average of as many models in "
        f"{wording.percent(count / len(found), None)} of the comparisons."
    )


def _severities(verdicts: Sequence[Verdict]) -> str:
    for line in _LINES:
        group = [
            v
            for v in verdicts
            if (v.claim.figure, v.claim.ours[0], v.claim.theirs[0]) == ("fig6", line, "standard")
            and v.outcome in (AGREE, DISAGREE, NOT_SIGNIFICANT)
        ]
        if group:
            break
    else:
        return ""
    ours = f"the midpoint of the {styles.style_of(line).label.lower()}"
    said = {AGREE: "more accurate", DISAGREE: "less accurate"}
    parts = []
    for outcome, words in said.items():
        where = [v.claim.metric.split(".")[2] for v in group if v.outcome == outcome]
        if where:
            at = wording.severities_said(where, len(group))
            parts.append(f"significantly {words} than standard training {at}")
    if not parts:
        at = "any severity" if len(group) > 1 else "the severity tested"
        return f"Under snow, {ours} does not differ significantly from standard training at {at}."
    return f"Under snow, {ours} is {' and '.join(parts)}."


def _rows(metrics: Metrics, keep: Callable[[Metrics], bool]) -> list[Metrics]:
    """Rows of single deployed networks by the article's recipe, of the noisiest labels."""
    rows = [r for r in metrics.get("table", ()) if r["setting"] == "article"]
    noise = max((row["label_noise"] for row in rows), default=0.0)
    single = [r for r in rows if r.get("inference_passes", 1) == 1 and r["place"] == "midpoint"]
    return [row for row in single if row["label_noise"] == noise and keep(row)]


def _mean(row: Metrics, metric: str) -> float | None:
    return row.get(metric, {}).get("mean")


def _with(row: Metrics) -> str:
    return f"With {wording.kind_of_labels(row['label_noise'])}"


def _name(row: Metrics) -> str:
    return claims.side_said(product_of(row["method"]))


def _best(metrics: Metrics) -> str:
    rows = _rows(metrics, lambda row: _mean(row, "accuracy") is not None)
    if not rows:
        return ""
    best = max(rows, key=lambda row: _mean(row, "accuracy"))
    return (
        f"{_with(best)}, the most accurate single network is {_name(best)}, at "
        f"{100 * _mean(best, 'accuracy'):.1f} %."
    )


def _shown(metrics: Metrics, metric: str) -> list[Metrics]:
    """Rows of the methods whose confidences are drawn."""
    methods = {
        run["method"]
        for run in metrics.get("runs", ())
        if "reliability" in run.get("places", {}).get("midpoint", {})
    }
    return _rows(metrics, lambda r: r["method"] in methods and _mean(r, metric) is not None)


def _calibrated(metrics: Metrics) -> str:
    rows = _shown(metrics, "ece")
    if not rows:
        return ""
    best = min(rows, key=lambda row: _mean(row, "ece"))
    return f"{_with(best)}, {_name(best)} has the lowest ECE of these methods."


def _foreign(metrics: Metrics) -> str:
    """Whether test images get more confidence than the first kind of foreign ones."""
    found = {name: _shown(metrics, f"ood.{name}.auroc") for name in _FOREIGN}
    name = next((name for name, rows in found.items() if rows), None)
    if name is None:
        return "How many of the predictions that one keeps are wrong."
    metric, said = f"ood.{name}.auroc", _FOREIGN[name]
    best = max(found[name], key=lambda row: _mean(row, metric))
    if _mean(best, metric) < 0.5:
        return f"{_with(best)}, every method is surer of {said} than of test images."
    return (
        f"{_with(best)}, {_name(best)} tells {said} best from test images, with an AUROC of "
        f"{100 * _mean(best, metric):.0f} %."
    )


def _sharpness(metrics: Metrics) -> str:
    """The midpoint of a line beside standard training, by the filter-normalised eigenvalue."""
    tops: dict[str, list[float]] = {}
    for run in metrics.get("landscapes", ()):
        path = run.get("landscape", {}).get("path")
        values = path and path["curvature"]["relative_eigenvalue"]
        if values and len(values) % 2:
            tops.setdefault(run["method"], []).append(values[len(values) // 2])
    line = next((name for name in _LINES if name in tops), None)
    if line is None or "standard" not in tops:
        return ""
    ours, theirs = (sum(tops[name]) / len(tops[name]) for name in (line, "standard"))
    return (
        f"The largest filter-normalised eigenvalue at the midpoint of the "
        f"{styles.style_of(line).label.lower()} is {ours / theirs:.1f} times that of standard training."
    )
