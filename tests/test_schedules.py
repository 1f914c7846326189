"""Learning rates against the articles' numbers and loops by hand, and when networks are taken."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import arbitrary

from experiments.training.schedules import (
    fge_cycles,
    fge_schedule,
    snapshot_cycles,
    snapshot_schedule,
    swa_constant_schedule,
    swa_cycles,
    swa_cyclic_schedule,
)
from subspace_jax.averaging import snapshots, swa

STEPS = 3  # per epoch
SCHEDULES = {
    "constant": lambda **kwargs: swa_constant_schedule(0.1, 0.05, **kwargs),
    "cyclic": lambda **kwargs: swa_cyclic_schedule(0.1, 0.05, 3, **kwargs),
    "snapshot": lambda **kwargs: snapshot_schedule(0.1, 2, **kwargs),
    "fge": lambda **kwargs: fge_schedule(0.1, 0.05, 0.01, 2, **kwargs),
}
every_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES)


def per_epoch(schedule, num_epochs):
    return np.asarray(jax.vmap(schedule)(STEPS * jnp.arange(num_epochs)))


def hand_constant(epoch, num_epochs, warmup):
    if epoch < warmup:
        return 0.1 * (epoch + 1) / warmup
    t = epoch / num_epochs
    if t <= 0.5:
        return 0.1
    return 0.1 - 0.05 * (t - 0.5) / 0.4 if t <= 0.9 else 0.05


def hand_cyclic(epoch, num_epochs, warmup, num_models):
    """The ends of the first cosine and of the cycles, for divisors of a quarter of training."""
    if epoch < warmup:
        return 0.1 * (epoch + 1) / warmup
    ends = np.linspace(0.75 * num_epochs, num_epochs, num_models)
    if epoch < ends[0]:
        return 0.1 * np.cos(np.pi / 2 * (epoch - warmup) / (ends[0] - warmup)) ** 2
    i = np.searchsorted(ends, epoch, side="right") - 1
    return 0.05 * np.cos(np.pi / 2 * (epoch - ends[i]) / (ends[i + 1] - ends[i])) ** 2


@pytest.mark.parametrize(("num_epochs", "warmup"), [(160, 5), (20, 0)])
def test_constant_schedule_by_hand(num_epochs, warmup):
    schedule = SCHEDULES["constant"](
        num_epochs=num_epochs, steps_per_epoch=STEPS, warmup_epochs=warmup
    )
    expected = [hand_constant(epoch, num_epochs, warmup) for epoch in range(num_epochs)]
    np.testing.assert_allclose(per_epoch(schedule, num_epochs), expected, rtol=1e-5)


@pytest.mark.parametrize("num_models", [2, 3, 5, 6])
@pytest.mark.parametrize("warmup", [0, 5])
def test_cyclic_schedule_by_hand(num_models, warmup):
    schedule = swa_cyclic_schedule(
        0.1, 0.05, num_models, num_epochs=160, steps_per_epoch=STEPS, warmup_epochs=warmup
    )
    expected = [hand_cyclic(epoch, 160, warmup, num_models) for epoch in range(160)]
    np.testing.assert_allclose(per_epoch(schedule, 160), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["constant", "cyclic", "snapshot"])
def test_schedules_keep_their_last_value_and_rise_by_epoch(name):
    schedule = SCHEDULES[name](num_epochs=20, steps_per_epoch=STEPS, warmup_epochs=2)
    values = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(25 * STEPS))).reshape(25, STEPS)
    in_steps = {"constant": 20, "cyclic": 15, "snapshot": 2}[name]  # from this epoch on
    by_epoch = values[:in_steps]
    np.testing.assert_array_equal(by_epoch, by_epoch[:, :1].repeat(STEPS, axis=1))
    np.testing.assert_array_equal(values[20:], np.full((5, STEPS), values[19, -1]))
    assert (values > 0).all()
    assert float(schedule(0)) == values[0, 0]


@pytest.mark.parametrize("name", ["cyclic", "snapshot"])
def test_cycles_of_one_epoch_fall_to_nearly_zero_as_longer_ones_do(name):
    steps = 20
    make, num_epochs = {
        "cyclic": (functools.partial(swa_cyclic_schedule, 0.1, 0.05, 6), 24),
        "snapshot": (functools.partial(snapshot_schedule, 0.1, 5), 5),
    }[name]
    schedule = make(num_epochs=num_epochs, steps_per_epoch=steps)
    cycles = np.asarray(jax.vmap(schedule)(jnp.arange(num_epochs * steps))).reshape(-1, steps)[-4:]
    top = {"cyclic": 0.05, "snapshot": 0.1}[name]
    expected = top * np.cos(np.pi / 2 * np.arange(steps) / steps) ** 2
    np.testing.assert_allclose(cycles, np.tile(expected, (4, 1)), rtol=1e-4)
    assert (cycles[:, -1] < 0.01 * top).all()


def test_learning_rates_may_be_traced():
    kwargs = {"num_epochs": 20, "steps_per_epoch": STEPS}

    @jax.jit
    def lr(base_lr, high_lr, low_lr, step):
        schedules = (
            swa_constant_schedule(base_lr, high_lr, **kwargs),
            swa_cyclic_schedule(base_lr, high_lr, 3, **kwargs),
            snapshot_schedule(base_lr, 2, **kwargs),
            fge_schedule(base_lr, high_lr, low_lr, 2, **kwargs),
        )
        return [schedule(step) for schedule in schedules]

    for step in (0, 33, 59):
        expected = [make(**kwargs)(step) for make in SCHEDULES.values()]
        actual = lr(*map(jnp.float32, (0.1, 0.05, 0.01)), jnp.int32(step))
        chex.assert_trees_all_close(actual, expected, rtol=1e-5)


@arbitrary
@given(st.integers(4, 400), st.integers(1, 8))
def test_cycles_are_equal_and_end_with_training(num_epochs, num_models):
    if num_epochs < 4 * (num_models - 1):
        with pytest.raises(ValueError, match=f"train for at least {4 * (num_models - 1)} epochs"):
            swa_cycles(num_epochs, num_models)
        return
    start, cycle = swa_cycles(num_epochs, num_models)
    assert len(range(start, num_epochs + 1, cycle)) == num_models
    assert start + (num_models - 1) * cycle == num_epochs
    if num_models > 1:
        assert 0.75 * num_epochs <= start < 0.75 * num_epochs + num_models


def test_swa_takes_the_networks_at_the_ends_of_cycles():
    num_epochs, num_models = 24, 4
    schedule = swa_cyclic_schedule(
        0.5, 0.25, num_models, num_epochs=num_epochs, steps_per_epoch=STEPS
    )
    start, cycle = swa_cycles(num_epochs, num_models)
    link = swa(start * STEPS, cycle * STEPS)

    def step(carry, i):
        params, state = carry
        updates = -schedule(i) * (params - jnp.sin(i.astype(jnp.float32)))
        _, state = link.update(updates, state, params)
        params = params + updates
        return (params, state), params

    first = jnp.array([3.0, 4.0])
    steps = jnp.arange(num_epochs * STEPS)
    (_, state), networks = jax.lax.scan(step, (first, link.init(first)), steps)
    after = np.asarray(networks)[np.array([18, 20, 22, 24]) * STEPS - 1]
    assert int(state.count) == num_models
    np.testing.assert_allclose(state.mean, after.mean(axis=0), rtol=1e-5)


@every_schedule
def test_numbers_out_of_range_are_refused(make):
    message = (
        "steps are no training; use at least 1 of both|The last quarter of 0 steps has no room"
    )
    with pytest.raises(ValueError, match=message):
        make(num_epochs=8, steps_per_epoch=0)
    with pytest.raises(ValueError, match="A warm-up of 6 epochs does not fit before epoch"):
        make(num_epochs=8, steps_per_epoch=2, warmup_epochs=6)
    with pytest.raises(ValueError, match="A warm-up of -1 epochs"):
        make(num_epochs=8, steps_per_epoch=2, warmup_epochs=-1)


def test_an_average_of_nothing_is_refused():
    with pytest.raises(ValueError, match="num_models=0 leaves nothing to average"):
        swa_cycles(160, 0)


# Snapshot ensembles


@pytest.mark.parametrize(("num_epochs", "num_models", "warmup"), [(8, 2, 0), (12, 3, 2), (5, 1, 1)])
def test_snapshot_schedule_by_hand(num_epochs, num_models, warmup):
    """Equal cycles: Eq. 2 of the paper, stepped by epoch; the warm-up is part of the first one."""
    schedule = snapshot_schedule(
        0.1, num_models, num_epochs=num_epochs, steps_per_epoch=STEPS, warmup_epochs=warmup
    )
    cycle, expected = num_epochs // num_models, []
    for epoch in range(num_epochs):
        progress = (epoch % cycle) / cycle
        if epoch < cycle:
            progress = (epoch - warmup) / (cycle - warmup)
        rising = 0.1 * (epoch + 1) / max(warmup, 1)
        cosine = 0.1 / 2 * (np.cos(np.pi * progress) + 1)
        expected.append(rising if epoch < warmup else cosine)
    np.testing.assert_allclose(per_epoch(schedule, num_epochs), expected, rtol=1e-5)


@arbitrary
@given(st.integers(1, 400), st.integers(0, 9))
def test_snapshots_are_at_the_ends_of_equal_cycles(num_epochs, num_models):
    if not 1 <= num_models <= num_epochs:
        with pytest.raises(ValueError, match=f"{num_epochs} epochs have no room for {num_models} "):
            snapshot_cycles(num_epochs, num_models)
        return
    start, cycle = snapshot_cycles(num_epochs, num_models)
    assert start + (num_models - 1) * cycle == num_epochs
    assert cycle <= start < cycle + num_models


def taken(schedule, start, every, num_models, num_steps):
    """After how many steps a network was taken, by the link itself."""
    link = snapshots(start, every, num_models)

    def step(state, i):
        _, state = link.update(jnp.float32(1), state, i.astype(jnp.float32))
        return state, schedule(i)

    state, rates = jax.lax.scan(step, link.init(jnp.float32(-1)), jnp.arange(num_steps))
    return np.asarray(state.networks).astype(int), np.asarray(rates)


def test_snapshots_follow_the_steps_of_the_lowest_rate():
    schedule = snapshot_schedule(0.1, 3, num_epochs=10, steps_per_epoch=STEPS)
    start, cycle = snapshot_cycles(10, 3)
    steps, rates = taken(schedule, start * STEPS, cycle * STEPS, 3, 10 * STEPS)
    np.testing.assert_array_equal(steps, np.array([4, 7, 10]) * STEPS)
    for first, last in zip((0, *steps[:-1]), steps, strict=True):
        np.testing.assert_allclose(rates[first], 0.1, rtol=1e-6)
        assert rates[last - 1] == rates[first:last].min() > 0


# Fast geometric ensembling


def test_fge_schedule_by_hand():
    num_epochs, num_models, per_epoch_steps = 16, 2, 6
    kwargs = {"num_epochs": num_epochs, "steps_per_epoch": per_epoch_steps, "warmup_epochs": 2}
    schedule = fge_schedule(0.1, 0.05, 0.01, num_models, **kwargs)
    expected = []
    for step in range(num_epochs * per_epoch_steps):
        epoch, cycle = step // per_epoch_steps, 12  # the last quarter is 24 steps
        if epoch < 2:
            rate = 0.1 * (epoch + 1) / 2
        elif step < 72:
            rate = 0.1 / 2 * (1 + np.cos(np.pi * (epoch - 2) / 14))
        else:
            t = (step - 72) % cycle / cycle
            high = 1 - 2 * t if t <= 1 / 2 else 2 * t - 1
            rate = high * 0.05 + (1 - high) * 0.01
        expected.append(rate)
    rates = jax.vmap(schedule)(jnp.arange(num_epochs * per_epoch_steps))
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


@arbitrary
@given(st.integers(1, 60), st.integers(1, 20), st.integers(-1, 9))
def test_fge_cycles_are_equal_and_end_with_training(num_epochs, steps_per_epoch, num_models):
    steps = num_epochs * steps_per_epoch
    if num_models < 1 or steps - (3 * steps) // 4 < 2 * num_models:
        with pytest.raises(ValueError, match=f"last quarter of {steps} steps has no room"):
            fge_cycles(num_epochs, steps_per_epoch, num_models)
        return
    start, cycle = fge_cycles(num_epochs, steps_per_epoch, num_models)
    assert cycle % 2 == 0
    assert start - cycle // 2 + num_models * cycle == steps
    assert 0.75 * steps - 1 < start - cycle // 2 < 0.75 * steps + 2 * num_models


def test_fge_takes_the_networks_where_the_rate_is_lowest():
    num_epochs, num_models = 12, 3
    schedule = fge_schedule(0.1, 0.05, 0.01, num_models, num_epochs=num_epochs, steps_per_epoch=8)
    start, cycle = fge_cycles(num_epochs, 8, num_models)
    steps, rates = taken(schedule, start, cycle, num_models, num_epochs * 8)
    np.testing.assert_array_equal(steps, [76, 84, 92])
    np.testing.assert_allclose(rates[steps], 0.01, rtol=1e-6)
    np.testing.assert_allclose(rates[steps - cycle // 2], 0.05, rtol=1e-6)
    assert rates[72:].min() == rates[steps].min()
