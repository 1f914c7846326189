"""Sharpness-aware minimisation, as an Optax transformation around any optimizer."""

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jax.typing import ArrayLike

from subspace_jax.tree import wider_dtype

_ETA = 0.01  # of ASAM: what weights of zero move by


def sam(
    optimizer: optax.GradientTransformation, rho: ArrayLike, *, adaptive: bool = False
) -> optax.GradientTransformationExtraArgs:
    r"""Steps along the gradient at the worst point nearby, SAM, or ASAM if `adaptive`.

    .. math:: \hat\epsilon = \rho \frac{g}{\|g\|} \quad \text{or} \quad
              \hat\epsilon = \rho \frac{T^2 g}{\|T g\|}, \; T = |\theta| + 0.01, \qquad
              \theta \leftarrow \mathrm{optimizer}\big(\nabla L(\theta + \hat\epsilon)\big)

    It is `optax.contrib.sam` in its opaque mode, whose `update` wants `grad_fn=`, `(params, step) ->
    gradient`, which `make_train_step` passes. Of a subspace the whole stack is one vector, and both
    gradients are at the same coordinates. Weight decay in `optimizer` does not enter the perturbation;
    `rho >= 0`.

    See Foret et al. 2021, "Sharpness-Aware Minimization for Efficiently Improving Generalization", Eq.
    2 and 3; Kwon et al. 2021, "ASAM", Algorithm 1.

    >>> loss = lambda w: 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * w**2)
    >>> optimizer, w = sam(optax.sgd(0.1), rho=0.5), jnp.array([3.0, 1.0])
    >>> grad_fn = lambda w, step: jax.grad(loss)(w)
    >>> updates, _ = optimizer.update(jax.grad(loss)(w), optimizer.init(w), w, grad_fn=grad_fn)
    >>> updates  # -0.1 A (w + 0.5 g / 5), g = (3, 4)
    Array([-0.33, -0.56], dtype=float32)
    """
    return optax.contrib.sam(optimizer, _ascent(rho, adaptive), opaque_mode=True)


def _ascent(rho: ArrayLike, adaptive: bool) -> optax.GradientTransformation:
    """What `optax.contrib.sam` subtracts: minus the perturbation, zero where the gradient is."""

    def update(grads, state, params=None):
        scaled = jax.tree.map(_times_size, params, grads) if adaptive else grads
        wide = jax.tree.map(lambda x: x.astype(wider_dtype(x, jnp.float32)), scaled)
        norm = optax.tree.norm(wide)
        factor = jnp.where(norm > 0, jnp.asarray(rho, norm.dtype) / jnp.where(norm > 0, norm, 1), 0)
        step = jax.tree.map(_times_size, params, scaled) if adaptive else scaled
        return jax.tree.map(lambda x: -factor.astype(x.dtype) * x, step), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _times_size(param: jax.Array, grad: jax.Array) -> jax.Array:
    return (jnp.abs(param) + _ETA) * grad
