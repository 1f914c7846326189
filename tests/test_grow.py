"""Endpoints that start from trained networks."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stacks import Block, network, normal

import subspace_jax as ss


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("n", "positions", "noise"),
    [(1, (0,), 0.0), (2, (1,), 0.5), (3, (2, 0), 0.5), (3, (0, 2), 0.0), (3, (1, 2, 0), 0.5)],
)
def test_given_networks_are_at_their_positions_bit_for_bit(n, positions, noise, dtype):
    one = lambda seed: {"a": Block(normal(seed, 2, 3), normal(seed + 9, 2)), "b": normal(seed + 5)}
    networks = [one(i) | {"c": np.array([-0.0, np.inf])} for i in range(len(positions))]
    networks = jax.tree.map(lambda x: jnp.asarray(x, dtype), networks)
    endpoints = ss.simplex(n).grow(networks, jax.random.key(0), noise=noise, positions=positions)
    for position, given in zip(positions, networks, strict=True):
        assert bits(network(endpoints, position)) == bits(given)
    assert ss.tree.num_stacked(endpoints) == n
    chex.assert_trees_all_equal_dtypes(network(endpoints, 0), networks[0])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_missing_endpoints_are_at_the_mean(count):
    networks = [{"w": normal(i, 4, 3), "b": normal(i + 9)} for i in range(count)]
    endpoints = ss.simplex(count + 2).grow(networks)
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *networks)
    for i in (count, count + 1):
        chex.assert_trees_all_close(network(endpoints, i), mean, rtol=1e-5, atol=1e-6)


def test_noise_is_in_units_of_each_leaf():
    base = {"small": 1e-3 * normal(0, 100, 100), "large": 10 * normal(1, 5000), "zero": np.zeros(3)}
    base = jax.tree.map(np.float32, base)
    endpoints = ss.simplex(3).grow([base], jax.random.key(0), noise=0.1)
    for name in ("small", "large"):
        rms = np.sqrt(np.mean(base[name] ** 2))
        first, second = (np.ravel(endpoints[name][i] - base[name]) for i in (1, 2))
        np.testing.assert_allclose([first.std(), second.std()], 0.1 * rms, rtol=0.05)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert not endpoints["zero"].any()
    again = ss.simplex(3).grow([base], jax.random.key(0), noise=0.1)
    chex.assert_trees_all_equal(again, endpoints)
