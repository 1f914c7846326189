"""What each figure of a suite shows, in one sentence that is made from the suite's record."""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.configs.recipes import PRODUCTS
from experiments.results import claims, wording
from experiments.results.claims import Verdict

Metrics = Mapping[str, Any]

_LINES = ("layerwise_line", "line")


def of(metrics: Metrics) -> dict[str, str]:
    """A sentence for each figure whose record has what it is about, by the figure's name."""
    verdicts = claims.from_json(metrics.get("claims", ()))
    verdicts = [verdict for verdict in verdicts if verdict.difference is not None]
    found = {
        "fig1": "The test loss around what was trained: brighter is lower.",
        "fig2": _verdict(verdicts, "fig2", "accuracy"),
        "fig3": _verdict(verdicts, "fig3", "accuracy"),
        "fig4": _averages(verdicts),
        "fig5": _verdict(verdicts, "fig5", "ece"),
        "fig6": _verdict(verdicts, "fig6", "corruptions.snow.3.accuracy"),
        "fig7": _verdict(verdicts, "fig7", "accuracy"),
        "rivals": _best(metrics),
        "tuned": _verdict(verdicts, "tuned", "accuracy"),
        "curvature": "The sharpness of the loss along each path, beside the test error.",
        "reliability": "How often predictions are right, by how sure they are.",
        "selection": "How many of the predictions that one keeps are wrong.",
    }
    return {name: sentence for name, sentence in found.items() if sentence}


def _verdict(verdicts: Sequence[Verdict], figure: str, metric: str) -> str:
    """The figure's comparison with standard training, or its first, with the noisiest labels."""
    found = [v for v in verdicts if (v.claim.figure, v.claim.metric) == (figure, metric)]

    def rank(verdict):
        ours, theirs = verdict.claim.ours[0], verdict.claim.theirs[0]
        place = _LINES.index(ours) if ours in _LINES else len(_LINES)
        return theirs != "standard", -verdict.claim.label_noise, place

    return claims.plain(min(found, key=rank)) if found else ""


def _averages(verdicts: Sequence[Verdict]) -> str:
    found = [verdict.outcome for verdict in verdicts if verdict.claim.figure == "fig4"]
    if not found:
        return "Accuracy by the number of endpoints."
    share = wording.percent(found.count(claims.AGREE) / len(found))
    than = "than an average of as many models"
    return f"Simplexes are significantly more accurate {than} in {share} of the comparisons."


def _best(metrics: Metrics) -> str:
    """Of the single deployed networks by the article's recipe, with the noisiest labels."""
    rows = [row for row in metrics.get("table", ()) if row["setting"] == "article"]
    noise = max((row["label_noise"] for row in rows), default=0.0)
    means = {
        row["method"]: row["accuracy"]["mean"]
        for row in rows
        if row["inference_passes"] == 1
        and (row["place"], row["label_noise"]) == ("midpoint", noise)
        and row.get("accuracy", {}).get("mean") is not None
    }
    if not means:
        return ""
    best = max(means, key=means.__getitem__)
    name, accuracy = claims.side_said(PRODUCTS[best]), 100 * means[best]
    start = f"With {wording.kind_of_labels(noise)}, the most accurate single network"
    return f"{start} is {name}, at {accuracy:.1f} %."
