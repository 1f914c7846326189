"""How products and metrics are called and drawn: the same in every figure and table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.configs.recipes import METHODS, RECIPES, Recipe, of_size


class Quantity(NamedTuple):
    """The name of a metric with its unit, the factor to that unit, and its decimals in tables."""

    label: str
    scale: float
    decimals: int

    @property
    def name(self) -> str:
        return self.label.split(" [")[0]


# Recipes that train a subspace, whose midpoint is one place among others.
SUBSPACES = frozenset(
    name
    for name, row in (METHODS | RECIPES).items()
    if row.kind in ("line", "layerwise_line", "curve", "simplex", "layerwise_simplex")
)

# What is shown of everything, and what more is known of some.
METRICS = ("accuracy", "nll", "ece")
# Mean corruption errors, by what they are relative to; of what is evaluated under corruption.
MCE = ("corruptions_mce.raw", "corruptions_mce.standard")
QUANTITIES = {
    "accuracy": Quantity("Accuracy [%]", 100.0, 2),
    "nll": Quantity("NLL [nats]", 1.0, 3),
    "ece": Quantity("ECE [%]", 100.0, 2),
    "scaled.nll": Quantity("Scaled NLL [nats]", 1.0, 3),
    "scaled.ece": Quantity("Scaled ECE [%]", 100.0, 2),
    "corruptions_mce.raw": Quantity("Corruption error [%]", 100.0, 1),
    "corruptions_mce.standard": Quantity("Corruption error, of standard's [%]", 100.0, 1),
}


def style_of(product: str) -> Recipe:
    """The row of a product, with its label and its looks; grey, under its own name, for a new one."""
    base, number = _parts(product)
    if number and base in METHODS and METHODS[base].sizes:
        return of_size(base, number)
    return METHODS.get(product, Recipe(product, "several", "o"))


def order_of(product: str) -> int:
    """Where a product stands among the others, in every figure and table."""
    base, number = _parts(product)
    return 100 * list(METHODS).index(base) + number if base in METHODS else 100 * len(METHODS)


def _parts(product: str) -> tuple[str, int]:
    """`simplex_4` is `("simplex", 4)`, and a method's own name is never divided."""
    found = re.fullmatch(r"(.+)_(\d{1,2})", product)
    return (found[1], int(found[2])) if found and product not in METHODS else (product, 0)


def style_of_run(config: Mapping[str, Any]) -> Recipe:
    """The style of the recipe of one run; a simplex is called after its number of endpoints."""
    kind = config.get("kind", "standard")
    if kind in ("simplex", "layerwise_simplex"):
        return style_of(f"{kind}_{config.get('subspace', {}).get('num_endpoints', 3)}")
    return style_of(config.get("recipe") or kind)


def look(product: str, *also: str) -> dict[str, str]:
    """The arguments with which Matplotlib draws a product's line: colour, style and label."""
    row = style_of(product)
    return {name: getattr(row, name) for name in ("color", "linestyle", "label", *also)}


def deployed(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The point that is deployed: the midpoint, which the only point is of a run without a subspace."""
    return next((point for point in points if point["name"] == "midpoint"), None)
