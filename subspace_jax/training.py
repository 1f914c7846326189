"""One gradient step for all endpoints; a training loop of your own needs nothing of this module."""

import functools
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from subspace_jax.subspaces import Subspace
from subspace_jax.tree import PyTree, lay_alike, num_stacked, widened, wider_dtype

LossFn = Callable[[PyTree, jax.Array, Any], tuple[jax.Array, dict[str, jax.Array]]]
Penalty = Callable[[PyTree, jax.Array], jax.Array]


class TrainState(NamedTuple):
    """All that training carries from step to step; it draws from the run's key and `step` alone.

    Attributes:
      step: scalar int32, how many steps were taken.
      endpoints: stack with leaves `[n, ...]`.
      opt_state: the state of the Optax optimizer of the endpoints.
    """

    step: jax.Array
    endpoints: PyTree
    opt_state: optax.OptState

    @classmethod
    def create(cls, endpoints: PyTree, optimizer: optax.GradientTransformation) -> "TrainState":
        """The state before the first step.

        >>> int(TrainState.create(jnp.zeros((2, 3)), optax.sgd(0.1)).step)
        0
        """
        return cls(jnp.zeros((), jnp.int32), endpoints, optimizer.init(endpoints))


def make_train_step(
    subspace: Subspace,
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    penalty: Penalty | None = None,
    num_samples: int = 1,
) -> Callable[[TrainState, jax.Array, Any], tuple[TrainState, dict[str, jax.Array]]]:
    r"""Makes a pure training step: one gradient, one optimizer update of all endpoints.

    .. math:: \frac{1}{S} \sum_{s=1}^{S} \ell\big(\theta(c_s); B_s\big) + p(\theta_1, ..., \theta_n),
              \qquad c_s \text{ random}

    where :math:`B_1, ..., B_S` are consecutive, equal chunks of the batch.

    Args:
      loss_fn: `(params, key, batch) -> (scalar loss, metrics)`, a mean over the batch's examples;
        metrics is a dictionary of scalars, averaged over the chunks.
      optimizer: an Optax optimizer of the stack; what looks at a leaf's rank, norm or axes belongs into
        `per_endpoint`. It gets Optax's extra arguments, as line searches and `sharpness` want them.
      penalty: `(endpoints, key) -> scalar`, added to the loss.
      num_samples: `S`, how many chunks, unrolled, each at its own point.

    Returns `(state, key, batch) -> (state, metrics)`, with `loss` and `penalty` among the metrics.
    `key` is that of the whole run: the step folds its own number into it. Raises ValueError:
    `num_samples` is below 1 or (when the step is traced) does not divide the batch; TypeError:
    `loss_fn` returns something else. See Wortsman et al. 2021, "Learning Neural Network Subspaces",
    Algorithm 1 and appendix B.

    >>> from subspace_jax import line
    >>> loss_fn = lambda params, key, x: (jnp.mean((params - x) ** 2), {})
    >>> step = jax.jit(make_train_step(line(), loss_fn, optax.sgd(0.1)))
    >>> state = TrainState.create(jnp.array([0.0, 2.0]), optax.sgd(0.1))
    >>> state, metrics = step(state, jax.random.key(0), jnp.ones(4))
    >>> int(state.step), sorted(metrics)
    (1, ['loss', 'penalty'])
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; use at least 1 sample per batch.")

    def objective(endpoints, keys, batch):
        coords_key, loss_key, penalty_key = keys
        losses, metrics = [], []
        for chunk in _chunks(batch, num_samples):
            coords_key, key = jax.random.split(coords_key)
            loss_key, chunk_key = jax.random.split(loss_key)
            found = loss_fn(subspace.sample(key, endpoints), chunk_key, chunk)
            _check_loss(found)
            losses.append(found[0])
            metrics.append(found[1])
        loss, metrics = (jax.tree.map(_mean, *of) for of in (losses, metrics))
        cost = jnp.zeros_like(loss) if penalty is None else penalty(endpoints, penalty_key)
        dtype = wider_dtype(loss, cost)  # a penalty is at least float32
        both = jnp.asarray(loss, dtype) + jnp.asarray(cost, dtype)
        return both, metrics | {"loss": loss, "penalty": cost}

    def train_step(state, key, batch):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 3)

        def value_and_grad(endpoints):
            value, grads = jax.value_and_grad(objective, has_aux=True)(endpoints, keys, batch)
            # JAX's gradient of complex numbers is the conjugate of the direction of ascent.
            return value, jax.tree.map(jnp.conj, grads)

        def value_fn(endpoints, obj_fn=None, grad_fn=None):
            del obj_fn, grad_fn  # line searches hand on what they do not know
            return objective(endpoints, keys, batch)[0]

        (value, metrics), grads = value_and_grad(state.endpoints)
        extra = {
            "value": value,
            "grad": grads,
            "value_fn": value_fn,
            "obj_fn": value_fn,
            "grad_fn": lambda endpoints, _: value_and_grad(endpoints)[1],
        }
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.endpoints, **_accepted(optimizer.update, extra)
        )
        endpoints = optax.apply_updates(state.endpoints, updates)
        return TrainState(state.step + 1, endpoints, opt_state), metrics

    return train_step


def per_endpoint(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    r"""The optimizer of one network, for each endpoint by itself.

    For transformations that look at a leaf's rank, norm or axes: LARS and LAMB, Muon, Adafactor,
    adaptive clipping, masks by `ndim`. `init` and `update` are mapped over the leading axis, a `value`
    is shared, and functions are left out: a line search stays outside, as do `freeze` and averages,
    behind it.

    >>> lars, endpoints = optax.scale_by_trust_ratio(), jnp.array([[1.0, 1.0], [9.0, 9.0]])
    >>> optimizer = per_endpoint(lars)
    >>> optimizer.update(jnp.ones((2, 2)), optimizer.init(endpoints), endpoints)[0].tolist()
    [[1.0, 1.0], [9.0, 9.0]]
    """

    def update(updates, state, params=None, **extra):
        values = {name: x for name, x in extra.items() if not callable(x)}
        values = _accepted(optimizer.update, values)
        if not jax.tree.leaves(updates):  # of a mask or a partition that has no leaf for it
            return optimizer.update(updates, state, params, **values)
        structure = jax.tree.structure(updates)
        alike = {name: jax.tree.structure(x) == structure for name, x in values.items()}
        axes = {name: 0 if alike[name] and name != "value" else None for name in values}

        def single(updates, state, params, values):
            return optimizer.update(updates, state, params, **values)

        updates, state, params = lay_alike((updates, state, params), updates)
        new = jax.vmap(single, in_axes=(0, 0, 0, axes))(updates, state, params, values)
        return lay_alike(new, updates)

    def init(params):
        if not jax.tree.leaves(params):
            return optimizer.init(params)
        return lay_alike(jax.vmap(optimizer.init)(params), params)

    return optax.GradientTransformationExtraArgs(init, update)


def _accepted(update: Callable, extra: dict[str, Any]) -> dict[str, Any]:
    """Those of the extra arguments that an optimizer's `update` takes."""
    parameters = inspect.signature(update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}


def decay_mask(
    endpoints: PyTree,
    rule: Callable[[tuple, jax.ShapeDtypeStruct], bool] = lambda path, leaf: leaf.ndim > 1,
) -> PyTree:
    """Which leaves decay: what a rule says of each leaf as one network has it, for Optax's masks.

    `rule` is `(path, leaf [...]) -> bool` and sees shape and dtype; by default leaves of rank two or
    more decay. Raises ValueError: leaves disagree on the number of endpoints.

    >>> endpoints = {"kernel": jnp.ones((2, 3, 4)), "bias": jnp.ones((2, 4))}
    >>> decay_mask(endpoints)
    {'bias': False, 'kernel': True}
    """
    num_stacked(endpoints)
    network = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), endpoints)
    return jax.tree.map_with_path(lambda path, leaf: bool(rule(path, leaf)), network)


def freeze(frozen: Sequence[int]) -> optax.GradientTransformation:
    """Keeps the endpoints with the numbers `frozen` as they are, bit for bit, while the others train.

    Put it after weight decay and before averages. Raises ValueError: `frozen` holds no numbers, or when
    it is applied to a stack that has no such endpoint.

    >>> optimizer = optax.chain(optax.sgd(1.0), freeze([0]))
    >>> endpoints = jnp.array([[1.0], [1.0]])
    >>> optimizer.update(endpoints, optimizer.init(endpoints), endpoints)[0].tolist()
    [[0.0], [-1.0]]
    """
    frozen = np.array(list(frozen)).tolist()
    if not all(type(i) is int for i in frozen):
        raise ValueError(
            f"freeze got {frozen}; give the numbers of endpoints, as freeze("
            f"{[i for i, yes in enumerate(frozen) if yes]})."
        )

    def update(updates, state, params=None):
        del params
        n = num_stacked(updates)
        if any(not 0 <= i < n for i in frozen):
            raise ValueError(
                f"Endpoints {tuple(frozen)} are to be frozen but the stack has {n}; "
                f"use numbers from 0 to {n - 1}."
            )
        moves = jnp.array([i not in frozen for i in range(n)])
        here = lambda x: moves.reshape(n, *(1,) * (x.ndim - 1))
        return jax.tree.map(lambda x: jnp.where(here(x), x, jnp.zeros_like(x)), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _mean(*values: jax.Array) -> jax.Array:
    """Summed in at least float32; the result has the dtype of the values, but for that of counts."""
    if len(values) == 1:
        return values[0]
    mean = functools.reduce(operator.add, map(widened, values)) / len(values)
    dtype = jnp.result_type(values[0])
    return mean.astype(dtype) if jnp.issubdtype(dtype, jnp.inexact) else mean


def _check_loss(found: Any) -> None:
    """Refuses what is no pair of a scalar loss and a dictionary."""
    parts = found if isinstance(found, tuple) else (found,)
    if len(parts) != 2 or jnp.ndim(parts[0]) or not isinstance(parts[1], dict):
        kinds = [str(jax.typeof(x)) if hasattr(x, "dtype") else type(x).__name__ for x in parts]
        raise TypeError(
            f"loss_fn returned {' and '.join(kinds)} instead of a pair of a scalar and a dictionary, "
            "`(loss, metrics)`; return `loss, {}` if there are no metrics."
        )


def _chunks(batch, num_chunks):
    if num_chunks == 1:
        return [batch]
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % num_chunks:
        raise ValueError(
            f"A batch of {size} examples can't be split into {num_chunks} equal chunks; "
            "choose num_samples as a divisor of the batch size."
        )
    starts = range(0, size, size // num_chunks)
    return [jax.tree.map(lambda x, i=i: x[i : i + size // num_chunks], batch) for i in starts]
