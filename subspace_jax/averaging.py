"""Averages of weights over training steps, as Optax transformations.

An average is the last link of an optimizer's chain: it changes no update and keeps its tree in the
optimizer's state, so that it is checkpointed, resumed and sharded with it.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from subspace_jax.tree import PyTree, is_concrete, widened


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Dtypes:
    """The dtypes of the parameters: an average is kept in at least float32 and read in theirs."""

    leaves: tuple[Any, ...]

    @classmethod
    def of(cls, params: PyTree) -> "Dtypes":
        return cls(tuple(jnp.result_type(leaf) for leaf in jax.tree.leaves(params)))

    def cast(self, average: PyTree) -> PyTree:
        dtypes = jax.tree.unflatten(jax.tree.structure(average), self.leaves)
        return jax.tree.map(lambda leaf, dtype: leaf.astype(dtype), average, dtypes)


class MeanState(NamedTuple):
    """A mean of the `count` networks visited in `step` updates; before the first, the current one."""

    step: jax.Array
    count: jax.Array  # type: ignore[assignment]
    mean: PyTree
    dtypes: Dtypes


class SnapshotsState(NamedTuple):
    """The `count` networks visited in `step` updates, leaves `[num_models, ...]`."""

    step: jax.Array
    count: jax.Array  # type: ignore[assignment]
    networks: PyTree


def ema(decay: float | jax.Array) -> optax.GradientTransformation:
    r"""An exponential moving average of the *parameters* (`optax.ema` averages updates).

    .. math:: \bar\theta_t = \frac{1 - d}{1 - d^t} \sum_{s = 1}^t d^{t - s} \, \theta_s

    with `decay` `d` in [0, 1) per step, summed in at least float32: debiased, so that nothing is left of
    the network before the first step. Put it last in the chain; read it with `average_of(opt_state)`.
    Raises ValueError: `decay` is not in [0, 1). See Polyak and Juditsky 1992, "Acceleration of
    Stochastic Approximation by Averaging"; for the factor Kingma and Ba 2015, "Adam", section 3.

    >>> optimizer = optax.chain(optax.sgd(1.0), ema(0.5))
    >>> params = jnp.array([4.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> average_of(state)
    Array([2.], dtype=float32)
    """
    if is_concrete(decay) and not 0 <= decay < 1:
        raise ValueError(f"ema got decay={decay}; use a number from 0 to below 1, as 0.999.")

    def update(updates, state, params=None, **extra):
        del extra
        step = state.step + 1
        # 1 - decay ** step, without cancellation for a decay near 1.
        left = -jnp.expm1(step.astype(jnp.float32) * jnp.log1p(decay - 1))
        mean = blend((1 - decay) / left, updated("ema", params, updates), state.mean)
        return updates, state._replace(step=step, count=state.count + 1, mean=mean)

    return optax.GradientTransformationExtraArgs(lambda params: first_visit(params, 1), update)


def swa(start_step: int, every: int) -> optax.GradientTransformation:
    r"""Stochastic weight averaging: the plain mean of the networks visited at some steps.

    .. math:: \bar\theta = \frac{1}{n} \sum_{i=0}^{n-1} \theta_{s + i c}

    of the parameters after `start_step` `s >= 0` updates and every `c >= 1` further ones, summed in at
    least float32. Put it last in the chain, read it with `average_of(opt_state)`, and `recalibrate` it.
    Raises ValueError: `start_step` is negative or `every` below 1. See Izmailov et al. 2018, "Averaging
    Weights Leads to Wider Optima and Better Generalization".

    >>> optimizer = optax.chain(optax.sgd(1.0), swa(start_step=0, every=1))
    >>> params = jnp.array([4.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> average_of(state)
    Array([3.], dtype=float32)
    """
    check_steps("swa", start_step, every)

    def init(params):
        return first_visit(params, start_step)

    def update(updates, state, params=None, **extra):
        del extra
        new = updated("swa", params, updates)
        visited, _, weight = visit(state, start_step, every)
        return updates, visited._replace(mean=blend(weight, new, state.mean))

    return optax.GradientTransformationExtraArgs(init, update)


def snapshots(start_step: int, every: int, num_models: int) -> optax.GradientTransformation:
    r"""Keeps the first `num_models` networks visited at some steps, of which `swa` keeps the mean.

    Put it last in the chain; read them with `snapshots_of(opt_state)`. Raises ValueError: `start_step`
    is negative, or `every` or `num_models` below 1. See Huang et al. 2017, "Snapshot Ensembles: Train
    1, Get M for Free".

    >>> optimizer = optax.chain(optax.sgd(1.0), snapshots(start_step=0, every=1, num_models=2))
    >>> params = jnp.array([4.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> snapshots_of(state)[:, 0]
    Array([4., 2.], dtype=float32)
    """
    check_steps("snapshots", start_step, every)
    if num_models < 1:
        raise ValueError(f"snapshots got num_models={num_models}; keep at least 1 network.")

    def init(params):
        count = jnp.asarray(start_step == 0, jnp.int32)
        networks = jax.tree.map(lambda x: jnp.stack([x] * num_models), params)
        return SnapshotsState(jnp.zeros((), jnp.int32), count, networks)

    def update(updates, state, params=None, **extra):
        del extra
        new = updated("snapshots", params, updates)
        visited, due, _ = visit(state, start_step, every)
        due &= state.count < num_models
        slot = jnp.minimum(state.count, num_models - 1)
        put = lambda held, x: held.at[slot].set(jnp.where(due, x, held[slot]))
        networks = jax.tree.map(put, state.networks, new)
        count = jnp.minimum(visited.count, num_models)
        return updates, SnapshotsState(visited.step, count, networks)

    return optax.GradientTransformationExtraArgs(init, update)


def snapshots_of(opt_state: optax.OptState) -> PyTree:
    """The networks that `snapshots` kept, a stack with leaves `[num_models, ...]`."""
    state = next(states(opt_state, lambda node: isinstance(node, SnapshotsState)), None)
    if state is None:
        raise ValueError("The state holds no snapshots; put snapshots(...) last in the chain.")
    return state.networks


def greedy_soup(score_fn: Callable[[np.ndarray], float], scores: ArrayLike) -> np.ndarray:
    r"""Mixing weights `[M]` of the uniform soup of those networks that do not harm it.

    Networks are tried from the best to the worst of their own `scores [M]`, and each stays if the mean
    of the chosen ones scores no less with it, by `score_fn`: `mixing weights [M] -> score`, higher
    being better, on validation data. Raises ValueError: there is no network. See Wortsman et al. 2022,
    "Model soups", Algorithm 1.

    >>> networks = np.array([0.0, 1.0, 4.0])  # and the best would be at 0.6
    >>> score_fn = lambda weights: -abs(float(weights @ networks) - 0.6)
    >>> greedy_soup(score_fn, [-0.6, -0.4, -3.4])
    array([0.5, 0.5, 0. ], dtype=float32)
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not scores.size:
        raise ValueError(f"scores has shape {scores.shape}; give one for each of 1 or more.")
    first, *others = np.argsort(-scores, kind="stable")
    best, chosen = scores[first], np.arange(scores.size) == first
    uniform = lambda chosen: np.asarray(chosen / chosen.sum(), jnp.result_type(float))
    for network in others:
        tried = chosen | (np.arange(scores.size) == network)
        score = score_fn(uniform(tried))
        if score >= best:
            best, chosen = score, tried
    return uniform(chosen)


def average_of(opt_state: optax.OptState, default: Any = None) -> PyTree:
    """The first average in an optimizer's state, in the dtypes of the parameters, or `default`.

    Warns if the average lies behind `optax.MultiSteps`, where it moves at every small step.

    >>> average_of(optax.sgd(0.1).init(0.0), default="none")
    'none'
    """
    state = next(states(opt_state, _is_average), None)
    if state is None:
        return default
    accumulators = [*states(opt_state, lambda node: isinstance(node, optax.MultiStepsState))]
    if accumulators and not any(list(states(s.inner_opt_state, _is_average)) for s in accumulators):
        warnings.warn(
            "The average lies behind MultiSteps and moved at each of its small steps; put it inside, as "
            "optax.MultiSteps(optax.chain(optimizer, average), k).",
            stacklevel=2,
        )
    return state.dtypes.cast(state.mean)


def states(opt_state: optax.OptState, wanted: Callable[[Any], bool]) -> Iterator[Any]:
    """The links of a chain whose states are wanted, in order."""
    return filter(wanted, jax.tree.leaves(opt_state, is_leaf=wanted))


def _is_average(state) -> bool:
    """Whether it holds a mean of some networks, as `MeanState` does."""
    return {"step", "count", "mean"} <= set(getattr(state, "_fields", ()))


def check_steps(name: str, start_step: int, every: int):
    """Refuses steps that no network is visited at."""
    if start_step < 0 or every < 1:
        raise ValueError(
            f"{name} got start_step={start_step} and every={every}; "
            "use start_step >= 0 and every >= 1."
        )


def updated(name: str, params, updates) -> PyTree:
    """The parameters after a step."""
    if params is None:
        raise ValueError(f"{name} needs the parameters; pass them to optimizer.update.")
    return optax.apply_updates(params, updates)


def first_visit(params, start_step) -> MeanState:
    """The state before the first step."""
    count = jnp.asarray(start_step == 0, jnp.int32)
    return MeanState(jnp.zeros((), jnp.int32), count, _kept(params), Dtypes.of(params))


def _kept(params) -> PyTree:
    """A copy, so that the average and the parameters can be donated together."""
    return jax.tree.map(lambda x: jnp.array(widened(x)), params)


def visit(state, start_step: int, every: int):
    """The state one step later, whether it is a visited one, and its weight in the mean."""
    step = state.step + 1
    due = (step >= start_step) & ((step - start_step) % every == 0)
    count = state.count + due.astype(jnp.int32)
    running = jnp.where(due, 1 / jnp.maximum(count, 1), 0)
    return state._replace(step=step, count=count), due, jnp.where(count == 0, 1, running)


def blend(weight: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """`weight * new + (1 - weight) * old`, in the dtypes of `old`; exact for weights 0 and 1."""

    def blend(new, old):
        w, new = (jnp.asarray(a, old.dtype) for a in (weight, new))
        return w * new + (1 - w) * old

    return jax.tree.map(blend, new, old)
