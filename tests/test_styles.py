"""Labels, looks and order of products and metrics."""

import itertools

from experiments.configs.recipes import COLOURS, METHODS, PRODUCTS, RECIPES
from experiments.results.styles import (
    SUBSPACES,
    deployed,
    order_of,
    style_of,
    style_of_run,
)
from subspace_jax.plotting import OKABE_ITO


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
        ({"kind": "layerwise_line", "recipe": ""}, "Layerwise line"),
        ({"kind": "standard", "recipe": "swa_cyclic_4"}, "SWA (cyclic lr, 4)"),
        (
            {"kind": "simplex", "recipe": "simplex_3", "subspace": {"num_endpoints": 5}},
            "Simplex (5)",
        ),
    ):
        assert style_of_run(config).label == label


def test_deployed_is_the_midpoint_or_the_only_point():
    end, middle = {"name": "endpoint 0"}, {"name": "midpoint"}
    assert [deployed(points) for points in ([end, middle], [end], [end, end], [])] == [
        *(middle, end, None, None)
    ]
