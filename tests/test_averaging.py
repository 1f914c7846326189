"""Averages of weights against loops by hand."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import arbitrary, device, flat, normal, stacks

from subspace_jax.averaging import average_of, ema, greedy_soup, snapshots, snapshots_of, swa
from subspace_jax.contrib.swag import swag, swag_sample

CHAINS = {
    "no decay": (lambda: optax.sgd(0.1), 0.0),
    "momentum": (lambda: optax.sgd(0.1, momentum=0.9), 0.5),
    "schedule": (lambda: optax.sgd(optax.cosine_decay_schedule(0.3, 5)), 0.9),
    "adam": (lambda: optax.adam(0.1), 0.99),
    "a decay that float32 rounds to 1": (lambda: optax.sgd(0.1), 1 - 1e-8),
}
swag_of_two = functools.partial(swag, rank=2)
LINKS = {
    "ema": ema(0.5),
    "swa": swa(1, 1),
    "swag": swag_of_two(1, 1),
    "snapshots": snapshots(1, 1, num_models=2),
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


def visit(link, networks):
    """The state of a link after training has walked through the networks `[T, ...]`, jitted."""

    def step(carry, network):
        params, state = carry
        updates = jax.tree.map(jnp.subtract, network, params)
        passed, state = link.update(updates, state, params)
        assert passed is updates
        return (network, state), None

    first, rest = (jax.tree.map(lambda x, at=at: x[at], networks) for at in (0, slice(1, None)))
    return jax.jit(lambda *start: jax.lax.scan(step, start, rest)[0][1])(first, link.init(first))


@pytest.mark.parametrize("name", LINKS)
def test_a_state_has_no_array_twice(name):
    params = make_endpoints(0)  # of which one could be donated once only
    leaves = jax.tree.leaves(LINKS[name].update(params, LINKS[name].init(params), params)[1])
    assert len({leaf.unsafe_buffer_pointer() for leaf in leaves}) == len(leaves)


@pytest.mark.parametrize(("make", "decay"), CHAINS.values(), ids=CHAINS)
def test_ema_is_the_average_of_the_parameters_and_changes_no_update(make, decay):
    params = make_endpoints(0)
    without, _ = trajectory(make(), params)
    networks, states = trajectory(optax.chain(make(), ema(decay)), params)
    chex.assert_trees_all_close(networks, without, rtol=1e-6)
    for t, state in enumerate(states):
        seen = networks[1 : t + 1] or networks[:1]  # the one before training is forgotten
        weights = decay ** np.arange(len(seen))[::-1]
        average = jax.tree.map(lambda *x, w=weights: np.average(x, 0, w), *seen)
        chex.assert_trees_all_close(average_of(state), average, rtol=1e-6, atol=1e-6)


# All of them


def test_averages_compose_and_the_first_counts():
    links = [ema(0.5), swa(1, 2), swag_of_two(1, 2), ema(0.9)]
    params = make_endpoints(0)
    networks, states = trajectory(optax.chain(optax.sgd(0.1), *links), params)
    _, *averages = states[-1]
    chex.assert_trees_all_equal(average_of(states[-1]), averages[0].mean)
    mean = jax.tree.map(lambda *x: sum(x) / 3, *networks[1::2])
    for rest in (averages[1:], averages[2:]):
        chex.assert_trees_all_close(average_of(rest), mean, rtol=1e-5, atol=1e-6)
    first, other = (flat(swag_sample(states[-1], jax.random.key(seed))) for seed in (0, 1))
    assert not np.allclose(first, other)
    # Neither parameters of that name nor the average of updates nor snapshots count.
    without = optax.chain(optax.ema(0.9), optax.adam(0.1), LINKS["snapshots"])
    assert average_of(without.init({"ema": jnp.ones(2)}), default="none") == "none"


# Stochastic weight averaging


@pytest.mark.parametrize("link", [swa, swag_of_two], ids=["swa", "swag"])
@arbitrary
@given(networks=stacks(6), start=st.integers(0, 7), every=st.integers(1, 3))
def test_swa_is_the_plain_mean_of_the_visited_networks(link, networks, start, every):
    visited = list(range(start, 6, every))
    state = visit(link(start, every), device(networks))
    assert (state.step, state.count) == (5, len(visited))
    mean = jax.tree.map(lambda x: x[visited or [5]].mean(axis=0, dtype=np.float64), networks)
    chex.assert_trees_all_close(average_of(state), mean, rtol=1e-6, atol=1e-6)


# SWAG


@pytest.mark.parametrize(("start", "every", "rank"), [(0, 1, 3), (1, 2, 2), (3, 4, 5)])
def test_swag_holds_the_moments_of_a_loop_by_hand(start, every, rank):
    networks = device({"kernel": normal(0, 12, 2, 3), "bias": normal(1, 12, 2)})
    state = visit(swag(start, every, rank), networks)
    visited = flat(networks, leading=1)[start::every]
    deviations = np.zeros((rank, visited.shape[1]))
    for i in range(len(visited)):
        deviations[i % rank] = visited[i] - visited[: i + 1].mean(axis=0)
    np.testing.assert_allclose(flat(state.mean), visited.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(state.variance), visited.var(axis=0), rtol=1e-5)
    np.testing.assert_allclose(flat(state.deviations, leading=1), deviations, rtol=1e-5, atol=1e-6)


def sample_many(state, num=20_000, **kwargs):
    keys = jax.random.split(jax.random.key(0), num)
    return flat(jax.vmap(lambda key: swag_sample(state, key, **kwargs))(keys), leading=1)


@pytest.mark.parametrize(("num_networks", "rank"), [(9, 4), (3, 6)], ids=["full", "part-filled"])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_samples_have_the_covariance_of_equation_1(num_networks, rank, scale):
    networks = {"kernel": normal(0, num_networks, 2, 2), "bias": 3 * normal(1, num_networks, 2)}
    state = visit(swag(0, 1, rank), device(networks))
    columns = flat(state.deviations, leading=1)
    held = min(num_networks, rank)
    expected = scale * (np.diag(flat(state.variance)) + columns.T @ columns / (held - 1))
    samples = sample_many(state, scale=scale)
    spread = np.sqrt(np.diag(expected))
    standard = lambda covariance: covariance / np.outer(spread, spread)
    np.testing.assert_allclose(standard(np.cov(samples.T)), standard(expected), atol=0.04)
    assert np.all(np.abs(samples.mean(axis=0) - flat(state.mean)) < 0.04 * spread)


def test_the_variance_of_small_steps_far_from_zero_is_not_lost():
    networks = 1000 + 0.01 * normal(0, 50, 3)
    state = visit(swag(0, 1, rank=2), jnp.asarray(networks))
    np.testing.assert_allclose(state.variance, networks.astype(np.float64).var(axis=0), rtol=0.05)


# Snapshots


@arbitrary
@given(stacks(6), st.integers(0, 7), st.integers(1, 3), st.sampled_from([1, 3]))
def test_snapshots_are_the_first_visited_networks(networks, start, every, num_models):
    visited = list(range(start, 6, every))[:num_models]
    state = visit(snapshots(start, every, num_models), device(networks))
    assert (state.step, state.count) == (5, len(visited))
    slots = visited + [0] * (num_models - len(visited))  # what is empty holds the first network
    expected = jax.tree.map(lambda x: x[np.array(slots)], networks)
    chex.assert_trees_all_close(snapshots_of(state), expected, rtol=1e-6, atol=1e-6)


# Soups


@pytest.mark.parametrize("seed", range(5))
def test_a_greedy_soup_is_that_of_a_loop_by_hand(seed):
    """Networks are numbers, and their score says how close to the optimum they are."""
    networks, optimum, tried = normal(seed, 6), 0.1, []
    score_fn = lambda weights: tried.append(weights) or -abs(float(weights @ networks) - optimum)
    weights = greedy_soup(score_fn, -abs(networks - optimum))

    distance = lambda chosen: abs(np.mean(networks[chosen], dtype=np.float32) - optimum)
    order = sorted(range(6), key=lambda i: distance([i]))
    chosen = order[:1]
    for i in order[1:]:
        if distance([*chosen, i]) <= distance(chosen) + 1e-6:
            chosen.append(i)
    expected = [1 / len(chosen) if i in chosen else 0 for i in range(6)]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == jnp.result_type(float)
    assert len(tried) == 5  # once for each network but the best


def test_a_soup_takes_what_does_no_harm_and_leaves_what_does():
    for score, alone, expected in [
        (0.5, [0.5, 0.5, 0.5], [1 / 3] * 3),
        (0.4, [0.3, 0.5, 0.2], [0, 1, 0]),
        (np.nan, [np.nan, 0.5, 0.2], [0, 1, 0]),
        (None, [0.3], [1]),
    ]:
        found = greedy_soup(lambda weights, score=score: score, alone)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
