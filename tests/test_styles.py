import itertools

import pytest

from experiments.configs.recipes import COLOURS, METHODS, PRODUCTS, RECIPES
from experiments.results import styles
from experiments.results.styles import (
    SUBSPACES,
    deployed,
    order_of,
    style_of,
    style_of_run,
)
from subspace_jax.plotting import OKABE_ITO


def test_products_stand_in_an_order_of_their_own():
    assert len({order_of(product) for product in PRODUCTS}) == len(PRODUCTS)
    assert max(map(order_of, PRODUCTS)) < order_of("new")
    for before, after in itertools.pairwise(METHODS):
        assert order_of(before) < order_of(after)


def test_subspaces_are_solid_and_have_colours_of_their_own():
    assert (RECIPES | METHODS).keys() >= SUBSPACES
    solid = [style_of(name) for name in SUBSPACES if style_of(name).family != "several"]
    assert {style.linestyle for style in solid} == {"-"}
    others = {style_of(name).color for name in set(RECIPES) - SUBSPACES}
    assert not {style.color for style in solid} & others


def test_colours_are_those_of_the_librarys_plots_and_a_grey():
    assert set(COLOURS.values()) == {*OKABE_ITO.values(), "#7F7F7F"}


@pytest.mark.parametrize(
    ("product", "label"),
    [
        ("standard_matched", "Standard (matched)"),
        ("standard_matched_3", "Standard (matched to 3)"),
        ("swa_constant_5", "SWA (constant lr, 5)"),
        ("swa_cyclic", "SWA (cyclic lr)"),
        ("simplex_4", "Simplex (4)"),
        ("layerwise_simplex_12", "Layerwise simplex (12)"),
        ("layerwise_line_ema", "Layerwise line + EMA"),
        ("early_stopping", "Optimal early stopping (oracle)"),
        ("ensemble", "Two independent networks"),
        ("new", "new"),
        ("new_3", "new_3"),
        ("_3", "_3"),
        ("", ""),
    ],
)
def test_labels(product, label):
    assert style_of(product).label == label


@pytest.mark.parametrize("base", ["simplex", "swa_constant", "standard_matched"])
def test_numbers_keep_the_look_and_stand_in_order(base):
    names = [base, *(f"{base}_{m}" for m in (2, 3, 10))]
    looks = {(row.color, row.marker, row.linestyle) for row in map(style_of, names)}
    assert len(looks) == 1
    places = [order_of(name) for name in names]
    assert places == sorted(set(places))
    after = list(METHODS)[list(METHODS).index(base) + 1]
    assert places[-1] < order_of(after)


@pytest.mark.parametrize(
    ("config", "label"),
    [
        ({}, "Standard"),
        ({"kind": "curve"}, "Curve"),
        ({"kind": "simplex"}, "Simplex (3)"),
        ({"kind": "simplex", "subspace": {"num_endpoints": 5}}, "Simplex (5)"),
        (
            {"kind": "simplex", "recipe": "simplex_3", "subspace": {"num_endpoints": 5}},
            "Simplex (5)",
        ),
        ({"kind": "standard", "recipe": "swa_cyclic_4"}, "SWA (cyclic lr, 4)"),
        ({"kind": "layerwise_line", "recipe": ""}, "Layerwise line"),
    ],
)
def test_style_of_run_is_that_of_its_recipe(config, label):
    assert style_of_run(config).label == label


@pytest.mark.parametrize(
    ("metric", "label", "scale"),
    [
        ("accuracy", "Accuracy [%]", 100),
        ("scaled.ece", "Scaled ECE [%]", 100),
        ("corruptions.snow.3.accuracy", "Accuracy [%], snow 3", 100),
        ("ood.noise.auroc", "auroc, noise", 1),
        ("aurc", "aurc", 1),
    ],
)
def test_quantities_are_found_by_their_path(metric, label, scale):
    found = styles.quantity_of(metric)
    assert (found.label, found.scale) == (label, scale)


def test_deployed_is_the_midpoint_or_the_only_point():
    end, middle = {"name": "endpoint 0"}, {"name": "midpoint"}
    assert deployed([end, middle]) is middle
    assert deployed([end]) is end
    assert deployed([end, end]) is None
    assert deployed([]) is None
