"""Recipes and products: that each can be made, starts from what exists, and predicts somewhere."""

import re

import pytest
import tiny

from experiments.configs import recipes
from experiments.configs.base import base_config
from experiments.configs.recipes import (
    NEEDS,
    PRODUCTS,
    RECIPES,
    check_recipe,
    places_of,
    product_of,
)
from experiments.system.errors import UserError
from experiments.training.methods import KINDS, Length, make_method

every_recipe = pytest.mark.parametrize("recipe", RECIPES)
every_product = pytest.mark.parametrize("product", PRODUCTS)


def method_of(recipe):
    return make_method(base_config(recipe))[0]


def num_trained(recipe):
    """Networks that a run of a recipe leaves behind."""
    method = method_of(recipe)
    if method.average == "snapshots":
        return method.num_models
    return method.subspace.num_endpoints + method.num_draws


# Recipes


@every_recipe
def test_a_recipe_makes_a_method_that_fits_into_160_epochs(recipe):
    for config in (base_config(recipe), tiny.config(recipe)):
        method, hyper = make_method(config)
        assert config.recipe == recipe
        assert config.kind == RECIPES[recipe].get("kind", "standard")
    length = Length(160, 5, 10)
    plan = method.plan(length, hyper)
    assert 0 < plan.start_step <= length.num_steps
    if method.average in ("swa", "swag", "snapshots"):
        last = plan.start_step + (method.num_models - 1) * plan.every
        assert last <= length.num_steps < last + plan.every


@every_recipe
def test_a_recipe_sets_values_of_the_config_of_their_type(recipe):
    config = base_config("standard")
    for name, value in RECIPES[recipe].items():
        *outer, last = name.split(".")
        section = config
        for part in outer:
            section = section[part]
        assert type(section[last]) is type(value)


def test_no_two_recipes_are_the_same():
    configs = [base_config(recipe) for recipe in RECIPES]
    made = [(*make_method(config), config.model.dropout) for config in configs]
    different = {(method, *map(float, hyper), dropout) for method, hyper, dropout in made}
    assert len(different) == len(RECIPES)


def test_every_kind_is_of_some_recipe():
    assert {base_config(recipe).kind for recipe in RECIPES} == set(KINDS)


@every_recipe
def test_a_number_at_the_end_is_that_of_endpoints_or_models(recipe):
    number = re.search(r"_(\d)$", recipe)
    if not number or recipe == "spro_1":
        return
    config, m = base_config(recipe), int(number[1])
    assert 2 <= m <= recipes.LARGEST
    assert m == (
        config.schedule.num_models if recipe.startswith("swa") else config.subspace.num_endpoints
    )


@pytest.mark.parametrize("family", ["simplex", "layerwise_simplex", "standard_matched"])
def test_families_reach_the_largest_number(family):
    assert {f"{family}_{m}" for m in range(3, recipes.LARGEST + 1)} <= RECIPES.keys()
    assert f"{family}_{recipes.LARGEST + 1}" not in RECIPES


@pytest.mark.parametrize("kind", ["simplex", "layerwise_simplex"])
def test_a_simplex_without_a_number_is_the_one_of_three_networks(kind):
    assert check_recipe(kind) == f"{kind}_3"
    config = base_config(kind)
    assert config.recipe == f"{kind}_3"
    assert config.subspace.num_endpoints == 3
    assert config.to_dict() == base_config(f"{kind}_3").to_dict()


@every_recipe
def test_a_recipe_has_its_own_name(recipe):
    assert check_recipe(recipe) == recipe


@pytest.mark.parametrize("name", ["", "Line", "lines", "simplex_2", "mc_dropout", "complex"])
@pytest.mark.parametrize("refuse", [check_recipe, base_config])
def test_unknown_recipes_are_refused_with_those_there_are(name, refuse):
    with pytest.raises(UserError) as caught:
        refuse(name)
    names = ", ".join(RECIPES)
    assert str(caught.value) == f"Unknown method {name!r}; choose one of {names}."


# What runs start from


def test_needs_are_recipes_of_recipes():
    assert NEEDS.keys() <= RECIPES.keys()
    assert {need.recipe for needs in NEEDS.values() for need in needs} <= RECIPES.keys()


def test_a_recipe_has_needs_where_networks_are_given_and_as_many_as_are_given():
    for recipe in RECIPES:
        sub = base_config(recipe).subspace
        given = len(sub.given) if method_of(recipe).trains else sub.num_endpoints
        assert sum(num_trained(need.recipe) for need in NEEDS.get(recipe, ())) == given
        assert (recipe in NEEDS) == (given > 0)


def test_what_a_recipe_starts_from_differs():
    for needs in NEEDS.values():
        assert len(set(needs)) == len(needs)
        assert all(need.seed in (0, recipes.PARTNER_SEED) for need in needs)


def test_no_recipe_needs_itself():
    def chain(recipe, above=()):
        assert recipe not in above
        for need in NEEDS.get(recipe, ()):
            chain(need.recipe, (*above, recipe))

    for recipe in NEEDS:
        chain(recipe)


# Products


@every_product
def test_a_product_predicts_with_a_place_of_its_recipe(product):
    recipe, place = product_of(product)
    assert (recipe, place) == PRODUCTS[product]
    assert recipe in RECIPES
    assert place in places_of(recipe)


@every_recipe
def test_places_are_those_of_the_products_each_once(recipe):
    places = places_of(recipe)
    assert set(places) == {place for owner, place in PRODUCTS.values() if owner == recipe}
    assert len(set(places)) == len(places)
    # What is only there for others to start from is in no table.
    others = {need.recipe for needs in NEEDS.values() for need in needs}
    assert places or recipe in others


def test_a_product_of_a_recipes_name_is_of_that_recipe():
    for product in PRODUCTS.keys() & RECIPES.keys():
        assert product_of(product)[0] == product


@every_product
def test_a_place_is_one_that_its_recipe_has(product):
    recipe, place = product_of(product)
    config = base_config(recipe)
    has = {
        "midpoint": True,
        "ensemble": num_trained(recipe) > 1,
        "greedy soup": config.average.name == "snapshots",
        "mc ensemble": config.model.dropout > 0,
        "early stopping": recipe == "standard",
    }
    assert has[place]


@pytest.mark.parametrize("name", ["swa_constant", "swa_cyclic"])
def test_swa_without_a_number_is_that_of_the_default_number(name):
    assert product_of(name) == product_of(f"{name}_{recipes.DEFAULT_MODELS}")
