"""Sharpness-aware steps against closed forms on a quadratic."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stacks import device, flat, normal

from subspace_jax import TrainState, line, make_train_step
from subspace_jax.averaging import average_of, ema
from subspace_jax.contrib.sharpness import sam

LR, RHO, ETA = 0.1, 0.3, 0.01
FACTOR = normal(0, 5, 5)
MATRIX = FACTOR @ FACTOR.T / 5
PARAMS = {"a": normal(1, 2), "b": normal(2, 3)}
kinds = pytest.mark.parametrize("adaptive", [False, True], ids=["sam", "asam"])


def loss(params):
    """1/2 w^T A w, of all leaves side by side."""
    w = jnp.concatenate(jax.tree.leaves(params))
    return 0.5 * jnp.vdot(w, jnp.asarray(MATRIX) @ w)


def step(optimizer, params, state, function=loss):
    gradient = jax.grad(function)
    grads = gradient(params)
    updates, state = optimizer.update(grads, state, params, grad_fn=lambda p, i: gradient(p))
    return optax.apply_updates(params, updates), state


def perturbed(w, gradient, rho, adaptive):
    """The worst point nearby, float64."""
    size = np.abs(w) + ETA if adaptive else np.ones_like(w)
    return w + rho * size**2 * gradient / np.linalg.norm(size * gradient)


@kinds
@pytest.mark.parametrize("make", [lambda: optax.sgd(0.1, momentum=0.9), lambda: optax.adam(0.1)])
def test_a_radius_of_zero_is_the_optimizer_itself(make, adaptive):
    around, plain = sam(make(), 0.0, adaptive=adaptive), make()
    params = other = device(PARAMS)
    state, other_state = around.init(params), plain.init(other)
    for _ in range(3):
        with jax.numpy_dtype_promotion("standard"):  # of the integer counts in Adam
            params, state = step(around, params, state)
            updates, other_state = plain.update(jax.grad(loss)(other), other_state, other)
        other = optax.apply_updates(other, updates)
    chex.assert_trees_all_equal(params, other)


@kinds
def test_where_the_gradient_is_zero_nothing_moves_in_any_precision(adaptive):
    optimizer = sam(optax.sgd(LR), jnp.float32(RHO), adaptive=adaptive)
    params = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.bfloat16), PARAMS)
    wide = lambda params: loss(jax.tree.map(lambda x: x.astype(jnp.float32), params))
    after, _ = step(optimizer, params, optimizer.init(params), wide)
    chex.assert_trees_all_equal(after, params, strict=True)


@kinds
@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_a_step_is_along_the_gradient_at_the_worst_point_and_decay_acts_on_weights(adaptive, decay):
    inner = optax.chain(optax.add_decayed_weights(decay), optax.sgd(LR))

    @jax.jit
    def move(params, rho):
        optimizer = optax.chain(sam(inner, rho, adaptive=adaptive), ema(0.5))
        return step(optimizer, params, optimizer.init(params))

    after, state = move(device(PARAMS), RHO)
    w, a = flat(PARAMS), MATRIX.astype(np.float64)
    expected = w - LR * (a @ perturbed(w, a @ w, RHO, adaptive) + decay * w)
    np.testing.assert_allclose(flat(after), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(flat(average_of(state)), expected, rtol=1e-6, atol=1e-6)


def test_a_training_step_takes_both_gradients_at_one_point_of_one_batch():
    """With the point, the batch and the random numbers of the step, from where the first one leads."""

    def loss_fn(params, key, batch):
        slope = batch[0] + jax.random.normal(key, (2,))
        return loss(params) + jnp.vdot(slope, params["a"]), {}

    penalty = lambda endpoints, key: jax.random.uniform(key) * jnp.sum(endpoints["b"] ** 2)
    batch, key = jnp.asarray(normal(5, 2, 2)), jax.random.key(0)

    def move(optimizer, endpoints):
        train_step = make_train_step(line(), loss_fn, optimizer, penalty=penalty, num_samples=2)
        state, metrics = train_step(TrainState.create(endpoints, optimizer), key, batch)
        return jax.tree.map(jnp.subtract, state.endpoints, endpoints), metrics

    endpoints = device({"a": normal(3, 2, 2), "b": normal(4, 2, 3)})
    ascent, metrics = move(optax.sgd(-1.0), endpoints)
    norm = optax.tree.norm(ascent)
    worst = jax.tree.map(lambda x, g: x + RHO * g / norm, endpoints, ascent)
    expected, _ = move(optax.sgd(LR), worst)
    actual, sam_metrics = move(sam(optax.sgd(LR), RHO), endpoints)
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(sam_metrics, metrics, rtol=1e-6)
