"""Predictions, labels and weights as metrics, detection and calibration take them, checked."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.tree import check_numbers, is_concrete, whole, wider_dtype

# The least and the greatest value that a prediction can have, and what to do about others.
PROBS = (0.0, 1.0, "pass probabilities, as jax.nn.softmax(logits)")
LOG_PROBS = (-np.inf, 0.0, "pass log-probabilities, as jax.nn.log_softmax(logits)")
_ROUNDING = 1e-2  # of probabilities in bfloat16


def jitted(limits: tuple[float, float, str] | None = None, **options: Any) -> Callable:
    """Compiles a function of arrays; what it is given is checked outside, at no cost in a `jax.jit`."""

    def decorate(fn):
        compiled, signature = jax.jit(fn, **options), inspect.signature(fn)

        @functools.wraps(fn)
        def checked(*args, **kwargs):
            given = signature.bind(*args, **kwargs).arguments
            check_numbers(**{k: x for k, x in given.items() if not isinstance(x, str | None)})
            args, kwargs = jax.tree.map(whole, (args, kwargs))
            result = compiled(*args, **kwargs)
            if limits and all(map(_is_known, given.values())):
                _check_limits(given, *limits)
            return result

        checked.compiled = compiled  # type: ignore[attr-defined]
        return checked

    return decorate


def _is_known(value) -> bool:
    return is_concrete(value) and getattr(value, "is_fully_addressable", True)


def _check_limits(given, low, high, advice) -> None:
    """Refuses predictions of examples that count and that are outside of the limits."""
    weights = given.get("weights")
    for name in (name for name in given if "probs" in name):
        rows = np.asarray(given[name])
        if weights is not None and np.shape(weights) == rows.shape[-2:-1]:
            rows = rows[..., np.asarray(weights) != 0, :]
        for end in (rows.min(), rows.max()) if rows.size else ():
            if end < low - _ROUNDING or end > high + _ROUNDING:
                raise ValueError(f"{name} holds {float(end):g}; {advice}.")


def prepare(labels: Any, weights: Any, *predictions: Any) -> tuple:
    """Labels, weights and predictions `[N, K]` by the rules of `metrics`; invalid ones weigh nan."""
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
    dtype = wider_dtype(jnp.float32, *predictions)
    weights = jnp.ones(shape[0], dtype) if weights is None else jnp.asarray(weights, dtype)
    padding = weights == 0
    # Any finite value would do instead of the padding; that of 1 has a finite logarithm.
    predictions = [
        jnp.where(padding[:, None], 1, jnp.asarray(array, dtype)) for array in predictions
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
