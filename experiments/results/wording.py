"""How sentences and cells say label noise, metrics, differences with their errors, and shares."""

import math
from collections.abc import Mapping

from experiments.results import styles


def labels_said(noise: float) -> str:
    """`clean labels` or `20 % wrong labels`."""
    return f"{percent(noise)} {kind_of_labels(noise)}" if noise else kind_of_labels(noise)


def kind_of_labels(noise: float) -> str:
    """`clean labels` or `wrong labels`."""
    return "wrong labels" if noise else "clean labels"


def place_said(place: str, recipe: str) -> str:
    """Ordinary training has one network, and no midpoint."""
    return "network" if place == "midpoint" and recipe not in styles.SUBSPACES else place


def metric_said(metric: str) -> str:
    """A metric in the middle of a sentence."""
    *parents, name = metric.split(".")
    name = name if name == "accuracy" else name.upper()
    if parents[:1] == ["corruptions"]:
        return f"{name} under {parents[1].replace('_', ' ')} of severity {parents[2]}"
    return " ".join([*parents, name])


def amount(metric: str, value: float | None, stderr: float | None = None, sign: str = "+") -> str:
    """A difference in the unit of its metric."""
    if value is None:
        return "not finite"
    name = metric.rpartition(".")[2]  # of a dotted path: corruptions.snow.3.accuracy
    usual = styles.QUANTITIES.get(name, styles.Quantity(metric, 1.0, 3))
    _, scale, decimals = styles.QUANTITIES.get(metric, usual)
    unit = " points" if scale == 100 else " nats" if metric.endswith("nll") else ""
    return f"{spread(scale * value, stderr and scale * stderr, decimals, sign)}{unit}"


def tested(metric: str, value: float | None, stderr: float | None, p_value: float | None) -> str:
    """A difference in the unit of its metric, and the p-value if it was tested."""
    said = "" if p_value is None else f", p {p_said(p_value)}"
    return f"{amount(metric, value, stderr)}{said}"


def mean_of(value: Mapping[str, float | None], metric: str) -> str:
    """`mean ± stderr` in the unit of the metric; the mean alone where one seed has no error."""
    mean, stderr = value["mean"], value.get("stderr")
    if mean is None or not math.isfinite(mean):
        return "not finite"
    _, scale, decimals = styles.QUANTITIES[metric]
    return spread(scale * mean, stderr and scale * stderr, decimals)


def percent(value: float, stderr: float | None = None) -> str:
    """A share: `25 ± 10 %`, or `25 %`."""
    return f"{spread(100 * value, stderr and 100 * stderr, 0)} %"


def p_said(p_value: float) -> str:
    """A p-value: `0.042`, or `< 0.001`."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def spread(value: float, stderr: float | None, decimals: int, sign: str = "") -> str:
    """A mean with its standard error, if there is one."""
    mean = f"{value:{sign}.{decimals}f}"
    return mean if stderr is None else f"{mean} ± {stderr:.{decimals}f}"
