"""Predictions of networks over batches, and the average of several networks' predictions."""

import functools
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from subspace_jax.tree import PyTree, check_batches, check_numbers, wider_dtype


def predict(
    apply_fn: Callable[[PyTree, Any], jax.Array], variables: PyTree, batches: Iterable[Any]
) -> jax.Array:
    """Logits `[..., N, K]` of a network over all batches; of a stack with `for_each(apply_fn)`.

    `apply_fn` is pure, `(variables, batch) -> logits [..., B, K]`, in evaluation mode; the same
    function object is not compiled again. Raises ValueError: there is no batch, or `apply_fn` returns
    something else; TypeError: `batches` is one array.

    >>> predict(lambda w, x: x @ w, jnp.eye(2), [jnp.ones((3, 2)), jnp.zeros((1, 2))]).shape
    (4, 2)
    """
    check_batches("predict", batches)
    logits: list[jax.Array] = []
    for batch in batches:
        logits.append(_apply(apply_fn, variables, batch))
        if getattr(logits[-1], "ndim", 0) < 2:
            what = getattr(logits[-1], "shape", type(logits[-1]).__name__)
            raise ValueError(
                f"apply_fn returned {list(what) if isinstance(what, tuple) else f'a {what}'}; "
                "let it return one array of logits, [..., B, K] for a batch of B examples."
            )
        if len(logits) > 2:  # else all batches could wait on the device at once
            jax.block_until_ready(logits[-3])
    if not logits:
        raise ValueError("predict got 0 batches; give it at least 1.")
    return jnp.concatenate(logits, axis=-2)


@functools.partial(jax.jit, static_argnums=0)
def _apply(apply_fn, variables, batch):
    return apply_fn(variables, batch)


def ensemble(
    logits: ArrayLike, average: Literal["probability", "logit"] = "probability"
) -> jax.Array:
    r"""Log-probabilities `[N, K]` of an ensemble of networks with logits `[M, N, K]`, float32 or wider.

    .. math:: \log \frac{1}{M} \sum_m \mathrm{softmax}(z_m)
              \qquad \text{or} \qquad
              \log \mathrm{softmax}\Big(\frac{1}{M} \sum_m z_m\Big)

    for `"probability"` (Lakshminarayanan et al. 2017) and `"logit"`, which the article's authors use.
    Raises ValueError: `average` is neither, or `logits` is not of rank three.

    >>> logits = jnp.log(jnp.array([[[0.9, 0.1]], [[0.5, 0.5]]]))
    >>> jnp.exp(ensemble(logits))[0, 0]
    Array(0.70, dtype=float32)
    """
    if average not in ("probability", "logit"):
        raise ValueError(f"average={average!r} is unknown; use 'probability' or 'logit'.")
    check_numbers(logits=logits)
    if jnp.ndim(logits) != 3:
        raise ValueError(
            f"Logits have shape {list(jnp.shape(logits))}; stack the members to [M, N, K]."
        )
    logits = jnp.asarray(logits)
    logits = logits.astype(wider_dtype(logits, jnp.float32))
    if average == "logit":
        return jax.nn.log_softmax(logits.mean(0))
    log_probs = jax.nn.log_softmax(logits)
    return jax.nn.logsumexp(log_probs, axis=0) - math.log(logits.shape[0])
