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


@pytest.mark.parametrize(("recipe", "count"), [("standard", 1), ("line", 2), ("curve", 3)])
def test_all_endpoints_start_at_one_network(one, recipe, count):
    path, params = one
    run = tiny.run(recipe, init_from=path)
    endpoints = steps.init_state(run).endpoints
    chex.assert_trees_all_equal(endpoints, copies(params, count))


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


def test_averages_start_there_too(one):
    path, params = one
    state = steps.init_state(tiny.run("ema", init_from=path))
    average = averaging.average_of(state.opt_state)
    chex.assert_trees_all_equal(average, params)


def test_runs_of_given_networks_start_from_those(one, tmp_path):
    files = tuple(tiny.weights_file(tmp_path / f"{seed}.npz", seed) for seed in (1, 2))
    runs = [
        tiny.run("curve_finding", subspace__weights=files, init_from=start)
        for start in ("", one[0])
    ]
    states = [steps.init_state(run).endpoints for run in runs]
    chex.assert_trees_all_equal(*states)


def test_other_numbers_of_networks_are_refused(tmp_path):
    path = tiny.weights_file(tmp_path / "two.npz", seed=6, recipe="line")
    sentence = r"two\.npz holds 2 networks but curve has 3 endpoints; use a file of 1 or 3\.$"
    with pytest.raises(UserError, match=sentence):
        tiny.run("curve", init_from=path)
    with pytest.raises(UserError, match=r"standard has 1 endpoints; use a file of 1\.$"):
        tiny.run("standard", init_from=path)


def test_another_network_is_refused_with_what_may_help(one):
    path, _ = one
    with pytest.raises(UserError) as caught:
        tiny.run("line", init_from=path, model__widths=(4, 6))
    sentence = str(caught.value)
    assert sentence.startswith(
        f"config.init_from: {path} has ['BatchNorm_1']['bias'] of shape (8,)"
    )
    assert sentence.endswith("or --config.init_head=new for classes of your own.")
    with pytest.raises(UserError, match=r"config\.model\.$"):
        tiny.run("line", init_from=path, init_head="new", model__widths=(4, 6))


def test_absent_files_and_unknown_heads_are_refused(one):
    with pytest.raises(
        UserError, match=r"^config\.init_from: absent\.npz can't be read as weights"
    ):
        tiny.run("line", init_from="absent.npz")
    with pytest.raises(UserError, match=r"^config\.init_head is 'old'; choose keep or new\.$"):
        tiny.run("line", init_from=one[0], init_head="old")
