"""Networks in files: what comes back is what was written, and all else is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.system.errors import UserError
from experiments.training import weights

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
    assert f"can't be read as weights ({reason}); name the weights.npz" in refusal(path)
