"""Averages of weights over training steps, as Optax transformations.

An average is the last link of an optimizer's chain: it changes no update and keeps its tree in the
optimizer's state, so that it is checkpointed, resumed and sharded with it, and works for one network
and for the endpoints of a subspace alike.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from subspace_jax.tree import PyTree, wider_dtype


class EmaState(NamedTuple):
    """Attributes: ema: the average, a tree like the parameters."""

    ema: PyTree


class SwaState(NamedTuple):
    """The mean of the networks visited so far.

    Attributes:
      step: scalar int32, how many updates there were.
      count: scalar int32, how many networks the mean is over; 0 before the first.
      mean: their mean, a tree like the parameters; before the first, the parameters themselves.
    """

    step: jax.Array
    count: jax.Array
    mean: PyTree


class SwagState(NamedTuple):
    """A Gaussian fitted to the networks visited so far.

    Attributes:
      step, count, mean: as in `SwaState`.
      variance: of every parameter over those networks, a tree like the parameters, at least float32;
        zero before the second.
      deviations: leaves `[rank, ...]`, of the last networks from the mean of their time, in a ring;
        zero where there is none yet.
    """

    step: jax.Array
    count: jax.Array
    mean: PyTree
    variance: PyTree
    deviations: PyTree


class SnapshotsState(NamedTuple):
    """The networks visited so far.

    Attributes:
      step: scalar int32, how many updates there were.
      count: scalar int32, how many networks are held, at most `num_models`.
      networks: leaves `[num_models, ...]`, in the order of the visits; the initial parameters in the
        slots that no visit has filled yet.
    """

    step: jax.Array
    count: jax.Array
    networks: PyTree


def ema(decay: jax.typing.ArrayLike) -> optax.GradientTransformation:
    r"""An exponential moving average of the *parameters* (`optax.ema` averages updates).

    .. math:: \bar\theta_t = d \, \bar\theta_{t-1} + (1 - d) \, \theta_t, \qquad
              \bar\theta_0 = \theta_0

    Put it last in the chain; read the average with `average_of(opt_state)`.

    Args:
      decay: `d` in [0, 1), the weight of the past per step.

    Returns:
      A transformation that passes updates through.

    Reference:
      Polyak and Juditsky 1992, "Acceleration of Stochastic Approximation by Averaging".

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), ema(0.5))
      >>> params = jnp.array([4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
      >>> average_of(state)
      Array([3.], dtype=float32)
    """

    def init(params):
        # A copy, so that the average and the parameters can be donated together.
        return EmaState(jax.tree.map(jnp.array, params))

    def update(updates, state, params=None, **extra):
        del extra
        new = _updated("ema", params, updates)
        return updates, EmaState(optax.incremental_update(new, state.ema, 1 - decay))

    return optax.GradientTransformationExtraArgs(init, update)


def swa(start_step: int, every: int) -> optax.GradientTransformation:
    r"""Stochastic weight averaging: the plain mean of the networks visited at some steps.

    .. math:: \bar\theta = \frac{1}{n} \sum_{i=0}^{n-1} \theta_{s + i c}

    where :math:`\theta_t` are the parameters after `t` updates. Before the first of these steps the
    average is the current parameters. Put it last in the chain; read the average with
    `average_of(opt_state)`, and measure its batch-norm statistics with `recalibrate`.

    Args:
      start_step: `s >= 0`, after how many updates the first network is taken; 0 takes the initial
        parameters too.
      every: `c >= 1`, how many updates lie between two networks.

    Returns:
      A transformation that passes updates through. The mean is kept in the dtypes of the
      parameters; keep those float32, as mixed precision does.

    Raises:
      ValueError: `start_step` is negative or `every` below 1.

    Reference:
      Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization".

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), swa(start_step=0, every=1))
      >>> params = jnp.array([4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
      >>> average_of(state)
      Array([3.], dtype=float32)
    """
    _check_steps("swa", start_step, every)

    def init(params):
        return _first_visit(params, start_step)

    def update(updates, state, params=None, **extra):
        del extra
        new = _updated("swa", params, updates)
        visit, _, weight = _visit(state, start_step, every)
        return updates, visit._replace(mean=_blend(weight, new, state.mean))

    return optax.GradientTransformationExtraArgs(init, update)


def swag(start_step: int, every: int, rank: int) -> optax.GradientTransformation:
    r"""SWAG: a Gaussian over networks, fitted to those that `swa` averages.

    .. math:: \mathcal{N}\Big(\bar\theta, \;
              \tfrac12 \operatorname{diag}(\overline{\theta^2} - \bar\theta^2)
              + \tfrac{1}{2 (K - 1)} D D^\top\Big)

    The columns of `D` are the deviations of the last `K = rank` networks, each from the mean over
    the networks up to and including it. The variance is summed as squared differences from the
    running mean (Welford's method), so that it survives float32 where the difference of the two
    moments would be lost to rounding. Read the mean with `average_of`, draw networks with
    `swag_sample`. A stack of endpoints is one vector here: its covariance is that of all of them.

    Args:
      start_step, every: which networks are visited, as in `swa`.
      rank: `K >= 2`; the state holds `rank + 2` times the parameters.

    Returns:
      A transformation that passes updates through.

    Raises:
      ValueError: `start_step` is negative, `every` below 1 or `rank` below 2.

    Reference:
      Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning",
      Algorithm 1. Welford 1962, "Note on a Method for Calculating Corrected Sums of Squares and
      Products".

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), swag(start_step=0, every=1, rank=2))
      >>> params = jnp.array([4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
      >>> average_of(state), state[1].variance, state[1].deviations[:, 0]
      (Array([3.], dtype=float32), Array([1.], dtype=float32), Array([ 0., -1.], dtype=float32))
    """
    _check_steps("swag", start_step, every)
    if rank < 2:
        raise ValueError(
            f"rank={rank} deviations have no covariance; keep at least 2, or use swa for the mean."
        )

    def init(params):
        variance = jax.tree.map(lambda x: jnp.zeros(x.shape, _at_least_float32(x)), params)
        deviations = jax.tree.map(lambda x: jnp.zeros((rank, *x.shape), x.dtype), params)
        return SwagState(*_first_visit(params, start_step), variance, deviations)

    def update(updates, state, params=None, **extra):
        del extra
        new = _updated("swag", params, updates)
        visit, due, weight = _visit(state, start_step, every)
        mean = _blend(weight, new, state.mean)
        slot = (visit.count - 1) % rank

        def spread(variance, x, old_mean):
            w, x, old_mean = (jnp.asarray(a, variance.dtype) for a in (weight, x, old_mean))
            return (1 - w) * (variance + w * (x - old_mean) ** 2)

        def put(deviations, x, mean):
            # Only one slice is written, so that the buffer is updated in place.
            return deviations.at[slot].set(jnp.where(due, x - mean, deviations[slot]))

        variance = jax.tree.map(spread, state.variance, new, state.mean)
        deviations = jax.tree.map(put, state.deviations, new, mean)
        return updates, visit._replace(mean=mean, variance=variance, deviations=deviations)

    return optax.GradientTransformationExtraArgs(init, update)


def swag_sample(
    opt_state: optax.OptState, key: jax.Array, scale: jax.typing.ArrayLike = 0.5
) -> PyTree:
    r"""A random network of SWAG's Gaussian.

    .. math:: \theta = \bar\theta + \sqrt{s} \, \sigma \odot z_1
              + \sqrt{\frac{s}{K - 1}} \, D z_2, \qquad z_1 \sim \mathcal{N}(0, I_P),
              \quad z_2 \sim \mathcal{N}(0, I_K)

    with :math:`s = 1/2`. `K` is the number of deviations held: fewer than `rank` networks visited
    have that many columns. Of a single network, or before the first, it is the average itself.
    Measure the batch-norm statistics of every sample with `recalibrate`.

    Args:
      opt_state: the state of `swag` or of a chain with it; of several, the first counts.
      key: a random key.
      scale: `s >= 0`, of the covariance; 0 gives the mean.

    Returns:
      One tree like the parameters, in their dtypes.

    Raises:
      ValueError: there is no `swag` in the state.

    Reference:
      Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in Deep Learning", Eq. 1.

    Example:
      >>> state = swag(start_step=0, every=1, rank=2).init(jnp.array([4.0]))
      >>> swag_sample(state, jax.random.key(0))
      Array([4.], dtype=float32)
    """
    state = next(_nodes(opt_state, SwagState), None)
    if state is None:
        raise ValueError("The optimizer's state holds no swag; put swag(...) last in its chain.")
    means, treedef = jax.tree.flatten(state.mean)
    deviations = jax.tree.leaves(state.deviations)
    diagonal_key, low_rank_key = jax.random.split(key)
    rank = deviations[0].shape[0]
    columns = jnp.maximum(jnp.minimum(state.count, rank), 2)
    z2 = jax.random.normal(low_rank_key, (rank,)) / jnp.sqrt(columns - 1)

    def draw(key, mean, variance, deviations):
        dtype = variance.dtype
        z1 = jax.random.normal(key, mean.shape, dtype)
        low_rank = jnp.tensordot(
            z2.astype(dtype), deviations.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )
        noise = jnp.sqrt(variance) * z1 + low_rank
        return (mean.astype(dtype) + jnp.sqrt(jnp.asarray(scale, dtype)) * noise).astype(mean.dtype)

    keys = jax.random.split(diagonal_key, len(means))
    leaves = map(draw, keys, means, jax.tree.leaves(state.variance), deviations)
    return treedef.unflatten(leaves)


def snapshots(start_step: int, every: int, num_models: int) -> optax.GradientTransformation:
    r"""Keeps the networks visited at some steps, of which `swa` keeps the mean.

    Their predictions are averaged by a snapshot ensemble or fast geometric ensembling, their weights
    by a soup (`greedy_soup`): they are the corners of a simplex, which `mix` mixes. Put it last in
    the chain; read them with `snapshots_of(opt_state)`.

    Args:
      start_step, every: which networks are visited, as in `swa`.
      num_models: how many are kept, at least 1; visits after that are left out.

    Returns:
      A transformation that passes updates through.

    Raises:
      ValueError: `start_step` is negative, or `every` or `num_models` below 1.

    Reference:
      Huang et al. 2017, "Snapshot Ensembles: Train 1, Get M for Free"; Garipov et al. 2018, "Loss
      Surfaces, Mode Connectivity, and Fast Ensembling of DNNs".

    Example:
      >>> optimizer = optax.chain(optax.sgd(1.0), snapshots(start_step=0, every=1, num_models=2))
      >>> params = jnp.array([4.0])
      >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
      >>> snapshots_of(state)[:, 0]
      Array([4., 2.], dtype=float32)
    """
    _check_steps("snapshots", start_step, every)
    if num_models < 1:
        raise ValueError(f"snapshots got num_models={num_models}; keep at least 1 network.")

    def init(params):
        count = jnp.asarray(start_step == 0, jnp.int32)
        networks = jax.tree.map(lambda x: jnp.stack([x] * num_models), params)
        return SnapshotsState(jnp.zeros((), jnp.int32), count, networks)

    def update(updates, state, params=None, **extra):
        del extra
        new = _updated("snapshots", params, updates)
        step = state.step + 1
        due = (step >= start_step) & ((step - start_step) % every == 0)
        due &= state.count < num_models
        slot = jnp.minimum(state.count, num_models - 1)

        def put(networks, x):
            return networks.at[slot].set(jnp.where(due, x, networks[slot]))

        networks = jax.tree.map(put, state.networks, new)
        return updates, SnapshotsState(step, state.count + due.astype(jnp.int32), networks)

    return optax.GradientTransformationExtraArgs(init, update)


def snapshots_of(opt_state: optax.OptState) -> PyTree:
    """The networks that `snapshots` kept, a stack with leaves `[num_models, ...]`.

    Raises:
      ValueError: there is no `snapshots` in the state.

    Example:
      >>> snapshots_of(snapshots(1, 1, num_models=3).init(jnp.array([4.0]))).shape
      (3, 1)
    """
    state = next(_nodes(opt_state, SnapshotsState), None)
    if state is None:
        raise ValueError(
            "The optimizer's state holds no snapshots; put snapshots(...) last in its chain."
        )
    return state.networks


def greedy_soup(score_fn: Callable[[np.ndarray], float], scores: ArrayLike) -> np.ndarray:
    r"""Mixing weights of the uniform soup of those networks that do not harm it.

    Networks are tried from the best to the worst by their own scores, and each stays in the soup if
    the mean of the chosen ones scores no less with it than without. The soup is never worse than the
    best network, on the data that score; those must be validation data.

    Args:
      score_fn: `mixing weights [M] -> score`, higher being better, of the network
        `mix(weights, networks)`, its batch-norm statistics measured anew.
      scores: `[M]`, of the networks themselves.

    Returns:
      `[M]` float32, equal weights on the chosen networks and 0 elsewhere.

    Raises:
      ValueError: there is no network.

    Reference:
      Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves
      accuracy without increasing inference time", Algorithm 1.

    Example:
      >>> networks = np.array([0.0, 1.0, 4.0])  # and the best would be at 0.6
      >>> score_fn = lambda weights: -abs(float(weights @ networks) - 0.6)
      >>> greedy_soup(score_fn, [-0.6, -0.4, -3.4])
      array([0.5, 0.5, 0. ], dtype=float32)
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(
            f"scores has shape {scores.shape}; give one for each of 1 or more networks."
        )
    order = np.argsort(-scores, kind="stable")
    chosen, best = [order[0]], scores[order[0]]
    weights = _uniform(chosen, scores.size)
    for network in order[1:]:
        tried = _uniform([*chosen, network], scores.size)
        score = score_fn(tried)
        if score >= best:
            chosen, best, weights = [*chosen, network], score, tried
    return weights


def _uniform(chosen: list, count: int) -> np.ndarray:
    weights = np.zeros(count, np.float32)
    weights[chosen] = 1 / len(chosen)
    return weights


def average_of(opt_state: optax.OptState, default: Any = None) -> PyTree:
    """The averaged parameters that an optimizer's state holds.

    Args:
      opt_state: the state of a chain, with or without `ema`, `swa` or `swag` in it; of several, the
        first counts.
      default: what to return where there is no average.

    Example:
      >>> average_of(optax.sgd(0.1).init(0.0), default="none")
      'none'
    """
    state = next(_nodes(opt_state, (EmaState, SwaState, SwagState)), None)
    if state is None:
        return default
    return state.ema if isinstance(state, EmaState) else state.mean


def _nodes(opt_state, kinds):
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, kinds))
    return (node for node in nodes if isinstance(node, kinds))


def _check_steps(name: str, start_step: int, every: int):
    if start_step < 0 or every < 1:
        raise ValueError(
            f"{name} got start_step={start_step} and every={every}; "
            "use start_step >= 0 and every >= 1."
        )


def _updated(name: str, params, updates) -> PyTree:
    if params is None:
        raise ValueError(f"{name} needs the parameters; pass them to optimizer.update.")
    return optax.apply_updates(params, updates)


def _first_visit(params, start_step) -> SwaState:
    # A copy, so that the average and the parameters can be donated together.
    count = jnp.asarray(start_step == 0, jnp.int32)
    return SwaState(jnp.zeros((), jnp.int32), count, jax.tree.map(jnp.array, params))


def _visit(state, start_step: int, every: int):
    """The state one step later, whether it is a visited one, and its weight in the mean."""
    step = state.step + 1
    due = (step >= start_step) & ((step - start_step) % every == 0)
    count = state.count + due.astype(jnp.int32)
    running = jnp.where(due, 1 / jnp.maximum(count, 1), 0)
    return state._replace(step=step, count=count), due, jnp.where(count == 0, 1, running)


def _blend(weight: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`weight * new + (1 - weight) * old`, in the dtypes of `old`; exact for weights 0 and 1."""

    def blend(new, old):
        dtype = _at_least_float32(old)
        w, wide_new, wide_old = (jnp.asarray(a, dtype) for a in (weight, new, old))
        return (w * wide_new + (1 - w) * wide_old).astype(old.dtype)

    return jax.tree.map(blend, new, old)


def _at_least_float32(x: jax.Array) -> jnp.dtype:
    return wider_dtype(x, jnp.float32)
