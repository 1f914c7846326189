"""One network with batch norm, dropout, a tied embedding and attention, in three libraries.

A line of it trains, and what is deployed is what the general mechanism measures, in any form of batches.
"""

import functools
import re

import chex
import equinox as eqx
import flax.errors
import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import subspace_jax as ss

TOKENS, WIDTH, DROPPED = 12, 8, 0.3
KEY = jax.random.key(0)
X = jax.random.randint(KEY, (24, 5), 0, TOKENS)


def loss_of(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, X[:, 0]).mean()


class NNX(nnx.Module):
    def __init__(self, momentum=0.9, *, rngs):
        self.embed = nnx.Embed(TOKENS, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=momentum, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, WIDTH, decode=False, rngs=rngs)
        self.dropout = nnx.Dropout(DROPPED, rngs=rngs)
        self.out = nnx.BatchNorm(WIDTH, momentum=momentum, rngs=rngs)

    def __call__(self, x):
        h = self.norm(self.embed(x))
        h = self.out(h + self.dropout(self.attention(h)))
        return self.embed.attend(h.mean(1))


class Linen(nn.Module):
    momentum: float = 0.9

    @nn.compact
    def __call__(self, x, train):
        embed = nn.Embed(TOKENS, WIDTH)
        norm = functools.partial(nn.BatchNorm, not train, momentum=self.momentum)
        h = norm(name="norm")(embed(x))
        attended = nn.MultiHeadDotProductAttention(2)(h)
        h = norm(name="out")(h + nn.Dropout(DROPPED, deterministic=not train)(attended))
        return embed.attend(h.mean(1))


class Equinox(eqx.Module):
    tied: eqx.nn.Shared
    norm: eqx.nn.BatchNorm
    attention: eqx.nn.MultiheadAttention
    dropout: eqx.nn.Dropout
    out: eqx.nn.BatchNorm

    def __init__(self, momentum=0.9, mode="batch", *, key):
        keys = jax.random.split(key, 3)
        embed = eqx.nn.Embedding(TOKENS, WIDTH, key=keys[0])
        head = eqx.nn.Linear(WIDTH, TOKENS, key=keys[1])
        self.tied = eqx.nn.Shared((embed, head), lambda x: x[1].weight, lambda x: x[0].weight)
        self.norm, self.out = (
            eqx.nn.BatchNorm(WIDTH, "examples", momentum=momentum, mode=mode) for _ in range(2)
        )
        self.attention = eqx.nn.MultiheadAttention(2, WIDTH, key=keys[2])
        self.dropout = eqx.nn.Dropout(DROPPED)

    def __call__(self, x, state, key=None):
        embed, head = self.tied()
        h, state = self.norm(jax.vmap(embed)(x).T, state)
        h = h.T + self.dropout(self.attention(h.T, h.T, h.T), key=key)
        h, state = self.out(h.T, state)
        return head(h.mean(1)), state


class OfNNX:
    def wrap(self, subspace, momentum=0.9, **kw):
        return ss.nnx.wrap(NNX, subspace, momentum, rngs=nnx.Rngs(0), **kw)

    params = lambda self, model: nnx.state(model.network, nnx.Param)
    deploy = lambda self, *args, **kw: ss.nnx.deploy(*args, **kw)
    call = lambda self, model: model(X)

    def train(self, model, steps):
        optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

        @nnx.jit
        def step(model, optimizer):
            loss_fn = lambda net: loss_of(net(X))
            loss = lambda model: ss.nnx.loss(model, model.rngs(), loss_fn)
            value, grads = nnx.value_and_grad(loss)(model)
            optimizer.update(model, grads)
            return value

        return model, [float(step(model, optimizer)) for _ in range(steps)]

    def logits(self, net, x, training=False):
        net = nnx.clone(net)
        net.set_attributes(deterministic=True, use_running_average=not training)
        return net(x)

    def saved(self, net, path):
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path / "net", nnx.state(net))
        new = NNX(rngs=nnx.Rngs(9))
        with ocp.StandardCheckpointer() as checkpointer:
            nnx.update(new, checkpointer.restore(path / "net", nnx.state(new)))
        return new


class OfLinen:
    def wrap(self, subspace, momentum=0.9, **kw):
        network = ss.linen.wrap(Linen(momentum), subspace, **kw)
        return network, network.init(KEY, X[:1], train=False)

    params = lambda self, model: model[1]["params"]
    call = lambda self, model: model[0].apply(model[1], X, train=False)

    def deploy(self, model, *args, **kw):
        return ss.linen.deploy(*model, *args, train=True, **kw)

    def train(self, model, steps):
        network, variables = model

        def loss_fn(params, key):
            given, rngs = {**variables, "params": params}, {"dropout": key}
            logits, new = network.apply(given, X, train=True, rngs=rngs, mutable="batch_stats")
            return loss_of(logits), new

        def loss(params, key):
            return ss.linen.loss(network, params, key, lambda params: loss_fn(params, key))

        params, values = descend(jax.value_and_grad(loss, has_aux=True), variables["params"], steps)
        return (network, {**variables, "params": params}), values

    def logits(self, variables, x, training=False):
        with nn.intercept_methods(ss.linen._without_dropout):
            logits = Linen().apply(variables, x, train=training, mutable=training and "batch_stats")
        return logits[0] if training else logits

    def saved(self, net, path):
        (path / "net").write_bytes(flax.serialization.to_bytes(net))
        new = Linen().init(KEY, X[:1], train=False)
        return flax.serialization.from_bytes(new, (path / "net").read_bytes())


class OfEquinox:
    mode = "batch"

    def wrap(self, subspace, momentum=0.9, **kw):
        make = eqx.nn.make_with_state(Equinox)
        return ss.equinox.wrap(make, subspace, momentum, self.mode, key=KEY, **kw)

    params = lambda self, model: eqx.filter(model[0], eqx.is_inexact_array)
    call = lambda self, model: model[0](X[0], model[1])

    def deploy(self, model, *args, **kw):
        return ss.equinox.deploy(model[0], *args, state=model[1], **kw)

    def train(self, model, steps):
        model, state = model

        def loss_fn(net, key):
            call = jax.vmap(net, in_axes=(0, None, 0), out_axes=(0, None), axis_name="examples")
            logits, new = call(X, state, jax.random.split(key, len(X)))
            return loss_of(logits), new

        def loss(model, key):
            return ss.equinox.loss(model, key, lambda net: loss_fn(net, key))

        model, values = descend(eqx.filter_value_and_grad(loss, has_aux=True), model, steps)
        return (model, state), values

    def logits(self, net, x, training=False):
        net, state = net
        batch_norms = lambda net: [net.norm.inference, net.out.inference]
        net = eqx.tree_at(batch_norms, net, [not training] * 2)
        call = jax.vmap(net, in_axes=(0, None), out_axes=(0, None), axis_name="examples")
        return call(x, jax.tree.map(lambda x: x, state))[0]

    def saved(self, net, path):
        eqx.tree_serialise_leaves(path / "net", net)
        new = eqx.nn.make_with_state(Equinox)(0.9, self.mode, key=KEY)
        return eqx.nn.inference_mode(eqx.tree_deserialise_leaves(path / "net", new))


class OfEquinoxAverages(OfEquinox):
    mode = "ema"


def descend(value_and_grad, model, steps):
    optimizer = optax.sgd(0.1, momentum=0.9)
    opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, opt_state, key):
        (value, _), grads = value_and_grad(model, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return value, eqx.apply_updates(model, updates), opt_state

    values = []
    for key in jax.random.split(KEY, steps):
        value, model, opt_state = step(model, opt_state, key)
        values.append(float(value))
    return model, values


LIBRARIES = [OfNNX(), OfLinen(), OfEquinox(), OfEquinoxAverages()]
of_each = pytest.mark.parametrize("of", LIBRARIES, ids=lambda of: type(of).__name__)


@of_each
def test_a_line_trains_is_deployed_and_saved(of, tmp_path):
    model, values = of.train(of.wrap(ss.layerwise(ss.line())), 40)
    assert np.mean(values[-5:]) < 0.8 * values[0]
    net = of.deploy(model, [(X, X[:, 0])])
    logits = of.logits(net, X)
    assert loss_of(logits) < 0.8 * np.log(TOKENS)
    chex.assert_trees_all_close(of.logits(of.saved(net, tmp_path), X), logits)


@of_each
@pytest.mark.parametrize("momentum", [0.0, 0.99])
def test_statistics_of_any_momentum_are_those_of_the_data_without_dropout(of, momentum):
    """Evaluated on the one batch, a network is what it was on it in training."""
    model = of.wrap(ss.line(), momentum)
    for net in (of.deploy(model, [X]), *of.deploy(model, [X], jnp.array([0.0, 0.7]))):
        chex.assert_trees_all_close(of.logits(net, X), of.logits(net, X, True), atol=2e-4)


@of_each
def test_many_points_are_each_alone_and_batches_have_any_form(of):
    model = of.wrap(ss.simplex(3))
    corner, middle = jnp.eye(3)[1], jnp.full(3, 1 / 3)
    nets = of.deploy(model, [X[:16], X[16:]], jnp.stack([corner, middle]))
    forms = [(X[:16], 0), {"label": 0, "image": np.asarray(X[16:])}]
    listed = [[X[:16]], (X[16:],)]
    for net, coords, batches in ((nets[0], corner, forms), (nets[1], None, iter(listed))):
        alone = of.deploy(model, batches, coords)
        chex.assert_trees_all_close(of.logits(net, X), of.logits(alone, X), atol=1e-4)
    named = of.deploy(model, [{"a": X, "b": X}], inputs=lambda batch: (batch["b"],))
    chex.assert_trees_all_close(of.logits(named, X), of.logits(of.deploy(model, [X]), X))
    for batches, error, said in (
        ([{"a": X, "b": X}], ValueError, "names a, b 0 are known .* `inputs="),
        ((X, X[:, 0]), TypeError, r"a tuple instead of batches; give it a list, as \[batch\]"),
        (X, TypeError, "instead of batches"),
        ([], ValueError, "0 examples"),
    ):
        with pytest.raises(error, match=said):
            of.deploy(model, batches)


@of_each
def test_a_stacked_model_that_is_called_says_so(of):
    with pytest.raises(TypeError, match="stack of 2 networks .* or the one that `deploy` returns"):
        of.call(of.wrap(ss.line()))


def test_other_mistakes_say_what_they_are():
    with pytest.raises(TypeError, match=r"wrap got a model; give its class, as wrap\(NNX, ...\)"):
        ss.nnx.wrap(NNX(rngs=nnx.Rngs(0)), ss.line(), rngs=nnx.Rngs(0))
    said = "has no endpoints; give what `wrap` returned"
    for module, given in ((ss.nnx, [NNX(rngs=nnx.Rngs(0))]), (ss.linen, [nn.Dense(4), {}])):
        for function, more in ((module.loss, [KEY, jnp.sum]), (module.deploy, [[X]])):
            with pytest.raises(TypeError, match=said):
                function(*given, *more)
    dense = ss.linen.wrap(nn.Dense(4), ss.line())
    params = ss.linen.deploy(dense, dense.init(KEY, jnp.ones((1, 3))))
    with pytest.raises(flax.errors.ScopeParamShapeError):
        dense.apply(params, jnp.ones((1, 5)))
    with pytest.raises(ValueError, match="batch norm and no state; pass `state=state`"):
        ss.equinox.deploy(OfEquinox().wrap(ss.line())[0], [X])


@of_each
def test_what_does_not_span_the_subspace_is_shared_and_trains(of):
    floating = ss.partition.is_floating
    spans = lambda path, leaf: floating(path, leaf) and not re.search("Embed|tied", str(path))
    if isinstance(of, OfNNX):
        spans = nnx.All(nnx.Param, nnx.Not(nnx.PathContains("embed")))
    model = of.wrap(ss.line(), spans=spans)

    def embedding(model):
        return next(x for x in jax.tree.leaves(of.params(model)) if x.shape == (TOKENS, WIDTH))

    before = np.array(embedding(model))
    assert np.abs(embedding(of.train(model, 2)[0]) - before).max() > 1e-3
