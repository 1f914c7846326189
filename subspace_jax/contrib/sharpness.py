"""Sharpness-aware minimisation, as an Optax transformation around any optimizer."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from subspace_jax.tree import is_concrete, own_name, widened

_ETA = 0.01  # of ASAM: what weights of zero move by


def sam(
    optimizer: optax.GradientTransformation,
    rho: float | jax.Array,
    *,
    adaptive: bool | Literal["all"] = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Steps along the gradient at the worst point nearby, SAM, or ASAM if `adaptive`.

    .. math:: \hat\epsilon = \rho \frac{g}{\|g\|} \quad \text{or} \quad
              \hat\epsilon = \rho \frac{T^2 g}{\|T g\|}, \; T = |\theta| + 0.01, \qquad
              \theta \leftarrow \mathrm{optimizer}\big(\nabla L(\theta + \hat\epsilon)\big)

    Its `update` wants `grad_fn=`, `(params, step) -> gradient`, which `make_train_step` passes. Of a
    subspace the whole stack is one vector. `T` is 1 for leaves whose name has `bias` in it, as in the
    authors' code; with `adaptive="all"` it is the formula's for every leaf, as in the paper. Put it
    around `optax.MultiSteps` and not inside. Raises ValueError: `rho` is negative. See Foret et al.
    2021, "Sharpness-Aware Minimization", Eq. 2 and 3; Kwon et al. 2021, "ASAM", Algorithm 1.

    >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * w**2)
    >>> optimizer, w = sam(optax.sgd(0.1), rho=0.5), jnp.array([3.0, 1.0])
    >>> grad_fn = lambda w, step: jax.grad(loss)(w)
    >>> updates, _ = optimizer.update(jax.grad(loss)(w), optimizer.init(w), w, grad_fn=grad_fn)
    >>> updates  # -0.1 A (w + 0.5 g / 5), g = (3, 4)
    Array([-0.33, -0.56], dtype=float32)
    """
    if is_concrete(rho) and not rho >= 0:
        raise ValueError(f"sam got rho={rho}; use 0 or a radius above it, as 0.05.")
    inner = optax.contrib.sam(optimizer, _ascent(rho, adaptive), opaque_mode=True)

    def update(updates, state, params=None, *, grad_fn=None, **extra):
        del extra  # Optax's refuses them, and so would a chain that hands them on
        return inner.update(updates, state, params, grad_fn=grad_fn)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def _ascent(rho: float | jax.Array, adaptive: bool | str) -> optax.GradientTransformation:
    """What `optax.contrib.sam` subtracts: minus the perturbation, zero where the gradient is."""

    def times_size(path, param, grad):
        keeps = not adaptive or (adaptive != "all" and "bias" in own_name(path))
        return grad if keeps else (jnp.abs(param) + _ETA) * grad

    def update(grads, state, params=None):
        scaled = jax.tree.map_with_path(times_size, params, grads)
        norm = optax.tree.norm(jax.tree.map(widened, scaled))
        factor = jnp.where(norm > 0, jnp.asarray(rho, norm.dtype) / jnp.where(norm > 0, norm, 1), 0)
        step = jax.tree.map_with_path(times_size, params, scaled)
        return jax.tree.map(lambda x: -factor.astype(x.dtype) * x, step), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
