"""From the runs of a suite to its table and its sentences.

    python -m experiments.summary results/digits/metrics.json

prints the table of the networks to deploy and the sentences as Markdown, for the README.
"""

import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import scipy.stats

from experiments import report, styles

METRICS = ("accuracy", "nll", "ece")
SIGNIFICANCE = 0.05
# What is compared: (setting, method) -> rivals and the metrics in which they are compared.
_LINE = dict.fromkeys(("standard", "standard_matched"), METRICS)
_LINE |= dict.fromkeys(("ema", "ends"), ("accuracy",))
_MORE = dict.fromkeys(("standard", "ema"), ("accuracy",))  # the control is matched to two endpoints
RIVALS = {
    ("article", "line"): _LINE,
    ("article", "layerwise_line"): _LINE,
    ("article", "curve"): _MORE,
    ("article", "simplex"): _MORE,
    ("tuned", "layerwise_line"): {"standard": METRICS},
}
# How rivals and metrics are said.
_NAMES = {
    "standard": "standard training",
    "standard_matched": "its matched control",
    "ema": "the EMA of standard training",
    "ends": "its own ends",
}
_SAID = {"accuracy": ("accuracy", " points"), "nll": ("NLL", ""), "ece": ("ECE", " points")}


def table(runs: Sequence[dict]) -> list[dict]:
    """Mean and standard error over seeds, a row for every place of every method.

    Places are the midpoint, the endpoints (their mean within a run) and the ensemble of the
    endpoints (probabilities averaged).

    Args:
      runs: entries with `setting`, `label_noise`, `method`, `seed`, `points`, `ensembles`.

    Returns:
      Rows with `setting`, `label_noise`, `method`, `place`, `num_seeds` and, for every metric,
      `{"mean", "stderr"}` (`None` for the standard error of one seed).
    """
    groups: dict[tuple, list[dict[str, dict]]] = {}
    for run in runs:
        key = (run["setting"], run["label_noise"], run["method"])
        groups.setdefault(key, []).append(_places(run))
    return [
        {"setting": setting, "label_noise": noise, "method": method, "place": place}
        | {"num_seeds": len(seeds)}
        | {name: _mean([seed[place][name] for seed in seeds]) for name in METRICS}
        for (setting, noise, method), seeds in groups.items()
        for place in seeds[0]
    ]


def _places(run: dict) -> dict[str, dict]:
    points = run["points"]
    places = {"midpoint": next(p for p in points if p["name"] == "midpoint")}
    ends = [p for p in points if p["name"].startswith("endpoint")]
    if ends:
        places["endpoints"] = {m: statistics.fmean(p[m] for p in ends) for m in METRICS}
        places["ensemble"] = next(e for e in run["ensembles"] if e["average"] == "probability")
    return places


def _mean(values: Sequence[float]) -> dict:
    stderr = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "stderr": stderr}


class Comparison(NamedTuple):
    """The midpoint of one method against a rival in one metric, paired by seed.

    Attributes:
      setting, label_noise, method: what is compared; its midpoint.
      rival: another method's name, whose midpoint it is compared with, or "ends" for its own.
      metric: one of `METRICS`.
      difference, stderr: mean over seeds of ours minus theirs, and its standard error.
      num_seeds: how many seeds both have.
      p_value: of a paired t-test, corrected by Holm's method for all comparisons made together;
        `None` with fewer than 3 seeds.
    """

    setting: str
    label_noise: float
    method: str
    rival: str
    metric: str
    difference: float
    stderr: float | None
    num_seeds: int
    p_value: float | None


def compare(runs: Sequence[dict]) -> list[Comparison]:
    """Every comparison of `RIVALS` for which there are runs, in its order."""
    seeds: dict[tuple, dict[int, dict]] = {}
    for run in runs:
        key = (run["setting"], run["label_noise"], run["method"])
        seeds.setdefault(key, {})[run["seed"]] = _places(run)
    noises = sorted({run["label_noise"] for run in runs})
    found = [
        _comparison(seeds, setting, noise, method, rival, metric)
        for (setting, method), rivals in RIVALS.items()
        for noise in noises
        for rival, metrics in rivals.items()
        for metric in metrics
        if _common(seeds, setting, noise, method, rival)
    ]
    return _holm(found)


def _common(seeds, setting, noise, method, rival) -> list[tuple[dict, dict]]:
    """Our midpoint and what it is compared with, for every seed that both have."""
    ours = seeds.get((setting, noise, method), {})
    if rival == "ends":
        return [(places["midpoint"], places["endpoints"]) for places in ours.values()]
    theirs = seeds.get((setting, noise, rival), {})
    both = sorted(ours.keys() & theirs.keys())
    return [(ours[seed]["midpoint"], theirs[seed]["midpoint"]) for seed in both]


def _comparison(seeds, setting, noise, method, rival, metric) -> Comparison:
    pairs = _common(seeds, setting, noise, method, rival)
    values = [ours[metric] - theirs[metric] for ours, theirs in pairs]
    mean, n = statistics.fmean(values), len(values)
    stderr = statistics.stdev(values) / n**0.5 if n > 1 else None
    if n < 3:
        p_value = None
    elif stderr == 0:
        p_value = 1.0 if mean == 0 else 0.0
    else:
        p_value = float(scipy.stats.ttest_1samp(values, 0).pvalue)
    return Comparison(setting, noise, method, rival, metric, mean, stderr, n, p_value)


def _holm(comparisons: list[Comparison]) -> list[Comparison]:
    """Holm 1979: the i-th smallest of k p-values times k - i, made monotone."""
    tested = sorted((c for c in comparisons if c.p_value is not None), key=lambda c: c.p_value)
    corrected, largest = {}, 0.0
    for i, comparison in enumerate(tested):
        largest = max(largest, min(1.0, comparison.p_value * (len(tested) - i)))
        corrected[comparison[:5]] = largest
    return [c._replace(p_value=corrected.get(c[:5])) for c in comparisons]


def verdict(comparisons: Sequence[Comparison]) -> list[str]:
    """What is significant, a sentence for every method, setting and noise; the rest is named."""
    sentences = []
    for (setting, noise, method), group in itertools.groupby(comparisons, key=lambda c: c[:3]):
        group = list(group)
        where = f"With {100 * noise:.0f} % wrong labels" if noise else "With clean labels"
        if setting == "tuned":
            where += " and learning rate and weight decay tuned for each"
        label = styles.style_of(method).label
        name = label if label.isupper() else label.lower()
        if all(c.p_value is None for c in group):
            sentences.append(f"{where}, the {name}'s midpoint: too few seeds to test anything.")
            continue
        said = "; ".join(
            f"against {_NAMES[rival]} {_phrases(list(compared))}"
            for rival, compared in itertools.groupby(group, key=lambda c: c.rival)
        )
        least = min(c.num_seeds for c in group)
        seeds = "1 seed" if least == 1 else f"{least} seeds"
        sentences.append(f"{where}, the {name}'s midpoint: {said} ({seeds}).")
    return sentences


def _phrases(comparisons: Sequence[Comparison]) -> str:
    """What is significant with its amount, then the metrics in which nothing is."""
    significant = [c for c in comparisons if c.p_value is not None and c.p_value < SIGNIFICANCE]
    others = [_SAID[c.metric][0] for c in comparisons if c not in significant]
    rest = [f"no significant difference in {' and '.join(others)}"] if others else []
    return ", ".join([*map(_phrase, significant), *rest])


def _phrase(comparison: Comparison) -> str:
    """`better in accuracy (+6.18 ± 0.42 points)`."""
    quantity = styles.QUANTITIES[comparison.metric]
    name, unit = _SAID[comparison.metric]
    amount = f"{quantity.scale * comparison.difference:+.{quantity.decimals}f}"
    if comparison.stderr is not None:
        amount += f" ± {quantity.scale * comparison.stderr:.{quantity.decimals}f}"
    better = (comparison.difference > 0) == (comparison.metric == "accuracy")
    return f"{'better' if better else 'worse'} in {name} ({amount}{unit})"


def markdown(metrics: dict) -> str:
    """The README's part of the results: the networks to deploy, and what holds."""
    deployed = [row for row in metrics["table"] if row["place"] == "midpoint"]
    sentences = "\n".join(f"- {sentence}" for sentence in metrics["verdict"])
    return f"{report.markdown_table(deployed)}\n\n{sentences}"


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the rows of deployed networks and the sentences of a metrics.json as Markdown."""
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 1 or not Path(argv[0]).is_file():
        print("usage: python -m experiments.summary METRICS_JSON", file=sys.stderr)
        return 2
    print(markdown(json.loads(Path(argv[0]).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
