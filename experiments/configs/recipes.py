"""The table of methods: what each changes in a config, starts from, predicts with, and looks like.

A *recipe* is how one run is trained: a few values of a config. A *product* is what a table compares: a
place of a trained run that predicts, such as its midpoint, or an ensemble of its networks.
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
    """One method. Of one that has sizes there is a recipe `NAME_m` for each number `m` too."""

    label: str  # how it is called
    family: str  # a key of COLOURS; no other method of it has the same marker and linestyle
    marker: str
    linestyle: str = "-"
    values: Mapping[str, Any] = {}  # by their names in the config
    needs: tuple[Need, ...] = ()  # the runs that it starts from, in the order of `subspace.given`
    place: str = "midpoint"  # what its product predicts with; "" if it is in no table
    of: str = ""  # the recipe that is trained, if that is another one
    matched: str = ""  # the ordinary training with the steps of its midpoint; `{}` stands for `m`
    sizes: Iterable[int] = ()
    counts: str = "subspace.num_endpoints"  # the value that is `m`
    sized: str = ""  # the label of these, with `{}` for `m`

    @property
    def color(self) -> str:
        return COLOURS[self.family]

    @property
    def kind(self) -> str:
        return self.values.get("kind", "standard")


def _visits(schedule: str, average: str, num_models: int = 5) -> dict[str, Any]:
    values = {"schedule.name": schedule, "schedule.num_models": num_models}
    return values | {"average.name": average}


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
_SIZES_OF_SIMPLEX = {"place": "", "sizes": _MORE}
_SIMPLEXES = _SIZES_OF_SIMPLEX | {"matched": "standard_matched_{}"}
_TIMES_M = {"subspace.lr_times_m": True}

# In the order in which they are always shown.
METHODS: dict[str, Recipe] = {
    "standard": Recipe("Standard", "standard", "o", "--"),
    "standard_matched": Recipe(
        *("Standard (matched)", "standard", "s", ":"),
        values={"kind": "standard_matched", "subspace.num_endpoints": 2},
        sizes=_MORE,
        sized="Standard (matched to {})",
    ),
    "early_stopping": Recipe(
        *("Optimal early stopping (oracle)", "standard", "<", "-."),
        of="standard",
        place="early stopping",
    ),
    "ema": Recipe("EMA", "average", "v", "-.", {"average.name": "ema"}),
    "swa_constant": Recipe(
        *("SWA (constant lr)", "average", "<", "--", _visits("swa_constant", "swa")),
        of="swa_constant_5",
        sized="SWA (constant lr, {})",
        **_SIZES,
    ),
    "swa_cyclic": Recipe(
        *("SWA (cyclic lr)", "average", ">", ":", _visits("swa_cyclic", "swa")),
        of="swa_cyclic_5",
        sized="SWA (cyclic lr, {})",
        **_SIZES,
    ),
    "swag": Recipe(
        "SWAG", "average", "d", "-.", _visits("swa_constant", "swag", 20), place="ensemble"
    ),
    "soup_uniform": Recipe("Uniform soup", "average", "s", "--", of="fge"),
    "soup_greedy": Recipe("Greedy soup", "average", "D", ":", of="fge", place="greedy soup"),
    "dropout": Recipe("Dropout", "regulariser", "o", "--", {"model.dropout": 0.1}),
    "mc_dropout": Recipe("MC dropout", "regulariser", "s", "-.", of="dropout", place="mc ensemble"),
    "label_smoothing": Recipe("Label smoothing", "regulariser", "P", ":", {"label_smoothing": 0.1}),
    "sam": Recipe("SAM", "regulariser", "^", "--", {"sharpness.rho": 0.05}),
    "asam": Recipe(
        "ASAM", "regulariser", "v", "-.", {"sharpness.rho": 0.5, "sharpness.adaptive": True}
    ),
    "ensemble": Recipe(
        *("Two independent networks", "several", "o", "--"),
        {"kind": "independent", "subspace.num_endpoints": 2},
        _TWO,
        place="ensemble",
    ),
    "snapshot": Recipe(
        *("Snapshot ensemble", "several", "<", ":", _visits("snapshot", "snapshots")),
        place="ensemble",
    ),
    "fge": Recipe(
        *("Fast geometric ensemble", "several", ">", "-.", _visits("fge", "snapshots")),
        place="ensemble",
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
    "line": Recipe("Line", "line", "^", "-", {"kind": "line"}, matched="standard_matched"),
    "layerwise_line": Recipe(
        *("Layerwise line", "layerwise", "D", "-", {"kind": "layerwise_line"}),
        matched="standard_matched",
    ),
    # Each of a curve's three points has mean weight 1/3: its midpoint moves at a third of the rate.
    "curve": Recipe("Curve", "curve", "p", "-", {"kind": "curve"}, matched="standard_matched_3"),
    "simplex": Recipe(
        *("Simplex", "simplex", "*", "-", {"kind": "simplex"}),
        of="simplex_3",
        sized="Simplex ({})",
        **_SIMPLEXES,
    ),
    "layerwise_simplex": Recipe(
        *("Layerwise simplex", "simplex", "X", "-", {"kind": "layerwise_simplex"}),
        of="layerwise_simplex_3",
        sized="Layerwise simplex ({})",
        **_SIMPLEXES,
    ),
    # At m times the learning rate, with which the midpoint of m endpoints moves as one network does.
    "line_lr_m": Recipe("Line (lr x m)", "line", ">", "-", {"kind": "line"} | _TIMES_M),
    "layerwise_line_lr_m": Recipe(
        *("Layerwise line (lr x m)", "layerwise", ">", "-", {"kind": "layerwise_line"} | _TIMES_M),
    ),
    "curve_lr_m": Recipe("Curve (lr x m)", "curve", ">", "-", {"kind": "curve"} | _TIMES_M),
    "simplex_lr_m": Recipe(
        *("Simplex (lr x m)", "simplex", ">", "-", {"kind": "simplex"} | _TIMES_M),
        of="simplex_lr_m_3",
        sized="Simplex ({}, lr x m)",
        **_SIZES_OF_SIMPLEX,
    ),
    "layerwise_simplex_lr_m": Recipe(
        *("Layerwise simplex (lr x m)", "simplex", "<", "-"),
        {"kind": "layerwise_simplex"} | _TIMES_M,
        of="layerwise_simplex_lr_m_3",
        sized="Layerwise simplex ({}, lr x m)",
        **_SIZES_OF_SIMPLEX,
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

# What is drawn of methods beside their place in the tables.
SHOWN = {
    # In the article's figures 5 to 7.
    "article": (
        *("standard", "standard_matched", "early_stopping", "ema", "swa_constant", "swa_cyclic"),
        *("dropout", "label_smoothing", "line", "layerwise_line", "curve"),
    ),
    # Accuracy along it, and beside these paths.
    "path": ("line", "layerwise_line", "curve"),
    "level": ("standard", "standard_matched", "ema", "ensemble"),
    # Confidences.
    "curves": ("standard", "ema", "dropout", "label_smoothing", "line", "layerwise_line"),
    "severity": (
        *("standard", "standard_matched", "ema", "swa_constant_5", "dropout"),
        *("line", "layerwise_line", "curve"),
    ),
    # Of the loss landscape.
    "slice": ("standard", "line", "curve", "simplex_3"),
    "curvature": ("standard", "line", "layerwise_line", "curve"),
}


def of_size(name: str, m: int) -> Recipe:
    """The method `NAME_m` of one that has sizes."""
    base = METHODS[name]
    return base._replace(
        label=base.sized.format(m),
        values={**base.values, base.counts: m},
        place="midpoint",
        of="",
        matched=base.matched.format(m),
        sizes=(),
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

# Products of which there is another one at the article's learning rate.
TIMES_M = tuple(
    name
    for name, (recipe, _) in PRODUCTS.items()
    if _TIMES_M.items() <= RECIPES[recipe].values.items()
)


def places_of(recipe: str) -> tuple[str, ...]:
    """The places of a recipe's runs that some product predicts with."""
    return tuple(dict.fromkeys(place for owner, place in PRODUCTS.values() if owner == recipe))


def check_recipe(name: str) -> str:
    """A recipe's own name: of a method that has sizes, the one that it stands for."""
    short = {method: row.of for method, row in METHODS.items() if row.of and row.sizes}
    name = short.get(name, name)
    if name not in RECIPES:
        names = [*RECIPES, *short]
        close = difflib.get_close_matches(name, names, n=1)
        meant = f", did you mean {close[0]!r}" if close else ""
        raise UserError(f"Unknown method {name!r}{meant}; choose one of {', '.join(names)}.")
    return name
