"""Models of other libraries: their trees go through a subspace and come back as they were."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import subspace_jax as ss
from subspace_jax import layerwise, line, recalibrate

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def _promotion_of_users():
    """The libraries promote, as their users let them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class Transformer(nnx.Module):
    """All that a module holds: parameters, statistics, random streams, lists, attention's `value`."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs)])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, tokens):
        x = self.attention(self.norms[0](self.embed(tokens)))
        return self.dropout(self.norms[1](x))


def endpoints_of(init_fn):
    """Their shapes: nothing is computed."""
    return jax.eval_shape(lambda key: line().init(key, init_fn), KEY)


def nnx_endpoints():
    return endpoints_of(lambda key: nnx.state(Transformer(nnx.Rngs(key)), nnx.Param))


def draws(endpoints):
    """The layerwise coordinates, by the text of their paths."""
    coords = layerwise(line()).sample_coords(KEY, endpoints)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(alpha)
        for path, alpha in jax.tree.leaves_with_path(coords)
    }


def assert_layers(found, kernels, biases):
    """A kernel shares its point with its bias, and with no other layer."""
    assert [found[name] for name in kernels] == [found[name] for name in biases]
    assert len({found[name] for name in kernels}) == len(kernels) > 1


def test_nnx_points_merge_to_a_model_of_the_ordinary_structure():
    graphdef, params, rest = nnx.split(
        nnx.eval_shape(lambda: Transformer(nnx.Rngs(0))), nnx.Param, ...
    )
    midpoint = jax.eval_shape(line().midpoint, nnx_endpoints())
    merged = nnx.merge(graphdef, midpoint, rest)
    assert nnx.graphdef(merged) == graphdef
    assert jax.tree.structure(midpoint) == jax.tree.structure(params)
    shapes = lambda state: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    assert shapes(midpoint) == shapes(params)
    assert isinstance(merged.norms[0].scale, nnx.Param)


def test_nnx_layers_have_points_of_their_own():
    names = ["attention/key", "attention/query", "attention/value", "attention/out"]
    assert_layers(
        draws(nnx_endpoints()),
        [f"{name}/kernel/value" for name in names] + ["norms/0/scale/value", "norms/1/scale/value"],
        [f"{name}/bias/value" for name in names] + ["norms/0/bias/value", "norms/1/bias/value"],
    )


def test_nnx_states_are_split_and_combined_to_the_same_model():
    graphdef, state = jax.jit(lambda key: nnx.split(Transformer(nnx.Rngs(key))))(KEY)
    spanned, shared = ss.split(state)
    kept = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(shared)}
    assert kept == {"['dropout']['rngs']['count'].value", "['dropout']['rngs']['key'].value"}
    combined = ss.combine(spanned, shared)
    assert jax.tree.structure(combined) == jax.tree.structure(state)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (combined, state)), strict=True))
    assert isinstance(nnx.merge(graphdef, combined), Transformer)


def test_recalibration_is_the_limit_of_the_running_average_of_one_batch():
    x = 3 + 2 * jax.random.normal(KEY, (64, 3))

    def updated(params, x, momentum, state):
        norm = nnx.BatchNorm(3, momentum=momentum, rngs=nnx.Rngs(0))
        nnx.update(norm, params, state)
        norm(x)
        return nnx.state(norm, nnx.BatchStat)

    _, params, initial = nnx.split(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), nnx.Param, nnx.BatchStat)
    step = lambda state, _: (updated(params, x, 0.5, state), None)
    running, _ = jax.lax.scan(step, initial, None, 30)
    stats_fn = lambda params, x: updated(params, x, 0.0, initial)
    found = recalibrate(stats_fn, params, [x]).stats
    assert isinstance(found["var"], nnx.BatchStat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, running)


class Module(eqx.Module):
    """Arrays, a leaf that is None, a function that is a leaf, and a static field."""

    inner: eqx.nn.Linear
    out: eqx.nn.Linear
    activation: object
    name: str = eqx.field(static=True)

    def __init__(self, key):
        keys = jax.random.split(key)
        self.inner = eqx.nn.Linear(3, 4, use_bias=False, key=keys[0])
        self.out = eqx.nn.Linear(4, 2, key=keys[1])
        self.activation, self.name = jax.nn.relu, "network"

    def __call__(self, x):
        return self.out(self.activation(self.inner(x)))


def test_equinox_modules_keep_static_fields_functions_and_leaves_that_are_none():
    init_fn = jax.jit(lambda key: ss.split(Module(key))[0])
    _, shared = ss.split(eqx.filter_eval_shape(Module, KEY))
    assert jax.tree.leaves(shared) == [jax.nn.relu]
    ends = [init_fn(key) for key in jax.random.split(KEY)]
    deployed = ss.combine(line().midpoint(ss.stack(ends)), shared)
    assert jax.tree.structure(deployed) == jax.tree.structure(eqx.filter_eval_shape(Module, KEY))
    assert deployed.inner.bias is None
    assert deployed.name == "network"
    np.testing.assert_allclose(deployed.out.bias, (ends[0].out.bias + ends[1].out.bias) / 2)
    assert jax.eval_shape(lambda: deployed(jnp.ones(3))).shape == (2,)


def test_equinox_layers_have_points_of_their_own():
    init_fn = lambda key: ss.split(eqx.nn.MLP(3, 2, 4, depth=2, key=key))[0]
    names = [f"layers/{i}" for i in range(3)]
    assert_layers(
        draws(endpoints_of(init_fn)),
        [f"{name}/weight" for name in names],
        [f"{name}/bias" for name in names],
    )


def test_haiku_modules_of_modules_have_points_of_their_own():
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([4, 2])(x)))
    x = jnp.ones((1, 3))
    endpoints = endpoints_of(lambda key: network.init(key, x))
    names = ["mlp/~/linear_0", "mlp/~/linear_1"]
    assert_layers(draws(endpoints), [f"{n}/w" for n in names], [f"{n}/b" for n in names])
    midpoint = jax.eval_shape(line().midpoint, endpoints)
    assert jax.eval_shape(network.apply, midpoint, x).shape == (1, 2)
