"""Low-rank deltas on a frozen base: exact mixtures of networks, in little memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stacks import network, normal

import subspace_jax as ss
from subspace_jax.contrib import lora

N = 3
BASE = {
    "conv": {"kernel": normal(0, 3, 3, 2, 4), "bias": normal(1, 4)},
    "dense": {"kernel": normal(2, 6, 5), "bias": normal(3, 5)},
    "steps": np.int32(7),
}
SUBSPACES = {"curve": ss.bezier(2), "layers": ss.layerwise(ss.simplex(3))}
every_subspace = pytest.mark.parametrize("subspace", SUBSPACES.values(), ids=SUBSPACES)


def drawn(subspace=None, seed=0, rank=2, **options):
    """Factors of every endpoint, none of which is zero; a number is that of a simplex's corners."""
    subspace = subspace or ss.simplex(N)
    options = {"b_std": 0.5} | options
    return subspace.init(jax.random.key(seed), lambda key: lora.init(key, BASE, rank, **options))


def merged(factors, scale=1.0):
    """The networks of a stack of factors, one by one."""
    each = (network(factors, i) for i in range(ss.tree.num_stacked(factors)))
    return [lora.merge(BASE, one, scale=scale) for one in each]


def kernels(tree):
    return {name: tree[name]["kernel"] for name in ("conv", "dense")}


def assert_networks_close(one, other, **tolerance):
    chex.assert_trees_all_equal_shapes_and_dtypes(one, other)
    chex.assert_trees_all_close(one, other, **{"rtol": 1e-5, "atol": 1e-5} | tolerance)


# Factors


def test_factors_part_a_kernel_before_its_axis_and_have_variance_one_over_rows():
    factors = lora.init(jax.random.key(0), jnp.zeros((8, 4, 3, 3)), rank=2, axis=1)
    assert jax.tree.map(jnp.shape, factors) == {"a": (8, 2), "b": (2, 36)}
    a = lora.init(jax.random.key(0), jnp.zeros((400, 100)), rank=100)["a"]
    np.testing.assert_allclose([a.mean(), a.std()], [0, 1 / 20], atol=1e-3)


# Merging


@every_subspace
def test_a_point_is_the_mixture_of_the_merged_networks(subspace):
    factors, key, scale = drawn(subspace), jax.random.key(1), 0.25
    spanned, (shared, *_) = zip(*map(ss.split, merged(factors, scale)), strict=True)
    sample = jax.jit(lambda base: lora.around(subspace, base, scale).sample(key, factors))
    assert_networks_close(sample(BASE), ss.combine(subspace.sample(key, ss.stack(spanned)), shared))
    midpoint = ss.combine(subspace.midpoint(ss.stack(spanned)), shared)
    assert_networks_close(lora.around(subspace, BASE, scale).midpoint(factors), midpoint)


def test_a_point_is_one_product_and_no_other_network():
    """Nothing in the program is as large as a second kernel."""
    base = jnp.zeros((64, 48))
    factors = jax.eval_shape(
        lambda key: ss.simplex(8).init(key, lambda key: lora.init(key, base, 1)), jax.random.key(0)
    )
    program = jax.make_jaxpr(lora.merge)(base, factors, jnp.ones(8) / 8).jaxpr
    sizes = [v.aval.size for equation in program.eqns for v in equation.outvars]
    assert max(sizes) == base.size
    assert sum(equation.primitive.name == "dot_general" for equation in program.eqns) == 1


# Training


def _loss(params, key, batch):
    return jnp.mean((jnp.tanh(batch @ params["dense"]["kernel"]) - 1) ** 2), {}


def test_endpoints_part_from_the_base_and_from_one_another():
    line, batch = ss.line(), jnp.asarray(normal(5, 8, 6))
    factors = drawn(line, b_std=0.0)
    assert lora.cosine_penalty(factors) == 0
    penalty = lambda factors, key: lora.cosine_penalty(factors, key)
    tuned, optimizer = lora.around(line, BASE), optax.sgd(0.5)
    step = jax.jit(ss.make_train_step(tuned, _loss, optimizer, penalty=penalty))
    state = ss.TrainState.create(factors, optimizer)
    for _ in range(2):
        state, metrics = step(state, jax.random.key(0), batch)
    first, second = (kernels(one)["dense"] for one in merged(state.endpoints))
    assert np.isfinite(metrics["penalty"])
    assert np.abs(first - BASE["dense"]["kernel"]).max() > 1e-3
    assert np.abs(first - second).max() > 1e-3


def _deltas(factors):
    zero = jax.tree.map(jnp.zeros_like, ss.split(BASE)[0])
    return jax.vmap(lambda factors: kernels(lora.merge(zero, factors)))(factors)


def test_penalty_and_gram_are_those_of_the_deltas():
    @jax.jit
    def both(factors, key):
        one = lambda f: (lora.gram(f), lora.cosine_penalty(f), lora.cosine_penalty(f, key))
        other = lambda f: (ss.gram(f), ss.cosine_penalty(f), ss.cosine_penalty(f, key))
        by_hand = lambda f: other(_deltas(f))
        return [(fn(factors), jax.jacrev(fn)(factors)) for fn in (one, by_hand)]

    for seed in range(3):
        assert_networks_close(*both(drawn(seed=seed), jax.random.key(seed)), rtol=1e-4, atol=1e-4)
