"""The cosine penalty, distances and volumes against plain float64 loops."""

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
from stacks import SEEDS, arbitrary, device, normal

from subspace_jax import cosine_penalty, distances, squared_cosines
from subspace_jax.contrib.complexes import log_volume
from subspace_jax.diversity import is_kernel, kernel_gram

FUNCTIONS = [kernel_gram, squared_cosines, cosine_penalty, distances]


def make_endpoints(seed, n):
    """Kernels of rank two and four, and what is not a kernel under names that say otherwise."""
    return {
        "conv": {"kernel": normal(seed, n, 3, 3, 2, 2), "bias": normal(seed + 1, n, 2)},
        "norm": {"scale": 1 + normal(seed + 2, n, 2), "kernel": normal(seed + 3, n, 2)},
        "dense": {"bias": normal(seed + 4, n, 2, 3), "temperature": normal(seed + 5, n)},
    }


def kernels(endpoints):
    """The kernels of `make_endpoints` as one float64 vector per endpoint, [n, d]."""
    leaves = [endpoints["conv"]["kernel"], endpoints["dense"]["bias"]]
    return np.concatenate([np.reshape(x, (len(x), -1)) for x in leaves], axis=1).astype(float)


def squared_cosine(x, y):
    return np.dot(x, y) ** 2 / (np.dot(x, x) * np.dot(y, y))


@arbitrary
@given(seed=SEEDS, n=st.integers(1, 4))
def test_matrices_hold_what_their_pairs_have(seed, n):
    endpoints = make_endpoints(seed, n)
    vectors = kernels(endpoints)
    for function, of_pair in [
        (kernel_gram, np.dot),
        (squared_cosines, squared_cosine),
        (distances, lambda x, y: np.linalg.norm(x - y)),
    ]:
        expected = [[of_pair(x, y) for y in vectors] for x in vectors]
        np.testing.assert_allclose(function(device(endpoints)), expected, rtol=1e-4, atol=1e-4)


@arbitrary
@given(seed=SEEDS, n=st.integers(2, 4))
def test_penalty_is_the_mean_over_pairs(seed, n):
    endpoints = make_endpoints(seed, n)
    pairs = list(itertools.combinations(kernels(endpoints), 2))
    expected = sum(squared_cosine(x, y) for x, y in pairs) / len(pairs)
    penalty = cosine_penalty(device(endpoints))
    np.testing.assert_allclose(penalty, expected, rtol=1e-4, atol=1e-6)
    assert 0 <= penalty <= 1 + 1e-6


@arbitrary
@given(seed=SEEDS, logs=st.tuples(*3 * [st.floats(-5, 3)]))
def test_penalty_sees_directions_alone(seed, logs):
    endpoints = device(make_endpoints(seed, 3))
    scales = 10 ** np.array(logs, np.float32) * np.array([1, -1, 1], np.float32)
    scaled = jax.tree.map(lambda x: jax.vmap(jnp.multiply)(jnp.asarray(scales), x), endpoints)
    np.testing.assert_allclose(cosine_penalty(scaled), cosine_penalty(endpoints), rtol=1e-3)


def test_penalty_of_parallel_and_orthogonal_endpoints():
    parallel = jnp.array([[[1.0, 2.0]], [[-2.0, -4.0]], [[0.5, 1.0]]])
    assert cosine_penalty(parallel) == pytest.approx(1)
    assert cosine_penalty(jnp.eye(3)[:, None]) == 0


def test_penalty_of_almost_orthogonal_endpoints_is_accurate():
    # Wide networks have squared cosines of one over their number of weights.
    endpoints = jnp.array([[[1.0, 0.0]], [[1e-4, 1.0]]])
    assert cosine_penalty(endpoints) == pytest.approx(1e-8, rel=1e-5, abs=0)


def test_gradient_of_the_penalty_turns_endpoints_apart():
    endpoints = device(make_endpoints(0, 3))
    gradient = jax.jit(jax.grad(cosine_penalty))(endpoints)
    radial = np.sum(kernels(gradient) * kernels(endpoints), axis=1)
    np.testing.assert_allclose(radial, 0, atol=1e-6)  # no endpoint grows or shrinks
    descended = jax.tree.map(lambda x, g: x - 0.1 * g, endpoints, gradient)
    assert cosine_penalty(descended) < cosine_penalty(endpoints)


def test_penalty_ignores_what_is_no_kernel_whatever_its_name():
    endpoints = device(make_endpoints(0, 3))
    other = device(make_endpoints(10, 3))
    other["conv"]["kernel"], other["dense"]["bias"] = (
        endpoints["conv"]["kernel"],
        endpoints["dense"]["bias"],
    )
    for function in FUNCTIONS:
        np.testing.assert_array_equal(function(other), function(endpoints))
    gradient = jax.grad(cosine_penalty)(endpoints)
    seen = jax.tree.map(lambda g: bool(jnp.any(g != 0)), gradient)
    assert seen == {
        "conv": {"kernel": True, "bias": False},
        "norm": {"scale": False, "kernel": False},
        "dense": {"bias": True, "temperature": False},
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_select_decides_what_counts(function):
    endpoints = device(make_endpoints(0, 3))
    selected = function(
        endpoints, select=lambda path, leaf: path[0].key == "dense" and leaf.ndim > 2
    )
    np.testing.assert_array_equal(selected, function({"dense": endpoints["dense"]}))
    norms = function(endpoints, select=lambda path, leaf: path[-1].key == "scale")
    scales = endpoints["norm"]["scale"][..., None]
    np.testing.assert_allclose(norms, function(scales), rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "kernel"),
    [((2,), False), ((2, 3), False), ((2, 3, 4), True), ((2, 1, 1, 3, 4), True)],
)
def test_kernels_have_rank_two_or_more_in_one_network(shape, kernel):
    assert is_kernel((), jnp.zeros(shape)) is kernel


def test_penalty_of_a_random_pair():
    n, num_draws = 4, 600
    endpoints = device(make_endpoints(0, n))
    of_pair = jax.jit(jax.vmap(functools.partial(cosine_penalty, endpoints)))
    drawn = np.asarray(of_pair(jax.random.split(jax.random.key(0), num_draws)))
    pairs = np.asarray(squared_cosines(endpoints))[np.triu_indices(n, 1)]
    values, counts = np.unique(drawn.round(6), return_counts=True)
    np.testing.assert_allclose(values, np.sort(pairs), atol=1e-5)  # each pair, and nothing else
    p = 1 / len(pairs)
    np.testing.assert_allclose(counts / num_draws, p, atol=4 * math.sqrt(p * (1 - p) / num_draws))
    stderr = pairs.std() / math.sqrt(num_draws)
    np.testing.assert_allclose(drawn.mean(), cosine_penalty(endpoints), atol=4 * stderr)


def test_the_random_pair_of_two_endpoints_is_the_pair():
    endpoints = device(make_endpoints(0, 2))
    one_pair = cosine_penalty(endpoints, jax.random.key(0))
    np.testing.assert_allclose(one_pair, cosine_penalty(endpoints), rtol=1e-6)


@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["mean", "pair"])
@pytest.mark.parametrize("zero", [slice(None), slice(1)], ids=["all", "first"])
def test_zero_endpoints_have_a_finite_gradient(zero, key):
    endpoints = jax.tree.map(lambda x: x.at[zero].set(0), device(make_endpoints(0, 2)))
    penalty, gradient = jax.value_and_grad(cosine_penalty)(endpoints, key)
    assert penalty == 0
    chex.assert_tree_all_finite(gradient)
    np.testing.assert_array_equal(squared_cosines(endpoints)[0], [0, 0])


@arbitrary
@given(seed=SEEDS, n=st.integers(1, 4))
def test_distances_are_a_metric(seed, n):
    d = np.asarray(distances(device(make_endpoints(seed, n))))
    np.testing.assert_array_equal(d, d.T)
    np.testing.assert_array_equal(np.diagonal(d), 0)
    assert np.all(d[:, :, None] <= d[:, None, :] + d.T[None, :, :] + 1e-4)


def test_distances_between_almost_equal_endpoints_are_rounding():
    endpoint, noise = normal(0, 1, 20, 30), 1e-6 * normal(1, 8, 20, 30)
    endpoints = jnp.asarray(endpoint + noise)
    norm = np.linalg.norm(endpoint)
    np.testing.assert_allclose(distances(endpoints), np.zeros((8, 8)), atol=1e-3 * norm)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_functions_are_transformable(function):
    several = [device(make_endpoints(seed, 2)) for seed in range(3)]
    mapped = jax.jit(jax.vmap(lambda endpoints: function(endpoints)))
    # is_kernel sees the leaves of one set of endpoints, without the axis of the map.
    many = mapped(jax.tree.map(lambda *x: jnp.stack(x), *several))
    np.testing.assert_allclose(many, [function(e) for e in several], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_low_precision_is_summed_in_float32(function):
    endpoints = jax.tree.map(lambda x: x.astype(jnp.bfloat16), device(make_endpoints(0, 2)))
    widened = jax.tree.map(lambda x: x.astype(jnp.float32), endpoints)
    result = function(endpoints)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, function(widened), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_endpoints_without_a_kernel_are_refused(function):
    message = "None of the 2 leaves of the endpoints is selected as a kernel .* pass `select`"
    with pytest.raises(ValueError, match=message):
        function({"scale": jnp.ones((2, 3)), "bias": jnp.ones((2, 3))})


@pytest.mark.parametrize("key", [None, jax.random.key(0)], ids=["mean", "pair"])
def test_one_endpoint_has_no_pair(key):
    with pytest.raises(ValueError, match="between pairs but there is 1 endpoint; .* at least 2"):
        cosine_penalty(jnp.ones((1, 2, 3)), key)


def test_distances_have_finite_gradients_where_they_are_zero():
    gradient = jax.grad(lambda e: distances(e).sum())(jnp.ones((2, 3, 4)))
    assert bool(jnp.isfinite(gradient).all())


# Volumes


def cayley_menger(points):
    """The volume from the distances alone, float64."""
    n = len(points)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    bordered = np.block([[squared, np.ones((n, 1))], [np.ones((1, n)), np.zeros((1, 1))]])
    k = n - 1
    factor = (-1) ** (k + 1) * 2**k * math.factorial(k) ** 2
    return math.sqrt(np.linalg.det(bordered) / factor)


def every_leaf(endpoints):
    leaves = [np.reshape(x, (len(x), -1)) for x in jax.tree.leaves(endpoints)]
    return np.concatenate(leaves, axis=1).astype(float)


@arbitrary
@given(seed=SEEDS, n=st.integers(2, 5))
def test_volumes_are_those_of_cayley_and_menger(seed, n):
    endpoints = make_endpoints(seed, n)
    for select, points in [
        ({}, every_leaf(endpoints)),
        ({"select": is_kernel}, kernels(endpoints)),
    ]:
        volume = log_volume(device(endpoints), **select)
        np.testing.assert_allclose(volume, math.log(cayley_menger(points)), atol=1e-4)


@pytest.mark.parametrize("vertices", [(0, 1), (3, 1), (2, 0, 3), (0, 1, 2, 3)])
def test_a_face_has_the_volume_of_its_vertices(vertices):
    endpoints = device(make_endpoints(0, 4))
    face = jax.tree.map(lambda x: x[jnp.array(vertices)], endpoints)
    volume = log_volume(endpoints, vertices=vertices)
    np.testing.assert_allclose(volume, log_volume(face), rtol=1e-5)
    gradient = jax.grad(lambda e: log_volume(e, vertices=vertices))(endpoints)
    moved = [bool(np.any(every_leaf(gradient)[i])) for i in range(4)]
    assert moved == [i in vertices for i in range(4)]


def test_of_two_networks_the_volume_is_their_distance():
    endpoints = device(make_endpoints(0, 2))
    np.testing.assert_allclose(
        jnp.exp(log_volume(endpoints, is_kernel)), distances(endpoints)[0, 1], rtol=1e-5
    )


@pytest.mark.parametrize("n", [2, 4])
def test_a_volume_scales_with_its_dimension_and_ignores_the_order_and_a_shift(n):
    endpoints = device(make_endpoints(0, n))
    volume = log_volume(endpoints)
    scaled = log_volume(jax.tree.map(lambda x: 3 * x, endpoints))
    np.testing.assert_allclose(scaled, volume + (n - 1) * math.log(3), rtol=1e-5)
    turned = jax.tree.map(lambda x: 1 + x[::-1], endpoints)
    np.testing.assert_allclose(log_volume(turned), volume, rtol=1e-5)


def test_ascent_on_the_volume_makes_a_simplex_larger():
    endpoints = device(make_endpoints(0, 3))
    gradient = jax.jit(jax.grad(log_volume))(endpoints)
    larger = jax.tree.map(lambda x, g: x + 0.1 * g, endpoints, gradient)
    assert log_volume(larger) > log_volume(endpoints)
    # Volumes do not change when all vertices are moved alike.
    np.testing.assert_allclose(every_leaf(gradient).sum(0), 0, atol=1e-5)


@pytest.mark.parametrize("flat", ["in a line", "at the centroid", "a point"])
def test_flat_simplexes_have_finite_volumes_and_gradients(flat):
    a, b = normal(0, 3, 4), normal(1, 3, 4)
    points = {
        "in a line": [a, b, 2 * b - a],
        "at the centroid": [a, b, (a + b) / 2],
        "a point": [a, a, a],
    }
    volume, gradient = jax.value_and_grad(log_volume)(jnp.asarray(np.stack(points[flat])))
    chex.assert_tree_all_finite((volume, gradient))
    assert bool(jnp.all(gradient == 0)) == (flat == "a point")


def test_volumes_that_are_none_are_refused():
    endpoints = device(make_endpoints(0, 3))
    with pytest.raises(ValueError, match="A simplex of 1 vertices has no volume; use at least 2"):
        log_volume(endpoints, vertices=[1])
    with pytest.raises(ValueError, match="No leaf of the endpoints is selected"):
        log_volume(endpoints, lambda path, leaf: False)
