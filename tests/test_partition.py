"""Which leaves span a subspace: parts, their joins, and the table of both, for every model library."""

import chex
import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from stacks import Block, arbitrary, normal, stacks

import subspace_jax as ss

text = jax.tree_util.keystr


class Small(nnx.Module):
    """A module with all that is no parameter: statistics, a key and a counter."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)


def _haiku(key):
    forward = hk.transform(lambda x: hk.nets.MLP([3, 2])(x))
    return forward.init(key, jnp.ones((1, 2)))


NETWORKS = {
    "dictionary": lambda key: {"a": {"w": jax.random.normal(key, (2, 3))}, "steps": jnp.int32(7)},
    "named tuple": lambda key: Block(jax.random.normal(key, (3,)), key),
    "nnx": lambda key: nnx.split(Small(nnx.Rngs(params=key, dropout=1)))[1],
    "equinox": lambda key: eqx.nn.MLP(2, 2, 3, 1, key=key),
    "haiku": _haiku,
    "array": lambda key: jax.random.normal(key, (2, 3)),
}
every_network = pytest.mark.parametrize("init_fn", NETWORKS.values(), ids=NETWORKS)
# How many leaves can't be mixed: a counter; a key; a counter and a key; two activations.
SHARED = dict(zip(NETWORKS, (1, 1, 2, 2, 0, 0), strict=True))


@every_network
def test_parts_join_to_the_network(init_fn):
    network = init_fn(jax.random.key(0))
    spanned, shared = ss.split(network)
    joined = ss.combine(spanned, shared)
    assert jax.tree.structure(joined) == jax.tree.structure(network)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (joined, network)), strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_floating_arrays_span_by_default_and_all_else_is_shared(name):
    network = NETWORKS[name](jax.random.key(0))
    spanned, shared = ss.split(network)
    assert all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(spanned))
    assert len(jax.tree.leaves(shared)) == SHARED[name]


@arbitrary
@given(network=stacks(2), data=st.data())
def test_a_leaf_is_in_the_part_that_the_predicate_says(network, data):
    paths = [text(path) for path, _ in jax.tree.leaves_with_path(network)]
    chosen = data.draw(st.sets(st.sampled_from(paths), min_size=1))
    spanned, shared = ss.split(network, lambda path, leaf: text(path) in chosen)
    assert {text(path) for path, _ in jax.tree.leaves_with_path(spanned)} == chosen
    assert {text(path) for path, _ in jax.tree.leaves_with_path(shared)} == set(paths) - chosen
    chex.assert_trees_all_equal(ss.combine(shared, spanned), network)


@every_network
def test_a_line_is_trained_through_its_spanned_leaves(init_fn):
    """`init`, `sample`, gradients, Optax, penalties and layers take the tree with None in it."""
    line = ss.layerwise(ss.line(), lambda path: text(path))
    shared = ss.split(init_fn(jax.random.key(0)))[1]
    endpoints = line.init(jax.random.key(1), lambda key: ss.split(init_fn(key))[0])
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), ss.freeze([0]))

    def loss_fn(endpoints):
        network = ss.combine(line.sample(jax.random.key(2), endpoints), shared)
        return optax.tree.norm(ss.split(network)[0], squared=True)

    grads = jax.grad(loss_fn)(endpoints)
    updates, _ = optimizer.update(grads, optimizer.init(endpoints), endpoints)
    moved = optax.apply_updates(endpoints, updates)
    assert jax.tree.structure(moved) == jax.tree.structure(endpoints)
    assert loss_fn(moved) < loss_fn(endpoints)
    every = lambda path, leaf: True
    assert 0 <= ss.cosine_penalty(moved, select=every) <= 1
    point = ss.combine(line.midpoint(moved), shared)
    assert jax.tree.structure(point) == jax.tree.structure(init_fn(jax.random.key(0)))


def test_a_network_of_parts_computes():
    graph, state = nnx.split(Small(nnx.Rngs(0)))
    head = lambda path, leaf: "linear" in text(path)
    spanned, shared = ss.split(state, head)
    model = nnx.merge(graph, ss.combine(spanned, shared))
    assert model.linear(jnp.ones((1, 2))).shape == (1, 3)
    mlp = eqx.nn.MLP(2, 2, 3, 1, key=jax.random.key(0))
    parts = ss.split(mlp)
    np.testing.assert_array_equal(ss.combine(*parts)(jnp.ones(2)), mlp(jnp.ones(2)))


@pytest.mark.parametrize(
    ("leaf", "what"),
    [
        (jnp.int32(7), "has dtype int32"),
        (jax.random.key(0), "has dtype key<fry>"),
        (jax.nn.relu, "is an object of type custom_jvp"),
        (7, "is an object of type int"),
    ],
    ids=["integer", "key", "function", "number"],
)
class TestLeavesThatCanNotBeMixed:
    def test_may_not_span(self, leaf, what):
        message = rf"Leaf \['b'\] {what} and can't be mixed, .* let `spans` return False for it"
        with pytest.raises(TypeError, match=message):
            ss.split({"a": jnp.ones(2), "b": leaf}, lambda path, leaf: True)

    def test_are_refused_at_init(self, leaf, what):
        message = (
            rf"Leaf \['b'\] {what} and can't be mixed; share .* subspace_jax.split\(network\)`"
        )
        with pytest.raises(TypeError, match=message):
            ss.line().init(jax.random.key(0), lambda key: {"a": jnp.ones(2), "b": leaf})

    def test_are_refused_in_a_stack(self, leaf, what):
        for function in (ss.line().midpoint, lambda stack: ss.mix(jnp.ones(2) / 2, stack)):
            with pytest.raises(TypeError, match=rf"Leaf \['b'\] {what} and can't be mixed; share"):
                function({"a": jnp.ones((2, 3)), "b": leaf})


def test_a_predicate_that_spans_nothing_is_refused():
    message = "None of the 2 leaves of the network spans the subspace; let `spans` return True"
    with pytest.raises(ValueError, match=message):
        ss.split({"a": jnp.ones(2), "b": jnp.ones(3)}, lambda path, leaf: False)
    with pytest.raises(ValueError, match="None of the 1 leaves"):
        ss.split({"a": 7})


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "combine got 0 trees; give it the parts"),
        (
            ({"a": 1.0}, {"a": 2.0}),
            r"Leaf \['a'\] is in 2 of the trees of `combine`; .* no leaf in",
        ),
        (({"a": 1.0}, {"b": 2.0}), "trees of `combine` differ in structure: .*'a'.* and .*'b'"),
    ],
)
def test_what_are_no_parts_is_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        ss.combine(*parts)


# The table


def _rows(summary):
    """The cells of the table by leaf, and the totals."""
    table, totals, *_ = summary.split("\n\n")
    rows = [[cell.strip() for cell in row.split("  ") if cell] for row in table.splitlines()]
    return {row[0]: row[1:] for row in rows[1:]}, totals.splitlines()


def test_the_table_names_every_leaf_its_role_and_its_bytes():
    network = {"conv": {"kernel": normal(0, 3, 4), "bias": normal(1, 4)}, "steps": np.int32(7)}
    spanned, shared = ss.split(network, lambda path, leaf: "kernel" in text(path))
    endpoints = ss.stack([spanned] * 3)
    rows, totals = _rows(ss.summary(endpoints, shared=shared, state={"mean": normal(2, 512)}))
    assert rows == {
        "conv/kernel": ["3 x [3, 4]", "spanned", "float32", "144 B"],
        "conv/bias": ["[4]", "shared", "float32", "16 B"],
        "steps": ["[]", "shared", "int32", "4 B"],
        "mean": ["[512]", "state", "float32", "2.0 KiB"],
    }
    assert [line.split()[0] for line in totals] == ["spanned", "shared", "state", "total"]
    assert "1 leaf, 3 endpoints of 12 numbers" in totals[0]
    assert totals[-1].endswith("2.2 KiB")  # 144 + 20 + 2048 bytes


def test_the_table_says_why_integers_and_keys_are_shared():
    spanned, shared = ss.split(NETWORKS["nnx"](jax.random.key(0)))
    last = ss.summary(ss.stack([spanned] * 2), shared=shared).splitlines()[-1]
    assert last.startswith("2 integer or key leaves (dropout/rngs/count/value, dropout/rngs/key/")
    assert last.endswith("are shared: a mean of such leaves means nothing.")
    assert "integer" not in ss.summary(jnp.ones((2, 3)), shared={"a": 0.5, "b": jnp.ones(2)})


@every_network
def test_the_table_takes_shapes_in_place_of_arrays(init_fn):
    init = lambda key: ss.line().init(key, lambda key: ss.split(init_fn(key))[0])
    shapes = jax.eval_shape(init, jax.random.key(0))
    shared = ss.split(init_fn(jax.random.key(0)))[1]
    assert ss.summary(shapes, shared=shared) == ss.summary(init(jax.random.key(0)), shared=shared)


def test_a_table_of_what_are_no_endpoints_is_refused():
    with pytest.raises(TypeError, match=r"Leaf \['b'\] has dtype int32 and can't be mixed; share"):
        ss.summary({"a": jnp.ones((2, 3)), "b": jnp.arange(2)})
    with pytest.raises(ValueError, match="has 0 leaves"):
        ss.summary({}, shared={"a": jnp.ones(2)})
