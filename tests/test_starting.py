"""Runs that start from networks which were trained before."""

import chex
import jax
import numpy as np
import pytest
import tiny

from experiments.system.errors import UserError
from experiments.training import steps, weights
from experiments.training.run import one_network
from subspace_jax import averaging


def copies(params, count):
    return jax.tree.map(lambda leaf: np.repeat(leaf, count, 0), params)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The file of one network of another seed, and the network as a stack of one."""
    path = tiny.weights_file(tmp_path_factory.mktemp("start") / "one.npz", seed=5)
    return path, weights.load(path, one_network(tiny.run()))


@pytest.mark.parametrize(("recipe", "count"), [("ema", 1), ("curve", 3)])
def test_all_endpoints_and_their_average_start_at_one_network(one, recipe, count):
    path, params = one
    state = steps.init_state(tiny.run(recipe, init_from=path))
    chex.assert_trees_all_equal(state.endpoints, copies(params, count))
    average = averaging.average_of(state.opt_state, default=state.endpoints)
    chex.assert_trees_all_equal(average, state.endpoints)


def test_endpoints_start_at_a_network_each(tmp_path):
    path = tiny.weights_file(tmp_path / "two.npz", seed=6, recipe="line")
    endpoints = steps.init_state(tiny.run("line", init_from=path)).endpoints
    chex.assert_trees_all_equal(endpoints, weights.load(path, one_network(tiny.run())))


@pytest.mark.parametrize("others", [0, 4])
def test_a_new_classifier_is_drawn_for_each_endpoint(one, tmp_path, others):
    path, params = one
    if others:  # classes
        stack = jax.tree.map(np.asarray, params)
        stack["Dense_0"] = {"kernel": np.zeros((1, 8, others)), "bias": np.zeros((1, others))}
        path = tmp_path / "others.npz"
        weights.save(path, stack)
    run = tiny.run("line", init_from=str(path), init_head="new")
    endpoints = steps.init_state(run).endpoints
    at_random = steps.init_state(tiny.run("line")).endpoints
    head = endpoints.pop("Dense_0")
    chex.assert_trees_all_equal(head, at_random["Dense_0"])
    assert (head["kernel"][0] != head["kernel"][1]).all()
    rest = {name: module for name, module in params.items() if name != "Dense_0"}
    chex.assert_trees_all_equal(endpoints, copies(rest, 2))


def test_other_networks_are_refused_with_what_may_help(one, tmp_path):
    two = tiny.weights_file(tmp_path / "two.npz", seed=6, recipe="line")
    wide, shape = {"model__widths": (4, 6)}, r"\['BatchNorm_1'\]\['bias'\] of shape \(8,\)"
    for recipe, path, changes, sentence in (
        ("curve", two, {}, "2 networks but curve has 3 endpoints; use a file of 1 or 3"),
        ("standard", two, {}, "standard has 1 endpoints; use a file of 1"),
        ("line", one[0], wide, f"{shape} .* or --config.init_head=new for classes of your own"),
        ("line", one[0], wide | {"init_head": "new"}, f"{shape} .* use weights .* config.model"),
        ("line", "absent.npz", {}, "absent.npz can't be read as weights .* of your own"),
    ):
        with pytest.raises(UserError, match=rf"^config\.init_from.*{sentence}\.$"):
            tiny.run(recipe, init_from=path, **changes)
