"""The table of methods: each can be made, starts from what exists, predicts somewhere, looks its own."""

import collections
import itertools
import subprocess
import sys

from records import ROOT

from experiments.configs import recipes
from experiments.configs.base import base_config
from experiments.configs.recipes import COLOURS, METHODS, PRODUCTS, RECIPES, check_recipe, places_of
from experiments.results.styles import (
    SUBSPACES,
    order_of,
    style_of,
    style_of_run,
)
from experiments.training.methods import KINDS, Length, make_method
from subspace_jax.plotting import OKABE_ITO

MADE = {recipe: make_method(base_config(recipe)) for recipe in RECIPES}


def num_trained(recipe):
    """Networks that a run of a recipe leaves behind."""
    method = MADE[recipe][0]
    if method.average == "snapshots":
        return method.num_models
    return method.subspace.num_endpoints + method.num_draws


def places_possible(recipe):
    """What a run of a recipe can predict with."""
    config = base_config(recipe)
    has = {
        "midpoint": True,
        "ensemble": num_trained(recipe) > 1,
        "greedy soup": config.average.name == "snapshots",
        "mc ensemble": config.model.dropout > 0,
        "early stopping": recipe == "standard",
    }
    return {place for place in has if has[place]}


def wrong_with(recipe):
    """What is wrong with a row of the table, by name."""
    row, config, method = RECIPES[recipe], base_config(recipe), MADE[recipe][0]
    length = Length(160, 5, 10)
    plan = method.plan(length)
    last = plan.start_step + (method.num_models - 1) * plan.every
    given = len(config.subspace.given) if method.trains else config.subspace.num_endpoints
    matched = RECIPES.get(row.matched)
    checks = {
        "name": check_recipe(recipe) == config.recipe == recipe,
        "kind": row.kind in KINDS and config.kind == row.kind,
        "plan": 0 < plan.start_step <= length.num_steps,
        "visits": method.average not in ("swa", "swag", "snapshots")
        or last <= length.num_steps < last + plan.every,
        "needs": {need.recipe for need in row.needs} <= RECIPES.keys() - {recipe}
        and len(set(row.needs)) == len(row.needs)
        and all(need.seed in (0, recipes.PARTNER_SEED) for need in row.needs),
        "networks": sum(num_trained(need.recipe) for need in row.needs) == given,
        "places": set(places_of(recipe)) <= places_possible(recipe),
        "control": not row.matched
        or (matched.kind == "standard_matched" and not set(row.values) - {"kind", row.counts}),
        "points": not matched
        or matched.values["subspace.num_endpoints"] == method.subspace.num_endpoints,
    }
    return [name for name, holds in checks.items() if not holds]


def test_every_recipe_has_a_method_needs_a_control_and_places_that_exist():
    assert {recipe: wrong for recipe in RECIPES if (wrong := wrong_with(recipe))} == {}


def test_no_two_recipes_are_the_same_and_every_kind_is_of_some():
    made = {
        (method, *map(float, hyper), base_config(recipe).model.dropout)
        for recipe, (method, hyper) in MADE.items()
    }
    assert len(made) == len(RECIPES)
    assert {row.kind for row in RECIPES.values()} == set(KINDS)


def test_every_method_has_a_label_and_a_look_of_its_own():
    rows = METHODS | RECIPES
    assert max(collections.Counter(row.label for row in rows.values()).values()) == 1
    looks = {(row.family, row.marker, row.linestyle) for row in METHODS.values()}
    assert len(looks) == len(METHODS)
    assert {row.family for row in METHODS.values()} == set(recipes.COLOURS)
    assert all(bool(row.sizes) == bool(row.sized) for row in METHODS.values())
    short = [name for name, row in METHODS.items() if row.sizes and row.of]
    assert {check_recipe(name) for name in short} == {METHODS[name].of for name in short}


def test_products_are_rows_with_a_place_and_their_recipes():
    assert set(PRODUCTS) == {name for name, row in (RECIPES | METHODS).items() if row.place}
    for product, (recipe, place) in PRODUCTS.items():
        assert place in places_of(recipe)
        assert product not in RECIPES or recipe == product
    needed = {need.recipe for row in RECIPES.values() for need in row.needs}
    assert all(places_of(recipe) or recipe in needed for recipe in RECIPES)
    assert {name for names in recipes.SHOWN.values() for name in names} <= PRODUCTS.keys()


WITH_ANOTHER_ROW = """
import sys, types
import experiments.configs

name, row = "experiments.configs.recipes", sys.argv[1]
path = experiments.configs.__path__[0] + "/recipes.py"
before, anchor, after = open(path).read().partition('    "line_sam": Recipe(')
module = sys.modules[name] = experiments.configs.recipes = types.ModuleType(name)
exec(compile(before + row + anchor + after, path, "exec"), module.__dict__)

from experiments.reproduce.__main__ import main
sys.exit(main(sys.argv[2:]))
"""


def test_one_line_adds_a_recipe_that_is_trained_tabulated_and_drawn(tmp_path):
    row = '    "mine": Recipe("My line", "line", "x", "-", {"kind": "line"}),\n'
    values = ("products=('mine',)", "seeds=(0,)", "noise_rates=(0.0,)")
    values += ("run.num_epochs=2", "run.model.widths=(4,)", "landscape.seeds=()")
    values += ("run.evaluation.corruptions=()", "run.evaluation.outside=()")
    arguments = [
        "digits",
        "--workdir",
        tmp_path,
        "--only=rivals",
        *map("--config.{}".format, values),
    ]
    command = [sys.executable, "-c", WITH_ANOTHER_ROW, row, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "My line" in (tmp_path / "table.md").read_text()
    assert "mine" in (tmp_path / "figures" / "rivals.json").read_text()


# Labels, looks and order


def test_products_of_any_size_stand_in_an_order_of_their_own_and_keep_their_look():
    assert len({order_of(product) for product in PRODUCTS}) == len(PRODUCTS)
    assert max(map(order_of, PRODUCTS)) < order_of("new")
    for before, after in itertools.pairwise(METHODS):
        assert order_of(before) < order_of(f"{before}_12") < order_of(after)
        if METHODS[before].sizes:
            looks = [style_of(name) for name in (before, f"{before}_12")]
            assert len({(row.color, row.marker, row.linestyle) for row in looks}) == 1


def test_subspaces_are_solid_and_have_colours_of_their_own():
    solid = [style_of(name) for name in SUBSPACES if style_of(name).family != "several"]
    assert {style.linestyle for style in solid} == {"-"}
    others = {style_of(name).color for name in set(RECIPES) - SUBSPACES}
    assert not {style.color for style in solid} & others
    assert set(COLOURS.values()) == {*OKABE_ITO.values(), "#7F7F7F"}


def test_labels_are_those_of_the_table_of_a_size_or_the_name_itself():
    for product, label in (
        ("standard_matched_3", "Standard (matched to 3)"),
        ("layerwise_simplex_12", "Layerwise simplex (12)"),
        ("spro_1", "Simplicial complex of two lines"),
        *((name, name) for name in ("new", "new_3", "_3", "")),
    ):
        assert style_of(product).label == label
    for config, label in (
        ({}, "Standard"),
        ({"kind": "standard", "recipe": "swa_cyclic_4"}, "SWA (cyclic lr, 4)"),
    ):
        assert style_of_run(config).label == label
