"""The training step against loops by hand.

Which points a step has sampled is read off a *probe*, a parameter without gradient whose value is
`eye(n)` at the endpoints and thus the mixing weights at a point.
"""

import dataclasses

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
    cosine_penalty,
    freeze,
    layerwise,
    line,
    make_train_step,
    simplex,
)
from subspace_jax.averaging import average_of, ema

BATCH = 6


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


def sampled_weights(metrics, n, num_chunks=1):
    return np.array([[metrics[f"weight {c} {i}"] for i in range(n)] for c in range(num_chunks)])


@pytest.mark.parametrize(
    ("subspace", "num_samples"),
    [(line(), 1), (bezier(2), 2), (simplex(3), 3)],
    ids=["line", "curve", "simplex"],
)
def test_training_is_sample_gradient_update(subspace, num_samples):
    n = subspace.num_endpoints
    optimizer = optax.sgd(0.1, momentum=0.9)
    penalty = lambda endpoints, key: 0.3 * jnp.mean(endpoints["kernel"] ** 4)
    loss_fn = make_loss_fn(num_samples)
    step = jax.jit(
        make_train_step(subspace, loss_fn, optimizer, penalty=penalty, num_samples=num_samples)
    )
    state = TrainState.create(make_endpoints(0, n), optimizer)
    endpoints, opt_state, key = state.endpoints, state.opt_state, jax.random.key(0)
    all_weights = []
    for i in range(3):
        batch = make_batch(i, num_samples)
        state, metrics = step(state, key, batch)
        weights = sampled_weights(metrics, n, num_samples)
        all_weights += weights.tolist()

        def loss(endpoints, weights=weights, batch=batch):
            size, total = BATCH // num_samples, 0.0
            for s, w in enumerate(weights):
                params = jax.tree.map(lambda x, w=w: jnp.tensordot(w, x, 1), endpoints)
                chunk = jax.tree.map(lambda x, s=s: x[s * size : (s + 1) * size], batch)
                total += regression(params, chunk) / num_samples
            return total

        np.testing.assert_allclose(metrics["loss"], loss(endpoints), rtol=1e-5)
        np.testing.assert_allclose(metrics["penalty"], penalty(endpoints, None), rtol=1e-5)
        assert metrics["mean_chunk"] == (num_samples - 1) / 2
        gradient = jax.grad(lambda e, loss=loss: loss(e) + penalty(e, None))(endpoints)
        updates, opt_state = optimizer.update(gradient, opt_state)
        endpoints = optax.apply_updates(endpoints, updates)
        chex.assert_trees_all_close(state.endpoints, endpoints, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(state.opt_state, opt_state, rtol=1e-4, atol=1e-5)
    assert state.step == 3
    assert len(np.unique(all_weights, axis=0)) == 3 * num_samples


def test_a_step_by_formula():
    """One step of a linear regression with a cosine penalty, in float64 NumPy."""
    alpha, lr, beta = 0.3, 0.1, 2.0
    subspace = dataclasses.replace(line(), draw=lambda key: jnp.float32(alpha))
    optimizer = optax.sgd(lr)
    penalty = lambda endpoints, key: beta * cosine_penalty(endpoints, key)
    loss_fn = lambda params, key, batch: (jnp.mean((batch[0] @ params - batch[1]) ** 2), {})
    endpoints, batch = normal(0, 2, 3, 2), (normal(1, BATCH, 3), normal(2, BATCH, 2))
    step = make_train_step(subspace, loss_fn, optimizer, penalty=penalty)
    state = TrainState.create(jnp.asarray(endpoints), optimizer)
    state, metrics = step(state, jax.random.key(0), device(batch))

    a, b, x, y = (z.astype(np.float64) for z in (*endpoints, *batch))
    error = x @ ((1 - alpha) * a + alpha * b) - y
    to_point = 2 * x.T @ error / error.size
    ab, aa, bb = np.sum(a * b), np.sum(a * a), np.sum(b * b)
    to_a = (1 - alpha) * to_point + beta * 2 * ab / (aa * bb) * (b - ab / aa * a)
    to_b = alpha * to_point + beta * 2 * ab / (aa * bb) * (a - ab / bb * b)
    np.testing.assert_allclose(metrics["loss"], np.mean(error**2), rtol=1e-5)
    np.testing.assert_allclose(metrics["penalty"], beta * ab**2 / (aa * bb), rtol=1e-4)
    expected = np.stack([a - lr * to_a, b - lr * to_b])
    np.testing.assert_allclose(state.endpoints, expected, rtol=1e-4, atol=1e-5)


def test_a_single_endpoint_is_ordinary_training():
    optimizer = optax.chain(
        optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9, nesterov=True)
    )
    network = make_network(0)
    opt_state = optimizer.init(network)
    state = TrainState.create(jax.tree.map(lambda x: x[None], network), optimizer)
    step = jax.jit(make_train_step(simplex(1), make_loss_fn(), optimizer))
    for seed in range(3):
        batch = make_batch(seed)
        state, _ = step(state, jax.random.key(seed), batch)
        gradient = jax.grad(regression)(network, batch)
        updates, opt_state = optimizer.update(gradient, opt_state, network)
        network = optax.apply_updates(network, updates)
    chex.assert_trees_all_close(simplex(1).midpoint(state.endpoints), network, rtol=1e-5)


@pytest.mark.parametrize(
    "subspace", [line(), layerwise(line()), simplex(3)], ids=["line", "layerwise", "simplex"]
)
def test_the_midpoint_moves_like_one_network_of_matched_hyperparameters(subspace):
    """Where gradients do not depend on the point, n endpoints with (lr, wd) and one network with

    (lr / n, n * wd) move alike: the mixing weights of a point sum to one, so that the mean of the
    endpoints' gradients is 1/n of the point's, while decay acts on every endpoint in full.
    """
    n, lr, wd = subspace.num_endpoints, 0.2, 0.05

    def linear(params, key, batch):
        return sum(jnp.vdot(params[name], batch[name].mean(0)) for name in params), {}

    def train(subspace, endpoints, lr, wd):
        optimizer = optax.chain(optax.add_decayed_weights(wd), optax.sgd(lr, momentum=0.9))
        step = jax.jit(make_train_step(subspace, linear, optimizer))
        state = TrainState.create(endpoints, optimizer)
        for seed in range(5):
            state, _ = step(state, jax.random.key(0), make_network(seed, BATCH))
        return subspace.midpoint(state.endpoints)

    endpoints = make_network(10, n)
    matched = jax.tree.map(lambda x: x[None], subspace.midpoint(endpoints))
    chex.assert_trees_all_close(
        train(subspace, endpoints, lr, wd),
        train(simplex(1), matched, lr / n, n * wd),
        rtol=1e-4,
        atol=1e-5,
    )


def test_randomness_is_a_function_of_key_and_step():
    optimizer = optax.sgd(0.1)
    penalty = lambda endpoints, key: jax.random.uniform(key)
    step = jax.jit(
        make_train_step(line(), make_loss_fn(2), optimizer, penalty=penalty, num_samples=2)
    )
    start, batch = TrainState.create(make_endpoints(0, 2), optimizer), make_batch(0, 2)
    names = ["penalty", "noise 0", "noise 1", "weight 0 1", "weight 1 1"]

    def randomness(state, seed):
        state, metrics = step(state, jax.random.key(seed), batch)
        return state, [float(metrics[name]) for name in names]

    second, first_draws = randomness(start, 0)
    _, second_draws = randomness(second, 0)
    _, other_draws = randomness(start, 1)
    assert len({*first_draws, *second_draws, *other_draws}) == 3 * len(names)
    assert randomness(start, 0)[1] == first_draws
    elsewhere = TrainState.create(make_endpoints(5, 2), optimizer)
    assert randomness(elsewhere, 0)[1] == first_draws
    assert randomness(elsewhere._replace(step=second.step), 0)[1] == second_draws


def test_without_a_penalty_the_metrics_say_zero():
    optimizer = optax.sgd(0.1)
    state = TrainState.create(make_endpoints(0, 2), optimizer)
    step = make_train_step(line(), make_loss_fn(), optimizer)
    _, metrics = step(state, jax.random.key(0), make_batch(0))
    assert metrics["penalty"] == 0
    assert set(metrics) >= {"loss", "penalty", "mean_chunk"}
    chex.assert_rank(list(metrics.values()), 0)


def test_one_trace_for_all_steps_with_a_donated_state():
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), ema(0.9))
    train_step = make_train_step(
        line(), make_loss_fn(2), optimizer, penalty=cosine_penalty, num_samples=2
    )
    step = jax.jit(chex.assert_max_traces(train_step, n=1), donate_argnums=0)
    state = TrainState.create(make_endpoints(0, 2), optimizer)
    for seed in range(3):
        state, metrics = step(state, jax.random.key(seed), make_batch(seed, 2))
    chex.assert_tree_all_finite((state, metrics))
    assert state.step.dtype == jnp.int32


def test_steps_run_in_a_scan():
    optimizer = optax.sgd(0.1)
    train_step = make_train_step(line(), make_loss_fn(), optimizer)
    key, batch = jax.random.key(0), make_batch(0)
    start = TrainState.create(make_endpoints(0, 2), optimizer)
    body = lambda state, _: train_step(state, key, batch)
    scanned, history = jax.lax.scan(body, start, length=3)
    state, step = start, jax.jit(train_step)
    for i in range(3):
        state, metrics = step(state, key, batch)
        np.testing.assert_allclose(history["loss"][i], metrics["loss"], rtol=1e-5)
    chex.assert_trees_all_close(scanned, state, rtol=1e-5, atol=1e-6)


def test_training_lowers_the_loss_along_the_whole_line():
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(line(), make_loss_fn(), optimizer, penalty=cosine_penalty))
    start = TrainState.create(make_endpoints(0, 2), optimizer)
    state, batch = start, make_batch(0)
    for _ in range(100):
        state, _ = step(state, jax.random.key(0), batch)
    for alpha in (0.0, 0.5, 1.0):
        before = line().apply(regression, start.endpoints, alpha, batch)
        assert line().apply(regression, state.endpoints, alpha, batch) < before


@pytest.mark.parametrize("num_samples", [0, -1])
def test_a_step_without_samples_is_refused(num_samples):
    with pytest.raises(ValueError, match=f"num_samples is {num_samples}; use at least 1 sample"):
        make_train_step(line(), make_loss_fn(), optax.sgd(0.1), num_samples=num_samples)


def test_batches_that_can_not_be_split_evenly_are_refused():
    optimizer = optax.sgd(0.1)
    step = jax.jit(make_train_step(line(), make_loss_fn(), optimizer, num_samples=4))
    state = TrainState.create(make_endpoints(0, 2), optimizer)
    message = "batch of 6 examples can't be split into 4 equal chunks; .* divisor"
    with pytest.raises(ValueError, match=message):
        step(state, jax.random.key(0), make_batch(0))


@pytest.mark.parametrize("frozen", [(), (1,), (0, 2), (0, 1, 2)])
def test_frozen_endpoints_stay_and_the_others_train_as_before(frozen):
    inner = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))
    optimizer = optax.chain(inner, freeze(frozen), ema(0.5))
    start = make_endpoints(0, 3)

    def train(optimizer, num_steps):
        step = jax.jit(make_train_step(simplex(3), make_loss_fn(), optimizer))
        state = TrainState.create(start, optimizer)
        for seed in range(num_steps):
            state, _ = step(state, jax.random.key(0), make_batch(seed))
        return state

    state = train(optimizer, 3)
    pick = lambda endpoints, chosen: jax.tree.map(lambda x: x[jnp.array(chosen, int)], endpoints)
    moving = [i for i in range(3) if i not in frozen]
    for endpoints in (state.endpoints, average_of(state.opt_state)):
        chex.assert_trees_all_equal(pick(endpoints, frozen), pick(start, frozen))
        assert all(np.all(endpoints["bias"][i] != start["bias"][i]) for i in moving)
    once = train(optimizer, 1).endpoints, train(inner, 1).endpoints
    chex.assert_trees_all_close(*(pick(e, moving) for e in once), rtol=1e-6)


@pytest.mark.parametrize("frozen", [(2,), (-1,), (0, 5)])
def test_endpoints_that_do_not_exist_can_not_be_frozen(frozen):
    link, endpoints = freeze(frozen), make_network(0, 2)
    with pytest.raises(ValueError, match="frozen but the stack has 2; use numbers from 0 to 1"):
        link.update(endpoints, link.init(endpoints))
