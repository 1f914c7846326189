"""Averages of weights against loops by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from stacks import device, normal

from subspace_jax import line
from subspace_jax.averaging import average_of, ema

CHAINS = {
    "momentum": (lambda: optax.sgd(0.1, momentum=0.9), 0.5),
    "schedule": (
        lambda: optax.chain(
            optax.add_decayed_weights(0.01), optax.sgd(optax.cosine_decay_schedule(0.3, 5))
        ),
        0.9,
    ),
    "adam": (lambda: optax.adam(0.1), 0.99),
}


def make_endpoints(seed):
    return device({"kernel": normal(seed, 2, 3, 4), "bias": normal(seed + 1, 2, 4)})


def trajectory(optimizer, params, num_steps=5):
    """The parameters after every step, the first ones included, and the state after every step."""

    @jax.jit
    @jax.numpy_dtype_promotion("standard")  # Optax multiplies its integer counts and floats
    def step(params, opt_state, seed):
        gradient = jax.tree.map(lambda x: jnp.sin(x + seed), params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    steps = [(params, optimizer.init(params))]
    for seed in range(num_steps):
        steps.append(step(*steps[-1], jnp.float32(seed)))
    return zip(*steps, strict=True)


@pytest.mark.parametrize(("make", "decay"), CHAINS.values(), ids=CHAINS)
def test_ema_is_the_average_of_the_parameters_and_changes_no_update(make, decay):
    params = make_endpoints(0)
    without, _ = trajectory(make(), params)
    networks, states = trajectory(optax.chain(make(), ema(decay)), params)
    chex.assert_trees_all_close(networks, without, rtol=1e-6)
    average = params
    for network, state in zip(networks, states, strict=True):
        average = jax.tree.map(lambda a, x: decay * a + (1 - decay) * x, average, network)
        chex.assert_trees_all_close(average_of(state), average, rtol=1e-5, atol=1e-6)


def test_ema_without_decay_is_the_current_network():
    networks, states = trajectory(optax.chain(optax.sgd(0.1), ema(0.0)), make_endpoints(0))
    for network, state in zip(networks, states, strict=True):
        chex.assert_trees_all_equal(average_of(state), network)


def test_ema_of_the_endpoints_has_the_ema_of_the_midpoints_as_its_midpoint():
    endpoints, states = trajectory(optax.chain(optax.sgd(0.1), ema(0.5)), make_endpoints(0))
    average = line().midpoint(endpoints[0])
    for e in endpoints:
        average = jax.tree.map(lambda a, x: 0.5 * a + 0.5 * x, average, line().midpoint(e))
    midpoint = line().midpoint(average_of(states[-1]))
    chex.assert_trees_all_close(midpoint, average, rtol=1e-5, atol=1e-6)


def test_ema_keeps_dtypes():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_endpoints(0))
    optimizer = optax.chain(optax.sgd(0.1), ema(0.5))
    _, state = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_dtypes(average_of(state), params)


def test_state_and_parameters_may_be_donated_together():
    optimizer = optax.chain(optax.sgd(0.1), ema(0.5))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state):
        updates, opt_state = optimizer.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = make_endpoints(0)
    opt_state = optimizer.init(params)
    for _ in range(2):
        params, opt_state = step(params, opt_state)
    chex.assert_tree_all_finite(average_of(opt_state))


def test_average_of_finds_no_average_where_there_is_none():
    # Neither parameters of that name nor the average of *updates* count.
    params = {"ema": jnp.ones(2)}
    without = optax.chain(optax.ema(0.9), optax.adam(0.1))
    assert average_of(without.init(params)) is None
    assert average_of(without.init(params), default=params) is params
    state = optax.chain(without, ema(0.5)).init(params)
    chex.assert_trees_all_equal(average_of(state, default="none"), params)


def test_average_of_takes_the_state_of_ema_alone():
    params = make_endpoints(0)
    chex.assert_trees_all_equal(average_of(ema(0.5).init(params)), params)


def test_ema_refuses_an_update_without_parameters():
    optimizer = ema(0.5)
    with pytest.raises(ValueError, match="ema needs the parameters; pass them to optimizer.update"):
        optimizer.update(np.ones(2), optimizer.init(jnp.ones(2)))
