"""The methods by name: what each changes in a config, what it starts from, and what it predicts with.

A *recipe* is how one run is trained: a few values of a config. A *product* is what a table compares:
a place of a trained run that predicts, such as its midpoint, or an ensemble of its networks. So
stochastic weight averaging and a soup, a network and its Monte-Carlo ensemble, a line's midpoint and
the ensemble of its ends are products, and no code of their own.
"""

from typing import Any, NamedTuple

from experiments.system.errors import UserError

LARGEST = 6  # endpoints of a simplex, and models of an average, that the article's Figure 4 reaches
DEFAULT_MODELS = 5  # averaged by `swa_constant` and `swa_cyclic`

# kind -> how many endpoints it has by default, and the kinds whose number is not free.
NUM_ENDPOINTS = {
    "standard": 1,
    "standard_matched": 2,
    "line": 2,
    "layerwise_line": 2,
    "curve": 3,
    "simplex": 3,
    "layerwise_simplex": 3,
    "complex": 3,
    "independent": 2,
}
FIXED = ("standard", "line", "layerwise_line")

# Seeds of runs that others start from, so that two of these have no network in common.
PARTNER_SEED = 1000


class Need(NamedTuple):
    """A run that another one starts from: its recipe, and what is added to the seed."""

    recipe: str
    seed: int = 0


_TWO = (Need("standard"), Need("standard", PARTNER_SEED))

# recipe -> values by their names in the config; `kind` is the one in `experiments.training.methods`.
RECIPES: dict[str, dict[str, Any]] = {
    "standard": {},
    **{
        f"standard_matched{suffix}": {"kind": "standard_matched", "subspace.num_endpoints": m}
        for suffix, m in [("", 2), *((f"_{m}", m) for m in range(3, LARGEST + 1))]
    },
    "ema": {"average.name": "ema"},
    **{
        f"swa_{name}_{m}": {
            "schedule.name": f"swa_{name}",
            "schedule.num_models": m,
            "average.name": "swa",
        }
        for name in ("constant", "cyclic")
        for m in range(2, LARGEST + 1)
    },
    "swag": {"schedule.name": "swa_constant", "schedule.num_models": 20, "average.name": "swag"},
    "snapshot": {
        "schedule.name": "snapshot",
        "schedule.num_models": 5,
        "average.name": "snapshots",
    },
    "fge": {"schedule.name": "fge", "schedule.num_models": 5, "average.name": "snapshots"},
    "sam": {"sharpness.rho": 0.05},
    "asam": {"sharpness.rho": 0.5, "sharpness.adaptive": True},
    "dropout": {"model.dropout": 0.1},
    "label_smoothing": {"label_smoothing": 0.1},
    "ensemble": {"kind": "independent", "subspace.num_endpoints": 2},
    "curve_finding": {"kind": "curve", "subspace.given": (0, 2), "subspace.penalty": 0.0},
    "spro_1": {
        "kind": "complex",
        "subspace.num_endpoints": 3,
        "subspace.simplexes": ((0, 2), (1, 2)),
        "subspace.given": (0, 1),
        "subspace.penalty": 0.0,
    },
    "spro": {
        "kind": "complex",
        "subspace.num_endpoints": 4,
        "subspace.simplexes": ((0, 2, 3), (1, 2, 3)),
        "subspace.given": (0, 1, 2),
        "subspace.penalty": 0.0,
        "subspace.volume": 1e-4,
    },
    "line": {"kind": "line"},
    "layerwise_line": {"kind": "layerwise_line"},
    "curve": {"kind": "curve"},
    **{
        f"{kind}_{m}": {"kind": kind, "subspace.num_endpoints": m}
        for kind in ("simplex", "layerwise_simplex")
        for m in range(3, LARGEST + 1)
    },
    "line_label_smoothing": {"kind": "line", "label_smoothing": 0.1},
    "layerwise_line_ema": {"kind": "layerwise_line", "average.name": "ema"},
    "line_sam": {"kind": "line", "sharpness.rho": 0.05},
}

# recipe -> the runs whose networks it starts from, in the order of `subspace.given`.
NEEDS: dict[str, tuple[Need, ...]] = {
    "ensemble": _TWO,
    "curve_finding": _TWO,
    "spro_1": _TWO,
    "spro": (Need("spro_1"),),
}

# product -> (recipe, place), where it is not the midpoint of the recipe of its own name.
_OTHERS: dict[str, tuple[str, str]] = {
    "swa_constant": (f"swa_constant_{DEFAULT_MODELS}", "midpoint"),
    "swa_cyclic": (f"swa_cyclic_{DEFAULT_MODELS}", "midpoint"),
    "swag": ("swag", "ensemble"),
    "snapshot": ("snapshot", "ensemble"),
    "fge": ("fge", "ensemble"),
    "soup_uniform": ("fge", "midpoint"),
    "soup_greedy": ("fge", "greedy soup"),
    "mc_dropout": ("dropout", "mc ensemble"),
    "ensemble": ("ensemble", "ensemble"),
    "spro": ("spro", "ensemble"),
    "early_stopping": ("standard", "early stopping"),
    "line_ensemble": ("line", "ensemble"),
    "layerwise_line_ensemble": ("layerwise_line", "ensemble"),
}
PRODUCTS: dict[str, tuple[str, str]] = {
    **{recipe: (recipe, "midpoint") for recipe in RECIPES if recipe != "spro_1"},
    **_OTHERS,
}


def default_num_endpoints(kind: str) -> int:
    """How many endpoints a kind has unless the config says otherwise.

    Raises:
      UserError: there is no such kind.
    """
    if kind not in NUM_ENDPOINTS:
        raise UserError(f"Unknown kind {kind!r}; choose one of {', '.join(NUM_ENDPOINTS)}.")
    return NUM_ENDPOINTS[kind]


def product_of(name: str) -> tuple[str, str]:
    """The recipe that a product is trained by, and the place that it predicts with.

    Example:
      >>> product_of("line"), product_of("mc_dropout")
      (('line', 'midpoint'), ('dropout', 'mc ensemble'))
    """
    return PRODUCTS[name]


def places_of(recipe: str) -> tuple[str, ...]:
    """The places of a recipe's runs that some product predicts with.

    Example:
      >>> places_of("dropout")
      ('midpoint', 'mc ensemble')
    """
    return tuple(dict.fromkeys(place for owner, place in PRODUCTS.values() if owner == recipe))


def check_recipe(name: str) -> str:
    """A recipe's own name, `simplex` being the 3-simplex.

    Raises:
      UserError: there is none of that name.
    """
    name = {"simplex": "simplex_3", "layerwise_simplex": "layerwise_simplex_3"}.get(name, name)
    if name not in RECIPES:
        raise UserError(f"Unknown method {name!r}; choose one of {', '.join(RECIPES)}.")
    return name
