"""Pooled statistics against those of the concatenated data, for any batches and any models."""

from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, normal

from subspace_jax import for_each, line, recalibrate
from subspace_jax.recalibration import Recalibration

FEATURES = 3


class Moments(NamedTuple):
    mean: Any
    var: Any


class Wrapped(NamedTuple):
    value: Any


def moments(scale, x):
    """Statistics of two normalisation layers with different inputs, `x` and its squares."""
    x = scale * x
    return {
        "first": {"mean": x.mean(0), "var": x.var(0)},
        "second": {"mean": (x**2).mean(0), "var": (x**2).var(0)},
    }


def expected_moments(scale, batches):
    return moments(scale, np.concatenate([np.asarray(x, np.float64) for x in batches]))


def assert_close(actual, expected, rtol=1e-5, atol=1e-5):
    chex.assert_trees_all_close(jax.tree.map(np.float64, actual), expected, rtol=rtol, atol=atol)


@arbitrary
@given(seed=SEEDS, sizes=st.lists(st.sampled_from([1, 2, 5]), min_size=1, max_size=6))
def test_statistics_are_those_of_the_concatenated_data(seed, sizes):
    batches = [i + normal(seed + i, size, FEATURES) for i, size in enumerate(sizes)]
    result = recalibrate(moments, np.float32(2), batches)
    assert_close(result.stats, expected_moments(2, batches), rtol=1e-4)
    assert (result.num_examples, result.batch_size) == (sum(sizes), max(sizes))
    for batch_count in result[1:]:
        assert type(batch_count) is int


def test_order_of_batches_does_not_matter():
    batches = [i + normal(i, size, FEATURES) for i, size in enumerate([1, 5, 2, 5])]
    forward = recalibrate(moments, np.float32(1), batches)
    backward = recalibrate(moments, np.float32(1), reversed(batches))
    chex.assert_trees_all_close(forward, backward, rtol=1e-5, atol=1e-6)


def test_batches_may_be_a_generator():
    batches = [normal(i, 2, FEATURES) for i in range(3)]
    from_list = recalibrate(moments, np.float32(1), batches)
    from_generator = recalibrate(moments, np.float32(1), (batch for batch in batches))
    chex.assert_trees_all_equal(from_list, from_generator)


def test_the_spread_between_batches_counts():
    batches = [np.full((4, FEATURES), value, np.float32) for value in (-3, 3)]
    stats = recalibrate(moments, np.float32(1), batches).stats
    np.testing.assert_allclose(stats["first"]["var"], 9)


def test_a_large_mean_does_not_drown_the_variance():
    batches = [1000 + normal(i, 5, FEATURES) for i in range(20)]
    stats = recalibrate(moments, np.float32(1), batches).stats
    expected = expected_moments(1, batches)
    assert_close(stats["first"], expected["first"], rtol=1e-3)


# Many networks


@pytest.mark.parametrize("at_once", [None, 1, 2, 5])
def test_many_networks_in_one_pass_are_each_alone(at_once):
    scales = np.array([0.5, 1, -2], np.float32)
    batches = [normal(i, 5, FEATURES) for i in range(3)]
    together = recalibrate(for_each(moments, at_once=at_once), scales, batches)
    for i, scale in enumerate(scales):
        alone = recalibrate(moments, scale, batches)
        stats = jax.tree.map(lambda x, i=i: x[i], together.stats)
        chex.assert_trees_all_close(stats, alone.stats, rtol=1e-5, atol=1e-6)
    assert (together.num_examples, together.batch_size) == (15, 5)


@pytest.mark.parametrize("at_once", [None, 2])
def test_for_each_maps_the_first_argument_alone(at_once):
    stack = {"w": jnp.arange(3.0), "b": jnp.ones((3, 2))}
    mapped = for_each(lambda p, x, y: {"out": p["w"] * x + p["b"], "y": y}, at_once=at_once)
    result = mapped(stack, jnp.float32(10), jnp.zeros(4))
    expected = np.array([[1, 1], [11, 11], [21, 21]], np.float32)
    chex.assert_trees_all_equal(result, {"out": expected, "y": np.zeros((3, 4), np.float32)})


# Batches and statistics of any structure


def split_batch(x):
    return {"image": x, "label": np.zeros(len(x), np.int32)}


@pytest.mark.parametrize(
    ("pack", "unpack", "num_examples"),
    [
        (split_batch, lambda batch: batch["image"], None),
        (lambda x: (x, np.zeros(1)), lambda batch: batch[0], None),
        (
            lambda x: (jax.random.key(0), split_batch(x)),
            lambda batch: batch[1]["image"],
            lambda batch: len(batch[1]["label"]),
        ),
    ],
    ids=["dictionary", "tuple", "key first"],
)
def test_batches_are_trees(pack, unpack, num_examples):
    batches = [normal(0, 2, FEATURES), normal(1, 5, FEATURES)]
    stats_fn = lambda scale, batch: moments(scale, unpack(batch))
    packed = [pack(x) for x in batches]
    result = recalibrate(stats_fn, np.float32(1), packed, num_examples=num_examples)
    assert result == Recalibration(result.stats, num_examples=7, batch_size=5)
    assert_close(result.stats, expected_moments(1, batches))


def test_num_examples_weighs_the_batches():
    batches = [np.zeros((1, FEATURES), np.float32), np.ones((1, FEATURES), np.float32)]
    count = lambda batch: 3 if batch[0, 0] else 1
    result = recalibrate(moments, np.float32(1), batches, num_examples=count)
    np.testing.assert_allclose(result.stats["first"]["mean"], 0.75)
    np.testing.assert_allclose(result.stats["first"]["var"], 0.75 * 0.25)
    assert result[1:] == (4, 3)


STRUCTURES = {
    "dictionary": lambda a, b: {"bn0": a, "bn1": b},
    "list": lambda a, b: [a, b],
    "fields": lambda a, b: {"bn0": Moments(**a), "bn1": Moments(**b)},
    "wrapped leaves": lambda a, b: {"bn0": Moments(*map(Wrapped, a.values())), "bn1": b},
    "wrapped in dictionaries": lambda a, b: (
        {name: {"value": x} for name, x in a.items()},
        {name: {"value": x} for name, x in b.items()},
    ),
    "layers named mean and var": lambda a, b: {"mean": a, "var": b},
    "a tree of each": lambda a, b: {name: {"bn0": a[name], "bn1": b[name]} for name in a},
    "a list of each": lambda a, b: Moments([a["mean"], b["mean"]], [a["var"], b["var"]]),
}


@pytest.mark.parametrize("structure", STRUCTURES.values(), ids=STRUCTURES)
def test_every_variance_finds_its_own_mean(structure):
    batches = [i + normal(i, 2, FEATURES) for i in range(3)]
    pack = lambda stats: structure(stats["first"], stats["second"])
    result = recalibrate(lambda scale, x: pack(moments(scale, x)), np.float32(1), batches)
    assert_close(result.stats, pack(expected_moments(1, batches)))


def test_a_network_without_statistics():
    result = recalibrate(lambda params, x: {}, np.float32(1), [np.zeros((2, 3))])
    assert result == Recalibration({}, num_examples=2, batch_size=2)


def test_low_precision_is_pooled_in_float32():
    # Were the pool bfloat16, 300 batches of the same mean and variance would still move it.
    in_bfloat16 = lambda params, x: jax.tree.map(lambda s: s.astype(jnp.bfloat16), moments(1.0, x))
    batches = [normal(0, 2, FEATURES), *300 * [normal(1, 2, FEATURES)]]
    stats = recalibrate(in_bfloat16, None, batches).stats
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {np.dtype(np.float32)}
    odd, usual = (jax.tree.map(np.float64, in_bfloat16(None, jnp.asarray(x))) for x in batches[:2])
    share = 1 / 301
    mean = lambda a, b: share * a + (1 - share) * b
    spread = lambda a, b: share * (1 - share) * (a - b) ** 2
    for name, layer in stats.items():
        a, b = odd[name], usual[name]
        var = mean(a["var"], b["var"]) + spread(a["mean"], b["mean"])
        expected = {"mean": mean(a["mean"], b["mean"]), "var": var}
        assert_close(layer, expected, rtol=1e-4, atol=1e-6)


def test_many_batches_and_passes_compile_once():
    traces = []

    def stats_fn(scale, x):
        traces.append(x.shape)
        return moments(scale, x)

    for seed in range(3):
        batches = [normal(seed + i, 4, FEATURES) for i in range(5)]
        recalibrate(stats_fn, jnp.float32(seed), batches)
    assert len(traces) == 2  # once for the shapes of the statistics and once to compile


# Libraries of layers


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.0)(nn.Dense(4)(x))
        return nn.BatchNorm(use_running_average=not train, momentum=0.0)(nn.Dense(2)(x))


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(FEATURES, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.0, rngs=rngs)

    def __call__(self, x, train):
        return self.norm(self.dense(x), use_running_average=not train)


def test_flax_linen():
    network = LinenNet()
    x = normal(0, 12, FEATURES)

    @jax.jit
    def train(params, x):
        output, updated = network.apply({"params": params}, x, train=True, mutable="batch_stats")
        return output, updated["batch_stats"]

    init_fn = jax.jit(lambda key: network.init(key, x, train=True)["params"])
    params = line().midpoint(line().init(jax.random.key(0), init_fn))
    train_output, running_average = train(params, x)
    stats_fn = lambda params, x: train(params, x)[1]
    # In one giant batch every layer has the statistics of the whole data,
    whole = recalibrate(stats_fn, params, [x])
    chex.assert_trees_all_close(whole.stats, running_average, rtol=1e-5, atol=1e-6)
    output = network.apply({"params": params, "batch_stats": whole.stats}, x, train=False)
    np.testing.assert_allclose(output, train_output, rtol=1e-4, atol=1e-4)
    # in small ones the first layer has, and the second sees what small batches normalised.
    small = recalibrate(stats_fn, params, np.split(x, [2, 5]))
    first, second = "BatchNorm_0", "BatchNorm_1"
    chex.assert_trees_all_close(small.stats[first], running_average[first], rtol=1e-4, atol=1e-5)
    assert not np.allclose(small.stats[second]["var"], running_average[second]["var"], rtol=1e-3)


def test_flax_nnx():
    x = normal(0, 12, FEATURES)
    graph, _, stats = nnx.split(NnxNet(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)

    def init_fn(key):
        return nnx.state(NnxNet(nnx.Rngs(key)), nnx.Param)

    def stats_fn(params, x):
        network = nnx.merge(graph, params, stats, copy=True)
        network(x, train=True)
        return nnx.state(network, nnx.BatchStat)

    params = line().midpoint(line().init(jax.random.key(0), init_fn))
    running_average = stats_fn(params, jnp.asarray(x))
    pooled = recalibrate(stats_fn, params, np.split(x, [2, 5])).stats
    chex.assert_trees_all_close(pooled, running_average, rtol=1e-4, atol=1e-5)
    network = nnx.merge(graph, params, pooled)
    output = np.asarray(network(jnp.asarray(x), train=False))
    np.testing.assert_allclose(output.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(output.std(0), 1, rtol=1e-3)


# Mistakes


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="recalibrate got 0 batches; give it at least 1"):
        recalibrate(moments, np.float32(1), [])


@pytest.mark.parametrize(
    ("stats", "leaf"),
    [
        ({"mean": 0}, r"\['mean'\]"),
        ({"bn": {"mean": 0, "variance": 1}}, r"\['bn'\]\['mean'\]"),
        ({"bn0": {"mean": 0, "var": 1}, "bn1": {"var": 1}}, r"\['bn1'\]\['var'\]"),
        ({"bn0": {"mean": 0}, "bn1": {"var": 1}}, r"\['bn0'\]\['mean'\]"),
        ({"mean": 0, "var": 1, "count": 2}, r"\['count'\]"),
        ({"mean": {"bn": 0}, "var": {"bn": 1}, "bn": 2}, r"\['bn'\]"),
    ],
)
def test_statistics_that_are_no_pairs_are_refused(stats, leaf):
    message = f"Leaf {leaf} of the statistics is not one of a pair `mean` and `var`; let stats_fn"
    stats_fn = lambda params, x: jax.tree.map(lambda s: s + x.mean(0), stats)
    with pytest.raises(ValueError, match=message):
        recalibrate(stats_fn, None, [normal(0, 2, FEATURES)])
