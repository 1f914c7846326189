"""Predictions for weighted examples: the rules of `metrics`, applied once for all that follow them."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def prepare(labels: ArrayLike | None, weights: ArrayLike | None, *predictions: ArrayLike) -> tuple:
    """Arguments of a metric as the rules of `metrics` say.

    Args:
      labels: `[N]`, integers, or `None` where there are none.
      weights: `[N]`, not negative; `None` means ones.
      *predictions: one or two, each `[N, K]`.

    Returns:
      `(labels, weights, *predictions)`: int32 labels in `0 .. K - 1`, or `None`; float32 weights, nan
      for an invalid example; float32 predictions, finite where the weight is 0.

    Raises:
      ValueError: shapes do not fit, or labels are not integers.

    Example:
      >>> prepare(jnp.array([1, -1]), None, jnp.array([[0.25, 0.75], [0.5, 0.5]]))[1].tolist()
      [1.0, nan]
    """
    shape = predictions[0].shape
    if len(shape) != 2 or shape[1] == 0:
        raise ValueError(
            f"predictions have shape {shape} instead of [N, K] with K >= 1: "
            "pass one row of K values for each of the N examples."
        )
    if predictions[-1].shape != shape:
        raise ValueError(
            f"the two predictions have different shapes, {shape} and {predictions[-1].shape}: "
            "pass predictions of the same classes for the same examples."
        )
    for name, per_example in (("labels", labels), ("weights", weights)):
        if per_example is not None and per_example.shape != shape[:1]:
            raise ValueError(
                f"{name} have shape {per_example.shape} but predictions have shape {shape}: "
                f"pass {name} of shape {shape[:1]}, one for each example."
            )
    if weights is None:
        weights = jnp.ones(shape[0], jnp.float32)
    weights = jnp.asarray(weights, jnp.float32)
    padding = weights == 0
    # Any finite value would do instead of the padding; that of 1 has a finite logarithm.
    predictions = [
        jnp.where(padding[:, None], 1, jnp.asarray(array, jnp.float32)) for array in predictions
    ]
    invalid = jnp.any(jnp.isnan(jnp.concatenate(predictions, axis=1)), axis=1)
    if labels is not None:
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                f"labels have dtype {labels.dtype} instead of an integer one such as int32: "
                "pass class indices."
            )
        labels = jnp.where(padding, 0, jnp.asarray(labels, jnp.int32))
        outside = (labels < 0) | (labels >= shape[1])
        labels, invalid = jnp.where(outside, 0, labels), invalid | outside
    return labels, jnp.where(invalid, jnp.nan, weights), *predictions


def mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean of `values [N]`; nan if the weights are all zero.

    Example:
      >>> mean(jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0]))
      Array(2., dtype=float32)
    """
    return jnp.sum(values * weights) / jnp.sum(weights)


def predicted(probs: jax.Array) -> jax.Array:
    """Predicted classes `[N]`, int32, of `probs [N, K]`: the first of the most probable ones.

    Example:
      >>> predicted(jnp.array([[0.2, 0.4, 0.4]]))
      Array([1], dtype=int32)
    """
    return jax.lax.argmax(probs, 1, jnp.int32)


def top_label(probs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Confidence and correctness `[N]`, both float32, of `probs [N, K]` for `labels [N]`.

    Example:
      >>> top_label(jnp.array([[0.25, 0.75]]), jnp.array([0]))
      (Array([0.75], dtype=float32), Array([0.], dtype=float32))
    """
    return jnp.max(probs, axis=1), (predicted(probs) == labels).astype(jnp.float32)


def cumulative(
    confidence: jax.Array, weights: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sums over the examples at least as confident as each, those of equal confidence included.

    Args:
      confidence, weights, values: `[N]`.

    Returns:
      By falling confidence, `[N]` each: weights, sums of the weights, sums of the weighted values.

    Example:
      >>> confidence = jnp.array([0.5, 0.9, 0.5])
      >>> cumulative(confidence, jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 1.0, 0.0]))[1:]
      (Array([2., 6., 6.], dtype=float32), Array([2., 3., 3.], dtype=float32))
    """
    order = jnp.argsort(-confidence)
    ranked, weights = -confidence[order], weights[order]
    end = jnp.searchsorted(ranked, ranked, side="right") - 1
    return weights, jnp.cumsum(weights)[end], jnp.cumsum(weights * values[order])[end]
