"""Which leaves span a subspace: parts, their joins, and the table of both, for every model library."""

import chex
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from stacks import Block, arbitrary, stacks

import subspace_jax as ss

text = jax.tree_util.keystr
KEY = jax.random.key(0)


class Small(nnx.Module):
    """A module with all that is no parameter: statistics, a key and a counter."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


def haiku(key):
    return hk.transform(lambda x: hk.nets.MLP([3, 2])(x)).init(key, jnp.ones((1, 2)))


# And how many leaves can't be mixed: a counter; a key; a counter and a key; two activations.
NETWORKS = {
    "dictionary": (lambda k: {"a": {"w": jax.random.normal(k, (2, 3))}, "steps": jnp.int32(7)}, 1),
    "named tuple": (lambda key: Block(jax.random.normal(key, (3,)), key), 1),
    "nnx": (lambda key: nnx.split(Small(nnx.Rngs(params=key, dropout=1)))[1], 2),
    "equinox": (lambda key: eqx.nn.MLP(2, 2, 3, 1, key=key), 2),
    "haiku": (haiku, 0),
    "array": (lambda key: jax.random.normal(key, (2, 3)), 0),
}
every_network = pytest.mark.parametrize(("init_fn", "shared"), NETWORKS.values(), ids=NETWORKS)


@every_network
def test_floating_arrays_span_a_line_that_trains_and_joins_to_the_network(init_fn, shared):
    """`init`, `sample`, gradients, Optax, penalties and layers take the tree with None in it."""
    network = init_fn(KEY)
    spanned, rest = ss.split(network)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(spanned))
    assert len(jax.tree.leaves(rest)) == shared
    joined = ss.combine(spanned, rest)
    assert jax.tree.structure(joined) == jax.tree.structure(network)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (joined, network)), strict=True))

    line = ss.layerwise(ss.line(), lambda path: text(path))
    init = lambda key: line.init(key, lambda key: ss.split(init_fn(key))[0])
    loss_fn = lambda point, key, batch: (optax.tree.norm(point, squared=True), {})
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), ss.freeze([0]))
    every = lambda path, leaf: True
    penalty = lambda endpoints, key: ss.cosine_penalty(endpoints, key, select=every)
    step = jax.jit(ss.make_train_step(line, loss_fn, optimizer, penalty=penalty))
    state = ss.TrainState.create(init(KEY), optimizer)
    moved, metrics = step(state, KEY, None)
    _, again = step(moved._replace(step=state.step), KEY, None)
    assert again["loss"] < metrics["loss"]
    assert 0 <= metrics["penalty"] <= 1
    joined = ss.combine(line.midpoint(moved.endpoints), rest)
    assert jax.tree.structure(joined) == jax.tree.structure(network)
    # The table takes shapes in place of arrays.
    shapes = jax.eval_shape(init, KEY)
    assert ss.summary(shapes, shared=rest) == ss.summary(state.endpoints, shared=rest)


@arbitrary
@given(network=stacks(2), data=st.data())
def test_a_leaf_is_in_the_part_that_the_predicate_says(network, data):
    paths = {text(path) for path, _ in jax.tree.leaves_with_path(network)}
    chosen = data.draw(st.sets(st.sampled_from(sorted(paths)), min_size=1))
    parts = ss.split(network, lambda path, leaf: text(path) in chosen)
    for part, expected in zip(parts, (chosen, paths - chosen), strict=True):
        assert {text(path) for path, _ in jax.tree.leaves_with_path(part)} == expected
    chex.assert_trees_all_equal(ss.combine(*reversed(parts)), network)


LAYERS = {
    "nnx": [("linear/kernel/value", "linear/bias/value"), ("norm/scale/value", "norm/bias/value")],
    "equinox": [("layers/0/weight", "layers/0/bias"), ("layers/1/weight", "layers/1/bias")],
    "haiku": [("mlp/~/linear_0/w", "mlp/~/linear_0/b"), ("mlp/~/linear_1/w", "mlp/~/linear_1/b")],
}


@pytest.mark.parametrize(("name", "layers"), LAYERS.items(), ids=LAYERS)
def test_layers_of_every_library_have_points_of_their_own(name, layers):
    """A kernel shares its point with its bias, and with no other layer."""
    init_fn = lambda key: ss.split(NETWORKS[name][0](key))[0]
    coords = ss.layerwise(ss.line()).sample_coords(KEY, ss.line().init(KEY, init_fn))
    found = {
        jax.tree_util.keystr(path, simple=True, separator="/"): float(alpha)
        for path, alpha in jax.tree.leaves_with_path(coords)
    }
    assert [found[kernel] for kernel, _ in layers] == [found[bias] for _, bias in layers]
    assert len({found[kernel] for kernel, _ in layers}) == 2
