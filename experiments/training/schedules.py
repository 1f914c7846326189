"""Learning rates over a whole run, as Optax schedules, and which networks averages take."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from experiments.system.errors import UserError

# The learning rate of averaging, as a share of the largest one: 0.05 of 0.1 in the article.
LOW_FACTOR = 0.5


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is: `num_epochs` epochs of `steps_per_epoch` steps after a warm-up of some."""

    num_epochs: int
    warmup_epochs: int
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch


class Plan(NamedTuple):
    """When the learning rate falls, and when averages take networks."""

    factor: optax.Schedule  # step -> share of the largest learning rate
    start_step: int
    every: int


def _cosine(length: Length, num_models: int) -> Plan:
    """The article's: linear warm-up, then a cosine, both constant within an epoch."""
    del num_models

    def factor(step):
        epoch = step // length.steps_per_epoch
        warmup, rest = length.warmup_epochs, length.num_epochs - length.warmup_epochs
        rising = (epoch + 1) / max(warmup, 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * ((epoch - warmup) / rest)))
        return jnp.where(epoch < warmup, rising, cosine)

    return Plan(factor, length.num_steps, 1)


def _swa_constant(length: Length, num_models: int) -> Plan:
    """Half at a high rate, then a line down to the low one of the last tenth, where networks are taken.

    It is "SWA high constant LR" of Wortsman et al. 2021, after Izmailov et al. 2018.
    """
    half, steps = length.num_epochs / 2, length.num_steps
    every = max((steps // 10) // max(num_models - 1, 1), 1)
    start = steps - (num_models - 1) * every
    _check(length, num_models, half, min(start, every))
    begin = half - length.warmup_epochs
    falling = optax.linear_schedule(1.0, LOW_FACTOR, 0.4 * length.num_epochs, begin)
    return Plan(_by_epoch(_after_warmup(length, falling), length), start, every)


def _swa_cyclic(length: Length, num_models: int) -> Plan:
    """A cosine, constant in an epoch, then one for each of equal cycles in the last quarter.

    It is "SWA cyclic LR" of Wortsman et al. 2021. Networks are taken between cycles.
    """
    num_cycles, steps = num_models - 1, length.steps_per_epoch
    cycle = (length.num_epochs // 4) // max(num_cycles, 1)
    start = length.num_epochs - num_cycles * cycle
    _check(length, num_models, start, cycle)
    cosine = optax.cosine_decay_schedule(1.0, start - length.warmup_epochs)
    first = _by_epoch(_after_warmup(length, cosine), length)
    cycles = _cosines(LOW_FACTOR, [cycle * steps] * max(num_cycles, 1))
    factor = _stays(optax.join_schedules([first, cycles], [start * steps]), length)
    return Plan(factor, start * steps, cycle * steps)


def _snapshot(length: Length, num_models: int) -> Plan:
    """A cosine for each of equal cycles, which end in networks (Huang et al. 2017, Eq. 2)."""
    steps, warmup = length.steps_per_epoch, length.warmup_epochs
    cycle = length.num_epochs // num_models
    start = length.num_epochs - (num_models - 1) * cycle
    _check(length, num_models, start, cycle)
    epochs = [start - warmup] + [cycle] * (num_models - 1)
    parts = [_by_epoch(_rising(length), length), _cosines(1.0, [n * steps for n in epochs])]
    factor = _stays(optax.join_schedules(parts, [warmup * steps]), length)
    return Plan(factor, start * steps, cycle * steps)


def _fge(length: Length, num_models: int) -> Plan:
    """The beginning of an ordinary cosine, then triangles from the low rate to a hundredth and back.

    It is that of Garipov et al. 2018, section 5; networks are taken in the middle of every triangle.
    """
    steps = length.num_steps
    cycle = 2 * ((steps - (3 * steps) // 4) // (2 * num_models))
    start = steps - num_models * cycle
    _check(length, num_models, start / length.steps_per_epoch, cycle)
    cosine = optax.cosine_decay_schedule(1.0, length.num_epochs - length.warmup_epochs)
    first = _by_epoch(_after_warmup(length, cosine), length)

    def triangles(step):
        low = 1 - jnp.abs(2 * (step % cycle) / cycle - 1)
        return (1 - low) * LOW_FACTOR + low * (LOW_FACTOR / 100)

    factor = lambda step: optax.join_schedules([first, triangles], [start])(jnp.asarray(step))
    return Plan(factor, start + cycle // 2, cycle)


SCHEDULES: dict[str, Callable[[Length, int], Plan]] = {
    "cosine": _cosine,
    "swa_constant": _swa_constant,
    "swa_cyclic": _swa_cyclic,
    "snapshot": _snapshot,
    "fge": _fge,
}


def _rising(length: Length) -> optax.Schedule:
    return lambda epoch: (epoch + 1) / max(length.warmup_epochs, 1)


def _after_warmup(length: Length, schedule: optax.Schedule) -> optax.Schedule:
    return optax.join_schedules([_rising(length), schedule], [length.warmup_epochs])


def _cosines(peak: float, lengths: list[int]) -> optax.Schedule:
    """From the peak to nearly zero again and again, in cycles of so many steps."""
    cycle = {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0}
    cosines = optax.sgdr_schedule([cycle | {"decay_steps": length} for length in lengths])
    return lambda step: cosines(step) * peak


def _by_epoch(schedule: Callable, length: Length) -> optax.Schedule:
    def of_step(step):
        epoch = jnp.asarray(step, jnp.int32) // length.steps_per_epoch
        # Optax mixes it with floats.
        return schedule(jnp.minimum(epoch, length.num_epochs - 1).astype(jnp.float32))

    return of_step


def _stays(schedule: Callable, length: Length) -> optax.Schedule:
    """After the last step its value stays."""
    last = length.num_steps - 1
    return lambda step: schedule(jnp.minimum(jnp.asarray(step, jnp.float32), last))


def _check(length: Length, num_models: int, first: float, cycle: int) -> None:
    """Refuses cycles of no step, and a warm-up as long as what comes before the first of them."""
    if cycle < 1 or first <= length.warmup_epochs:
        raise UserError(
            f"config.schedule visits {num_models} networks after a warm-up of {length.warmup_epochs} "
            f"epochs, which does not fit into {length.num_epochs} epochs of {length.steps_per_epoch} "
            "steps; train for longer, or lower config.schedule.num_models."
        )
