"""Averages of weights over training steps, as Optax transformations.

An average is the last link of an optimizer's chain: it changes no update and keeps its tree in the
optimizer's state, so that it is checkpointed, resumed and sharded with it, and works for one network
and for the endpoints of a subspace alike.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax.tree import PyTree


class EmaState(NamedTuple):
    """Attributes: ema: the average, a tree like the parameters."""

    ema: PyTree


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
        if params is None:
            raise ValueError("ema needs the parameters; pass them to optimizer.update.")
        new = optax.apply_updates(params, updates)
        return updates, EmaState(optax.incremental_update(new, state.ema, 1 - decay))

    return optax.GradientTransformationExtraArgs(init, update)


def average_of(opt_state: optax.OptState, default: Any = None) -> PyTree:
    """The averaged parameters that an optimizer's state holds.

    Args:
      opt_state: the state of a chain, with or without `ema` in it; of several, the first counts.
      default: what to return where there is no average.

    Example:
      >>> average_of(optax.sgd(0.1).init(0.0), default="none")
      'none'
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, EmaState))
    return next((node.ema for node in nodes if isinstance(node, EmaState)), default)
