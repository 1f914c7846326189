"""How products and metrics are called and drawn: the same in every figure and table."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.configs.recipes import METHODS, RECIPES, Recipe, of_size


class Quantity(NamedTuple):
    """The name of a metric with its unit, the factor to that unit, and its decimals in tables."""

    label: str
    scale: float
    decimals: int


# Recipes that train a subspace, whose midpoint is one place among others.
_KINDS = ("line", "layerwise_line", "curve", "simplex", "layerwise_simplex")
SUBSPACES = frozenset(
    name
    for name, row in (METHODS | RECIPES).items()
    if row.kind in _KINDS and (name in RECIPES or row.sizes)
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


def style_of(product: str) -> Recipe:
    """The row of a product, with its label and its looks; grey, under its own name, for a new one.

    Example:
      >>> style_of("simplex_4").label, style_of("swa_cyclic_3").label
      ('Simplex (4)', 'SWA (cyclic lr, 3)')
    """
    if row := METHODS.get(product) or RECIPES.get(product):
        return row
    base, number = _parts(product)
    if base in METHODS and METHODS[base].sizes:
        return of_size(base, number)
    return Recipe(product, "several", "o")


def order_of(product: str) -> int:
    """Where a product stands among the others, in every figure and table."""
    base, number = (product, 0) if product in METHODS else _parts(product)
    return 100 * list(METHODS).index(base) + number if base in METHODS else 100 * len(METHODS)


def _parts(product: str) -> tuple[str, int]:
    """`simplex_4` is `("simplex", 4)`."""
    found = re.fullmatch(r"(.+)_(\d{1,2})", product)
    return (found[1], int(found[2])) if found else (product, 0)


def style_of_run(config: Mapping[str, Any]) -> Recipe:
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
