"""The cosine penalty and distances against plain float64 loops."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, device, flat, normal

from subspace_jax import cosine_penalty, distances, squared_cosines
from subspace_jax.diversity import (
    feature_cosine_penalty,
    is_kernel,
    kernel_gram,
    penalty_of_gram,
)

KEY = jax.random.key(0)
OF_A_PAIR = functools.partial(cosine_penalty, key=KEY)
FUNCTIONS = [kernel_gram, squared_cosines, cosine_penalty, distances, OF_A_PAIR]


def make_endpoints(seed, n):
    """Kernels of rank two and four, and what is not a kernel under names that say otherwise."""
    return {
        "conv": {"kernel": normal(seed, n, 3, 3, 2, 2), "bias": normal(seed + 1, n, 2)},
        "norm": {"scale": 1 + normal(seed + 2, n, 2), "kernel": normal(seed + 3, n, 2)},
        "dense": {"bias": normal(seed + 4, n, 2, 3), "temperature": normal(seed + 5, n)},
    }


def kernels(endpoints):
    """The kernels of `make_endpoints` as one float64 vector per endpoint, [n, d]."""
    return flat([endpoints["conv"]["kernel"], endpoints["dense"]["bias"]], leading=1)


@functools.partial(jax.jit, static_argnames="select")
def every(endpoints, select=is_kernel):
    """What all functions say of the endpoints."""
    return [function(endpoints, select=select) for function in FUNCTIONS]


def squared_cosine(x, y):
    return np.dot(x, y) ** 2 / (np.dot(x, x) * np.dot(y, y))


@arbitrary
@given(seed=SEEDS, n=st.integers(2, 4))
def test_matrices_and_the_penalty_are_those_of_loops_over_pairs(seed, n):
    endpoints = make_endpoints(seed, n)
    vectors = kernels(endpoints)
    matrix = lambda of_pair: [[of_pair(x, y) for y in vectors] for x in vectors]
    pairs = list(itertools.starmap(squared_cosine, itertools.combinations(vectors, 2)))
    distance = lambda x, y: np.linalg.norm(x - y)
    expected = [matrix(np.dot), matrix(squared_cosine), np.mean(pairs), matrix(distance)]
    for found, wanted in zip(every(device(endpoints))[:4], expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=3e-6, atol=3e-6)
    d = np.asarray(every(device(endpoints))[3])
    np.testing.assert_array_equal(d, d.T)
    np.testing.assert_array_equal(np.diagonal(d), 0)


def test_the_penalty_of_parallel_orthogonal_and_almost_orthogonal_endpoints():
    parallel = jnp.array([[[1.0, 2.0]], [[-2.0, -4.0]], [[0.5, 1.0]]])
    assert cosine_penalty(parallel) == pytest.approx(1)
    assert cosine_penalty(jnp.eye(3)[:, None]) == 0
    # Wide networks have squared cosines of one over their number of weights.
    endpoints = jnp.array([[[1.0, 0.0]], [[1e-4, 1.0]]])
    assert cosine_penalty(endpoints) == pytest.approx(1e-8, rel=1e-5, abs=0)


def test_the_gradient_of_the_penalty_turns_kernels_apart_and_leaves_all_else():
    endpoints = device(make_endpoints(0, 3))
    for key in (None, KEY):
        penalty = jax.jit(functools.partial(cosine_penalty, key=key))
        gradient = jax.jit(jax.grad(penalty))(endpoints)
        radial = np.sum(kernels(gradient) * kernels(endpoints), axis=1)
        np.testing.assert_allclose(radial, 0, atol=1e-6)  # no endpoint grows or shrinks
        descended = jax.tree.map(lambda x, g: x - 0.1 * g, endpoints, gradient)
        assert penalty(descended) < penalty(endpoints)
        seen = jax.tree.map(lambda g: bool(jnp.any(g != 0)), gradient)
        assert seen == {
            "conv": {"kernel": True, "bias": False},
            "norm": {"scale": False, "kernel": False},
            "dense": {"bias": True, "temperature": False},
        }


def test_select_decides_what_counts():
    endpoints = device(make_endpoints(0, 3))
    norms = every(endpoints, lambda path, leaf: path[-1].key == "scale")
    chex.assert_trees_all_close(norms, every(endpoints["norm"]["scale"][..., None]), rtol=1e-6)


def test_the_penalty_of_a_random_pair():
    n, num_draws = 4, 600
    endpoints, keys = device(make_endpoints(0, n)), jax.random.split(KEY, num_draws)
    drawn = jax.jit(jax.vmap(functools.partial(cosine_penalty, endpoints)))(keys)
    gram = kernel_gram(endpoints)
    same = jax.jit(jax.vmap(functools.partial(penalty_of_gram, gram)))(keys)
    np.testing.assert_allclose(same, drawn, atol=1e-5)
    pairs = np.asarray(squared_cosines(endpoints))[np.triu_indices(n, 1)]
    values, counts = np.unique(np.round(drawn, 6), return_counts=True)
    np.testing.assert_allclose(values, np.sort(pairs), atol=1e-5)  # each pair, and nothing else
    p = 1 / len(pairs)
    np.testing.assert_allclose(counts / num_draws, p, atol=4 * math.sqrt(p * (1 - p) / num_draws))


def test_zero_and_equal_endpoints_have_finite_gradients():
    of = jax.jit(jax.value_and_grad(cosine_penalty))
    for zero in (slice(None), slice(1)):
        endpoints = jax.tree.map(lambda x, z=zero: x.at[z].set(0), device(make_endpoints(0, 2)))
        for key in (None, KEY):
            penalty, gradient = of(endpoints, key)
            assert penalty == 0
            chex.assert_tree_all_finite(gradient)
        np.testing.assert_array_equal(every(endpoints)[1][0], [0, 0])
    gradient = jax.grad(lambda e: distances(e).sum())(jnp.ones((2, 3, 4)))
    chex.assert_tree_all_finite(gradient)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_penalty_of_features_is_one_cosine_of_all_of_them(scale):
    first, second = ({"a": normal(i, 5, 3), "b": normal(i + 2, 5, 2, 2)} for i in (0, 1))
    expected = squared_cosine(*(flat(list(f.values()), leading=0) for f in (first, second)))
    scaled = jax.tree.map(lambda x: np.float32(scale) * x, second)
    value, gradient = jax.value_and_grad(feature_cosine_penalty)(device(scaled), device(first))
    np.testing.assert_allclose(value, expected, rtol=3e-6)
    chex.assert_tree_all_finite(gradient)
    assert feature_cosine_penalty(jax.tree.map(np.zeros_like, first), first) == 0
