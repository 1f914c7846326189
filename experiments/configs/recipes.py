"""The table of methods: what each changes in a config, starts from, predicts with, and looks like.

A *recipe* is how one run is trained: a few values of a config. A *product* is what a table compares:
a place of a trained run that predicts, such as its midpoint, or an ensemble of its networks. So
stochastic weight averaging and a soup, a network and its Monte-Carlo ensemble, a line's midpoint and
the ensemble of its ends are products, and no code of their own.

A row of `METHODS` is all that there is to say of a method: runs, tables, claims and figures read it.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from experiments.system.errors import UserError

LARGEST = 6  # endpoints of a simplex, and models of an average, that the article's Figure 4 reaches

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

# A family has one colour, of Okabe and Ito (2008), "Color universal design".
COLOURS = {
    "standard": "#000000",
    "average": "#E69F00",
    "regulariser": "#CC79A7",
    "several": "#7F7F7F",
    "line": "#56B4E9",
    "layerwise": "#0072B2",
    "curve": "#009E73",
    "simplex": "#D55E00",
}


class Need(NamedTuple):
    """A run that another one starts from: its recipe, and what is added to the seed."""

    recipe: str
    seed: int = 0


class Recipe(NamedTuple):
    """One method.

    Attributes:
      label: how it is called.
      family: a key of `COLOURS`.
      marker, linestyle: of Matplotlib; no other method of its family has both.
      values: values by their names in the config; `kind` is one of `NUM_ENDPOINTS`.
      needs: the runs whose networks it starts from, in the order of `subspace.given`.
      place: what its product predicts with; "" if it is in no table.
      of: the recipe that is trained, if that is another one.
      matched: the ordinary training whose steps are those of its midpoint.
      sizes: numbers `m` for which there is a recipe `NAME_m` too; `matched` may have `{}` for it.
      counts: the value that is `m`.
      sized: the label of these, with `{}` for `m`.
      shows: what is drawn of it beside its place in the tables: "article" (in the article's figures 5
        to 7), "path" (accuracy along it), "level" (beside paths), "curves" (confidences), "severity",
        "slice" (of the loss landscape), "curvature".
    """

    label: str
    family: str
    marker: str
    linestyle: str = "-"
    values: Mapping[str, Any] = {}
    needs: tuple[Need, ...] = ()
    place: str = "midpoint"
    of: str = ""
    matched: str = ""
    sizes: Iterable[int] = ()
    counts: str = "subspace.num_endpoints"
    sized: str = ""
    shows: frozenset[str] = frozenset()

    @property
    def color(self) -> str:
        return COLOURS[self.family]

    @property
    def kind(self) -> str:
        return self.values.get("kind", "standard")


def _swa(schedule: str) -> dict[str, Any]:
    return {"schedule.name": schedule, "schedule.num_models": 5, "average.name": "swa"}


def _snapshots(schedule: str) -> dict[str, Any]:
    return {"schedule.name": schedule, "schedule.num_models": 5, "average.name": "snapshots"}


def _given(simplexes: tuple, given: tuple, num_endpoints: int) -> dict[str, Any]:
    return {
        "kind": "complex",
        "subspace.num_endpoints": num_endpoints,
        "subspace.simplexes": simplexes,
        "subspace.given": given,
        "subspace.penalty": 0.0,
    }


_TWO = (Need("standard"), Need("standard", PARTNER_SEED))
_MORE, _MODELS = range(3, LARGEST + 1), range(2, LARGEST + 1)
_SIZES = {"sizes": _MODELS, "counts": "schedule.num_models"}

# In the order in which they are always shown.
METHODS: dict[str, Recipe] = {
    "standard": Recipe(
        *("Standard", "standard", "o", "--"),
        shows=frozenset({"article", "level", "curves", "severity", "slice", "curvature"}),
    ),
    "standard_matched": Recipe(
        *("Standard (matched)", "standard", "s", ":"),
        values={"kind": "standard_matched", "subspace.num_endpoints": 2},
        sizes=_MORE,
        sized="Standard (matched to {})",
        shows=frozenset({"article", "level", "severity"}),
    ),
    "early_stopping": Recipe(
        *("Optimal early stopping (oracle)", "standard", "<", "-."),
        of="standard",
        place="early stopping",
        shows=frozenset({"article"}),
    ),
    "ema": Recipe(
        *("EMA", "average", "v", "-.", {"average.name": "ema"}),
        shows=frozenset({"article", "level", "curves", "severity"}),
    ),
    "swa_constant": Recipe(
        *("SWA (constant lr)", "average", "<", "--", _swa("swa_constant")),
        of="swa_constant_5",
        sized="SWA (constant lr, {})",
        shows=frozenset({"article", "severity"}),
        **_SIZES,
    ),
    "swa_cyclic": Recipe(
        *("SWA (cyclic lr)", "average", ">", ":", _swa("swa_cyclic")),
        of="swa_cyclic_5",
        sized="SWA (cyclic lr, {})",
        shows=frozenset({"article"}),
        **_SIZES,
    ),
    "swag": Recipe(
        *("SWAG", "average", "d", "-."),
        {"schedule.name": "swa_constant", "schedule.num_models": 20, "average.name": "swag"},
        place="ensemble",
    ),
    "soup_uniform": Recipe("Uniform soup", "average", "s", "--", of="fge"),
    "soup_greedy": Recipe("Greedy soup", "average", "D", ":", of="fge", place="greedy soup"),
    "dropout": Recipe(
        *("Dropout", "regulariser", "o", "--", {"model.dropout": 0.1}),
        shows=frozenset({"article", "curves", "severity"}),
    ),
    "mc_dropout": Recipe("MC dropout", "regulariser", "s", "-.", of="dropout", place="mc ensemble"),
    "label_smoothing": Recipe(
        *("Label smoothing", "regulariser", "P", ":", {"label_smoothing": 0.1}),
        shows=frozenset({"article", "curves"}),
    ),
    "sam": Recipe("SAM", "regulariser", "^", "--", {"sharpness.rho": 0.05}),
    "asam": Recipe(
        "ASAM", "regulariser", "v", "-.", {"sharpness.rho": 0.5, "sharpness.adaptive": True}
    ),
    "ensemble": Recipe(
        *("Two independent networks", "several", "o", "--"),
        {"kind": "independent", "subspace.num_endpoints": 2},
        _TWO,
        place="ensemble",
        shows=frozenset({"level"}),
    ),
    "snapshot": Recipe(
        *("Snapshot ensemble", "several", "<", ":", _snapshots("snapshot")), place="ensemble"
    ),
    "fge": Recipe(
        *("Fast geometric ensemble", "several", ">", "-.", _snapshots("fge")), place="ensemble"
    ),
    "curve_finding": Recipe(
        *("Curve between trained networks", "several", "p", "--"),
        {"kind": "curve", "subspace.given": (0, 2), "subspace.penalty": 0.0},
        _TWO,
    ),
    # What `spro` starts from.
    "spro_1": Recipe(
        *("Simplicial complex of two lines", "several", "X", ":"),
        _given(((0, 2), (1, 2)), (0, 1), 3),
        _TWO,
        place="",
    ),
    "spro": Recipe(
        *("Simplicial complex (SPRO)", "several", "*", ":"),
        _given(((0, 2, 3), (1, 2, 3)), (0, 1, 2), 4) | {"subspace.volume": 1e-4},
        (Need("spro_1"),),
        place="ensemble",
    ),
    "line": Recipe(
        *("Line", "line", "^", "-", {"kind": "line"}),
        matched="standard_matched",
        shows=frozenset({"article", "path", "curves", "severity", "slice", "curvature"}),
    ),
    "layerwise_line": Recipe(
        *("Layerwise line", "layerwise", "D", "-", {"kind": "layerwise_line"}),
        matched="standard_matched",
        shows=frozenset({"article", "path", "curves", "severity", "curvature"}),
    ),
    # Each of a curve's three points has mean weight 1/3: its midpoint moves at a third of the rate.
    "curve": Recipe(
        *("Curve", "curve", "p", "-", {"kind": "curve"}),
        matched="standard_matched_3",
        shows=frozenset({"article", "path", "severity", "slice", "curvature"}),
    ),
    "simplex": Recipe(
        *("Simplex", "simplex", "*", "-", {"kind": "simplex"}),
        of="simplex_3",
        place="",
        matched="standard_matched_{}",
        sizes=_MORE,
        sized="Simplex ({})",
        shows=frozenset({"slice"}),
    ),
    "layerwise_simplex": Recipe(
        *("Layerwise simplex", "simplex", "X", "-", {"kind": "layerwise_simplex"}),
        of="layerwise_simplex_3",
        place="",
        matched="standard_matched_{}",
        sizes=_MORE,
        sized="Layerwise simplex ({})",
    ),
    "line_ensemble": Recipe(
        "Ensemble of the line's ends", "line", "d", of="line", place="ensemble"
    ),
    "layerwise_line_ensemble": Recipe(
        *("Ensemble of the layerwise line's ends", "layerwise", "d"),
        of="layerwise_line",
        place="ensemble",
    ),
    "line_label_smoothing": Recipe(
        *("Line + label smoothing", "line", "P", "-", {"kind": "line", "label_smoothing": 0.1}),
    ),
    "layerwise_line_ema": Recipe(
        *("Layerwise line + EMA", "layerwise", "v", "-"),
        {"kind": "layerwise_line", "average.name": "ema"},
    ),
    "line_sam": Recipe("Line + SAM", "line", "h", "-", {"kind": "line", "sharpness.rho": 0.05}),
}


def of_size(name: str, m: int) -> Recipe:
    """The method `NAME_m` of one that has sizes; what is drawn of it is drawn of one size alone."""
    base = METHODS[name]
    return base._replace(
        label=base.sized.format(m),
        values={**base.values, base.counts: m},
        place="midpoint",
        of="",
        matched=base.matched.format(m),
        sizes=(),
        shows=base.shows if base.of == f"{name}_{m}" else frozenset(),
    )


SIZED = tuple(f"{name}_{m}" for name, row in METHODS.items() for m in row.sizes)
# Every recipe that can be trained.
RECIPES: dict[str, Recipe] = {
    key: row
    for name, base in METHODS.items()
    for key, row in (
        *([] if base.of else [(name, base._replace(sizes=()))]),
        *((f"{name}_{m}", of_size(name, m)) for m in base.sizes),
    )
}
# product -> (recipe, place); where two are the same, the recipe's own name is first.
PRODUCTS: dict[str, tuple[str, str]] = {
    name: (row.of or name, row.place)
    for name, row in (RECIPES | {k: v for k, v in METHODS.items() if v.of}).items()
    if row.place
}


def shown(what: str, among: Mapping[str, Recipe] = RECIPES) -> tuple[str, ...]:
    """The recipes (or methods) of which something is drawn, in their order.

    Example:
      >>> shown("path")
      ('line', 'layerwise_line', 'curve')
    """
    return tuple(name for name, row in among.items() if what in row.shows)


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
    """A recipe's own name: of a method that has sizes, the one that it stands for.

    Raises:
      UserError: there is none of that name.

    Example:
      >>> check_recipe("line"), check_recipe("simplex")
      ('line', 'simplex_3')
    """
    short = {method: row.of for method, row in METHODS.items() if row.of and row.sizes}
    name = short.get(name, name)
    if name not in RECIPES:
        names = [*RECIPES, *short]
        close = difflib.get_close_matches(name, names, n=1)
        meant = f", did you mean {close[0]!r}" if close else ""
        raise UserError(f"Unknown method {name!r}{meant}; choose one of {', '.join(names)}.")
    return name
