"""What is chosen on validation data: a temperature, the size of prediction sets, and a point.

None of this may see test data: hold out a part of the training set, and choose on it.
"""

import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from subspace_jax import metrics
from subspace_jax.arrays import PROBS, jitted, prepare
from subspace_jax.prediction import ensemble
from subspace_jax.tree import check_numbers, whole, widened, wider_dtype

Average = Literal["probability", "logit"]
Mode = Literal["per_member", "after_average"]
Conformal = Literal["lac", "aps"]

LARGEST_LOG_TEMPERATURE = math.log(100)
NUM_BISECTIONS = 30


@jitted()
def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    r"""The temperature at which logits `[N, K]` are most likely to predict the labels `[N]`.

    .. math:: T = \arg\min_{T \in [0.01, 100]} -\sum_n w_n \log \mathrm{softmax}(z_n / T)_{y_n}

    The NLL is convex in :math:`1 / T`, so its derivative is bisected, to a relative precision of 1e-4
    or better; its gradient is taken to be zero. The rules of `metrics` hold; a label whose logit is
    -inf gives nan too. Where all temperatures are equally good it is 1. Raises ValueError: there are 0
    examples, or shapes or dtypes do not fit. See Guo et al. 2017, "On Calibration of Modern Neural
    Networks", section 4.2.

    >>> logits = jnp.log(jnp.array([[0.9, 0.1]] * 4))  # so sure, but right 3 times out of 4
    >>> round(float(fit_temperature(logits, jnp.array([0, 0, 0, 1]))), 3)
    2.0
    """
    if jnp.shape(logits)[:1] == (0,):
        raise ValueError("fit_temperature got 0 validation examples; hold out at least 1.")
    labels, weights, logits = prepare(labels, weights, jax.lax.stop_gradient(logits))
    label_logits = jnp.take_along_axis(logits, labels[:, None], axis=1)
    weights = jnp.where(label_logits[:, 0] == -jnp.inf, jnp.nan, weights)
    margins = logits - label_logits

    # The greatest one is zero, and stays so when it is multiplied: huge ones would be rounded.
    shifted = logits - logits.max(axis=1, keepdims=True)

    def slope(log_temperature):
        """The derivative of the NLL in 1 / T."""
        probs = jax.nn.softmax(shifted * jnp.exp(-log_temperature))
        # A class of probability 0 may have a logit of -inf.
        return jnp.sum(weights * jnp.sum(jnp.where(probs == 0, 0, probs * margins), axis=1))

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        s = slope(middle)
        # The NLL falls with 1 / T where the slope is negative: the minimum is at a lower T. A slope
        # of 0 ends the search there.
        return jnp.where(s >= 0, middle, low), jnp.where(s <= 0, middle, high)

    end = jnp.asarray(LARGEST_LOG_TEMPERATURE, logits.dtype)
    low, high = jax.lax.fori_loop(0, NUM_BISECTIONS, halve, (-end, end))
    middle = (low + high) / 2
    return jnp.where(jnp.isnan(slope(middle)), jnp.nan, jnp.exp(middle))


def apply_temperature(logits: ArrayLike, temperature: ArrayLike) -> jax.Array:
    r"""Logits `[N, K]` or `[M, N, K]` divided by a temperature, a scalar or `[M]`.

    Raises ValueError: the temperature is neither a scalar nor one per member.

    >>> apply_temperature(jnp.array([[2.0, 4.0]]), 2.0)
    Array([[1., 2.]], dtype=float32)
    """
    check_numbers(logits=logits, temperature=temperature)
    logits, shape = jnp.asarray(logits), jnp.shape(temperature)
    if shape and (logits.ndim != 3 or shape != logits.shape[:1]):
        raise ValueError(
            f"Temperatures of shape {list(shape)} do not fit logits of shape {list(logits.shape)}; "
            "give a scalar, or one per member for logits [M, N, K]."
        )
    dtype = wider_dtype(logits, jnp.float32)
    temperature = jnp.asarray(temperature, dtype)
    return logits.astype(dtype) / (temperature[:, None, None] if shape else temperature)


def fit_ensemble_temperature(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    average: Average = "probability",
    mode: Mode = "after_average",
    weights: ArrayLike | None = None,
) -> jax.Array:
    """The temperatures of an ensemble of logits `[M, N, K]`, for `apply_ensemble_temperature`.

    `"per_member"` calibrates every member alone, `[M]`, `"after_average"` their average, a scalar.
    Raises ValueError: `mode` or `average` is unknown, there are 0 examples, or shapes do not fit. See
    Rahaman and Thiery 2021, "Uncertainty Quantification and Deep Ensembles".

    >>> logits = jnp.log(jnp.array([[[0.9, 0.1]] * 4, [[0.75, 0.25]] * 4]))
    >>> fit_ensemble_temperature(logits, jnp.array([0, 0, 0, 1]), mode="per_member")
    Array([2., 1.], dtype=float32)
    """
    _check_mode(mode)
    averaged = ensemble(logits, average)
    if mode == "after_average":
        return fit_temperature(averaged, labels, weights=weights)
    return _member_temperatures(whole(logits), labels, weights)


@jax.jit
def _member_temperatures(logits, labels, weights):
    return jax.lax.map(lambda member: fit_temperature(member, labels, weights=weights), logits)


def apply_ensemble_temperature(
    logits: ArrayLike,
    temperature: ArrayLike,
    *,
    average: Average = "probability",
    mode: Mode = "after_average",
) -> jax.Array:
    """Calibrated log-probabilities `[N, K]` of an ensemble `[M, N, K]`; `average` and `mode` as fitted.

    Raises ValueError: `mode` or `average` is unknown, or shapes do not fit.

    >>> logits = jnp.log(jnp.array([[[0.9, 0.1]], [[0.5, 0.5]]]))
    >>> jnp.exp(apply_ensemble_temperature(logits, jnp.array([2.0, 1.0]), mode="per_member"))
    Array([[0.625, 0.375]], dtype=float32)
    """
    _check_mode(mode)
    if mode == "per_member":
        return ensemble(apply_temperature(logits, temperature), average)
    return jax.nn.log_softmax(apply_temperature(ensemble(logits, average), temperature))


@jitted(PROBS, static_argnames=("alpha", "method"))
def conformal_threshold(
    probs: ArrayLike, labels: ArrayLike, *, alpha: float = 0.1, method: Conformal = "lac"
) -> jax.Array:
    r"""The threshold for `prediction_sets` that hold the label with probability `1 - alpha` or more.

    .. math:: \hat q = \text{the } \lceil (N + 1)(1 - \alpha) \rceil \text{-th smallest of } s(p_n, y_n)

    of validation examples `probs [N, K]`, `labels [N]`, exchangeable with those to come; inf where N is
    too small. The score :math:`s(p, k)` is :math:`1 - p_k` for `"lac"`, whose sets are the smallest,
    and the sum of all :math:`p_j \ge p_k` for `"aps"`, whose sets adapt to hard examples. Raises
    ValueError: `alpha` is not in (0, 1), `method` is unknown, or shapes do not fit. See Sadinle, Lei &
    Wasserman 2019, "Least Ambiguous Set-Valued Classifiers"; Romano, Sesia & Candes 2020,
    "Classification with Valid and Adaptive Coverage", here without its randomisation.

    >>> probs = jnp.array([[0.9, 0.1], [0.4, 0.6], [0.75, 0.25]])
    >>> conformal_threshold(probs, jnp.array([0, 1, 0]), alpha=0.5)
    Array(0.25, dtype=float32)
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha} is not in (0, 1); the usual one is 0.1.")
    labels, weights, probs = prepare(labels, None, probs)
    scores = jnp.take_along_axis(_scores(probs, method), labels[:, None], axis=1)[:, 0]
    # Rounded first: 10 * (1 - 0.7) is a little above 3.
    rank = max(1, math.ceil(round((len(scores) + 1) * (1 - alpha), 6)))
    threshold = jnp.sort(scores)[rank - 1] if rank <= len(scores) else jnp.inf
    return jnp.where(jnp.isnan(weights).any(), jnp.nan, jnp.asarray(threshold, probs.dtype))


@jitted(PROBS, static_argnames="method")
def prediction_sets(
    probs: ArrayLike, threshold: ArrayLike, *, method: Conformal = "lac"
) -> jax.Array:
    r"""The classes `[N, K]`, booleans, whose score is at most a `conformal_threshold`.

    A set may be empty, by `"aps"` where the network is very sure, and holds all classes where a number
    is nan. Raises ValueError: `method` is unknown, or shapes do not fit.

    >>> prediction_sets(jnp.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0]]), 0.5).tolist()
    [[True, False, False], [True, True, False]]
    """
    _, weights, probs = prepare(None, None, probs)
    if jnp.ndim(threshold):
        raise ValueError(f"threshold has shape {jnp.shape(threshold)}; give one number.")
    outside = _scores(probs, method) > jnp.asarray(threshold, probs.dtype)
    return ~outside | jnp.isnan(weights)[:, None]


def _scores(probs, method):
    """How little each class `[N, K]` conforms to the probabilities."""
    if method not in ("lac", "aps"):
        raise ValueError(f"method={method!r} is unknown; use 'lac' or 'aps'.")
    if method == "lac":
        return 1 - probs

    def sums(row):
        ranked = jnp.sort(row)
        return jnp.cumsum(ranked[::-1])[::-1][jnp.searchsorted(ranked, row)]

    return jax.vmap(sums)(probs)


def choose_point(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    criterion: Literal["nll", "accuracy"] = "nll",
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Which of several points of a subspace, logits `[P, N, K]`, is best on validation data.

    By the lowest `"nll"` or the highest `"accuracy"`, the first of equally good ones; never one with a
    nan. Raises ValueError: `criterion` is unknown, or there are 0 points or 0 examples.

    >>> logits = jnp.array([[[0.0, 1.0]], [[2.0, 0.0]], [[1.0, 0.0]]])
    >>> int(choose_point(logits, jnp.array([0])))
    1
    """
    if criterion not in ("nll", "accuracy"):
        raise ValueError(f"criterion={criterion!r} is unknown; use 'nll' or 'accuracy'.")
    check_numbers(logits=logits)
    shape = jnp.shape(logits)
    if len(shape) != 3 or 0 in shape[:2]:
        raise ValueError(
            f"Logits have shape {list(shape)}; give [P, N, K] of at least 1 point at at least 1 "
            "validation example, held out from the training data."
        )
    return _best_point(whole(jnp.asarray(logits)), labels, weights, criterion)


@functools.partial(jax.jit, static_argnums=3)
def _best_point(logits, labels, weights, criterion):
    def loss(logits):
        if criterion == "accuracy":
            return -metrics.accuracy(logits, labels, weights=weights)
        return metrics.nll(jax.nn.log_softmax(widened(logits)), labels, weights=weights)

    losses = jax.lax.map(loss, logits)
    return jax.lax.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses), 0, jnp.int32)


def _check_mode(mode: str):
    if mode not in ("per_member", "after_average"):
        raise ValueError(f"mode={mode!r} is unknown; use 'per_member' or 'after_average'.")
