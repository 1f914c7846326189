r"""Which inputs to leave to someone else: out-of-distribution detection and selective prediction.

A score says how much an input looks like the training data: `max_logit`, `energy_score`, the
confidence, ... Scores are compared in at least float32; a NaN among them makes the result nan. For
`risk_coverage` the rules of `metrics` hold.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from subspace_jax.arrays import PROBS, jitted, prepare
from subspace_jax.metrics import cumulative, top_label
from subspace_jax.tree import check_numbers, is_concrete, whole, wider_dtype


class RiskCoverage(NamedTuple):
    """By falling confidence, `[N]` each: the share of the weight so far, and the error rate in it."""

    coverage: jax.Array
    risk: jax.Array


@jitted()
def auroc(scores_in: ArrayLike, scores_out: ArrayLike) -> jax.Array:
    r"""Area under the ROC curve for telling `scores_in [N]` from `scores_out [M]`, in [0, 1].

        1 / (N M) sum_ij ([in_i > out_j] + 1/2 [in_i = out_j])

    Raises ValueError: scores are empty or of another rank than one. See Hendrycks & Gimpel (2017), "A
    baseline for detecting misclassified and out-of-distribution examples in neural networks".

    >>> auroc(jnp.array([0.9, 0.8, 0.5]), jnp.array([0.5, 0.4]))
    Array(0.917, dtype=float32)
    """
    scores_in, scores_out = _scores(scores_in, scores_out)
    ranked = jnp.sort(scores_out)
    below, up_to = (jnp.searchsorted(ranked, scores_in, side=side) for side in ("left", "right"))
    area = jnp.mean((below + up_to).astype(ranked.dtype) / (2 * len(ranked)))
    return _nan_if_nan(area, scores_in, scores_out)


@jitted(static_argnames="tpr")
def fpr_at_tpr(scores_in: ArrayLike, scores_out: ArrayLike, tpr: float = 0.95) -> jax.Array:
    r"""Share of `scores_out [M]` accepted by the threshold that accepts `tpr` of `scores_in [N]`.

    The threshold is the `ceil(tpr N)`-th largest in-distribution score, and those equal to it are
    accepted; in [0, 1]. Raises ValueError: `tpr` is outside (0, 1], or scores are empty or of another
    rank than one. See Liang, Li & Srikant (2018), "Enhancing the reliability of out-of-distribution
    image detection in neural networks".

    >>> fpr_at_tpr(jnp.array([0.9, 0.8, 0.5]), jnp.array([0.7, 0.4]))
    Array(0.5, dtype=float32)
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr={tpr} is not a rate in (0, 1]; the usual one is 0.95.")
    scores_in, scores_out = _scores(scores_in, scores_out)
    # Rounded first: 0.07 * 100 is a little above 7.
    accepted = max(1, math.ceil(round(tpr * len(scores_in), 6)))
    threshold = jnp.sort(scores_in)[len(scores_in) - accepted]
    rate = jnp.mean((scores_out >= threshold).astype(threshold.dtype))
    return _nan_if_nan(rate, scores_in, scores_out)


@jitted()
def max_logit(logits: ArrayLike) -> jax.Array:
    r"""The score `[N]`, `max_k z_nk`, of logits `[N, K]`; higher for inputs as in training.

    Raises ValueError: the logits are of another rank than two. See Hendrycks et al. (2022), "Scaling
    out-of-distribution detection for real-world settings".

    >>> max_logit(jnp.array([[1.0, 3.0], [0.5, 0.0]]))
    Array([3. , 0.5], dtype=float32)
    """
    return prepare(None, None, logits)[2].max(axis=1)


def energy_score(logits: ArrayLike, temperature: float | jax.Array = 1.0) -> jax.Array:
    r"""The negative energy `[N]`, `T log sum_k exp(z_nk / T)`, of logits `[N, K]`.

    Higher for inputs as in training. Raises ValueError: the logits are of another rank than two, or the
    temperature `T` is not above 0. See Liu et al. (2020), "Energy-based out-of-distribution detection".

    >>> energy_score(jnp.log(jnp.array([[1.0, 3.0]])))
    Array([1.386], dtype=float32)
    """
    check_numbers(logits=logits, temperature=temperature)
    if is_concrete(temperature) and not temperature > 0:
        raise ValueError(f"temperature={temperature} is not above 0; the usual one is 1.")
    logits = prepare(None, None, whole(jnp.asarray(logits)))[2]
    temperature = jnp.asarray(temperature, logits.dtype)
    return temperature * jax.nn.logsumexp(logits / temperature, axis=1)


@jitted(PROBS)
def risk_coverage(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None
) -> RiskCoverage:
    r"""Error rate of `probs [N, K]` when only the most confident examples are answered.

    The curve of which `metrics.aurc` is the area. Examples of equal confidence are accepted together;
    those of weight 0 come last. See Geifman & El-Yaniv (2017), "Selective classification for deep
    neural networks".

    >>> curve = risk_coverage(jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 0]))
    >>> curve.coverage.tolist(), curve.risk.tolist()
    ([0.5, 1.0], [0.0, 0.5])
    """
    labels, weights, probs = prepare(labels, weights, probs)
    confidence, correct = top_label(probs, labels)
    confidence = jnp.where(weights == 0, -jnp.inf, confidence)
    weights, mass, errors = cumulative(confidence, weights, 1 - correct)
    total = mass[-1]  # nan, and with it both curves, if an example is invalid
    return RiskCoverage(jnp.cumsum(weights) / total, (errors / total) / (mass / total))


def _scores(scores_in: ArrayLike, scores_out: ArrayLike) -> tuple[jax.Array, jax.Array]:
    for name, scores in (("scores_in", scores_in), ("scores_out", scores_out)):
        if jnp.ndim(scores) != 1 or jnp.size(scores) == 0:
            raise ValueError(
                f"{name} have shape {list(jnp.shape(scores))}; pass one score for each of at least 1 "
                "example, shape [N]."
            )
    dtype = wider_dtype(jnp.float32, scores_in, scores_out)
    return jnp.asarray(scores_in, dtype), jnp.asarray(scores_out, dtype)


def _nan_if_nan(value: jax.Array, *scores: jax.Array) -> jax.Array:
    invalid = jnp.any(jnp.isnan(jnp.concatenate(scores)))
    return jnp.where(invalid, jnp.nan, value)
