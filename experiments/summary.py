"""From the runs of a suite to its table and its sentences.

    python -m experiments.summary results/digits/metrics.json

prints the table and the sentences as Markdown.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import scipy.stats

from experiments import report, styles

METRICS = ("accuracy", "nll", "ece")
# How a metric is said: its name, and the factor and unit of its values.
_SAID = {"accuracy": ("accuracy", 100, " points"), "nll": ("NLL", 1, ""), "ece": ("ECE", 1, "")}
SIGNIFICANCE = 0.05


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


def verdict(runs: Sequence[dict]) -> list[str]:
    """What holds and what does not, one sentence a comparison, each a paired t-test over seeds."""
    noise = max((run["label_noise"] for run in runs), default=0.0)
    places = {0.0: "with clean labels"}
    places.setdefault(noise, f"with {100 * noise:.0f} % wrong labels")
    sentences = []
    for rate, where in places.items():
        for method in ("line", "layerwise_line"):
            for rival in ("standard", "standard_matched", "ema"):
                sentences.append(
                    _compare(runs, "article", rate, where, method, rival, ["accuracy"])
                )
        sentences.append(_ends(runs, rate, where))
    for rate, where in places.items():
        where = f"{where}, learning rate and weight decay tuned for each"
        sentences.append(
            _compare(runs, "tuned", rate, where, "layerwise_line", "standard", METRICS)
        )
    return [sentence for sentence in sentences if sentence]


def _compare(runs, setting, noise, where, method, rival, metrics) -> str | None:
    values = [_by_seed(runs, setting, noise, name) for name in (method, rival)]
    seeds = sorted(values[0].keys() & values[1].keys())
    if not seeds:
        return None
    names = [styles.METHODS[name].label.lower() for name in (method, rival)]
    parts = [
        _difference(metric, [[v[seed]["midpoint"][metric] for seed in seeds] for v in values])
        for metric in metrics
    ]
    return (
        f"{_upper(where)}, the {names[0]}'s midpoint against {names[1]} training: "
        f"{'; '.join(parts)} ({len(seeds)} seeds)."
    )


def _ends(runs, noise, where) -> str | None:
    line = _by_seed(runs, "article", noise, "line")
    if not line:
        return None
    values = [
        [line[seed][place]["accuracy"] for seed in line] for place in ("midpoint", "endpoints")
    ]
    return (
        f"{_upper(where)}, the line's midpoint against its own ends: "
        f"{_difference('accuracy', values)} ({len(line)} seeds)."
    )


def _by_seed(runs, setting, noise, method) -> dict[int, dict]:
    key = (setting, noise, method)
    return {
        run["seed"]: _places(run)
        for run in runs
        if (run["setting"], run["label_noise"], run["method"]) == key
    }


def _difference(metric: str, values: Sequence[Sequence[float]]) -> str:
    """`better in accuracy (+1.20 ± 0.30 points)`, or that the difference is not significant."""
    name, factor, unit = _SAID[metric]
    ours, theirs = (np.asarray(v) * factor for v in values)
    difference = ours - theirs
    mean = difference.mean()
    if len(difference) < 3:
        return f"{name} {mean:+.3g}{unit} (too few seeds for a test)"
    stderr = difference.std(ddof=1) / len(difference) ** 0.5
    amount = f"{mean:+.2f} ± {stderr:.2f}{unit}" if factor == 100 else f"{mean:+.3f} ± {stderr:.3f}"
    if stderr == 0 or scipy.stats.ttest_rel(ours, theirs).pvalue >= SIGNIFICANCE:
        return f"no significant difference in {name} ({amount})"
    better = (mean > 0) == (metric == "accuracy")
    return f"{'better' if better else 'worse'} in {name} ({amount})"


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table and the sentences of a metrics.json as Markdown."""
    argv = sys.argv[1:] if argv is None else argv
    if len(argv) != 1 or not Path(argv[0]).is_file():
        print("usage: python -m experiments.summary METRICS_JSON", file=sys.stderr)
        return 2
    metrics = json.loads(Path(argv[0]).read_text())
    print(report.markdown_table(metrics["table"]), end="\n\n")
    print("\n".join(f"- {sentence}" for sentence in metrics["verdict"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
