"""How sentences say label noise, metrics, differences with their errors, and shares."""

from collections.abc import Iterable, Sequence

from experiments.results import styles


def labels_said(noise: float) -> str:
    """`clean labels` or `20 % wrong labels`."""
    return (f"{100 * noise:.0f} % " if noise else "") + kind_of_labels(noise)


def kind_of_labels(noise: float) -> str:
    """`clean labels` or `wrong labels`."""
    return "wrong labels" if noise else "clean labels"


def metric_said(metric: str) -> str:
    """A metric in the middle of a sentence.

    Example:
      >>> metric_said("corruptions.snow.3.accuracy"), metric_said("scaled.nll")
      ('accuracy under snow of severity 3', 'scaled NLL')
    """
    *parents, name = metric.split(".")
    name = name if name in ("accuracy", "brier") else name.upper()
    if parents[:1] == ["corruptions"]:
        severity = f" of severity {parents[2]}" if len(parents) > 2 else ""
        return f"{name} under {parents[1].replace('_', ' ')}{severity}"
    return " ".join([*parents, name])


def severities_said(found: Sequence[str], total: int) -> str:
    """At which severities, of how many.

    Example:
      >>> severities_said("12", 5), severities_said("3", 5), severities_said("12345", 5)
      ('at severities 1 and 2', 'at severity 3', 'at every severity')
    """
    if len(found) == 1:
        return f"at severity {found[0]}"
    return "at every severity" if len(found) == total else f"at severities {listed(found)}"


def listed(names: Iterable[str]) -> str:
    """Names in a sentence.

    Example:
      >>> listed("abc")
      'a, b and c'
    """
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def amount(metric: str, value: float | None, stderr: float | None = None, sign: str = "+") -> str:
    """A difference in the unit of its metric.

    Example:
      >>> amount("accuracy", 0.0278, 0.0055), amount("nll", -0.1)
      ('+2.78 ± 0.55 points', '-0.100 nats')
    """
    if value is None:
        return "not finite"
    _, scale, decimals = styles.quantity_of(metric)
    unit = " points" if scale == 100 else " nats" if metric.endswith("nll") else ""
    return f"{spread(scale * value, stderr and scale * stderr, decimals, sign)}{unit}"


def percent(value: float, stderr: float | None) -> str:
    """A share.

    Example:
      >>> percent(0.25, 0.1), percent(0.25, None)
      ('25 ± 10 %', '25 %')
    """
    return f"{spread(100 * value, stderr and 100 * stderr, 0, '')} %"


def p_said(p_value: float) -> str:
    """A p-value.

    Example:
      >>> p_said(0.0421), p_said(1e-5)
      ('0.042', '< 0.001')
    """
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def spread(value: float, stderr: float | None, decimals: int, sign: str = "") -> str:
    """A mean with its standard error, if there is one.

    Example:
      >>> spread(2.5, 0.25, 2), spread(2.5, None, 1, sign="+")
      ('2.50 ± 0.25', '+2.5')
    """
    mean = f"{value:{sign}.{decimals}f}"
    return mean if stderr is None else f"{mean} ± {stderr:.{decimals}f}"
