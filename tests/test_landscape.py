"""Planes, paths, directions and curvature against geometry and dense linear algebra in float64."""

import functools

import chex
import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, device, flat, normal

from subspace_jax import landscape, mix, stack


def make_endpoints(seed, offset=0.0):
    """Three networks around a common one, far from the origin or not."""
    return {
        "dense": {"kernel": offset + normal(seed, 3, 4, 5), "bias": normal(seed + 1, 3, 5)},
        "scale": normal(seed + 2, 3),
    }


def at(plane, xy, endpoints):
    """The networks at points [P, 2], as vectors [P, d]."""
    return flat(jax.vmap(mix, in_axes=(0, None))(plane.weights(xy), endpoints), leading=1)


def pairwise(points):
    return np.linalg.norm(points[:, None] - points[None, :], axis=-1)


@arbitrary
@given(seed=SEEDS, offset=st.sampled_from([0.0, 30.0]), size=st.sampled_from([0.1, 1.0, 100.0]))
def test_the_plane_is_isometric(seed, offset, size):
    endpoints = device(make_endpoints(seed, offset))
    plane = landscape.plane(endpoints)
    xy = size * normal(seed, 6, 2)
    # The networks of the plane are float32: far from the origin their weights are rounded.
    atol = 3e-6 * np.abs(at(plane, xy, endpoints)).max() * np.sqrt(26)
    np.testing.assert_allclose(
        pairwise(at(plane, xy, endpoints)), pairwise(xy.astype(float)), rtol=1e-4, atol=atol
    )


@arbitrary
@given(seed=SEEDS, offset=st.sampled_from([0.0, 30.0]), narrow=st.booleans())
def test_coordinates_are_those_of_the_three_networks(seed, offset, narrow):
    dtype = jnp.bfloat16 if narrow else jnp.float32
    endpoints = jax.tree.map(lambda x: jnp.asarray(x, dtype), make_endpoints(seed, offset))
    plane = landscape.plane(endpoints)
    chex.assert_type(list(plane), jnp.float32)
    chex.assert_trees_all_close(plane.weights(plane.coordinates), jnp.eye(3), atol=1e-5)
    found, expected = pairwise(np.asarray(plane.coordinates)), pairwise(flat(endpoints, leading=1))
    np.testing.assert_allclose(found, expected, rtol=5e-3 if narrow else 1e-5)
    x, y = plane.coordinates.T
    assert x[0] == y[0] == y[1] == 0
    assert x[1] > 0
    assert y[2] > 0


@arbitrary
@given(seed=SEEDS, resolution=st.integers(2, 6), margin=st.floats(0, 1))
def test_a_grid_is_square_and_covers_the_triangle(seed, resolution, margin):
    plane = landscape.plane(device(make_endpoints(seed)))
    xy = np.asarray(landscape.grid(plane, resolution, margin))
    assert xy.shape == (resolution, resolution, 2)
    spans = np.diff(xy[0, :, 0]), np.diff(xy[:, 0, 1])
    np.testing.assert_allclose(np.concatenate(spans), spans[0][0], rtol=1e-4)
    assert np.ptp(xy[:, :, 0], axis=0).max() == np.ptp(xy[:, :, 1], axis=1).max() == 0
    corners = np.asarray(plane.coordinates)
    room = margin * np.ptp(corners, axis=0).max() - 1e-4
    assert (corners - room >= xy[0, 0]).all()
    assert (corners + room <= xy[-1, -1]).all()


@pytest.mark.parametrize("at_once", [None, 1, 2, 7])
def test_along_maps_over_mixtures_and_is_compiled_once_for_a_function(at_once):
    endpoints, weights = device(make_endpoints(0)), jnp.asarray(normal(1, 5, 3))
    fn = lambda params, x: {"out": x @ params["dense"]["kernel"], "scale": params["scale"]}
    for x in (jnp.ones(4), jnp.zeros(4)):
        expected = stack([fn(mix(w, endpoints), x) for w in weights])
        with compilations.noted() as names:
            actual = landscape.along(fn, endpoints, weights, x, at_once=at_once)
        chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert names == []


@pytest.mark.parametrize(("at_once", "networks"), [(None, 1), (4, 4)])
def test_along_holds_few_networks_at_a_time(at_once, networks):
    shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(3, 250, 1000), (64, 3)])
    along = functools.partial(landscape.along, lambda w: jnp.sum(w**2), at_once=at_once)
    memory = jax.jit(along).lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2.5 * networks * 4 * 250 * 1000


@arbitrary
@given(seed=SEEDS, slope=st.floats(-5, 5, width=32), height=st.floats(0, 9, width=32))
def test_a_tilt_of_the_loss_does_not_change_its_barrier(seed, slope, height):
    alphas = np.sort(np.random.default_rng(seed).uniform(size=9))
    t = (alphas - alphas[0]) / (alphas[-1] - alphas[0])
    losses = 2 + slope * alphas + height * t * (1 - t)
    expected = height * (t * (1 - t)).max()
    actual = landscape.barrier(losses.astype(np.float32), alphas.astype(np.float32))
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-4)


def test_a_barrier_that_diverges_is_seen():
    for middle, expected in [(np.inf, np.inf), (np.nan, np.nan), (1.0, 0.0)]:
        losses, alphas = jnp.array([3, middle, 2], jnp.bfloat16), jnp.array([0.0, 0.5, 1.0])
        np.testing.assert_equal(np.asarray(jax.jit(landscape.barrier)(losses, alphas)), expected)


def test_filters_of_a_direction_are_as_large_as_the_network():
    network = {
        "conv": {"kernel": normal(0, 3, 3, 2, 4), "bias": normal(1, 4)},
        "norm": {"scale": 1 + normal(2, 4)},
        "dense": {"kernel": normal(3, 5, 3), "temperature": normal(4)},
    }
    network["conv"]["kernel"][..., 1] = 0  # a dead filter stays dead
    direction = landscape.filter_normalized_direction(jax.random.key(0), network)
    chex.assert_trees_all_equal_shapes_and_dtypes(direction, network)
    norms = landscape.filter_norms(network)
    for layer in ("conv", "dense"):
        kernels = (np.asarray(p[layer]["kernel"], float) for p in (direction, network))
        found, expected = (np.linalg.norm(k.reshape(-1, k.shape[-1]), axis=0) for k in kernels)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        of_filters = np.reshape(norms[layer]["kernel"], (-1, len(expected)))
        np.testing.assert_allclose(of_filters, [expected] * len(of_filters), rtol=1e-5)
    for tree in (direction, norms):
        rest = [tree["conv"]["bias"], tree["norm"], tree["dense"]["temperature"]]
        chex.assert_trees_all_equal(rest, jax.tree.map(jnp.zeros_like, rest))


def test_directions_are_gaussian_and_independent():
    network = [jnp.ones((2000, 2))] * 2
    keys = jax.random.split(jax.random.key(0))
    (a, b), (c, _) = (landscape.filter_normalized_direction(key, network) for key in keys)
    assert abs(np.mean(np.asarray(a) ** 4) - 3) < 0.4  # the kurtosis of a Gaussian
    for other in (b, c):
        assert abs(jnp.mean(a * other)) < 0.1


def symmetric(eigenvalues, seed=0):
    basis, _ = np.linalg.qr(normal(seed, len(eigenvalues), len(eigenvalues)))
    return (basis * np.asarray(eigenvalues, np.float32)) @ basis.T


def top_of_matrix(matrix, num_iterations, seed=0, dtype=jnp.float32):
    """Of its products with trees of two leaves."""
    n = len(matrix)
    like = {"a": jnp.zeros((1, n // 2), dtype), "b": jnp.zeros(n - n // 2, dtype)}

    def product(v):
        chex.assert_type(jax.tree.leaves(v), jnp.float32)
        x = jnp.asarray(matrix) @ jnp.concatenate([v["a"].ravel(), v["b"]])
        return {"a": x[: n // 2].reshape(1, -1), "b": x[n // 2 :]}

    key = jax.random.key(seed)
    found = landscape.top_eigenvalue(product, like, key, num_iterations=num_iterations)
    chex.assert_type(found, jnp.float32)
    return found


@arbitrary
@given(seed=SEEDS, shift=st.sampled_from([-20.0, 0.0, 20.0]))
def test_the_top_eigenvalue_is_the_largest_algebraic_one(seed, shift):
    eigenvalues = shift + 5 * normal(seed, 6)
    actual = top_of_matrix(symmetric(eigenvalues, seed), 20, seed)
    np.testing.assert_allclose(actual, eigenvalues.max(), rtol=5e-6, atol=5e-6)


@pytest.mark.parametrize("num_iterations", [4, 30])
def test_the_top_eigenvalue_where_the_krylov_space_ends_early(num_iterations):
    for eigenvalues in ([3, 1, -9, 0], [-1, -2, -5, -9], [2] * 4, [-2] * 4, [0] * 4):
        for matrix in (np.diag(np.float32(eigenvalues)), symmetric(eigenvalues)):
            found = top_of_matrix(matrix, num_iterations, dtype=jnp.bfloat16)
            np.testing.assert_allclose(found, max(eigenvalues), atol=1e-4)
    broken = np.full((4, 4), np.nan, np.float32)
    assert np.isnan(top_of_matrix(broken, num_iterations))
