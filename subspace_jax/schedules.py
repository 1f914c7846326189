"""Learning rates of methods that take several networks from one run, as Optax schedules."""

import jax
import jax.numpy as jnp
import optax


def swa_constant_schedule(
    base_lr: jax.typing.ArrayLike,
    swa_lr: jax.typing.ArrayLike,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> optax.Schedule:
    r"""A high learning rate for half of training, then a line down to the one of averaging.

    .. math:: \eta(t) = (1 - r) \, \eta_\text{base} + r \, \eta_\text{swa}, \qquad
              r = \operatorname{clip}\Big(\frac{t - 0.5}{0.4}, 0, 1\Big), \quad
              t = \frac{\text{epoch}}{E}

    The networks to average are those of the last tenth, where it is constant. After the last epoch
    its value stays.

    Args:
      base_lr: of the first half, 0.1 in the article.
      swa_lr: from 90 % on, 0.05 in the article.
      num_epochs: `E >= 1`.
      steps_per_epoch: at least 1.
      warmup_epochs: the first epochs, in which the rate rises linearly to `base_lr`; 5 in the
        article.

    Returns:
      `step -> learning rate`.

    Raises:
      ValueError: a number of epochs or steps is not positive, or the warm-up takes half of training.

    Reference:
      Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization";
      Wortsman et al. 2021, "Learning Neural Network Subspaces", "SWA high constant LR".

    Example:
      >>> schedule = swa_constant_schedule(0.1, 0.05, num_epochs=160, steps_per_epoch=390)
      >>> [round(float(schedule(390 * epoch)), 4) for epoch in (0, 80, 112, 144, 159)]
      [0.1, 0.1, 0.075, 0.05, 0.05]
    """
    _check(num_epochs, steps_per_epoch, warmup_epochs, num_epochs / 2)

    def schedule(step):
        epoch = _epoch(step, num_epochs, steps_per_epoch)
        share = jnp.clip((epoch / num_epochs - 0.5) / 0.4, 0, 1)
        lr = (1 - share) * base_lr + share * swa_lr
        return _warm_up(epoch, warmup_epochs, base_lr, lr)

    return schedule


def swa_cycles(num_epochs: int, num_models: int) -> tuple[int, int]:
    r"""When SWA with a cyclic learning rate takes its networks: at the ends of equal cycles.

    .. math:: c = \left\lfloor \frac{\lfloor E / 4 \rfloor}{m - 1} \right\rfloor, \qquad
              s = E - (m - 1) c

    The `m` networks are those after `s, s + c, ..., E` epochs. Cycles are whole epochs and equally
    long, so that the last network is the last one of training; where they do not divide the last
    quarter of training, they start a little later than at 75 %.

    Args:
      num_epochs: `E`, at least `4 (m - 1)` and 4.
      num_models: `m >= 1`, how many networks are averaged; 1 is ordinary training, `s = E`.

    Returns:
      `(s, c)`: for `swa`, `start_step` and `every` in epochs.

    Raises:
      ValueError: there is no model, or fewer epochs than cycles in the last quarter.

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
    base_lr: jax.typing.ArrayLike,
    swa_lr: jax.typing.ArrayLike,
    num_models: int,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> optax.Schedule:
    r"""A cosine to about 75 % of training, then `m - 1` cosines, each ending in a network to average.

    .. math:: \eta(e) = \tfrac12 \Big(1 + \cos \frac{\pi (e - w)}{s - w}\Big) \eta_\text{base}
              \;\; (e < s), \qquad
              \eta(e) = \tfrac12 \Big(1 + \cos \frac{\pi \, ((e - s) \bmod c)}{c}\Big)
              \eta_\text{swa} \;\; (e \ge s)

    with `(s, c) = swa_cycles(E, m)` and `w` epochs of warm-up; average with
    `swa(s * steps_per_epoch, c * steps_per_epoch)`. Before `s` the rate is constant in an epoch, in
    the cycles it falls with every step, so that short ones end near zero too. After the last step its
    value stays.

    Args:
      base_lr: at the start of the first cosine, 0.1 in the article.
      swa_lr: at the start of every cycle, 0.05 in the article.
      num_models: `m >= 1`, how many networks are averaged.
      num_epochs: `E`, as `swa_cycles` takes it.
      steps_per_epoch: at least 1.
      warmup_epochs: `w`, as in `swa_constant_schedule`.

    Returns:
      `step -> learning rate`.

    Raises:
      ValueError: as `swa_constant_schedule` and `swa_cycles`.

    Reference:
      Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization";
      Wortsman et al. 2021, "Learning Neural Network Subspaces", "SWA cyclic LR".

    Example:
      >>> schedule = swa_cyclic_schedule(0.1, 0.05, 3, num_epochs=160, steps_per_epoch=390)
      >>> [round(float(schedule(390 * epoch)), 4) for epoch in (0, 60, 120, 130, 140)]
      [0.1, 0.05, 0.05, 0.025, 0.05]
    """
    start, cycle = swa_cycles(num_epochs, num_models)
    _check(num_epochs, steps_per_epoch, warmup_epochs, start)

    def schedule(step):
        epoch = _epoch(step, num_epochs, steps_per_epoch)
        first = _cosine((epoch - warmup_epochs) / (start - warmup_epochs)) * base_lr
        cycles = _cosine(_share(step, start, cycle, num_epochs, steps_per_epoch)) * swa_lr
        return _warm_up(epoch, warmup_epochs, base_lr, jnp.where(epoch < start, first, cycles))

    return schedule


def snapshot_cycles(num_epochs: int, num_models: int) -> tuple[int, int]:
    r"""When a snapshot ensemble takes its networks: at the ends of equal cycles.

    .. math:: c = \lfloor E / M \rfloor, \qquad s = E - (M - 1) c

    Args:
      num_epochs: `E`, at least `M`.
      num_models: `M >= 1`.

    Returns:
      `(s, c)`: for `snapshots`, `start_step` and `every` in epochs. The first cycle has what the
      division leaves over.

    Raises:
      ValueError: there is no model, or fewer epochs than models.

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
    base_lr: jax.typing.ArrayLike,
    num_models: int,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> optax.Schedule:
    r"""`M` cosines from the same learning rate to nearly zero, each ending in a network to keep.

    .. math:: \eta(e) = \tfrac12 \Big(1 + \cos \frac{\pi (e - e_0)}{c}\Big) \eta_\text{base}

    from the start :math:`e_0` of a cycle of `c` epochs, with `(s, c) = snapshot_cycles(E, M)`; the
    first cycle has `s` epochs, of which the warm-up takes some. The rate falls with every step. After
    the last one its value stays.

    Args:
      base_lr: at the start of each cycle.
      num_models: `M >= 1`; 1 is an ordinary cosine.
      num_epochs, steps_per_epoch, warmup_epochs: as in `swa_cyclic_schedule`.

    Returns:
      `step -> learning rate`.

    Raises:
      ValueError: as `snapshot_cycles`, or the warm-up does not fit into the first cycle.

    Reference:
      Huang et al. 2017, "Snapshot Ensembles: Train 1, Get M for Free", Eq. 2.

    Example:
      >>> schedule = snapshot_schedule(0.1, 2, num_epochs=4, steps_per_epoch=10)
      >>> [round(float(schedule(10 * epoch)), 4) for epoch in range(4)]
      [0.1, 0.05, 0.1, 0.05]
    """
    start, cycle = snapshot_cycles(num_epochs, num_models)
    _check(num_epochs, steps_per_epoch, warmup_epochs, start)

    def schedule(step):
        epoch = _epoch(step, num_epochs, steps_per_epoch)
        length = start - warmup_epochs
        first = _cosine(_share(step, warmup_epochs, length, num_epochs, steps_per_epoch))
        later = _cosine(_share(step, start, cycle, num_epochs, steps_per_epoch))
        return _warm_up(
            epoch, warmup_epochs, base_lr, jnp.where(epoch < start, first, later) * base_lr
        )

    return schedule


def fge_cycles(num_epochs: int, steps_per_epoch: int, num_models: int) -> tuple[int, int]:
    r"""When fast geometric ensembling takes its networks: in the middle of equal, short cycles.

    .. math:: c = 2 \Big\lfloor \frac{T - \lfloor 0.75 T \rfloor}{2 M} \Big\rfloor, \qquad
              s = T - M c + c / 2

    for `T` steps of training; the learning rate is lowest in the middle of a cycle.

    Args:
      num_epochs, steps_per_epoch: `T` is their product.
      num_models: `M >= 1`.

    Returns:
      `(s, c)`: for `snapshots`, `start_step` and `every` in steps.

    Raises:
      ValueError: there is no model, or no room for their cycles in the last quarter of training.

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
    base_lr: jax.typing.ArrayLike,
    high_lr: jax.typing.ArrayLike,
    low_lr: jax.typing.ArrayLike,
    num_models: int,
    *,
    num_epochs: int,
    steps_per_epoch: int,
    warmup_epochs: int = 0,
) -> optax.Schedule:
    r"""A cosine as of ordinary training for about 75 %, then triangles from high to low and back.

    .. math:: \eta(t) = (1 - r) \eta_\text{high} + r \, \eta_\text{low}, \qquad
              r = 1 - \Big| \frac{2 \, ((t - t_0) \bmod c)}{c} - 1 \Big|, \quad t \ge t_0

    where `t` counts steps, `(s, c) = fge_cycles(...)` and :math:`t_0 = s - c / 2`. The first part
    is the beginning of a cosine over all epochs, constant within an epoch. After the last step the
    triangles go on.

    Args:
      base_lr: at the start of the cosine.
      high_lr, low_lr: at the ends and in the middle of a cycle.
      num_models: `M >= 1`, how many cycles.
      num_epochs, steps_per_epoch, warmup_epochs: as in `swa_cyclic_schedule`.

    Returns:
      `step -> learning rate`.

    Raises:
      ValueError: as `fge_cycles`, or the warm-up takes the first part.

    Reference:
      Garipov et al. 2018, "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs",
      section 5.

    Example:
      >>> schedule = fge_schedule(1.0, 0.4, 0.2, 5, num_epochs=40, steps_per_epoch=10)
      >>> [round(float(schedule(step)), 2) for step in (0, 200, 300, 305, 310, 315, 320)]
      [1.0, 0.5, 0.4, 0.3, 0.2, 0.3, 0.4]
    """
    middle, cycle = fge_cycles(num_epochs, steps_per_epoch, num_models)
    start = middle - cycle // 2
    _check(num_epochs, steps_per_epoch, warmup_epochs, start / steps_per_epoch)

    def schedule(step):
        epoch = _epoch(step, num_epochs, steps_per_epoch)
        falling = _cosine((epoch - warmup_epochs) / (num_epochs - warmup_epochs)) * base_lr
        low = 1 - jnp.abs(2 * ((jnp.asarray(step) - start) % cycle) / cycle - 1)
        triangle = (1 - low) * high_lr + low * low_lr
        first = _warm_up(epoch, warmup_epochs, base_lr, falling)
        return jnp.where(jnp.asarray(step) < start, first, triangle)

    return schedule


def _epoch(step, num_epochs: int, steps_per_epoch: int) -> jax.Array:
    return jnp.minimum(jnp.asarray(step) // steps_per_epoch, num_epochs - 1)


def _share(step, start: int, cycle: int, num_epochs: int, steps_per_epoch: int) -> jax.Array:
    """How much of its cycle of epochs is over at a step, in [0, 1); cycles follow one another."""
    step = jnp.minimum(jnp.asarray(step), num_epochs * steps_per_epoch - 1)
    steps = cycle * steps_per_epoch
    return (step - start * steps_per_epoch) % steps / steps


def _cosine(progress: jax.Array) -> jax.Array:
    return 0.5 * (1 + jnp.cos(jnp.pi * progress))


def _warm_up(epoch: jax.Array, warmup_epochs: int, base_lr, lr: jax.Array) -> jax.Array:
    rising = (epoch + 1) / max(warmup_epochs, 1) * base_lr
    return jnp.where(epoch < warmup_epochs, rising, lr)


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
