"""One gradient step for all endpoints.

A training loop of your own needs nothing of this module: `params = subspace.sample(key, endpoints)`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.subspaces import Subspace
from subspace_jax.tree import PyTree, num_stacked

LossFn = Callable[[PyTree, jax.Array, Any], tuple[jax.Array, dict[str, jax.Array]]]
Penalty = Callable[[PyTree, jax.Array], jax.Array]


class TrainState(NamedTuple):
    """All that training carries from step to step.

    There are no batch-norm statistics in it: every step is at another network, so that `recalibrate`
    measures them for the points that are used. There is no random state: a step's randomness is a
    function of the run's key and the step.

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
        metrics is a dictionary of scalars, averaged over the chunks, without the names `loss` and
        `penalty`.
      optimizer: any Optax optimizer; weight decay and averages apply to every endpoint. One that wants
        the gradient of the same objective at other points, as `contrib.sharpness.sam`, gets it as
        `grad_fn=`.
      penalty: `(endpoints, key) -> scalar`, added to the loss, for example `lambda endpoints, key: beta
        * cosine_penalty(endpoints, key)`.
      num_samples: `S`, how many chunks, unrolled, each at its own point (appendix B of the article).

    Returns `(state, key, batch) -> (state, metrics)`. `key` is that of the whole run: the step folds
    its own number into it. `metrics` are those of `loss_fn` and `loss` and `penalty`. Raises
    ValueError: `num_samples` is below 1 or (when the step is traced) does not divide the batch. See
    Wortsman et al. 2021, "Learning Neural Network Subspaces", Algorithm 1 and appendix B.

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
            loss, chunk_metrics = loss_fn(subspace.sample(key, endpoints), chunk_key, chunk)
            losses.append(loss)
            metrics.append(chunk_metrics)
        loss = sum(losses) / num_samples
        metrics = jax.tree.map(lambda *values: sum(values) / num_samples, *metrics)
        cost = jnp.zeros_like(loss) if penalty is None else penalty(endpoints, penalty_key)
        return loss + cost, metrics | {"loss": loss, "penalty": cost}

    update = optax.with_extra_args_support(optimizer).update

    def train_step(state, key, batch):
        keys = jax.random.split(jax.random.fold_in(key, state.step), 3)
        gradient = jax.grad(objective, has_aux=True)
        grads, metrics = gradient(state.endpoints, keys, batch)
        updates, opt_state = update(
            grads,
            state.opt_state,
            state.endpoints,
            grad_fn=lambda endpoints, _: gradient(endpoints, keys, batch)[0],
        )
        endpoints = optax.apply_updates(state.endpoints, updates)
        return TrainState(state.step + 1, endpoints, opt_state), metrics

    return train_step


def freeze(frozen: Sequence[int]) -> optax.GradientTransformation:
    """Keeps the endpoints with the numbers `frozen` as they are, bit for bit, and lets the others train.

    Put it after all that makes updates, weight decay too; averages come behind it. Raises ValueError:
    when it is applied to a stack that has no such endpoint.

    >>> optimizer = optax.chain(optax.sgd(1.0), freeze([0]))
    >>> endpoints = jnp.array([[1.0], [1.0]])
    >>> optimizer.update(endpoints, optimizer.init(endpoints), endpoints)[0].tolist()
    [[0.0], [-1.0]]
    """

    def update(updates, state, params=None):
        del params
        n = num_stacked(updates)
        if any(not 0 <= i < n for i in frozen):
            raise ValueError(
                f"Endpoints {tuple(frozen)} are to be frozen but the stack has {n}; "
                f"use numbers from 0 to {n - 1}."
            )
        moves = jnp.array([i not in frozen for i in range(n)])

        def hold(x):
            return jnp.where(moves.reshape(n, *(1,) * (x.ndim - 1)), x, jnp.zeros_like(x))

        return jax.tree.map(hold, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _chunks(batch, num_chunks):
    if num_chunks == 1:
        return [batch]
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % num_chunks:
        raise ValueError(
            f"A batch of {size} examples can't be split into {num_chunks} equal chunks; "
            "choose num_samples as a divisor of the batch size."
        )
    step = size // num_chunks
    return [
        jax.tree.map(lambda x, i=i: x[i * step : (i + 1) * step], batch) for i in range(num_chunks)
    ]
