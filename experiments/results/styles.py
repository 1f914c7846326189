"""How products and metrics are called and drawn: the same in every figure and table."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.configs.recipes import LARGEST
from subspace_jax.plotting import OKABE_ITO


class Style(NamedTuple):
    """The name, colour, marker and line style of a product."""

    label: str
    color: str
    marker: str
    linestyle: str


class Quantity(NamedTuple):
    """The name of a metric with its unit, the factor to that unit, and its decimals in tables."""

    label: str
    scale: float
    decimals: int


# A family has one colour, and every subspace a solid line.
_ORDINARY, _SEVERAL = OKABE_ITO["black"], "#7F7F7F"
_AVERAGE, _REGULARISER = OKABE_ITO["orange"], OKABE_ITO["purple"]
_LINE, _LAYERWISE = OKABE_ITO["sky blue"], OKABE_ITO["blue"]
_CURVE, _SIMPLEX = OKABE_ITO["green"], OKABE_ITO["vermillion"]

# In the order in which they are always shown. A product with a number at its end, `simplex_4`, has
# the style of the one without.
METHODS = {
    "standard": Style("Standard", _ORDINARY, "o", "--"),
    "standard_matched": Style("Standard (matched)", _ORDINARY, "s", ":"),
    "early_stopping": Style("Optimal early stopping (oracle)", _ORDINARY, "<", "-."),
    "ema": Style("EMA", _AVERAGE, "v", "-."),
    "swa_constant": Style("SWA (constant lr)", _AVERAGE, "<", "--"),
    "swa_cyclic": Style("SWA (cyclic lr)", _AVERAGE, ">", ":"),
    "swag": Style("SWAG", _AVERAGE, "d", "-."),
    "soup_uniform": Style("Uniform soup", _AVERAGE, "s", "--"),
    "soup_greedy": Style("Greedy soup", _AVERAGE, "D", ":"),
    "dropout": Style("Dropout", _REGULARISER, "o", "--"),
    "mc_dropout": Style("MC dropout", _REGULARISER, "s", "-."),
    "label_smoothing": Style("Label smoothing", _REGULARISER, "P", ":"),
    "sam": Style("SAM", _REGULARISER, "^", "--"),
    "asam": Style("ASAM", _REGULARISER, "v", "-."),
    "ensemble": Style("Two independent networks", _SEVERAL, "o", "--"),
    "snapshot": Style("Snapshot ensemble", _SEVERAL, "<", ":"),
    "fge": Style("Fast geometric ensemble", _SEVERAL, ">", "-."),
    "curve_finding": Style("Curve between trained networks", _SEVERAL, "p", "--"),
    "spro": Style("Simplicial complex (SPRO)", _SEVERAL, "*", ":"),
    "line": Style("Line", _LINE, "^", "-"),
    "layerwise_line": Style("Layerwise line", _LAYERWISE, "D", "-"),
    "curve": Style("Curve", _CURVE, "p", "-"),
    "simplex": Style("Simplex", _SIMPLEX, "*", "-"),
    "layerwise_simplex": Style("Layerwise simplex", _SIMPLEX, "X", "-"),
    "line_ensemble": Style("Ensemble of the line's ends", _LINE, "d", "-"),
    "layerwise_line_ensemble": Style("Ensemble of the layerwise line's ends", _LAYERWISE, "d", "-"),
    "line_label_smoothing": Style("Line + label smoothing", _LINE, "P", "-"),
    "layerwise_line_ema": Style("Layerwise line + EMA", _LAYERWISE, "v", "-"),
    "line_sam": Style("Line + SAM", _LINE, "h", "-"),
}
_NUMBERED_LABELS = {
    "standard_matched": "Standard (matched to {})",
    "swa_constant": "SWA (constant lr, {})",
    "swa_cyclic": "SWA (cyclic lr, {})",
}

# Recipes that train a subspace, whose midpoint is one place among others.
SUBSPACES = frozenset(
    {"line", "layerwise_line", "curve", "simplex", "layerwise_simplex"}
    | {f"{kind}_{m}" for kind in ("simplex", "layerwise_simplex") for m in range(3, LARGEST + 1)}
    | {"line_label_smoothing", "layerwise_line_ema", "line_sam", "curve_finding"}
)

# What is shown of everything, and what more is known of some.
METRICS = ("accuracy", "nll", "ece")
# Mean corruption errors, by what they are relative to; of what is evaluated under corruption.
MCE = ("corruptions_mce.raw", "corruptions_mce.standard")
QUANTITIES = {
    "accuracy": Quantity("Accuracy [%]", 100.0, 2),
    "nll": Quantity("NLL [nats]", 1.0, 3),
    "ece": Quantity("ECE [%]", 100.0, 2),
    "brier": Quantity("Brier score", 1.0, 4),
    "scaled.nll": Quantity("Scaled NLL [nats]", 1.0, 3),
    "scaled.ece": Quantity("Scaled ECE [%]", 100.0, 2),
    "corruptions_mce.raw": Quantity("mCE, raw [%]", 100.0, 1),
    "corruptions_mce.standard": Quantity("mCE, of standard's [%]", 100.0, 1),
}


def style_of(product: str) -> Style:
    """The fixed style of a product; grey, under its own name, for one that has none.

    Example:
      >>> style_of("simplex_4").label, style_of("swa_cyclic_3").label
      ('Simplex (4)', 'SWA (cyclic lr, 3)')
    """
    if product in METHODS:
        return METHODS[product]
    base, number = _parts(product)
    if base not in METHODS:
        return Style(product, _SEVERAL, "o", "-")
    style = METHODS[base]
    label = _NUMBERED_LABELS.get(base, f"{style.label} ({{}})").format(number)
    return style._replace(label=label)


def order_of(product: str) -> int:
    """Where a product stands among the others, in every figure and table."""
    base, number = (product, 0) if product in METHODS else _parts(product)
    return 100 * list(METHODS).index(base) + number if base in METHODS else 100 * len(METHODS)


def _parts(product: str) -> tuple[str, int]:
    """`simplex_4` is `("simplex", 4)`."""
    found = re.fullmatch(r"(.+)_(\d{1,2})", product)
    return (found[1], int(found[2])) if found else (product, 0)


def style_of_run(config: Mapping[str, Any]) -> Style:
    """The style of the recipe of one run; a simplex is called after its number of endpoints."""
    kind = config.get("kind", "standard")
    if kind in ("simplex", "layerwise_simplex"):
        return style_of(f"{kind}_{config.get('subspace', {}).get('num_endpoints', 3)}")
    return style_of(config.get("recipe") or kind)


def shown(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The metrics that a table of these rows has columns for.

    Example:
      >>> shown([{"accuracy": 0.9, "corruptions_mce.raw": 0.2}, {}])
      ('accuracy', 'nll', 'ece', 'corruptions_mce.raw')
    """
    rows = list(rows)
    return METRICS + tuple(name for name in MCE if any(name in row for row in rows))


def quantity_of(metric: str) -> Quantity:
    """How a metric is shown, by its dotted path within a place.

    Example:
      >>> quantity_of("corruptions.snow.3.accuracy")
      Quantity(label='Accuracy [%], snow 3', scale=100.0, decimals=2)
    """
    if metric in QUANTITIES:
        return QUANTITIES[metric]
    *parents, name = metric.split(".")
    base = QUANTITIES.get(name, Quantity(name, 1.0, 3))
    return base._replace(label=", ".join(filter(None, [base.label, " ".join(parents[1:])])))


def deployed(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The point that is deployed: the midpoint, or the only point of a run without a subspace."""
    only = points[0] if len(points) == 1 else None
    return next((point for point in points if point["name"] == "midpoint"), only)
