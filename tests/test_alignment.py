"""Permutations of hidden units: they keep the function, and bring networks closer."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from hypothesis import given
from stacks import SEEDS, arbitrary, normal

from examples.permutations import permutation_groups
from experiments.training.networks import CifarResNet, ConvNet, ImageNetResNet
from subspace_jax.contrib import alignment

# A perceptron of two hidden layers, 64 wide, on digits.
WIDTHS = (64, 64, 64, 10)
GROUPS = {
    "first": (("a/w", 1), ("a/b", 0), ("b/w", 0)),
    "second": (("b/w", -1), ("b/b", 0), ("c/w", -2)),
}
# Networks of the experiments, each with other shortcuts.
NETWORKS = {
    "conv_net": ConvNet(num_classes=3, widths=(4, 6, 8)),
    "cifar_resnet": CifarResNet(num_classes=3, depth=14, width=4),
    "resnet": ImageNetResNet(num_classes=3, blocks=(2, 1), width=4),
    "wide_resnet": ImageNetResNet(num_classes=3, blocks=(2, 1), widening=2, stem="small", width=2),
}
IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))


def perceptron(seed):
    rng = np.random.default_rng(seed)
    layer = lambda i, o: {"w": rng.normal(0, (2 / i) ** 0.5, (i, o)), "b": rng.normal(0, 0.1, o)}
    layers = zip("abc", map(layer, WIDTHS, WIDTHS[1:]), strict=True)
    return jax.tree.map(np.float32, dict(layers))


@functools.cache
def of_experiments(name):
    """Variables of a network, all of which are random, statistics too."""
    init = functools.partial(NETWORKS[name].init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), IMAGES)
    rng = np.random.default_rng(0)
    return jax.tree.map_with_path(
        lambda path, x: np.float32(
            rng.uniform(0.5, 2, x.shape) if "var" in str(path) else rng.normal(size=x.shape) / 3
        ),
        shapes,
    )


def shuffle(seed, network, groups):
    """Random permutations that leave no unit at its place."""
    leaves = jax.tree.leaves_with_path(network)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): x for path, x in leaves}
    permutations = {}
    for name, ((path, axis), *_) in groups.items():
        cycle = np.random.default_rng(seed).permutation(leaves[path].shape[axis])
        permutations[name] = np.empty(len(cycle), int)
        permutations[name][cycle] = np.roll(cycle, 1)
    return permutations


def distance(one, other):
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, one, other)))


# Functions


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_is_the_same_function_and_is_found_again_bit_for_bit(name):
    variables = of_experiments(name)
    params, stats = variables["params"], variables["batch_stats"]
    groups, of_stats = permutation_groups(params), permutation_groups(params, stats=True)
    permutations = shuffle(0, params, groups)
    permuted = {
        "params": alignment.permute(params, groups, permutations),
        "batch_stats": alignment.permute(stats, of_stats, permutations),
    }
    apply = jax.jit(functools.partial(NETWORKS[name].apply, train=False))
    before, after = apply(variables, IMAGES), apply(permuted, IMAGES)
    assert np.abs(before).max() > 1e-3
    np.testing.assert_allclose(after, before, atol=5e-6 * np.abs(before).max())
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, permuted["params"])
    still = {str(path) for path, leaf in jax.tree.leaves_with_path(moved) if not leaf}
    assert all("Dense_0" in path and "bias" in path for path in still)  # that of the logits
    found = alignment.align(params, permuted["params"], groups)
    chex.assert_trees_all_equal(found, params)


def linen_blocks():
    """Two attentions, one of which has no biases, and a residual stream between them."""

    class Blocks(nn.Module):
        @nn.compact
        def __call__(self, x):
            attention = nn.MultiHeadDotProductAttention
            x = x + attention(num_heads=4)(x)
            return x + attention(num_heads=3, use_bias=False, normalize_qk=True)(x)

    module, x = Blocks(), normal(0, 2, 5, 12)
    return module.init(jax.random.key(0), x), lambda params: module.apply(params, x)


def nnx_attention():
    """The module itself, whose paths begin with `query`, `key`, `value` and `out`."""
    options = {"num_heads": 4, "in_features": 12, "decode": False, "rngs": nnx.Rngs(0)}
    graphdef, params = nnx.split(nnx.MultiHeadAttention(**options))
    return params, lambda params: nnx.merge(graphdef, params)(normal(0, 2, 5, 12))


@pytest.mark.parametrize("make", [linen_blocks, nnx_attention])
def test_permuted_heads_compute_the_same_and_are_found_again(make):
    drawn, apply = make()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) / 2, x.dtype), drawn)
    groups = alignment.attention_heads(params)
    permutations = shuffle(0, params, groups)
    assert [len(p) for p in permutations.values()] == ([4, 3] if make is linen_blocks else [4])
    permuted = alignment.permute(params, groups, permutations)
    np.testing.assert_allclose(apply(permuted), apply(params), atol=1e-5)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, permuted)
    still = [str(path) for path, leaf in jax.tree.leaves_with_path(moved) if not leaf]
    assert all("_ln" in path or "out" in path and "bias" in path for path in still)
    chex.assert_trees_all_equal(alignment.align(params, permuted, groups), params)


# Matching


@arbitrary
@given(seed=SEEDS)
def test_the_distance_never_grows_and_aligned_networks_stay(seed):
    one, other = perceptron(seed), perceptron(seed + 1)
    aligned = alignment.align(one, other, GROUPS)
    assert distance(one, aligned) < distance(one, other)
    chex.assert_trees_all_equal(alignment.align(one, aligned, GROUPS), aligned)


@pytest.mark.parametrize("seed", range(10))
def test_a_group_may_have_two_axes_of_one_leaf(seed):
    """As the hidden units of a recurrent layer: then a step may not help, and is not taken."""
    groups = {"hidden": (("in", 1), ("hidden", 0), ("hidden", 1))}
    one, other = (
        {"in": normal(i, 3, 32), "hidden": normal(i + 9, 32, 32)} for i in (seed, seed + 50)
    )
    permuted = alignment.permute(one, groups, shuffle(seed, one, groups))
    chex.assert_trees_all_equal(alignment.align(one, permuted, groups), one)
    assert distance(one, alignment.align(one, other, groups)) < distance(one, other)
