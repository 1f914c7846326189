"""Learning rates against formulas by hand, and when networks are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import arbitrary

from experiments.system.errors import UserError
from experiments.training.schedules import LOW_FACTOR, SCHEDULES, Length

STEPS = 6  # per epoch
VISITING = [name for name in SCHEDULES if name != "cosine"]


def rates(plan, num_steps):
    return np.asarray(jax.jit(jax.vmap(plan.factor))(jnp.arange(num_steps)))


def by_hand(name, length, num_models):
    """The rate of every step, for cycles that divide the training."""
    n, warmup, step = length.num_epochs, length.warmup_epochs, np.arange(length.num_steps)
    epoch, quarter = step // STEPS, STEPS * n // 4
    cosine = lambda share: 0.5 * (1 + np.cos(np.pi * share))
    rising, last = (epoch + 1) / max(warmup, 1), step >= 3 * quarter
    if name == "cosine":
        rate = cosine((epoch - warmup) / (n - warmup))
    elif name == "swa_constant":
        rate = np.interp(epoch, [n / 2, 0.9 * n], [1, LOW_FACTOR])
    elif name == "swa_cyclic":
        cycle = quarter // (num_models - 1)
        first = cosine((epoch - warmup) / (0.75 * n - warmup))
        rate = np.where(last, LOW_FACTOR * cosine(step % cycle / cycle), first)
    elif name == "snapshot":  # the warm-up is part of the first cycle
        cycle = STEPS * n // num_models
        first = (step - STEPS * warmup) / (cycle - STEPS * warmup)
        rate = cosine(np.where(step < cycle, first, step % cycle / cycle))
    else:
        cycle = quarter // num_models
        high = np.abs(1 - 2 * ((step - 3 * quarter) % cycle) / cycle)
        triangles = LOW_FACTOR * (high + 0.01 * (1 - high))
        rate = np.where(last, triangles, cosine((epoch - warmup) / (n - warmup)))
    return np.where(epoch < warmup, rising, rate)


@pytest.mark.parametrize(
    ("name", "num_epochs", "warmup", "num_models"),
    [
        *(("cosine", n, warmup, 1) for n, warmup in ((160, 5), (7, 3), (4, 0))),
        *(("swa_constant", n, warmup, 3) for n, warmup in ((160, 5), (20, 0))),
        *(("swa_cyclic", 160, warmup, m) for warmup, m in ((5, 3), (0, 6))),
        ("swa_cyclic", 24, 0, 7),  # cycles of one epoch
        *(("snapshot", n, warmup, m) for n, warmup, m in ((8, 0, 2), (12, 2, 3), (5, 0, 5))),
        ("fge", 16, 2, 2),
    ],
)
def test_schedules_by_hand(name, num_epochs, warmup, num_models):
    length = Length(num_epochs, warmup, STEPS)
    found = rates(SCHEDULES[name](length, num_models), length.num_steps + 9)
    expected = by_hand(name, length, num_models)
    np.testing.assert_allclose(found[:-9], expected, atol=1e-6)
    if name not in ("cosine", "fge"):
        np.testing.assert_array_equal(found[-9:], found[-10])


@arbitrary
@given(
    st.sampled_from(VISITING),
    st.integers(1, 400),
    st.integers(0, 9),
    st.integers(1, 20),
    st.integers(1, 9),
)
def test_the_last_visit_ends_the_training_and_no_more_fit(name, epochs, warmup, steps, models):
    length = Length(epochs, warmup, steps)
    try:
        _, start, every = SCHEDULES[name](length, models)
    except UserError:
        assert epochs < 8 * models or warmup >= epochs // max(models, 2)
        return
    last = start + (models - 1) * every
    assert every > 0
    assert 0 < start <= last <= length.num_steps < last + every
    assert last + (every // 2 if name == "fge" else 0) == length.num_steps
    if name != "snapshot" and models > 1 and length.num_steps >= 10 * models:
        assert start >= (0.9 if name == "swa_constant" else 0.75) * length.num_steps - every
