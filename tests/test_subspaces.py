"""Lines, curves and simplexes: their points, random points, points of each layer, and starts."""

import functools
import math
import pickle

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from stacks import Block, device, network, normal

from subspace_jax import bezier, layerwise, line, simplex
from subspace_jax.contrib import complexes
from subspace_jax.subspaces import parent
from subspace_jax.tree import num_stacked

CURVES = {1: line(), 2: bezier(2), 3: bezier(3), 5: bezier(5)}
SIMPLEXES = {1: simplex(1), 2: simplex(2), 4: simplex(4)}
SOME = (line(), bezier(2), simplex(3))
NUM_DRAWS = 2000
KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, NUM_DRAWS)


def bernstein(alpha, degree):
    """Mixing weights `[..., degree + 1]` at float64 numbers along a curve."""
    terms = range(degree + 1)
    return np.stack(
        [math.comb(degree, i) * alpha**i * (1 - alpha) ** (degree - i) for i in terms], -1
    )


def small_network(seed, n):
    """Endpoints with the names of Flax: a convolution and two batch norms."""
    norm = lambda seed: {"scale": normal(seed, n, 2), "bias": normal(seed + 1, n, 2)}
    conv = {"kernel": normal(seed, n, 3, 2), "bias": normal(seed + 1, n, 2)}
    return device({"conv": conv, "norm0": norm(seed + 2), "norm1": norm(seed + 4)})


def mixed(weights, endpoints):
    """The sum by NumPy, over all leading axes of the weights."""
    return jax.tree.map(lambda x: np.tensordot(weights, x, 1), endpoints)


assert_close = functools.partial(chex.assert_trees_all_close, rtol=2e-6, atol=2e-6)


# Points


@jax.jit
def every_point(endpoints, alphas, weights):
    """Of each subspace and of it layerwise: the points at all coordinates, and the midpoint."""

    def of(subspace, stack, coords):
        both = (subspace, layerwise(subspace))
        return [(jax.vmap(s.point, (None, 0))(stack, coords), s.midpoint(stack)) for s in both]

    curves = {d: of(s, endpoints[d + 1], alphas) for d, s in CURVES.items()}
    return curves, {n: of(s, endpoints[n], weights[n]) for n, s in SIMPLEXES.items()}


def test_points_are_sums_of_endpoints_inside_and_outside():
    alphas = np.array([0, 1, 0.5, 0.3, -1, 2], np.float32)
    weights = {n: normal(n, 6, n) for n in SIMPLEXES}
    weights = {n: w + (1 - w.sum(1, keepdims=True)) / n for n, w in weights.items()}
    endpoints = {n: small_network(n, n) for n in {*SIMPLEXES, *(d + 1 for d in CURVES)}}
    curves, simplexes = every_point(endpoints, alphas, weights)
    for degree, found in curves.items():
        at = lambda alpha, d=degree: mixed(bernstein(np.float64(alpha), d), endpoints[d + 1])
        chex.assert_trees_all_close(found, 2 * [(at(alphas), at(0.5))], rtol=2e-6, atol=2e-6)
    for n, found in simplexes.items():
        center = mixed(np.full(n, 1 / n), endpoints[n])
        assert_close(found, 2 * [(mixed(weights[n], endpoints[n]), center)])


def test_coordinates_may_be_a_tree_prefix():
    endpoints = small_network(0, 2)
    coords = {"conv": 0.25, "norm0": {"scale": 1.0, "bias": 0.0}, "norm1": 1.0}
    first, second = (network(endpoints, i) for i in range(2))
    expected = second | {
        "conv": line().point(endpoints["conv"], 0.25),
        "norm0": second["norm0"] | {"bias": first["norm0"]["bias"]},
    }
    for subspace in (line(), layerwise(line())):
        chex.assert_trees_all_equal(subspace.point(endpoints, coords), expected)


# Random points


def test_random_points_are_uniform():
    """By the marginals (Kolmogorov and Smirnov, p = 0.001) and, of a simplex, the second moments."""
    for curve in (line(), bezier(3)):
        assert_uniform(jax.vmap(curve.draw)(KEYS))
    for n, subspace in SIMPLEXES.items():
        weights = jax.vmap(subspace.draw)(KEYS)
        assert (weights.shape, bool(weights.min() >= 0)) == ((NUM_DRAWS, n), True)
        np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
        for weight in weights.T if n > 1 else []:
            assert_uniform(1 - (1 - weight) ** (n - 1))
        moments = np.einsum("si,sj->ij", weights, weights) / NUM_DRAWS
        np.testing.assert_allclose(moments, (1 + np.eye(n)) / (n * (n + 1)), atol=0.01)


@pytest.mark.parametrize("degree", [9, 40, 400])
def test_weights_of_a_curve_of_high_degree_are_right(degree):
    alphas = np.float32([0, 1e-6, 0.25, 0.5, 0.9, 1])
    weights = jax.vmap(bezier(degree).weights)(alphas)
    expected = scipy.stats.binom.pmf(np.arange(degree + 1), degree, np.float64(alphas)[:, None])
    np.testing.assert_allclose(weights, expected, rtol=3e-5, atol=1e-6)
    np.testing.assert_array_equal(weights[0], np.eye(degree + 1)[0])
    np.testing.assert_array_equal(weights[-1], np.eye(degree + 1)[-1])


def test_endpoints_that_are_equal_by_mistake_are_refused():
    fixed, rng = jax.random.normal(jax.random.key(7), (3,)), np.random.default_rng(0)
    careless = (
        lambda key: fixed,
        lambda key: jax.random.normal(jax.random.key(0), (3,)),
        lambda key: {"w": rng.normal(size=3).astype(np.float32)},
    )
    partly = lambda key: {"w": jax.random.normal(key, (3,)), "b": jnp.zeros(3)}
    for init in (line().init, jax.jit(line().init, static_argnums=1)):
        for init_fn in careless:
            with pytest.raises(ValueError, match="2 endpoints are equal, .* let it use the key"):
                init(KEY, init_fn)
        init(KEY, partly)
    simplex(1).init(KEY, careless[0])


def assert_uniform(x):
    steps = np.arange(1, NUM_DRAWS + 1) / NUM_DRAWS
    assert np.abs(steps - np.sort(x)).max() < 1.95 / math.sqrt(NUM_DRAWS)


def test_a_single_vertex_has_weight_one_even_where_its_draw_is_zero():
    zero = jax.random.key(780_233)  # one key in 8 million
    assert jax.random.exponential(zero, (1,), jnp.float32) == 0
    assert simplex(1).draw(zero) == 1


def test_init_draws_the_endpoints_independently():
    init_fn = lambda key: {"w": jax.random.normal(key, (5,)), "b": jnp.zeros(2)}
    for subspace in SOME:
        n, endpoints = subspace.num_endpoints, subspace.init(KEY, init_fn)
        assert jax.tree.map(jnp.shape, endpoints) == {"w": (n, 5), "b": (n, 2)}
        assert len(np.unique(endpoints["w"])) == 5 * n
        assert_close(network(endpoints, 1), init_fn(jax.random.split(KEY, n)[1]))


# A point for every layer


def test_layers_draw_independently_and_like_their_subspace():
    for subspace in (line(), simplex(3)):
        endpoints = small_network(0, subspace.num_endpoints)
        sample_coords = jax.vmap(layerwise(subspace).sample_coords, (0, None))
        coords = jax.jit(sample_coords)(KEYS, endpoints)
        for layer in coords.values():
            chex.assert_trees_all_equal(*layer.values())  # a layer's leaves share a point
        layers = np.stack([np.reshape(c["bias"], (NUM_DRAWS, -1))[:, 0] for c in coords.values()])
        for x in layers:
            assert_uniform(x if subspace is line() else 1 - (1 - x) ** 2)
        atol = 4 / math.sqrt(NUM_DRAWS)
        np.testing.assert_allclose(np.corrcoef(layers), np.eye(3), atol=atol)


def test_layers_can_be_named():
    # Some libraries wrap every parameter, here in a field `kernel`: the layer is two levels up.
    leaf = lambda seed: {"value": normal(seed, 2, 2)}
    endpoints = {"a": Block(leaf(0), leaf(1)), "b": Block(leaf(2), leaf(3))}
    for layer_of, partition in [
        (lambda path: path[1].name, [[0, 2], [1, 3]]),
        (lambda path: path[:-2], [[0, 1], [2, 3]]),
    ]:
        coords = layerwise(line(), layer_of).sample_coords(KEY, endpoints)
        leaves = np.array(jax.tree.leaves(coords))
        values = [np.unique(leaves[members]) for members in partition]
        assert [len(v) for v in values] == [1] * len(partition)
        assert len(np.unique(leaves)) == len(partition)


def test_equal_calls_return_one_object_and_so_does_pickle():
    of_layers = [layerwise(s) for s in SOME]
    for subspace in (*SOME, *of_layers, complexes.simplicial_complex(((0, 2), (1, 2)))):
        assert pickle.loads(pickle.dumps(subspace)) is subspace
    assert bezier() is bezier(2) is bezier(degree=2)
    assert line() is line() is bezier(1)
    assert layerwise(line()) is layerwise(subspace=line(), layer_of=parent)
    assert layerwise(line(), CURVES.get) is layerwise(line(), CURVES.get)
    assert simplex(3) is simplex(3) is not simplex(4)


# Endpoints that start from trained networks


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("n", "positions", "noise"),
    [(1, (0,), 0.0), (3, (2, 0), 0.5), (3, (1, 2, 0), 0.5)],
)
def test_given_networks_are_at_their_positions_bit_for_bit(n, positions, noise, dtype):
    one = lambda seed: {"a": Block(normal(seed, 2, 3), normal(seed + 9, 2)), "b": normal(seed + 5)}
    networks = [one(i) | {"c": np.array([-0.0, np.inf])} for i in range(len(positions))]
    networks = jax.tree.map(lambda x: jnp.asarray(x, dtype), networks)
    grow = jax.jit(functools.partial(simplex(n).grow, noise=noise, positions=positions))
    endpoints = grow(networks, jax.random.key(0))
    for position, given in zip(positions, networks, strict=True):
        assert bits(network(endpoints, position)) == bits(given)
    assert num_stacked(endpoints) == n
    chex.assert_trees_all_equal_dtypes(network(endpoints, 0), networks[0])


def test_missing_endpoints_are_at_the_mean():
    for count in (1, 2, 3):
        networks = [{"w": normal(i, 4, 3), "b": normal(i + 9)} for i in range(count)]
        endpoints = simplex(count + 2).grow(networks)
        mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *networks)
        for i in (count, count + 1):
            assert_close(network(endpoints, i), mean)


def test_noise_is_in_units_of_each_leaf():
    base = {"small": 1e-3 * normal(0, 100, 100), "large": 10 * normal(1, 5000), "zero": np.zeros(3)}
    base = jax.tree.map(np.float32, base)
    endpoints = simplex(3).grow([base], jax.random.key(0), noise=0.1)
    for name in ("small", "large"):
        rms = np.sqrt(np.mean(base[name] ** 2))
        first, second = (np.ravel(endpoints[name][i] - base[name]) for i in (1, 2))
        np.testing.assert_allclose([first.std(), second.std()], 0.1 * rms, rtol=0.05)
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.06
    assert not endpoints["zero"].any()
    again = simplex(3).grow([base], jax.random.key(0), noise=0.1)
    chex.assert_trees_all_equal(again, endpoints)


def test_barycentric_coordinates_may_be_normalised_in_float32_and_captured_by_jit():
    for seed in range(20):
        coords = np.abs(normal(seed, 300))
        coords = jnp.asarray(coords / coords.sum())
        point = jax.jit(lambda endpoints, coords=coords: simplex(300).point(endpoints, coords))
        np.testing.assert_allclose(point(jnp.ones((300, 1))), [1], rtol=1e-5)
