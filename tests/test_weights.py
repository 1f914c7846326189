"""Networks in files: what comes back is what was written, and all else is refused."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.system.errors import UserError
from experiments.training import weights
from subspace_jax import tree

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


def refusal(path, like=LIKE):
    """The sentence that a file is refused with."""
    with pytest.raises(UserError) as caught:
        weights.load(path, like)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} ")
    assert sentence.endswith(".")
    assert sentence.count(";") == 1
    assert ". " not in sentence
    assert "\n" not in sentence
    return sentence


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.npz"


# There and back


@pytest.mark.parametrize("count", [1, 3])
def test_networks_come_back_bit_for_bit(path, count):
    stack = stack_of(count)
    weights.save(path, stack)
    for like in (LIKE, jax.tree.map(lambda leaf: leaf[0], stack)):
        loaded = weights.load(path, like)
        chex.assert_trees_all_equal_shapes_and_dtypes(loaded, stack)
        chex.assert_trees_all_equal(bits(loaded), bits(stack))
    assert tree.num_stacked(loaded) == count
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))


def test_saving_again_replaces_the_file_and_leaves_no_other(path):
    weights.save(path, stack_of(3))
    weights.save(str(path), stack_of(2, seed=1))
    chex.assert_trees_all_equal(bits(weights.load(str(path), LIKE)), bits(stack_of(2, seed=1)))
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_equal_networks_make_equal_files(path):
    weights.save(path, stack_of(2))
    other = path.with_name("other.npz")
    weights.save(other, weights.load(path, LIKE))
    assert other.read_bytes() == path.read_bytes()


def test_leaves_are_named_by_their_path_in_any_order(path):
    weights.save(path, stack_of(2))
    with np.load(path) as file:
        assert set(file.files) == {"['conv']['kernel']", "['conv']['bias']", "['scale']"}
        np.savez(path, **{name: file[name] for name in reversed(file.files)})
    chex.assert_trees_all_equal(bits(weights.load(path, LIKE)), bits(stack_of(2)))


# Several files as one stack


@pytest.mark.parametrize("counts", [(1,), (1, 1), (2, 1, 3)])
def test_concatenated_networks_are_all_there_in_order(counts):
    stacks = [stack_of(count, seed) for seed, count in enumerate(counts)]
    whole = weights.concatenate(stacks)
    assert tree.num_stacked(whole) == sum(counts)
    start = 0
    for stack, count in zip(stacks, counts, strict=True):
        part = jax.tree.map(lambda leaf, s=start, c=count: leaf[s : s + c], whole)
        chex.assert_trees_all_equal(bits(part), bits(stack))
        start += count


# What is refused


def test_another_shape_is_refused_with_both(path):
    for shape in ((3, 2), (2, 3, 1), (2,), (6,)):
        stack = stack_of(2)
        stack["conv"]["kernel"] = jnp.zeros((2, *shape))
        weights.save(path, stack)
        sentence = refusal(path)
        assert f"has ['conv']['kernel'] of shape {shape} but the network's is (2, 3)" in sentence
        assert sentence.endswith("; use weights of the same config.model.")


def test_leaves_that_are_missing_or_too_many_are_refused(path):
    weights.save(path, {"conv": stack_of(2)["conv"]})
    assert "has ['scale'] of shape None but the network's is ()" in refusal(path)
    weights.save(path, stack_of(2) | {"shift": jnp.zeros((2, 4))})
    assert "has ['shift'] of shape (4,) but the network's is None" in refusal(path)


def written(path, content):
    path.write_bytes(content)


def pickled(path):
    np.savez(path, **{"['scale']": np.array([{}, {}])})


def one_array(path):
    with path.open("wb") as file:
        np.save(file, np.zeros((2, 3), np.float32))


def cut_off(path):
    weights.save(path, stack_of(2))
    written(path, path.read_bytes()[:-30])


def damaged(path):
    weights.save(path, stack_of(2))
    content = bytearray(path.read_bytes())
    content[content.index(np.asarray(stack_of(2)["conv"]["kernel"]).tobytes())] ^= 1
    written(path, bytes(content))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: written(path, b""),
        lambda path: written(path, b"weights"),
        pickled,
        one_array,
        cut_off,
        damaged,
    ],
)
def test_files_of_something_else_are_refused(path, write):
    write(path)
    sentence = refusal(path)
    assert "can't be read as weights (it is no .npz file of plain arrays); name the" in sentence


def test_absent_files_and_folders_are_refused(path):
    assert "can't be read as weights (No such file or directory); name the" in refusal(path)
    path.mkdir()
    assert "can't be read as weights (Is a directory); name the" in refusal(path)
