"""Models of other libraries: their trees go through a subspace and come back as they were."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import subspace_jax as ss
from subspace_jax import layerwise, line

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


def endpoints_of(init_fn):
    """Their shapes: nothing is computed."""
    return jax.eval_shape(lambda key: line().init(key, init_fn), KEY)


def nnx_init(key):
    return nnx.state(Transformer(nnx.Rngs(key)), nnx.Param)


def equinox_init(key):
    return ss.split(eqx.nn.MLP(3, 2, 4, depth=2, key=key))[0]


def test_nnx_points_merge_to_a_model_of_the_ordinary_structure():
    graphdef, params, rest = nnx.split(
        nnx.eval_shape(lambda: Transformer(nnx.Rngs(0))), nnx.Param, ...
    )
    midpoint = jax.eval_shape(line().midpoint, endpoints_of(nnx_init))
    merged = nnx.merge(graphdef, midpoint, rest)
    assert nnx.graphdef(merged) == graphdef
    assert jax.tree.structure(midpoint) == jax.tree.structure(params)
    shapes = lambda state: [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(state)]
    assert shapes(midpoint) == shapes(params)
    assert isinstance(merged.norms[0].scale, nnx.Param)


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


def haiku_init(key):
    return hk.transform(lambda x: hk.nets.MLP([4, 2])(x)).init(key, jnp.ones((1, 3)))


ATTENTION = ("attention/{}/kernel/value", "attention/{}/bias/value")


@pytest.mark.parametrize(
    ("init_fn", "kernel", "bias", "layers"),
    [
        (nnx_init, *ATTENTION, ["key", "query", "value", "out"]),
        (nnx_init, "norms/{}/scale/value", "norms/{}/bias/value", [0, 1]),
        (equinox_init, "layers/{}/weight", "layers/{}/bias", [0, 1, 2]),
        (haiku_init, "mlp/~/linear_{}/w", "mlp/~/linear_{}/b", [0, 1]),
    ],
    ids=["nnx", "nnx_norms", "equinox", "haiku"],
)
def test_layers_have_points_of_their_own(init_fn, kernel, bias, layers):
    """A kernel shares its point with its bias, and with no other layer."""
    coords = layerwise(line()).sample_coords(KEY, endpoints_of(init_fn))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(alpha)
        for path, alpha in jax.tree.leaves_with_path(coords)
    }
    kernels = [found[kernel.format(layer)] for layer in layers]
    assert kernels == [found[bias.format(layer)] for layer in layers]
    assert len(set(kernels)) == len(layers)
