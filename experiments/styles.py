"""How methods and metrics are called and drawn: the same in every figure and table."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from subspace_jax.plotting import OKABE_ITO


class Style(NamedTuple):
    """The name, colour, marker and line style of a method."""

    label: str
    color: str
    marker: str
    linestyle: str


class Quantity(NamedTuple):
    """The name of a metric with its unit, the factor to that unit, and its decimals in tables."""

    label: str
    scale: float
    decimals: int


METHODS = {
    "standard": Style("Standard", OKABE_ITO["black"], "o", "--"),
    "standard_matched": Style("Standard (matched)", "#7F7F7F", "s", ":"),
    "ema": Style("EMA", OKABE_ITO["orange"], "v", "-."),
    "label_smoothing": Style("Label smoothing", OKABE_ITO["purple"], "P", ":"),
    "line": Style("Line", OKABE_ITO["sky blue"], "^", "-"),
    "layerwise_line": Style("Layerwise line", OKABE_ITO["blue"], "D", "-"),
    "curve": Style("Curve", OKABE_ITO["green"], "p", "-"),
    "simplex": Style("3-simplex", OKABE_ITO["vermillion"], "*", "-"),
    "layerwise_simplex": Style("Layerwise simplex", OKABE_ITO["vermillion"], "X", "-"),
}

SUBSPACES = frozenset({"line", "layerwise_line", "curve", "simplex", "layerwise_simplex"})

QUANTITIES = {
    "accuracy": Quantity("Accuracy [%]", 100.0, 2),
    "nll": Quantity("NLL [nats]", 1.0, 3),
    "ece": Quantity("ECE [%]", 100.0, 2),
}


def style_of(method: str) -> Style:
    """The fixed style of a method; grey, under its own name, for one that has none."""
    return METHODS.get(method, Style(method, "#7F7F7F", "o", "-"))


def order_of(method: str) -> int:
    """Where a method stands among the others, in every figure and table."""
    return list(METHODS).index(method) if method in METHODS else len(METHODS)


def style_of_run(config: Mapping[str, Any]) -> Style:
    """The style of the method of one run; a simplex is called after its number of endpoints."""
    kind = config.get("kind", "standard")
    num_endpoints = config.get("subspace", {}).get("num_endpoints", 3)
    style = style_of(kind)
    return style._replace(label=f"{num_endpoints}-simplex") if kind == "simplex" else style


def deployed(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The point that is deployed: the midpoint, or the only point of a run without a subspace."""
    only = points[0] if len(points) == 1 else None
    return next((point for point in points if point["name"] == "midpoint"), only)
