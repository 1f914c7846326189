"""Permutations of hidden units: they keep the function, and bring networks closer."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from sklearn.datasets import load_digits
from stacks import SEEDS, arbitrary

import subspace_jax as ss
from examples.permutations import permutation_groups
from experiments.system.errors import UserError
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
FAST = {"xla_backend_optimization_level": 0}


def perceptron(seed):
    rng = np.random.default_rng(seed)
    layer = lambda i, o: {"w": rng.normal(0, (2 / i) ** 0.5, (i, o)), "b": rng.normal(0, 0.1, o)}
    layers = zip("abc", map(layer, WIDTHS, WIDTHS[1:]), strict=True)
    return jax.tree.map(np.float32, dict(layers))


def logits(params, x):
    for name in "ab":
        x = jax.nn.relu(jnp.dot(x, params[name]["w"]) + params[name]["b"][None])
    return jnp.dot(x, params["c"]["w"]) + params["c"]["b"][None]


@functools.cache
def of_experiments(name):
    """Variables of a network, all of which are random, statistics too."""
    init = jax.jit(functools.partial(NETWORKS[name].init, train=False), compiler_options=FAST)
    shapes = jax.eval_shape(init, jax.random.key(0), IMAGES)
    rng = np.random.default_rng(0)
    return jax.tree.map_with_path(
        lambda path, x: np.float32(
            rng.uniform(0.5, 2, x.shape) if "var" in str(path) else rng.normal(size=x.shape) / 3
        ),
        shapes,
    )


def sizes_of(network, groups):
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(network)
    }
    return {name: leaves[path].shape[axis] for name, ((path, axis), *_) in groups.items()}


def shuffle(seed, network, groups):
    """Random permutations that leave no unit at its place."""
    permutations = {}
    for name, size in sizes_of(network, groups).items():
        cycle = np.random.default_rng(seed).permutation(size)
        permutations[name] = np.empty(size, int)
        permutations[name][cycle] = np.roll(cycle, 1)
    return permutations


def distance(one, other):
    return float(optax.tree.norm(jax.tree.map(jnp.subtract, one, other)))


# Functions


@arbitrary
@given(seed=SEEDS)
def test_a_permuted_perceptron_is_the_same_function(seed):
    network, x = perceptron(seed), jnp.ones((1, 64))
    permuted = alignment.permute(network, GROUPS, shuffle(seed, network, GROUPS))
    assert distance(network, permuted) > 1
    np.testing.assert_allclose(logits(permuted, x), logits(network, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_of_the_experiments_is_the_same_function(name):
    variables = of_experiments(name)
    params, stats = variables["params"], variables["batch_stats"]
    groups = permutation_groups(params)
    permutations = shuffle(0, params, groups)
    permuted = {
        "params": alignment.permute(params, groups, permutations),
        "batch_stats": alignment.permute(
            stats, permutation_groups(params, stats=True), permutations
        ),
    }
    apply = functools.partial(NETWORKS[name].apply, train=False)
    apply = jax.jit(apply, compiler_options=FAST)
    before, after = apply(variables, IMAGES), apply(permuted, IMAGES)
    assert np.abs(before).max() > 1e-3
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3 * np.abs(before).max())
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), params, permuted["params"])
    still = {str(path) for path, leaf in jax.tree.leaves_with_path(moved) if not leaf}
    assert all("Dense_0" in path and "bias" in path for path in still)  # that of the logits


def test_every_channel_of_the_experiments_networks_is_in_a_group():
    """All axes but those of images, filters' heights and widths, and logits."""
    for name in NETWORKS:
        params = of_experiments(name)["params"]
        named = [place for members in permutation_groups(params).values() for place in members]
        assert len(set(named)) == len(named)
        axes = sum(1 if leaf.ndim == 1 else 2 for leaf in jax.tree.leaves(params))
        outside = 2 + ("Dense_0" in params)  # images, logits, and the bias of these
        assert len(named) == axes - outside


# Matching


@pytest.mark.parametrize("seed", range(3))
def test_a_permuted_network_is_found_again_bit_for_bit(seed):
    network = perceptron(seed)
    permuted = alignment.permute(network, GROUPS, shuffle(seed, network, GROUPS))
    chex.assert_trees_all_equal(alignment.align(network, permuted, GROUPS), network)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_permuted_network_of_the_experiments_is_found_again_bit_for_bit(name):
    params = of_experiments(name)["params"]
    groups = permutation_groups(params)
    permuted = alignment.permute(params, groups, shuffle(1, params, groups))
    chex.assert_trees_all_equal(alignment.align(params, permuted, groups), params)


@arbitrary
@given(seed=SEEDS)
def test_the_distance_never_grows(seed):
    one, other = perceptron(seed), perceptron(seed + 1)
    assert distance(one, alignment.align(one, other, GROUPS)) <= distance(one, other)


def test_aligned_networks_stay():
    one, other = perceptron(0), perceptron(1)
    aligned = alignment.align(one, other, GROUPS)
    chex.assert_trees_all_equal(alignment.align(one, aligned, GROUPS), aligned)


@pytest.mark.parametrize("seed", range(10))
def test_a_group_may_have_two_axes_of_one_leaf(seed):
    """As the hidden units of a recurrent layer: then a step may not help, and is not taken."""
    groups = {"hidden": (("in", 1), ("hidden", 0), ("hidden", 1))}
    rng = np.random.default_rng(seed)
    one, other = (
        {"in": rng.normal(size=(3, 32)), "hidden": rng.normal(size=(32, 32))} for _ in range(2)
    )
    one, other = (jax.tree.map(np.float32, network) for network in (one, other))
    permuted = alignment.permute(one, groups, {"hidden": rng.permutation(32)})
    chex.assert_trees_all_equal(alignment.align(one, permuted, groups), one)
    assert distance(one, alignment.align(one, other, groups)) < distance(one, other)


def test_the_barrier_between_trained_networks_falls():
    images, labels = load_digits(return_X_y=True)
    images = jnp.asarray(images / 16, jnp.float32)

    def loss_fn(params):
        outputs = logits(params, images)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, labels).mean()

    @jax.jit
    def train(params):
        optimizer = optax.adam(0.01)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(jax.grad(loss_fn)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, optimizer.init(params)), None, length=80)[0][0]

    with jax.numpy_dtype_promotion("standard"):  # optax.adam needs it
        one, other = (train(jax.tree.map(jnp.asarray, perceptron(seed))) for seed in range(2))
    line, alphas = ss.line(), jnp.linspace(0, 1, 11)

    @jax.jit
    def barrier(endpoints):
        losses = jax.lax.map(lambda alpha: loss_fn(line.point(endpoints, alpha)), alphas)
        return losses[-1], ss.landscape.barrier(losses, alphas)

    loss, before = barrier(line.grow([one, other]))
    aligned_loss, after = barrier(line.grow([one, alignment.align(one, other, GROUPS)]))
    assert loss < 0.1
    np.testing.assert_allclose(aligned_loss, loss, rtol=1e-4)
    assert after < before / 2


# Statistics of another library's names


def test_statistics_are_permuted_by_groups_of_their_own():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Dense(5)(x)))
            return nn.Dense(2)(x)

    variables = Network().init(jax.random.key(0), jnp.ones((1, 3)))
    stats = {"BatchNorm_0": {"mean": jnp.arange(5.0), "var": jnp.arange(1.0, 6)}}
    own = [f"Dense_0/{leaf}" for leaf in ("kernel", "bias")]
    own += [f"BatchNorm_0/{leaf}" for leaf in ("scale", "bias")]
    groups = {"hidden": (*((path, -1) for path in own), ("Dense_1/kernel", -2))}
    order = {"hidden": np.array([3, 1, 4, 0, 2])}
    permuted = {
        "params": alignment.permute(variables["params"], groups, order),
        "batch_stats": alignment.permute(
            stats, {"hidden": (("BatchNorm_0/mean", 0), ("BatchNorm_0/var", 0))}, order
        ),
    }
    x = jnp.ones((1, 3))
    before = Network().apply({"params": variables["params"], "batch_stats": stats}, x)
    np.testing.assert_allclose(Network().apply(permuted, x), before, rtol=1e-5)


# Mistakes


SMALL = {"in": np.ones((2, 3), np.float32), "out": np.ones((3, 4), np.float32)}
UNITS = (("in", 1), ("out", 0))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"g": (("w", 0),)}, "Group 'g' names the leaf 'w' but .*; use one of in, out"),
        ({"g": (("in", 2),)}, r"names axis 2 of leaf in but its shape is \[2, 3\]; name one"),
        ({"g": (("in", 1), ("out", 1))}, "'g' has 3 units in leaf in and 4 in axis 1 of leaf out;"),
        (
            {"g": UNITS, "h": (("in", -1),)},
            "Axis -1 of leaf in is named twice, in groups 'g' and 'h'",
        ),
    ],
)
def test_groups_that_the_network_does_not_have_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        alignment.match(SMALL, SMALL, groups)


@pytest.mark.parametrize(
    ("permutations", "message"),
    [
        ({"h": np.arange(3)}, "There is no group 'h'; there are 'g'"),
        ({"g": np.arange(2)}, "permutation of group 'g' has 2 entries and is none of its 3 units"),
        ({"g": np.zeros(3, int)}, "has 3 entries and is none of its 3 units; name each of 0 to 2"),
    ],
)
def test_what_are_no_permutations_is_refused(permutations, message):
    with pytest.raises(ValueError, match=message):
        alignment.permute(SMALL, {"g": UNITS}, permutations)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"in": np.ones((4, 3), np.float32)},
            r"Leaf in has the shapes \[2, 3\] and \[4, 3\] in the",
        ),
        ({"in": np.full((2, 3), np.nan, np.float32)}, "Leaf in has weights that are not finite"),
    ],
)
def test_networks_that_can_not_be_aligned_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        alignment.match(SMALL, SMALL | other, {"g": UNITS})


def test_networks_of_others_have_no_groups_here():
    with pytest.raises(UserError, match="consists of Dense_0, Dense_1 and is none of experiments"):
        permutation_groups({"Dense_0": {}, "Dense_1": {}})
