"""Networks in files: they come back as they were, runs start from them, and all else is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from experiments.system.errors import UserError
from experiments.training import steps, weights
from experiments.training.run import one_network
from subspace_jax import averaging

SHAPES = {"conv": {"kernel": (2, 3), "bias": (3,)}, "scale": ()}
LIKE = jax.tree.map(
    lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32),
    SHAPES,
    is_leaf=lambda x: isinstance(x, tuple),
)


def stack_of(count, seed=0):
    """Random networks with a number, a zero with a sign and numbers that are not finite."""
    leaves, structure = jax.tree.flatten(LIKE)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(key, (count, *x.shape)) for key, x in zip(keys, leaves, strict=True)]
    stack = jax.tree.unflatten(structure, drawn)
    odd = jnp.array([-0.0, jnp.inf, jnp.nan], jnp.float32)
    stack["conv"]["bias"] = stack["conv"]["bias"].at[0].set(odd)
    return stack


def bits(stack):
    return jax.tree.map(lambda leaf: np.asarray(leaf).view(np.uint32), stack)


def refusal(path):
    """The sentence that a file is refused with."""
    with pytest.raises(UserError) as caught:
        weights.load(path, LIKE)
    assert str(caught.value).startswith(f"{path} ")
    return str(caught.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.npz"


def test_networks_come_back_bit_for_bit(path):
    """In files whose arrays are named by the paths of leaves."""
    stack = stack_of(3)
    weights.save(path, stack)
    with np.load(path) as file:
        assert set(file.files) == {"['conv']['kernel']", "['conv']['bias']", "['scale']"}
    for like in (LIKE, jax.tree.map(lambda leaf: leaf[0], stack)):
        loaded = weights.load(path, like)
        chex.assert_trees_all_equal_shapes_and_dtypes(loaded, stack)
        chex.assert_trees_all_equal(bits(loaded), bits(stack))


def test_concatenated_networks_are_all_there_in_order():
    stacks = [stack_of(count, seed) for seed, count in enumerate((2, 1, 3))]
    whole = bits(weights.concatenate(stacks))
    for part, stack in zip((slice(2), slice(2, 3), slice(3, 6)), stacks, strict=True):
        chex.assert_trees_all_equal(jax.tree.map(lambda x, p=part: x[p], whole), bits(stack))


# What is refused


def test_other_networks_are_refused_with_both_shapes(path):
    stack = stack_of(2)
    other = stack["conv"] | {"kernel": jnp.zeros((2, 3, 2))}
    for changed, sentence in (
        (stack | {"conv": other}, "['conv']['kernel'] of shape (3, 2) but the network's is (2, 3)"),
        ({"conv": stack["conv"]}, "['scale'] of shape None but the network's is ()"),
        (stack | {"shift": other["bias"]}, "['shift'] of shape (3,) but the network's is None"),
    ):
        weights.save(path, changed)
        assert refusal(path).endswith(f"{sentence}; use weights of the same config.model.")


def pickled(path):
    np.savez(path, **{"['scale']": np.array([{}, {}])})


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 3), np.float32))


def damaged(path):
    weights.save(path, stack_of(2))
    content = bytearray(path.read_bytes())
    content[content.index(np.asarray(stack_of(2)["conv"]["kernel"]).tobytes())] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "write", [None, lambda path: path.write_bytes(b"weights"), pickled, one_array, damaged]
)
def test_files_of_something_else_are_refused(path, write):
    reason = "it is no .npz file of plain arrays" if write else "No such file or directory"
    if write:
        write(path)
    assert f"can't be read as weights of a finished run ({reason}); name" in refusal(path)


# Runs that start from files


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
