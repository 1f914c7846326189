"""The training step against loops by hand.

Which points a step has sampled is read off a *probe*, a parameter without gradient whose value is
`eye(n)` at the endpoints and thus the mixing weights at a point.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stacks import device, normal

from subspace_jax import (
    TrainState,
    bezier,
    freeze,
    line,
    make_train_step,
    simplex,
)
from subspace_jax.averaging import average_of, ema

BATCH = 6
KEY = jax.random.key(0)
SGD = optax.sgd(0.1)
MOMENTUM = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True))


def make_network(seed, *leading):
    return device({"kernel": normal(seed, *leading, 3, 2), "bias": normal(seed + 1, *leading, 2)})


def make_endpoints(seed, n):
    return make_network(seed, n) | {"probe": jnp.eye(n)}


def make_batch(seed, num_chunks=1):
    x, y = normal(seed, BATCH, 3), normal(seed + 1, BATCH, 2)
    return device({"x": x, "y": y, "chunk": np.repeat(np.arange(num_chunks), BATCH // num_chunks)})


def regression(params, batch):
    error = batch["x"] @ params["kernel"] + params["bias"][None] - batch["y"]
    return jnp.mean(error**2)


def make_loss_fn(num_chunks=1):
    """A regression whose metrics are the mixing weights and a random number of every chunk."""

    def loss_fn(params, key, batch):
        metrics = {"mean_chunk": batch["chunk"].astype(jnp.float32).mean()}
        for chunk in range(num_chunks):
            share = num_chunks * (batch["chunk"][0] == chunk).astype(jnp.float32)
            metrics[f"noise {chunk}"] = share * jax.random.uniform(key)
            for i, weight in enumerate(params.get("probe", [])):
                metrics[f"weight {chunk} {i}"] = share * weight
        return regression(params, batch), metrics

    return loss_fn


def train(subspace, optimizer, endpoints, batches, loss_fn=None, key=KEY, **options):
    """States and metrics of steps on batches, by one program that donates its state."""
    step = make_train_step(subspace, loss_fn or make_loss_fn(), optimizer, **options)
    step = jax.jit(step, donate_argnums=0)
    state = TrainState.create(jax.tree.map(jnp.copy, endpoints), optimizer)
    history = []
    for batch in batches:
        state, metrics = step(state, key, batch)
        history.append((jax.device_get(state), metrics))
    assert step._cache_size() == 1
    return history


@pytest.mark.parametrize(
    ("subspace", "num_samples"),
    [(line(), 1), (bezier(2), 2), (simplex(3), 3)],
    ids=["line", "curve", "simplex"],
)
def test_training_is_sample_gradient_update(subspace, num_samples):
    n, size, optimizer = subspace.num_endpoints, BATCH // num_samples, optax.sgd(0.1, momentum=0.9)
    penalty = lambda endpoints, key: 0.3 * jnp.mean(endpoints["kernel"] ** 4)

    def loss(endpoints, weights, batch):
        total = 0.0
        for s, w in enumerate(weights):
            params = jax.tree.map(lambda x, w=w: jnp.tensordot(w, x, 1), endpoints)
            chunk = jax.tree.map(lambda x, s=s: x[s * size : (s + 1) * size], batch)
            total += regression(params, chunk) / num_samples
        return total, penalty(endpoints, None)

    gradient_of = jax.jit(jax.grad(lambda *arguments: sum(loss(*arguments))))
    batches = [make_batch(i, num_samples) for i in range(3)]
    endpoints = make_endpoints(0, n)
    opt_state, all_weights = optimizer.init(endpoints), []
    history = train(
        *(subspace, optimizer, endpoints, batches, make_loss_fn(num_samples)),
        penalty=penalty,
        num_samples=num_samples,
    )
    for batch, (state, metrics) in zip(batches, history, strict=True):
        weights = [[metrics[f"weight {s} {i}"] for i in range(n)] for s in range(num_samples)]
        weights = jnp.array(weights)
        all_weights += weights.tolist()
        expected = loss(endpoints, weights, batch)
        np.testing.assert_allclose((metrics["loss"], metrics["penalty"]), expected, rtol=1e-6)
        assert metrics["mean_chunk"] == (num_samples - 1) / 2
        gradient = gradient_of(endpoints, weights, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, endpoints)
        endpoints = optax.apply_updates(endpoints, updates)
        chex.assert_trees_all_close(state.endpoints, endpoints, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(state.opt_state, opt_state, rtol=1e-6, atol=1e-6)
    assert (state.step, state.step.dtype) == (3, jnp.int32)
    assert len(np.unique(all_weights, axis=0)) == 3 * num_samples


def test_randomness_is_a_function_of_key_and_step():
    penalty = lambda endpoints, key: jax.random.uniform(key)
    step = jax.jit(make_train_step(line(), make_loss_fn(2), SGD, penalty=penalty, num_samples=2))
    start, batch = TrainState.create(make_endpoints(0, 2), SGD), make_batch(0, 2)
    names = ["penalty", "noise 0", "noise 1", "weight 0 1", "weight 1 1"]

    def randomness(state, seed):
        state, metrics = step(state, jax.random.key(seed), batch)
        return state, [float(metrics[name]) for name in names]

    second, first_draws = randomness(start, 0)
    _, second_draws = randomness(second, 0)
    _, other_draws = randomness(start, 1)
    assert len({*first_draws, *second_draws, *other_draws}) == 3 * len(names)
    elsewhere = TrainState.create(make_endpoints(5, 2), SGD)
    assert randomness(elsewhere, 0)[1] == first_draws
    assert randomness(elsewhere._replace(step=second.step), 0)[1] == second_draws


@pytest.mark.parametrize("frozen", [(), (0, 2)])
def test_frozen_endpoints_stay_and_the_others_train_as_before(frozen):
    start, batches = make_endpoints(0, 3), [make_batch(seed) for seed in range(3)]
    link = optax.chain(MOMENTUM, freeze(frozen), ema(0.5))
    history = train(simplex(3), link, start, batches)
    pick = lambda endpoints, chosen: jax.tree.map(lambda x: x[jnp.array(chosen, int)], endpoints)
    moving = [i for i in range(3) if i not in frozen]
    assert history[-1][1]["penalty"] == 0  # there is none
    last, average = history[-1][0].endpoints, average_of(history[-1][0].opt_state)
    chex.assert_trees_all_equal(pick(last, frozen), pick(start, frozen))
    chex.assert_trees_all_close(pick(average, frozen), pick(start, frozen), rtol=1e-6)
    for endpoints in (last, average):
        assert all(np.all(endpoints["bias"][i] != start["bias"][i]) for i in moving)
    once = history[0][0].endpoints, train(simplex(3), MOMENTUM, start, batches[:1])[0][0].endpoints
    chex.assert_trees_all_close(*(pick(e, moving) for e in once), rtol=1e-6)
