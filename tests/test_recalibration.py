"""Pooled statistics against those of the concatenated data, for any batches and any models."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, normal

from subspace_jax import for_each, recalibrate

FEATURES = 3
ONE = np.float32(1)


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
    result = recalibrate(moments, np.float32(2), (batch for batch in batches))
    assert_close(result.stats, expected_moments(2, batches), rtol=3e-6, atol=3e-6)
    assert result[1:] == (sum(sizes), max(sizes))
    assert all(type(count) is int for count in result[1:])
    backward = recalibrate(moments, np.float32(2), reversed(batches))
    chex.assert_trees_all_close(backward, result, rtol=3e-6, atol=3e-6)


def test_a_large_mean_does_not_drown_the_variance():
    batches = [1000 + normal(i, 5, FEATURES) for i in range(20)]
    stats = recalibrate(moments, ONE, batches).stats
    assert_close(stats["first"], expected_moments(1, batches)["first"], rtol=1e-3)


def test_many_networks_in_one_pass_are_each_alone():
    scales, batches = np.array([0.5, 1, -2], np.float32), [normal(i, 5, FEATURES) for i in range(3)]
    expected = [expected_moments(scale, batches) for scale in scales]
    for at_once in (None, 1, 2, 5):
        together = recalibrate(for_each(moments, at_once=at_once), scales, batches)
        for i, alone in enumerate(expected):
            assert_close(jax.tree.map(lambda x, i=i: x[i], together.stats), alone, rtol=1e-4)
        assert together[1:] == (15, 5)


# Running averages


def running(momentum):
    def update(scale, stats, x):
        blend = lambda old, new: momentum * old + (1 - momentum) * new.astype(old.dtype)
        return jax.tree.map(blend, stats, moments(scale, x))

    return update


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.9, 0.99, 0.999, 0.9987654])
@pytest.mark.parametrize("scale", [0.03, 1.0, 1000.0])
def test_the_momentum_of_a_running_average_is_measured_and_taken_out(momentum, scale):
    """Of moments from 1e-3 to 1e6."""
    batches = [np.float32(scale) * (i + normal(i, 40, FEATURES)) for i in range(3)]
    start = {
        name: {"mean": np.zeros(3, np.float32), "var": ONE.repeat(3)}
        for name in ("first", "second")
    }
    found = recalibrate(running(momentum), ONE, batches, stats=start).stats
    assert_close(found, expected_moments(1, batches), rtol=1e-4, atol=0)
    if momentum and scale == 1:  # what starts unknown is not taken for moments
        careless = lambda params, x: running(momentum)(params, start, x)
        with pytest.raises(ValueError, match="running averages, of a momentum .* pass `stats=`"):
            recalibrate(careless, ONE, [x[:39] for x in batches])


def test_what_does_not_update_is_no_running_average():
    start = jax.tree.map(jnp.zeros_like, moments(1, normal(0, 8, FEATURES)))
    with pytest.raises(ValueError, match="no running average .* run in training mode"):
        recalibrate(lambda scale, stats, x: stats, ONE, [normal(0, 8, FEATURES)], stats=start)


def test_what_diverged_stays_so_and_hides_nothing_else():
    batch = normal(0, 8, FEATURES) * np.float32([1, np.nan, 1])
    start = jax.tree.map(jnp.zeros_like, moments(1, batch))
    found = recalibrate(running(0.9), ONE, [batch], stats=start).stats
    assert_close(found, jax.tree.map(np.float64, moments(1, batch)), rtol=1e-4)


# Batches and statistics of any structure


def test_empty_batches_count_for_nothing():
    batches = [normal(0, 4, FEATURES), normal(1, 2, FEATURES)]
    found = recalibrate(moments, ONE, [batches[0][:0], *batches, batches[0][:0]])
    chex.assert_trees_all_close(found, recalibrate(moments, ONE, batches))


def test_the_examples_of_a_batch_are_those_of_its_first_array():
    for label in (1.0, np.float32(1)):
        batch = {"a": label, "x": normal(0, 4, FEATURES)}
        assert recalibrate(lambda p, b: moments(p, b["x"]), ONE, [batch]).num_examples == 4


def test_batches_are_trees():
    batches = [normal(0, 2, FEATURES), normal(1, 5, FEATURES)]
    for pack, unpack, count in [
        (lambda x: {"image": x, "label": np.zeros(len(x))}, lambda batch: batch["image"], None),
        (lambda x: (jax.random.key(0), x), lambda batch: batch[1], lambda batch: len(batch[1])),
    ]:
        stats_fn = lambda scale, batch, unpack=unpack: moments(scale, unpack(batch))
        result = recalibrate(stats_fn, ONE, map(pack, batches), num_examples=count)
        assert result[1:] == (7, 5)
        assert_close(result.stats, expected_moments(1, batches))


def test_num_examples_weighs_the_batches():
    batches = [np.zeros((1, FEATURES), np.float32), np.ones((1, FEATURES), np.float32)]
    count = lambda batch: 3 if batch[0, 0] else 1
    result = recalibrate(moments, ONE, batches, num_examples=count)
    np.testing.assert_allclose(result.stats["first"]["mean"], 0.75)
    np.testing.assert_allclose(result.stats["first"]["var"], 0.75 * 0.25)
    assert result[1:] == (4, 3)


STRUCTURES = [
    lambda a, b: [a, b],
    lambda a, b: {"bn0": Moments(**a), "bn1": Moments(**b)},
    lambda a, b: {"bn0": Moments(*map(Wrapped, a.values())), "bn1": b},
    lambda a, b: [{name: {"value": x} for name, x in layer.items()} for layer in (a, b)],
    lambda a, b: {"mean": a, "var": b},
    lambda a, b: {name: {"bn0": a[name], "bn1": b[name]} for name in a},
    lambda a, b: Moments([a["mean"], b["mean"]], [a["var"], b["var"]]),
    lambda a, b: {},  # a network without statistics
]


def test_every_variance_finds_its_own_mean():
    batches = [i + normal(i, 2, FEATURES) for i in range(3)]
    every = lambda stats: [pack(stats["first"], stats["second"]) for pack in STRUCTURES]
    for i in range(len(STRUCTURES)):
        found = recalibrate(lambda scale, x, i=i: every(moments(scale, x))[i], ONE, batches)
        assert_close(found.stats, every(expected_moments(1, batches))[i])


def test_many_batches_and_passes_compile_once():
    stats_fn = chex.assert_max_traces(moments, n=2)  # one for the shapes of the statistics
    for seed in range(3):
        batches = [normal(seed + i, 4, FEATURES) for i in range(5)]
        recalibrate(stats_fn, jnp.float32(seed), batches)
