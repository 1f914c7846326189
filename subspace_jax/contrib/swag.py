"""SWAG: a Gaussian over networks, fitted to those that `averaging.swa` averages."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from subspace_jax import averaging
from subspace_jax.tree import PyTree, leaf_name, widened


class SwagState(NamedTuple):
    """A Gaussian fitted to the networks visited so far.

    Attributes:
      step, count, mean, dtypes: as in `averaging.MeanState`.
      variance: of every parameter, at least float32; zero before the second network.
      deviations: leaves `[rank, ...]`, of the last networks from the mean of their time, in a ring.
    """

    step: jax.Array
    count: jax.Array  # type: ignore[assignment]
    mean: PyTree
    dtypes: averaging.Dtypes
    variance: PyTree
    deviations: PyTree


def swag(start_step: int, every: int, rank: int) -> optax.GradientTransformation:
    r"""SWAG: a Gaussian over networks, fitted to those that `averaging.swa` averages.

    .. math:: \mathcal{N}\Big(\bar\theta, \;
              \tfrac12 \operatorname{diag}(\overline{\theta^2} - \bar\theta^2)
              + \tfrac{1}{2 (K - 1)} D D^\top\Big)

    The columns of `D` are the deviations of the last `K = rank >= 2` networks, each from the mean up to
    and including it. A stack of endpoints is one vector. Read the mean with `average_of`, draw networks
    with `swag_sample`. Raises ValueError: `start_step` is negative, `every` below 1 or `rank` below 2,
    or a parameter is complex. See Maddox et al. 2019, "A Simple Baseline for Bayesian Uncertainty in
    Deep Learning", Algorithm 1.

    >>> optimizer = optax.chain(optax.sgd(1.0), swag(start_step=0, every=1, rank=2))
    >>> params = jnp.array([4.0])
    >>> updates, state = optimizer.update(jnp.array([2.0]), optimizer.init(params), params)
    >>> averaging.average_of(state), state[1].variance, state[1].deviations[:, 0]
    (Array([3.], dtype=float32), Array([1.], dtype=float32), Array([ 0., -1.], dtype=float32))
    """
    averaging.check_steps("swag", start_step, every)
    if rank < 2:
        raise ValueError(f"rank={rank} deviations have no covariance; keep at least 2, or use swa.")

    def init(params):
        for path, leaf in jax.tree.leaves_with_path(params):
            if jnp.iscomplexobj(leaf):
                raise ValueError(
                    f"swag got the leaf {leaf_name(path)} of dtype {leaf.dtype}, of which it has no "
                    "variance; wrap it in optax.contrib.split_real_and_imaginary."
                )
        variance = jax.tree.map(lambda x: jnp.zeros_like(widened(x)), params)
        deviations = jax.tree.map(lambda x: jnp.stack([jnp.zeros_like(x)] * rank), params)
        return SwagState(*averaging.first_visit(params, start_step), variance, deviations)

    def update(updates, state, params=None, **extra):
        del extra
        new = averaging.updated("swag", params, updates)
        visited, due, weight = averaging.visit(state, start_step, every)
        mean = averaging.blend(weight, new, state.mean)
        slot = (visited.count - 1) % rank

        def spread(variance, x, old_mean):
            w, x = (jnp.asarray(a, variance.dtype) for a in (weight, x))
            return (1 - w) * (variance + w * (x - old_mean) ** 2)

        def put(deviations, x, mean):
            # Only one slice is written, so that the buffer is updated in place.
            deviation = (widened(x) - mean).astype(deviations.dtype)
            kept = jax.lax.dynamic_index_in_dim(deviations, slot, keepdims=False)
            deviation = jnp.where(due, deviation, kept)
            return jax.lax.dynamic_update_index_in_dim(deviations, deviation, slot, 0)

        variance = jax.tree.map(spread, state.variance, new, state.mean)
        deviations = jax.tree.map(put, state.deviations, new, mean)
        return updates, visited._replace(mean=mean, variance=variance, deviations=deviations)

    return optax.GradientTransformationExtraArgs(init, update)


def swag_sample(
    opt_state: optax.OptState, key: jax.Array, scale: jax.typing.ArrayLike = 0.5
) -> PyTree:
    r"""A random network of the Gaussian of the first `swag` in an optimizer's state.

    .. math:: \theta = \bar\theta + \sqrt{s} \, \sigma \odot z_1
              + \sqrt{\frac{s}{K - 1}} \, D z_2, \qquad z_1 \sim \mathcal{N}(0, I_P),
              \quad z_2 \sim \mathcal{N}(0, I_K)

    with `scale` `s`; recalibrate it. Raises ValueError: there is no `swag`. See Maddox et al., Eq. 1.

    >>> state = swag(start_step=0, every=1, rank=2).init(jnp.array([4.0]))
    >>> swag_sample(state, jax.random.key(0))
    Array([4.], dtype=float32)
    """
    state = next(averaging.states(opt_state, lambda x: isinstance(x, SwagState)), None)
    if state is None:
        raise ValueError("The optimizer's state holds no swag; put swag(...) last in its chain.")
    diagonal_key, low_rank_key = jax.random.split(key)
    rank = jax.tree.leaves(state.deviations)[0].shape[0]
    columns = jnp.maximum(jnp.minimum(state.count, rank), 2)
    z2 = jax.random.normal(low_rank_key, (rank,))
    z2 = z2 / jnp.sqrt((columns - 1).astype(z2.dtype))

    def draw(z1, mean, variance, deviations):
        dtype = variance.dtype
        low_rank = jnp.tensordot(
            z2.astype(dtype), deviations.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )
        noise = jnp.sqrt(variance) * z1 + low_rank
        return mean + jnp.sqrt(jnp.asarray(scale, dtype)) * noise

    z1 = optax.tree.random_like(diagonal_key, state.variance)
    sampled = jax.tree.map(draw, z1, state.mean, state.variance, state.deviations)
    return state.dtypes.cast(sampled)
