"""Schedules of stochastic weight averaging against the article's numbers and loops by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import arbitrary

from subspace_jax.averaging import swa
from subspace_jax.schedules import swa_constant_schedule, swa_cycles, swa_cyclic_schedule

STEPS = 3  # per epoch
SCHEDULES = {
    "constant": lambda **kwargs: swa_constant_schedule(0.1, 0.05, **kwargs),
    "cyclic": lambda **kwargs: swa_cyclic_schedule(0.1, 0.05, 3, **kwargs),
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


def test_cyclic_schedule_of_one_model_is_a_cosine():
    schedule = swa_cyclic_schedule(0.1, 0.05, 1, num_epochs=20, steps_per_epoch=STEPS)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.vmap(optax.cosine_decay_schedule(0.1, 20))(jnp.arange(20))
    np.testing.assert_allclose(per_epoch(schedule, 20), expected, rtol=1e-5)


@every_schedule
def test_schedules_are_constant_in_an_epoch_and_after_the_last(make):
    schedule = make(num_epochs=20, steps_per_epoch=STEPS, warmup_epochs=2)
    values = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(25 * STEPS))).reshape(25, STEPS)
    np.testing.assert_array_equal(values, values[:, :1].repeat(STEPS, axis=1))
    np.testing.assert_array_equal(values[20:, 0], values[19, 0].repeat(5))
    assert (values > 0).all()
    assert float(schedule(0)) == values[0, 0]


@every_schedule
def test_base_learning_rates_may_be_traced(make):
    del make
    kwargs = {"num_epochs": 20, "steps_per_epoch": STEPS}

    @jax.jit
    def lr(base_lr, swa_lr, step):
        constant = swa_constant_schedule(base_lr, swa_lr, **kwargs)(step)
        return constant, swa_cyclic_schedule(base_lr, swa_lr, 3, **kwargs)(step)

    for step in (0, 33, 59):
        expected = [make(**kwargs)(step) for make in SCHEDULES.values()]
        actual = lr(jnp.float32(0.1), jnp.float32(0.05), jnp.int32(step))
        chex.assert_trees_all_close(list(actual), expected, rtol=1e-5)


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
    with pytest.raises(ValueError, match="steps are no training; use at least 1 of both"):
        make(num_epochs=8, steps_per_epoch=0)
    with pytest.raises(ValueError, match="A warm-up of 6 epochs does not fit before epoch"):
        make(num_epochs=8, steps_per_epoch=1, warmup_epochs=6)
    with pytest.raises(ValueError, match="A warm-up of -1 epochs"):
        make(num_epochs=8, steps_per_epoch=1, warmup_epochs=-1)


def test_an_average_of_nothing_is_refused():
    with pytest.raises(ValueError, match="num_models=0 leaves nothing to average"):
        swa_cycles(160, 0)
