"""Learning rates of stochastic weight averaging, as Optax schedules that are constant in an epoch."""

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
    `swa(s * steps_per_epoch, c * steps_per_epoch)`. After the last epoch its value stays.

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
        cycles = _cosine((epoch - start) % cycle / cycle) * swa_lr
        return _warm_up(epoch, warmup_epochs, base_lr, jnp.where(epoch < start, first, cycles))

    return schedule


def _epoch(step, num_epochs: int, steps_per_epoch: int) -> jax.Array:
    return jnp.minimum(jnp.asarray(step) // steps_per_epoch, num_epochs - 1)


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
