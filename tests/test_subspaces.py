"""Lines, curves and simplexes: their points, their random points, and the points of each layer."""

import functools
import math

import chex
import hypothesis.extra.numpy as npst
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, Block, arbitrary, device, network, normal, stacks

from subspace_jax import bezier, layerwise, line, simplex, tree
from subspace_jax.contrib.complexes import simplicial_complex
from subspace_jax.subspaces import parent

SUBSPACES = {
    "line": line(),
    "curve": bezier(2),
    "cubic": bezier(3),
    "point": simplex(1),
    "segment": simplex(2),
    "simplex": simplex(4),
    "complex": simplicial_complex(((0, 1, 2), (2, 3))),
}
every_subspace = pytest.mark.parametrize("subspace", SUBSPACES.values(), ids=SUBSPACES)
SOME = {"line": line(), "curve": bezier(2), "simplex": simplex(3)}
some_subspaces = pytest.mark.parametrize("subspace", SOME.values(), ids=SOME)
CORNERS = {
    "line 0": (line(), 0.0, 0),
    "line 1": (line(), 1.0, 1),
    "curve 0": (bezier(2), 0, 0),
    "curve 1": (bezier(2), 1, 2),
    "simplex 1": (simplex(3), np.eye(3, dtype=np.float32)[1], 1),
    "simplex 2": (simplex(3), np.eye(3)[2], 2),
    "layerwise": (layerwise(simplex(2)), np.eye(2)[1], 1),
}
NUM_DRAWS = 2000


@functools.cache
def draws(subspace):
    """Coordinates [NUM_DRAWS, ...] and mixing weights [NUM_DRAWS, n] of random points."""
    draw = lambda key: (coords := subspace.draw(key), subspace.weights(coords))
    coords, weights = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), NUM_DRAWS))
    return np.asarray(coords), np.asarray(weights)


def small_network(seed, n):
    """Endpoints with the names of Flax: a convolution and two batch norms."""
    norm = lambda seed: {"scale": normal(seed, n, 2), "bias": normal(seed + 1, n, 2)}
    conv = {"kernel": normal(seed, n, 3, 2), "bias": normal(seed + 1, n, 2)}
    return device({"conv": conv, "norm0": norm(seed + 2), "norm1": norm(seed + 4)})


# Mixing weights and points


@every_subspace
def test_random_points_are_convex_combinations(subspace):
    _, weights = draws(subspace)
    assert weights.shape == (NUM_DRAWS, subspace.num_endpoints)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    assert weights.min() >= 0


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@arbitrary
@given(alpha=st.floats(-1, 2, width=32))
def test_weights_of_a_curve_are_the_bernstein_polynomials(alpha, degree):
    weights = bezier(degree).weights(jnp.float32(alpha))
    assert float(weights.sum()) == pytest.approx(1, abs=1e-4)
    expected = [
        math.comb(degree, i) * alpha**i * (1 - alpha) ** (degree - i) for i in range(degree + 1)
    ]
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("subspace", "coords", "i"), CORNERS.values(), ids=CORNERS)
@arbitrary
@given(data=st.data(), dtype=st.sampled_from(["bfloat16", "float32", "float64"]))
def test_corners_are_the_endpoints_exactly(data, subspace, coords, i, dtype):
    endpoints = data.draw(stacks(subspace.num_endpoints, jnp.dtype(dtype)))
    with jax.enable_x64(dtype == "float64"):
        corner = subspace.point(device(endpoints), coords)
    chex.assert_trees_all_equal(corner, network(endpoints, i))
    chex.assert_trees_all_equal_dtypes(corner, network(endpoints, i))


@every_subspace
@arbitrary
@given(
    data=st.data(), seed=SEEDS, precision=st.sampled_from([("bfloat16", 1e-2), ("float32", 1e-6)])
)
def test_identical_endpoints_are_a_fixed_point(data, subspace, seed, precision):
    dtype, rtol = precision
    one = data.draw(stacks(1, jnp.dtype(dtype)))
    endpoints = jax.tree.map(lambda x: jnp.repeat(x, subspace.num_endpoints, axis=0), one)
    sample = subspace.sample(jax.random.key(seed), endpoints)
    as_float32 = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float32))
    expected = as_float32(network(one, 0))
    chex.assert_trees_all_close(as_float32(sample), expected, rtol=rtol, atol=1e-30)


@some_subspaces
@arbitrary
@given(data=st.data(), seed=SEEDS)
def test_endpoints_get_their_share_of_the_gradient(data, subspace, seed):
    endpoints = device(data.draw(stacks(subspace.num_endpoints)))
    coords = subspace.draw(jax.random.key(seed))
    loss = lambda params: sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(params))
    to_endpoints = jax.grad(lambda e: subspace.apply(loss, e, coords))(endpoints)
    to_point = jax.grad(loss)(subspace.point(endpoints, coords))
    for i, weight in enumerate(np.asarray(subspace.weights(coords))):
        expected = jax.tree.map(lambda x, w=weight: w * x, to_point)
        chex.assert_trees_all_close(network(to_endpoints, i), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda s: s, layerwise], ids=["global", "layerwise"])
@pytest.mark.parametrize(
    ("subspace", "weights"),
    [(line(), [0.5, 0.5]), (bezier(2), [0.25, 0.5, 0.25]), (simplex(3), [1 / 3] * 3)],
    ids=["line", "curve", "simplex"],
)
def test_midpoint(subspace, weights, make):
    endpoints = small_network(0, len(weights))
    expected = jax.tree.map(lambda x: np.average(x, 0, weights), endpoints)
    chex.assert_trees_all_close(make(subspace).midpoint(endpoints), expected, rtol=1e-5, atol=1e-6)


def test_curve_of_degree_one_is_the_line():
    endpoints = small_network(0, 2)
    for alpha in (-0.5, 0.0, 0.3, 1.0):
        point = bezier(1).point(endpoints, alpha)
        chex.assert_trees_all_equal(point, line().point(endpoints, alpha))
        by_hand = jax.tree.map(lambda x, a=alpha: (1 - a) * x[0] + a * x[1], endpoints)
        chex.assert_trees_all_close(point, by_hand, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("degree", [1, 2, 5])
def test_tangents_of_a_curve_at_its_ends(degree):
    """They are `degree` times the first and the last side of the control polygon, and finite."""
    endpoints = jnp.asarray(normal(0, degree + 1, 3))
    tangent = jax.jacobian(lambda alpha: bezier(degree).point(endpoints, alpha))
    first, last = degree * (endpoints[1] - endpoints[0]), degree * (endpoints[-1] - endpoints[-2])
    np.testing.assert_allclose(tangent(0.0), first, rtol=1e-5)
    np.testing.assert_allclose(tangent(1.0), last, rtol=1e-5)


def test_coordinates_outside_the_subspace_extrapolate():
    endpoints = jnp.array([[1.0], [3.0]])
    assert line().point(endpoints, 2.0) == 5
    assert simplex(2).point(endpoints, np.array([-1.0, 2.0])) == 5


@some_subspaces
def test_many_points_are_those_at_each_coordinates(subspace):
    endpoints = small_network(0, subspace.num_endpoints)
    coords = jnp.asarray(draws(subspace)[0][:3])
    many = jax.jit(jax.vmap(subspace.point, in_axes=(None, 0)))(endpoints, coords)
    one_by_one = tree.stack([subspace.point(endpoints, c) for c in coords])
    chex.assert_trees_all_close(many, one_by_one, rtol=1e-5, atol=1e-6)


def test_constant_coordinates_may_be_captured_by_jit():
    coords = jnp.array([0.25, 0.75])
    point = jax.jit(lambda endpoints: simplex(2).point(endpoints, coords))
    assert point(jnp.array([0.0, 4.0])) == 3
    assert jax.jit(simplex(2).midpoint)(jnp.array([0.0, 4.0])) == 2


def test_apply_calls_the_function_at_the_point():
    endpoints = jnp.array([[0.0, 0.0], [4.0, 8.0]])
    result = line().apply(lambda params, a, b: (params, a, b), endpoints, 0.25, "a", "b")
    chex.assert_trees_all_equal(result[0], jnp.array([1.0, 2.0]))
    assert result[1:] == ("a", "b")


# Random points


@every_subspace
def test_every_endpoint_has_its_share_on_average(subspace):
    n = subspace.num_endpoints
    shares = [1 / 6, 1 / 6, 5 / 12, 1 / 4] if subspace is SUBSPACES["complex"] else [1 / n] * n
    _, weights = draws(subspace)
    stderr = weights.std(0) / math.sqrt(NUM_DRAWS)
    np.testing.assert_array_less(np.abs(weights.mean(0) - shares), 4 * stderr + 1e-6)


@pytest.mark.parametrize(
    ("subspace", "marginal"),
    [
        (line(), lambda x: x),
        (bezier(3), lambda x: x),
        (simplex(2), lambda x: x),
        (simplex(4), lambda x: 1 - (1 - x) ** 3),
    ],
    ids=["line", "curve", "segment", "simplex"],
)
def test_random_coordinates_have_the_marginals_of_the_uniform_distribution(subspace, marginal):
    """Largest distance between distribution functions (Kolmogorov and Smirnov, p = 0.001)."""
    coords, _ = draws(subspace)
    for x in coords.reshape(NUM_DRAWS, -1).T:
        distance = np.abs(np.arange(1, NUM_DRAWS + 1) / NUM_DRAWS - marginal(np.sort(x))).max()
        assert distance < 1.95 / math.sqrt(NUM_DRAWS)


@pytest.mark.parametrize("n", [2, 4])
def test_random_points_of_a_simplex_have_the_second_moments_of_the_uniform_distribution(n):
    weights, _ = draws(simplex(n))
    moments = np.einsum("si,sj->ij", weights, weights) / NUM_DRAWS
    np.testing.assert_allclose(moments, (1 + np.eye(n)) / (n * (n + 1)), atol=0.01)


@pytest.mark.parametrize(
    "simplexes",
    [((0, 2), (1, 2)), ((0, 1, 2), (2, 3)), ((3,), (0, 1, 2, 4), (2, 3)), ((0, 1),)],
    ids=["path", "ragged", "with a point", "single"],
)
def test_random_points_of_a_complex_are_uniform_on_simplexes_drawn_alike(simplexes):
    _, weights = draws(simplicial_complex(simplexes))
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
    whole, endpoints = simplicial_complex(((0, 1, 2),)), small_network(0, 3)
    coords = draws(simplex(3))[0][0]
    chex.assert_trees_all_equal(whole.point(endpoints, coords), simplex(3).point(endpoints, coords))
    chex.assert_trees_all_equal(whole.midpoint(endpoints), simplex(3).midpoint(endpoints))


def test_layers_of_a_complex_draw_their_simplexes_independently():
    subspace = layerwise(simplicial_complex(((0, 2), (1, 2))))
    keys = jax.random.split(jax.random.key(0), 200)
    coords = jax.vmap(lambda key: subspace.sample_coords(key, small_network(0, 3)))(keys)
    first = np.stack([layer["bias"][:, 0] > 0 for layer in coords.values()])
    assert len(np.unique(first, axis=1).T) == 2**3


@pytest.mark.parametrize(
    "subspace", [simplex(1), simplicial_complex(((0,),))], ids=["simplex", "complex"]
)
def test_a_single_vertex_has_weight_one_even_where_its_draw_is_zero(subspace):
    exponential = functools.partial(jax.random.exponential, shape=(1,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "exponential", lambda key, shape: 0 * exponential(key))
        assert subspace.draw(jax.random.key(0)) == 1
    zero = jax.random.key(780_233)  # one key in 8 million
    assert exponential(zero) == 0
    assert simplex(1).draw(zero) == 1


@some_subspaces
@pytest.mark.parametrize("make", [lambda s: s, layerwise], ids=["global", "layerwise"])
def test_sample_is_the_point_at_sampled_coordinates(subspace, make):
    subspace = make(subspace)
    endpoints, key = small_network(0, subspace.num_endpoints), jax.random.key(3)
    sample = subspace.sample(key, endpoints)
    point = subspace.point(endpoints, subspace.sample_coords(key, endpoints))
    chex.assert_trees_all_equal(sample, point)
    chex.assert_trees_all_equal(sample, subspace.sample(key, endpoints))
    other = subspace.sample(jax.random.key(4), endpoints)
    assert not np.array_equal(sample["conv"]["kernel"], other["conv"]["kernel"])


def test_sample_is_transformable_and_its_subspace_a_static_argument():
    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    @functools.partial(chex.assert_max_traces, n=2)
    def step(subspace, key, endpoints):
        loss = lambda e: sum(jnp.sum(x**2) for x in jax.tree.leaves(subspace.sample(key, e)))
        return jax.tree.map(lambda x, g: x - 0.1 * g, endpoints, jax.grad(loss)(endpoints))

    endpoints = small_network(0, 2)
    for seed in range(2):
        for make in (line, lambda: layerwise(line())):
            endpoints = step(make(), jax.random.key(seed), endpoints)
    chex.assert_tree_all_finite(endpoints)


@some_subspaces
def test_init_draws_the_endpoints_independently(subspace):
    init_fn = lambda key: {"w": jax.random.normal(key, (5,)), "b": jnp.zeros(2)}
    endpoints = subspace.init(jax.random.key(0), init_fn)
    n = subspace.num_endpoints
    chex.assert_trees_all_equal_shapes(endpoints, {"w": np.zeros((n, 5)), "b": np.zeros((n, 2))})
    assert len(np.unique(endpoints["w"])) == 5 * n
    chex.assert_trees_all_equal(endpoints, subspace.init(jax.random.key(0), init_fn))
    one = init_fn(jax.random.split(jax.random.key(0), n)[1])
    chex.assert_trees_all_close(network(endpoints, 1), one, rtol=1e-6)


# A point for every layer


@some_subspaces
def test_layerwise_with_equal_draws_is_the_subspace_itself(subspace):
    endpoints = small_network(0, subspace.num_endpoints)
    one_layer = layerwise(subspace, lambda path: "the only layer")
    coords = one_layer.sample_coords(jax.random.key(0), endpoints)
    shared = coords["conv"]["kernel"]
    chex.assert_trees_all_equal(coords, jax.tree.map(lambda _: shared, endpoints))
    chex.assert_trees_all_equal(
        one_layer.point(endpoints, coords), subspace.point(endpoints, shared)
    )


@some_subspaces
def test_layerwise_draws_one_point_for_every_layer(subspace):
    endpoints = small_network(0, subspace.num_endpoints)
    coords = layerwise(subspace).sample_coords(jax.random.key(0), endpoints)
    for layer in coords.values():
        first, *others = layer.values()
        assert all(np.array_equal(first, other) for other in others)
    layers = [coords["conv"]["bias"], coords["norm0"]["bias"], coords["norm1"]["bias"]]
    assert len(np.unique(np.stack(layers).reshape(3, -1), axis=0)) == 3
    sample = layerwise(subspace).sample(jax.random.key(0), endpoints)
    for name, layer in endpoints.items():
        expected = subspace.point(layer, coords[name]["bias"])
        chex.assert_trees_all_close(sample[name], expected, rtol=1e-6)


def test_layers_draw_independently_and_like_their_subspace():
    endpoints = small_network(0, 2)
    sample_coords = functools.partial(layerwise(line()).sample_coords, endpoints=endpoints)
    coords = jax.jit(jax.vmap(sample_coords))(jax.random.split(jax.random.key(0), NUM_DRAWS))
    layers = np.stack([layer["bias"] for layer in coords.values()])
    stderr = 1 / math.sqrt(NUM_DRAWS)
    np.testing.assert_allclose(layers.mean(1), 1 / 2, atol=4 * stderr * layers.std())
    np.testing.assert_allclose(layers.var(1), 1 / 12, rtol=0.1)
    np.testing.assert_allclose(np.corrcoef(layers), np.eye(3), atol=4 * stderr)


def test_layers_can_be_named():
    # Some libraries wrap every parameter, here in a field `kernel`: the layer is two levels up.
    leaf = lambda seed: {"value": normal(seed, 2, 2)}
    endpoints = {"a": Block(leaf(0), leaf(1)), "b": Block(leaf(2), leaf(3))}
    kinds = layerwise(line(), lambda path: path[1].name)
    coords = kinds.sample_coords(jax.random.key(0), endpoints)
    assert coords["a"].kernel == coords["b"].kernel
    assert coords["a"].kernel["value"] != coords["a"].bias["value"]
    blocks = layerwise(line(), lambda path: path[:-2])
    coords = blocks.sample_coords(jax.random.key(0), endpoints)
    assert coords["a"].kernel == coords["a"].bias
    assert coords["a"].bias["value"] != coords["b"].bias["value"]


def test_a_single_array_is_one_layer():
    coords = layerwise(simplex(3)).sample_coords(jax.random.key(0), jnp.zeros((3, 2)))
    assert coords.shape == (3,)


@pytest.mark.parametrize("make", [lambda s: s, layerwise], ids=["global", "layerwise"])
def test_coordinates_may_be_a_tree_prefix(make):
    endpoints = small_network(0, 2)
    coords = {"conv": 0.25, "norm0": {"scale": 1.0, "bias": 0.0}, "norm1": 1.0}
    point = make(line()).point(endpoints, coords)
    chex.assert_trees_all_equal(point["conv"], line().point(endpoints["conv"], 0.25))
    assert np.array_equal(point["norm0"]["scale"], endpoints["norm0"]["scale"][1])
    assert np.array_equal(point["norm0"]["bias"], endpoints["norm0"]["bias"][0])
    chex.assert_trees_all_equal(point["norm1"], network(endpoints["norm1"], 1))


@pytest.mark.parametrize(
    "make",
    [
        line,
        lambda: bezier(3),
        lambda: simplex(3),
        lambda: simplicial_complex(((0, 2), (1, 2))),
        lambda: layerwise(line()),
        lambda: layerwise(simplex(3), CORNERS.get),
    ],
)
def test_equal_calls_return_the_same_object(make):
    assert make() is make()


# Mistakes


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bezier(0), "degree 0 has no ends; use a degree >= 1"),
        (lambda: simplex(0), "simplex of 0 endpoints is empty; use at least 1"),
        (
            lambda: simplicial_complex(()),
            r"simplexes \(\) have the vertices \[\]; give at least one",
        ),
        (lambda: simplicial_complex(((0, 1), ())), "give at least one simplex of at least one"),
        (
            lambda: simplicial_complex(((0, 1), (1, 3))),
            r"vertices \[0, 1, 3\]; .* name each of 0, 1",
        ),
        (lambda: simplicial_complex(((-1, 0),)), r"vertices \[-1, 0\]; .* name each of 0, 1"),
        (lambda: simplicial_complex(((0, 1), (1, 1))), "name a vertex twice in one; name it once"),
    ],
)
def test_subspaces_without_points_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("make", [lambda s: s, layerwise], ids=["global", "layerwise"])
def test_another_number_of_endpoints_is_refused(make):
    message = "stack holds 3 networks but the subspace has 2 endpoints; .* `init`"
    with pytest.raises(ValueError, match=message):
        make(line()).sample(jax.random.key(0), jnp.zeros((3, 4)))


@pytest.mark.parametrize(
    ("subspace", "coords", "message"),
    [
        (line(), np.zeros(3), r"shape \[3\] but a point of this subspace of 2 .* has shape \[\];"),
        (simplex(2), np.float32(0.5), r"shape \[\] but .* of 2 endpoints has shape \[2\];"),
        (simplex(2), np.ones(3) / 3, r"shape \[3\] but .* has shape \[2\]; use jax.vmap"),
    ],
)
def test_coordinates_of_another_shape_are_refused(subspace, coords, message):
    with pytest.raises(ValueError, match=message):
        subspace.point(jnp.zeros((2, 4)), coords)


@pytest.mark.parametrize(
    ("coords", "total"), [([0.5, 0.6], "1.1"), ([0.0, 0.0], "0"), ([np.nan, 1.0], "nan")]
)
def test_barycentric_coordinates_must_sum_to_one(coords, total):
    message = f"Barycentric coordinates sum to {total} instead of 1; normalise them"
    with pytest.raises(ValueError, match=message):
        simplex(2).point(jnp.zeros((2, 4)), np.array(coords))
    with pytest.raises(ValueError, match=message):
        layerwise(simplex(2)).point({"a": jnp.zeros((2, 4))}, {"a": np.array(coords)})


@arbitrary
@given(coords=npst.arrays(np.float32, 3, elements=st.floats(0.125, 1, width=32)))
def test_normalised_barycentric_coordinates_are_accepted(coords):
    simplex(3).point(jnp.zeros((3, 1)), coords / coords.sum())


def test_equal_calls_return_one_object_however_they_are_written():
    assert bezier() is bezier(2) is bezier(degree=2)
    assert line() is bezier(1)
    assert layerwise(line()) is layerwise(subspace=line(), layer_of=parent)
    assert simplex(3) is not simplex(4)


def test_kernel_and_bias_of_an_nnx_module_share_a_draw():
    modules = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0)), nnx.Linear(3, 2, rngs=nnx.Rngs(1))])
    endpoints = jax.tree.map(lambda x: jnp.stack([x, x]), nnx.state(modules))
    coords = layerwise(line()).sample_coords(jax.random.key(0), endpoints)
    first, second, third, fourth = jax.tree.leaves(coords)
    assert first == second != third == fourth


def test_layerwise_on_a_flat_tree_of_several_kernels_is_refused():
    flat = {"a": jnp.zeros((2, 3, 4)), "b": jnp.zeros((2, 4, 5))}
    with pytest.raises(ValueError, match="All 2 kernels are in 1 layer"):
        layerwise(line()).sample_coords(jax.random.key(0), flat)
    nested = {name: {"kernel": leaf} for name, leaf in flat.items()}
    assert len(jax.tree.leaves(layerwise(line()).sample_coords(jax.random.key(0), nested))) == 2
