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
from stacks import arbitrary, device, normal, stacks

from subspace_jax import line, mix
from subspace_jax.averaging import (
    EmaState,
    SnapshotsState,
    SwaState,
    average_of,
    ema,
    greedy_soup,
    snapshots,
    snapshots_of,
    swa,
)
from subspace_jax.contrib.swag import SwagState, swag, swag_sample

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
AVERAGES = {
    "ema": lambda: ema(0.5),
    "swa": lambda: swa(1, 1),
    "swag": lambda: swag(1, 1, rank=2),
}
LINKS = AVERAGES | {"snapshots": lambda: snapshots(1, 1, num_models=2)}
every_average = pytest.mark.parametrize("link", AVERAGES.values(), ids=AVERAGES)
every_link = pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
VISITS = {
    "swa": swa,
    "swag": functools.partial(swag, rank=2),
    "snapshots": functools.partial(snapshots, num_models=2),
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
        _, state = link.update(updates, state, params)
        return (network, state), None

    @jax.jit
    def walk(networks):
        first = jax.tree.map(lambda x: x[0], networks)
        rest = jax.tree.map(lambda x: x[1:], networks)
        return jax.lax.scan(step, (first, link.init(first)), rest)[0][1]

    return walk(networks)


def flat(tree, leading=0):
    """All leaves side by side, float64: `[..., P]`."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(*x.shape[:leading], -1) for x in leaves], axis=leading)


# Exponential


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


def test_ema_of_the_endpoints_has_the_ema_of_the_midpoints_as_its_midpoint():
    endpoints, states = trajectory(optax.chain(optax.sgd(0.1), ema(0.5)), make_endpoints(0))
    average = line().midpoint(endpoints[0])
    for e in endpoints:
        average = jax.tree.map(lambda a, x: 0.5 * a + 0.5 * x, average, line().midpoint(e))
    midpoint = line().midpoint(average_of(states[-1]))
    chex.assert_trees_all_close(midpoint, average, rtol=1e-5, atol=1e-6)


# All of them


@every_link
def test_state_and_parameters_may_be_donated_together(link):
    optimizer = optax.chain(optax.sgd(0.1), link())

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state):
        updates, opt_state = optimizer.update(params, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    params = make_endpoints(0)
    opt_state = optimizer.init(params)
    for _ in range(2):
        params, opt_state = step(params, opt_state)
    chex.assert_tree_all_finite(opt_state)


@every_average
def test_average_of_finds_every_kind_of_average(link):
    params = make_endpoints(0)
    chex.assert_trees_all_equal(average_of(link().init(params)), params)
    state = optax.chain(optax.adam(0.1), link()).init(params)
    chex.assert_trees_all_equal(average_of(state, default="none"), params)


@every_link
def test_update_needs_the_parameters(link, request):
    name = request.node.callspec.id
    message = f"{name} needs the parameters; pass them to optimizer.update"
    with pytest.raises(ValueError, match=message):
        link().update(np.ones(2), link().init(jnp.ones(2)))


@every_link
def test_updates_pass_through_and_dtypes_stay(link):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), make_endpoints(0))
    updates, state = link().update(params, link().init(params), params)
    chex.assert_trees_all_equal(updates, params)
    kept = snapshots_of(state) if isinstance(state, SnapshotsState) else average_of(state)
    chex.assert_trees_all_equal_dtypes(kept, params)
    chex.assert_trees_all_equal_dtypes(state, link().init(params))


def test_averages_compose_and_the_first_counts():
    optimizer = optax.chain(
        optax.sgd(0.1, momentum=0.9), ema(0.5), swa(1, 2), swag(1, 2, rank=2), ema(0.9)
    )
    params = make_endpoints(0)
    networks, states = trajectory(optimizer, params)
    without, _ = trajectory(optax.sgd(0.1, momentum=0.9), params)
    chex.assert_trees_all_close(networks, without, rtol=1e-6)
    _, *averages = states[-1]
    assert [type(state) for state in averages] == [EmaState, SwaState, SwagState, EmaState]
    chex.assert_trees_all_equal(average_of(states[-1]), averages[0].ema)
    mean = jax.tree.map(lambda *x: sum(x) / 3, *networks[1::2])
    chex.assert_trees_all_close(average_of(averages[1:]), mean, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(average_of(averages[2:]), average_of(averages[1:]))


# Stochastic weight averaging


@pytest.mark.parametrize("link", [swa, functools.partial(swag, rank=2)], ids=["swa", "swag"])
@arbitrary
@given(networks=stacks(6), start=st.integers(0, 7), every=st.integers(1, 3))
def test_swa_is_the_plain_mean_of_the_visited_networks(link, networks, start, every):
    visited = list(range(start, 6, every))
    state = visit(link(start, every), device(networks))
    assert int(state.step) == 5
    assert int(state.count) == len(visited)
    mean = jax.tree.map(lambda x: x[visited or [5]].mean(axis=0, dtype=np.float64), networks)
    chex.assert_trees_all_close(average_of(state), mean, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [make for make, _ in CHAINS.values()], ids=CHAINS)
def test_swa_of_the_endpoints_has_the_swa_of_the_midpoints_as_its_midpoint(make):
    endpoints, states = trajectory(optax.chain(make(), swa(2, 1)), make_endpoints(0))
    midpoints = [line().midpoint(e) for e in endpoints[2:]]
    mean = jax.tree.map(lambda *x: sum(x) / len(x), *midpoints)
    midpoint = line().midpoint(average_of(states[-1]))
    chex.assert_trees_all_close(midpoint, mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("link", VISITS.values(), ids=VISITS)
def test_steps_out_of_range_are_refused(link):
    with pytest.raises(ValueError, match="start_step=-1 and every=1; use start_step >= 0"):
        link(-1, 1)
    with pytest.raises(ValueError, match="start_step=0 and every=0; use .* every >= 1"):
        link(0, 0)


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
    np.testing.assert_allclose(flat(state.deviations, leading=1), deviations, rtol=1e-4, atol=1e-6)


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
    np.testing.assert_allclose(
        np.cov(samples.T) / np.outer(spread, spread), expected / np.outer(spread, spread), atol=0.04
    )
    assert np.all(np.abs(samples.mean(axis=0) - flat(state.mean)) < 0.04 * spread)


def test_the_variance_of_small_steps_far_from_zero_is_not_lost():
    networks = 1000 + 0.01 * normal(0, 50, 3)
    state = visit(swag(0, 1, rank=2), jnp.asarray(networks))
    np.testing.assert_allclose(state.variance, networks.astype(np.float64).var(axis=0), rtol=0.05)


def test_without_spread_a_sample_is_the_average():
    key = jax.random.key(0)
    networks = device({"kernel": normal(0, 3, 2, 3), "bias": normal(1, 3)})
    one_visit = visit(swag(2, 1, rank=2), networks)
    chex.assert_trees_all_equal(swag_sample(one_visit, key), average_of(one_visit))
    several = visit(swag(0, 1, rank=2), networks)
    chex.assert_trees_all_equal(swag_sample(several, key, scale=0.0), average_of(several))
    chex.assert_trees_all_equal_shapes_and_dtypes(swag_sample(several, key), average_of(several))


def test_a_sample_is_found_in_a_chain_and_follows_its_key():
    params = make_endpoints(0)
    _, states = trajectory(optax.chain(optax.sgd(0.1, momentum=0.9), swag(0, 1, rank=2)), params)
    sample = jax.jit(swag_sample)
    first, again, other = (sample(states[-1], jax.random.key(seed)) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    chex.assert_trees_all_equal_shapes(first, params)
    assert not np.allclose(flat(first), flat(other))


def test_swag_says_what_it_needs():
    with pytest.raises(ValueError, match="rank=1 deviations have no covariance; keep at least 2"):
        swag(0, 1, rank=1)
    with pytest.raises(ValueError, match=r"holds no swag; put swag\(...\) last in its chain"):
        swag_sample(swa(0, 1).init(jnp.ones(2)), jax.random.key(0))


# Snapshots


@arbitrary
@given(
    networks=stacks(6),
    start=st.integers(0, 7),
    every=st.integers(1, 3),
    num_models=st.sampled_from([1, 3]),
)
def test_snapshots_are_the_first_visited_networks(networks, start, every, num_models):
    visited = list(range(start, 6, every))[:num_models]
    state = visit(snapshots(start, every, num_models), device(networks))
    assert int(state.step) == 5
    assert int(state.count) == len(visited)
    slots = visited + [0] * (num_models - len(visited))  # what is empty holds the first network
    expected = jax.tree.map(lambda x: x[np.array(slots)], networks)
    chex.assert_trees_all_close(snapshots_of(state), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("start", "every", "num_models"), [(0, 1, 6), (1, 2, 3), (5, 1, 1)])
def test_the_mean_of_all_snapshots_is_swa(start, every, num_models):
    links = swa(start, every), snapshots(start, every, num_models)
    _, states = trajectory(optax.chain(optax.sgd(0.1), *links), make_endpoints(0))
    weights = jnp.full(num_models, 1 / num_models)
    chex.assert_trees_all_close(
        mix(weights, snapshots_of(states[-1])), average_of(states[-1]), rtol=1e-6, atol=1e-6
    )


def test_snapshots_are_found_in_a_chain_and_are_no_average():
    params = make_endpoints(0)
    networks, states = trajectory(
        optax.chain(optax.adam(0.1), snapshots(1, 2, num_models=3)), params
    )
    expected = jax.tree.map(lambda *x: np.stack(x), *networks[1::2])
    chex.assert_trees_all_close(snapshots_of(states[-1]), expected, rtol=1e-6)
    assert average_of(states[-1]) is None
    with pytest.raises(ValueError, match=r"holds no snapshots; put snapshots\(...\) last in its"):
        snapshots_of(swa(0, 1).init(params))
    with pytest.raises(ValueError, match="num_models=0; keep at least 1 network"):
        snapshots(0, 1, num_models=0)


# Soups


def soup_on_a_line(networks, optimum):
    """Networks are numbers, and their score says how close to the optimum they are."""
    tried = []

    def score_fn(weights):
        tried.append(weights)
        return -abs(float(weights @ networks) - optimum)

    weights = greedy_soup(score_fn, [-abs(network - optimum) for network in networks])
    return weights, tried


def hand_soup(networks, optimum):
    distance = lambda chosen: abs(np.mean(networks[chosen], dtype=np.float32) - optimum)
    order = sorted(range(len(networks)), key=lambda i: distance([i]))
    chosen = order[:1]
    for i in order[1:]:
        if distance([*chosen, i]) <= distance(chosen) + 1e-6:
            chosen.append(i)
    return [1 / len(chosen) if i in chosen else 0 for i in range(len(networks))]


@pytest.mark.parametrize("seed", range(5))
def test_a_greedy_soup_is_that_of_a_loop_by_hand(seed):
    networks, optimum = normal(seed, 6), 0.1
    weights, tried = soup_on_a_line(networks, optimum)
    np.testing.assert_allclose(weights, hand_soup(networks, optimum), rtol=1e-6)
    assert weights.dtype == np.float32
    assert len(tried) == 5  # once for each network but the best
    np.testing.assert_allclose([w.sum() for w in tried], 1, rtol=1e-6)
    assert abs(weights @ networks - optimum) <= min(abs(networks - optimum)) + 1e-6


def test_a_soup_takes_what_does_no_harm_and_leaves_what_does():
    equal = greedy_soup(lambda weights: 0.5, [0.5, 0.5, 0.5])
    np.testing.assert_allclose(equal, [1 / 3] * 3, rtol=1e-6)
    worse = greedy_soup(lambda weights: 0.4, [0.3, 0.5, 0.2])
    np.testing.assert_array_equal(worse, [0, 1, 0])
    diverged = greedy_soup(lambda weights: np.nan, [np.nan, 0.5, 0.2])
    np.testing.assert_array_equal(diverged, [0, 1, 0])
    np.testing.assert_array_equal(greedy_soup(None, [0.3]), [1])


@pytest.mark.parametrize("scores", [[], 0.5, [[0.5]]])
def test_a_soup_of_nothing_is_refused(scores):
    with pytest.raises(ValueError, match="scores has shape .*; give one for each of 1 or more"):
        greedy_soup(lambda weights: 0.0, scores)
