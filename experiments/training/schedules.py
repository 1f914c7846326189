"""Learning rates of methods that take several networks from one run, as Optax schedules.

All are of `num_epochs` epochs of `steps_per_epoch` steps. In the first `warmup_epochs` the rate rises
linearly to `base_lr`; after the last step it stays, but for the triangles of `fge_schedule`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

Rate = jax.typing.ArrayLike


def swa_constant_schedule(
    base_lr: Rate, swa_lr: Rate, *, num_epochs: int, steps_per_epoch: int, warmup_epochs: int = 0
) -> optax.Schedule:
    """A high learning rate for half of training, then a line down to that of the last tenth.

    It is "SWA high constant LR" of Wortsman et al. 2021, after Izmailov et al. 2018.

    Example:
      >>> schedule = swa_constant_schedule(0.1, 0.05, num_epochs=160, steps_per_epoch=390)
      >>> [round(float(schedule(390 * epoch)), 4) for epoch in (0, 80, 112, 144, 159)]
      [0.1, 0.1, 0.075, 0.05, 0.05]
    """
    _check(num_epochs, steps_per_epoch, warmup_epochs, num_epochs / 2)
    begin = num_epochs / 2 - warmup_epochs
    falling = optax.linear_schedule(base_lr, swa_lr, 0.4 * num_epochs, begin)
    parts = [_rising(base_lr, warmup_epochs), falling]
    return _by_epoch(optax.join_schedules(parts, [warmup_epochs]), num_epochs, steps_per_epoch)


def swa_cycles(num_epochs: int, num_models: int) -> tuple[int, int]:
    """`(start, cycle)` in epochs: `num_models` ends of equal cycles in the last quarter of training.

    The last one is the end of training; one model is ordinary training.

    Example:
      >>> swa_cycles(160, 3), swa_cycles(160, 4)
      ((120, 20), (121, 13))
    """
    num_cycles = num_models - 1
    if num_models < 1:
        raise ValueError(f"num_models={num_models} leaves nothing to average; use at least 1.")
    if num_epochs < 4 * max(num_cycles, 1):
        raise ValueError(
            f"The last quarter of {num_epochs} epochs has no room for the {num_cycles} cycles of "
            f"{num_models} models; train for at least {4 * max(num_cycles, 1)} epochs."
        )
    cycle = (num_epochs // 4) // max(num_cycles, 1)
    return num_epochs - num_cycles * cycle, cycle


def swa_cyclic_schedule(
    base_lr: Rate,
    swa_lr: Rate,
    num_models: int,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> optax.Schedule:
    """A cosine to the start of `swa_cycles`, constant in an epoch, then a cosine for each cycle.

    It is "SWA cyclic LR" of Wortsman et al. 2021, after Izmailov et al. 2018.

    Example:
      >>> schedule = swa_cyclic_schedule(0.1, 0.05, 3, num_epochs=160, steps_per_epoch=390)
      >>> [round(float(schedule(390 * epoch)), 4) for epoch in (0, 60, 120, 130, 140)]
      [0.1, 0.05, 0.05, 0.025, 0.05]
    """
    start, cycle = swa_cycles(num_epochs, num_models)
    _check(num_epochs, steps_per_epoch, warmup_epochs, start)
    cosine = optax.cosine_decay_schedule(base_lr, start - warmup_epochs)
    first = optax.join_schedules([_rising(base_lr, warmup_epochs), cosine], [warmup_epochs])
    cycles = _cosines(swa_lr, [cycle * steps_per_epoch] * max(num_models - 1, 1))
    parts = [_by_epoch(first, num_epochs, steps_per_epoch), cycles]
    return _stays(
        optax.join_schedules(parts, [start * steps_per_epoch]), num_epochs, steps_per_epoch
    )


def snapshot_cycles(num_epochs: int, num_models: int) -> tuple[int, int]:
    """`(start, cycle)` in epochs: the end of the first of `num_models` cycles, and the others' length.

    Example:
      >>> snapshot_cycles(160, 5), snapshot_cycles(30, 4)
      ((32, 32), (9, 7))
    """
    if not 1 <= num_models <= num_epochs:
        raise ValueError(
            f"{num_epochs} epochs have no room for {num_models} cycles; use 1 to {num_epochs}."
        )
    cycle = num_epochs // num_models
    return num_epochs - (num_models - 1) * cycle, cycle


def snapshot_schedule(
    base_lr: Rate,
    num_models: int,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> optax.Schedule:
    """A cosine for each of `snapshot_cycles`, as in Huang et al. 2017, "Snapshot Ensembles", Eq. 2.

    Example:
      >>> schedule = snapshot_schedule(0.1, 2, num_epochs=4, steps_per_epoch=10)
      >>> [round(float(schedule(10 * epoch)), 4) for epoch in range(4)]
      [0.1, 0.05, 0.1, 0.05]
    """
    start, cycle = snapshot_cycles(num_epochs, num_models)
    _check(num_epochs, steps_per_epoch, warmup_epochs, start)
    epochs = [start - warmup_epochs] + [cycle] * (num_models - 1)
    rising = _by_epoch(_rising(base_lr, warmup_epochs), num_epochs, steps_per_epoch)
    parts = [rising, _cosines(base_lr, [n * steps_per_epoch for n in epochs])]
    joined = optax.join_schedules(parts, [warmup_epochs * steps_per_epoch])
    return _stays(joined, num_epochs, steps_per_epoch)


def fge_cycles(num_epochs: int, steps_per_epoch: int, num_models: int) -> tuple[int, int]:
    """`(start, cycle)` in steps: the middles of `num_models` short cycles that end training.

    Example:
      >>> fge_cycles(40, 10, 5)
      (310, 20)
    """
    steps = num_epochs * steps_per_epoch
    cycle = 2 * ((steps - (3 * steps) // 4) // (2 * num_models)) if num_models >= 1 else 0
    if cycle < 2:
        raise ValueError(
            f"The last quarter of {steps} steps has no room for {num_models} cycles of 2 steps or "
            "more; train for longer or keep fewer networks, at least 1."
        )
    return steps - num_models * cycle + cycle // 2, cycle


def fge_schedule(
    base_lr: Rate,
    high_lr: Rate,
    low_lr: Rate,
    num_models: int,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> optax.Schedule:
    """The beginning of an ordinary cosine, then triangles from high to low and back (`fge_cycles`).

    It is that of Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of
    DNNs", section 5. The cosine is constant in an epoch.

    Example:
      >>> schedule = fge_schedule(1.0, 0.4, 0.2, 5, num_epochs=40, steps_per_epoch=10)
      >>> [round(float(schedule(step)), 2) for step in (0, 200, 300, 305, 310, 315, 320)]
      [1.0, 0.5, 0.4, 0.3, 0.2, 0.3, 0.4]
    """
    middle, cycle = fge_cycles(num_epochs, steps_per_epoch, num_models)
    start = middle - cycle // 2
    _check(num_epochs, steps_per_epoch, warmup_epochs, start / steps_per_epoch)
    cosine = optax.cosine_decay_schedule(base_lr, num_epochs - warmup_epochs)
    first = optax.join_schedules([_rising(base_lr, warmup_epochs), cosine], [warmup_epochs])

    def triangles(step):
        low = 1 - jnp.abs(2 * (step % cycle) / cycle - 1)
        return (1 - low) * high_lr + low * low_lr

    parts = [_by_epoch(first, num_epochs, steps_per_epoch), triangles]
    return lambda step: optax.join_schedules(parts, [start])(jnp.asarray(step))


def _rising(base_lr: Rate, warmup_epochs: int) -> optax.Schedule:
    return lambda epoch: (epoch + 1) / max(warmup_epochs, 1) * base_lr


def _cosines(peak: Rate, lengths: list[int]) -> optax.Schedule:
    """From the peak to nearly zero again and again, in cycles of so many steps."""
    cycle = {"init_value": 1.0, "peak_value": 1.0, "warmup_steps": 0}
    cosines = optax.sgdr_schedule([cycle | {"decay_steps": length} for length in lengths])
    return lambda step: cosines(step) * peak  # which may be traced


def _by_epoch(schedule: Callable, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    def of_step(step):
        epoch = jnp.minimum(jnp.asarray(step, jnp.int32) // steps_per_epoch, num_epochs - 1)
        return schedule(epoch.astype(jnp.float32))  # Optax mixes it with floats

    return of_step


def _stays(schedule: Callable, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
    """After the last step its value stays."""
    last = num_epochs * steps_per_epoch - 1
    return lambda step: schedule(jnp.minimum(jnp.asarray(step, jnp.float32), last))


def _check(num_epochs: int, steps_per_epoch: int, warmup_epochs: int, first_fall: float):
    if num_epochs < 1 or steps_per_epoch < 1:
        raise ValueError(
            f"{num_epochs} epochs of {steps_per_epoch} steps are no training; use at least 1 of both."
        )
    if not 0 <= warmup_epochs < first_fall:
        raise ValueError(
            f"A warm-up of {warmup_epochs} epochs does not fit before epoch {first_fall:g} of "
            f"{num_epochs}, where another part of the schedule starts; use 0 or a shorter one."
        )
