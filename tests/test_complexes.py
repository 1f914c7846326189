"""Simplexes that share vertices, and the volumes of simplexes."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, device, normal

from subspace_jax import simplex
from subspace_jax.contrib.complexes import log_volume, simplicial_complex

NUM_DRAWS = 2000


def make_endpoints(seed, n):
    return {"conv": {"kernel": normal(seed, n, 3, 2), "bias": normal(seed + 1, n, 2)}}


def points(endpoints):
    """All leaves as one float64 vector per endpoint, [n, d]."""
    leaves = [np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(endpoints)]
    return np.concatenate(leaves, axis=1).astype(float)


@pytest.mark.parametrize(
    "simplexes",
    [((0, 2), (1, 2)), ((0, 1, 2), (2, 3)), ((3,), (0, 1, 2, 4), (2, 3)), ((0, 1),)],
    ids=["path", "ragged", "with a point", "single"],
)
def test_random_points_are_uniform_on_simplexes_drawn_alike(simplexes):
    keys = jax.random.split(jax.random.key(0), NUM_DRAWS)
    weights = np.asarray(jax.jit(jax.vmap(simplicial_complex(simplexes).draw))(keys))
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    counts = 0
    for members in map(list, simplexes):
        on = np.all(np.delete(weights, members, axis=1) == 0, axis=1)
        on &= np.all(weights[:, members] > 0, axis=1)
        counts, k = counts + on.sum(), len(members)
        p = 1 / len(simplexes)
        assert abs(on.mean() - p) <= 4 * math.sqrt(p * (1 - p) / NUM_DRAWS)
        moments = np.einsum("si,sj->ij", *2 * [weights[on][:, members]]) / on.sum()
        np.testing.assert_allclose(moments, (1 + np.eye(k)) / (k * (k + 1)), atol=0.02)
    assert counts == NUM_DRAWS


def test_a_complex_of_one_simplex_is_the_simplex():
    whole, endpoints = simplicial_complex(((0, 1, 2),)), device(make_endpoints(0, 3))
    assert whole is simplicial_complex(((0, 1, 2),))
    coords = simplex(3).draw(jax.random.key(0))
    chex.assert_trees_all_equal(whole.point(endpoints, coords), simplex(3).point(endpoints, coords))
    chex.assert_trees_all_equal(whole.midpoint(endpoints), simplex(3).midpoint(endpoints))


# Volumes


def cayley_menger(points):
    """The volume from the distances alone, float64."""
    n = len(points)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    bordered = np.block([[squared, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    k = n - 1
    factor = (-1) ** (k + 1) * 2**k * math.factorial(k) ** 2
    return math.sqrt(np.linalg.det(bordered) / factor)


@arbitrary
@given(seed=SEEDS, n=st.integers(2, 5))
def test_volumes_are_those_of_cayley_and_menger(seed, n):
    endpoints, kernel = make_endpoints(seed, n), lambda path, leaf: leaf.ndim > 2
    face, kernels = [n - 1, 0], points(endpoints["conv"]["kernel"])
    for found, expected in [
        (log_volume(device(endpoints)), cayley_menger(points(endpoints))),
        (log_volume(device(endpoints), kernel), cayley_menger(kernels)),
        (log_volume(device(endpoints), vertices=face), cayley_menger(points(endpoints)[face])),
    ]:
        # In float32 the volume of an almost flat simplex has three digits.
        np.testing.assert_allclose(found, math.log(expected), atol=1e-3)


def test_flat_simplexes_have_finite_volumes_and_gradients():
    a, b = normal(0, 3, 4), normal(1, 3, 4)
    for corners in ([a, b, 2 * b - a], [a, b, (a + b) / 2], [a, a, a]):
        volume, gradient = jax.value_and_grad(log_volume)(jnp.asarray(np.stack(corners)))
        chex.assert_tree_all_finite((volume, gradient))
        assert bool(jnp.all(gradient == 0)) == (corners[1] is a)
