r"""Accuracy, proper scores, calibration, diversity and selective prediction.

Every metric is a pure jitted function of arrays, `f(probs [N, K], labels [N], *, weights=None)`, with
these rules:

- NumPy or JAX arrays of any float dtype go in; sums are in float32, of float64 in float64, and such
  arrays come out.
- `weights [N]` are non-negative, and `None` means ones. A weight of 2 counts an example twice. An
  example of weight 0 has no effect, whatever its probabilities and label are: a padded batch needs
  only weights. Weights that are all zero give nan, as the mean of nothing.
- An example of non-zero weight with a NaN probability, or with a label outside `0 .. K - 1`, makes
  the result nan: a diverged network has no accuracy.
- Below, `w_n` is the weight of example n divided by the sum of the weights, `p_n` its row of
  probabilities, `y_n` its one-hot label, `conf_n = max_k p_nk` its confidence, and `correct_n` is 1 if
  the first `argmax_k p_nk` is the label, else 0.
- ValueError: shapes or dtypes do not fit, `num_bins < 1`, or values that are known outside of
  `jax.jit` can't be probabilities (or their logarithms). TypeError: what is no array.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from subspace_jax.arrays import LOG_PROBS, PROBS, jitted, prepare
from subspace_jax.tree import check_numbers, widened

_CHUNK = 512
_MODES, _HALVINGS = 2048, 20
_NARROWEST = 1e-3  # bandwidth of `smooth_ece`: that many waves do not resolve less


class Reliability(NamedTuple):
    """Reliability diagram: bin b holds the confidences in `(edges[b], edges[b + 1]]`.

    Attributes:
      confidence, accuracy: `[B]`, means in each bin; nan in an empty bin.
      weight: `[B]`, share of the total weight in each bin; sums to 1, 0 in an empty bin.
      edges: `[B + 1]`, from 0 to 1.
    """

    confidence: jax.Array
    accuracy: jax.Array
    weight: jax.Array
    edges: jax.Array


class BrierDecomposition(NamedTuple):
    """Scalar terms with `brier = reliability - resolution + uncertainty + within_bin`.

    `reliability` in [0, 2] is how far mean forecasts are from class frequencies, and `resolution` in
    [0, `uncertainty`] how far those of the bins are from overall ones, whose score `uncertainty` is.
    """

    reliability: jax.Array
    resolution: jax.Array
    uncertainty: jax.Array
    within_bin: jax.Array


@jitted()
def accuracy(probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Accuracy of `probs [N, K]`, or logits, for `labels [N]`, `sum_n w_n correct_n`, in [0, 1].

    >>> accuracy(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([0, 0]))
    Array(0.5, dtype=float32)
    """
    labels, weights, probs = prepare(labels, weights, probs)
    return mean(top_label(probs, labels)[1], weights)


@jitted(LOG_PROBS)
def nll(log_probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Mean negative log-likelihood of `labels [N]`, `-sum_n w_n log p_n[label_n]`, in nats, at least 0.

    Takes `log_probs [N, K]`, as from `jax.nn.log_softmax`; that of a wrong class may be -inf.

    >>> nll(np.array([[-0.25, -1.51], [-1.75, -0.19]]), np.array([0, 0]))
    Array(1., dtype=float32)
    """
    labels, weights, log_probs = prepare(labels, weights, log_probs)
    return mean(-jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0], weights)


@jitted(PROBS)
def brier(probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Score of Brier (1950) of `probs [N, K]`, `sum_n w_n sum_k (p_nk - y_nk)^2`, in [0, 2].

    >>> brier(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([1, 0]))
    Array(1.25, dtype=float32)
    """
    labels, weights, probs = prepare(labels, weights, probs)
    return mean(jnp.sum((probs - _one_hot(labels, probs)) ** 2, axis=1), weights)


@jitted(PROBS)
def brier_decomposition(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None
) -> BrierDecomposition:
    r"""Brier score of `probs [N, K]` split into calibration, resolution, uncertainty and the rest.

    Let bin b hold the share `W_b` of the weight, with mean forecast `P_b [K]` and class frequencies
    `Y_b [K]`, let `Y [K]` be the overall frequencies, and b(n) the bin of example n. Then

        reliability = sum_b W_b |P_b - Y_b|^2      resolution = sum_b W_b |Y_b - Y|^2
        uncertainty = sum_k Y_k (1 - Y_k)
        within_bin  = sum_n w_n (|p_n - P_b(n)|^2 - 2 (p_n - P_b(n)) . (y_n - Y_b(n)))

    and `brier = reliability - resolution + uncertainty + within_bin`. Bins are the K predicted classes.
    See Stephenson, Coelho & Jolliffe (2008), "Two extra components in the Brier score decomposition".

    >>> probs, labels = np.array([[0.75, 0.25], [0.25, 0.75]]), np.array([0, 1])
    >>> [float(term) for term in brier_decomposition(probs, labels)]
    [0.125, 0.5, 0.5, 0.0]
    """
    labels, weights, probs = prepare(labels, weights, probs)
    num_classes = probs.shape[1]
    targets, bins = _one_hot(labels, probs), predicted(probs)
    forecast, mass = _group_means(probs, bins, weights, num_classes)
    observed, _ = _group_means(targets, bins, weights, num_classes)
    share = (mass / jnp.sum(weights))[:, None]
    overall = jnp.sum(share * observed, axis=0)
    forecast_rest, target_rest = probs - forecast[bins], targets - observed[bins]
    within = forecast_rest**2 - 2 * forecast_rest * target_rest
    return BrierDecomposition(
        reliability=jnp.sum(share * (forecast - observed) ** 2),
        resolution=jnp.sum(share * (observed - overall[None]) ** 2),
        uncertainty=jnp.sum(overall * (1 - overall)),
        within_bin=mean(jnp.sum(within, axis=1), weights),
    )


@jitted(PROBS, static_argnames="num_bins")
def reliability(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = 15
) -> Reliability:
    r"""Mean confidence, accuracy and weight of `probs [N, K]` in equal-width bins of confidence.

    Bin b is `(b / num_bins, (b + 1) / num_bins]`, of the numbers of the dtype nearest to these; what is
    0 joins the first bin. See Guo et al. (2017), "On calibration of modern neural networks".

    >>> diagram = reliability(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1]), num_bins=2)
    >>> [array.tolist() for array in diagram]
    [[0.5, 0.75], [1.0, 1.0], [0.5, 0.5], [0.0, 0.5, 1.0]]
    """
    labels, weights, probs = prepare(labels, weights, probs)
    confidence, correct = top_label(probs, labels)
    means, mass = _group_means(
        jnp.stack([confidence, correct], axis=1), _bin(confidence, num_bins), weights, num_bins
    )
    means = jnp.where(mass[:, None] == 0, jnp.nan, means)
    return Reliability(
        means[:, 0], means[:, 1], mass / jnp.sum(weights), _edges(num_bins, probs.dtype)
    )


@jitted(PROBS, static_argnames="num_bins")
def ece(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = 15
) -> jax.Array:
    r"""Expected calibration error, `sum_b weight_b |accuracy_b - confidence_b|`, in [0, 1].

    The bins are those of `reliability`. See Guo et al. (2017).

    >>> ece(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1]))
    Array(0.375, dtype=float32)
    """
    diagram = reliability(probs, labels, weights=weights, num_bins=num_bins)
    return jnp.sum(diagram.weight * _gaps(diagram))


@jitted(PROBS, static_argnames="num_bins")
def max_calibration_error(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = 15
) -> jax.Array:
    r"""Maximum calibration error, `max_b |accuracy_b - confidence_b|`, in [0, 1].

    The bins are those of `reliability`. See Naeini et al. (2015), "Obtaining well calibrated
    probabilities using Bayesian binning".

    >>> max_calibration_error(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1]))
    Array(0.5, dtype=float32)
    """
    return jnp.max(_gaps(reliability(probs, labels, weights=weights, num_bins=num_bins)))


@jitted(PROBS, static_argnames="num_bins")
def adaptive_ece(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = 15
) -> jax.Array:
    r"""Calibration error with B bins of equal weight, `sum_b |accuracy_b - confidence_b| / B`.

    In order of confidence the examples fill a line of length 1, example n a piece of length `w_n`;
    equal confidences are one piece. The bins are B equal parts of the line, which share out a piece by
    length. See Nguyen & O'Connor (2015), "Posterior calibration and exploratory analysis for natural
    language processing models".

    >>> adaptive_ece(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1]), num_bins=1)
    Array(0.375, dtype=float32)
    """
    labels, weights, probs = prepare(labels, weights, probs)
    confidence, correct = top_label(probs, labels)
    _, mass, excess = cumulative(confidence, weights, correct - confidence)
    mass, excess = jnp.pad(mass, (1, 0)), jnp.pad(excess, (1, 0))
    at_cuts = jnp.interp(mass[-1] * _edges(num_bins, mass.dtype), mass, excess)
    return jnp.sum(jnp.abs(jnp.diff(at_cuts))) / mass[-1]


@jitted(PROBS, static_argnames="num_bins")
def classwise_ece(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None, num_bins: int = 15
) -> jax.Array:
    r"""Static calibration error, the mean over classes of each class's calibration error, in [0, 2/K].

    It is `1/K sum_k sum_b |sum_(n in b) w_n (p_nk - y_nk)|` for `probs [N, K]`, where for each class k
    the `p_nk` are put into the bins of `reliability`. See Nixon et al. (2019), "Measuring calibration
    in deep learning".

    >>> classwise_ece(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1]))
    Array(0.375, dtype=float32)
    """
    labels, weights, probs = prepare(labels, weights, probs)
    excess = (probs - _one_hot(labels, probs)) * weights[:, None]

    def error(column: tuple[jax.Array, jax.Array]) -> jax.Array:
        probs_k, excess_k = column
        return jnp.sum(jnp.abs(_group_sums(excess_k[:, None], _bin(probs_k, num_bins), num_bins)))

    # One class at a time, so that memory is O(N num_bins) and not O(N K num_bins).
    return jnp.mean(jax.lax.map(error, (probs.T, excess.T))) / jnp.sum(weights)


@jitted(PROBS)
def smooth_ece(
    probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    r"""Smooth calibration error, without bins, in [0, 1]: the solution of `smECE_s = s`.

    `smECE_s = int_0^1 |sum_n w_n (correct_n - conf_n) K_s(t, conf_n)| dt`, where `K_s` is the normal
    density of standard deviation `s`, reflected at 0 and 1; `s` is at least 0.001. See Blasiok &
    Nakkiran (2023), "Smooth ECE: principled reliability diagrams via kernel smoothing".

    >>> round(float(smooth_ece(np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([0, 1]))), 3)
    0.375
    """
    labels, weights, probs = prepare(labels, weights, probs)
    confidence, correct = top_label(probs, labels)
    excess = weights * (correct - confidence)
    waves = np.pi * np.arange(_MODES, dtype=probs.dtype)
    # The reflected kernel is a sum of cosines, which a wider one damps: a heat equation.
    wave_sum = lambda wave: jnp.sum(excess * jnp.cos(wave * confidence))
    sums = jax.lax.map(wave_sum, waves, batch_size=64) / jnp.sum(weights)

    def error(bandwidth):
        damped = sums * jnp.exp(-0.5 * (bandwidth * waves) ** 2)
        return jnp.mean(jnp.abs(jax.scipy.fft.idct(2 * _MODES * damped)))

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        wider = error(middle) > middle
        return jnp.where(wider, middle, low), jnp.where(wider, high, middle)

    ends = (jnp.asarray(_NARROWEST, probs.dtype), jnp.ones((), probs.dtype))
    return error(jax.lax.fori_loop(0, _HALVINGS, halve, ends)[0])


@jitted(PROBS)
def entropy(
    probs: ArrayLike, labels: ArrayLike | None = None, *, weights: ArrayLike | None = None
) -> jax.Array:
    r"""Mean entropy of `probs [N, K]`, `-sum_n w_n sum_k p_nk log p_nk`, in nats, in [0, log K].

    Labels are ignored. See Cover & Thomas, "Elements of information theory", equation 2.1.

    >>> round(float(entropy(np.array([[0.5, 0.5], [1.0, 0.0]]))), 4)  # log(2) / 2
    0.3466
    """
    del labels
    _, weights, probs = prepare(None, weights, probs)
    return mean(jnp.sum(jax.scipy.special.entr(probs), axis=1), weights)


@jitted(PROBS)
def mutual_information(probs: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Epistemic uncertainty of an ensemble, `probs [M, N, K]`, in nats, in [0, log K].

    It is the entropy of the members' mean minus the mean of their entropies. Raises ValueError: `probs`
    is not of rank three. See Houlsby et al. (2011), "Bayesian active learning for classification and
    preference learning".

    >>> round(float(mutual_information(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]))), 4)  # log(2)
    0.6931
    """
    if jnp.ndim(probs) != 3 or not jnp.shape(probs)[0]:
        raise ValueError(f"probs have shape {jnp.shape(probs)}; stack the members to [M, N, K].")
    _, weights, *members = prepare(None, weights, *jnp.asarray(probs))
    members = jnp.stack(members)
    entropies = lambda probs: jnp.sum(jax.scipy.special.entr(probs), axis=-1)
    return jnp.maximum(mean(entropies(members.mean(0)) - entropies(members).mean(0), weights), 0)


@jitted()
def disagreement(
    probs_a: ArrayLike, probs_b: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    r"""Share of examples for which two predictions `[N, K]` name different classes, in [0, 1].

    See Fort, Hu & Lakshminarayanan (2019), "Deep ensembles: a loss landscape perspective".

    >>> disagreement(np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.6, 0.4], [0.7, 0.3]]))
    Array(0.5, dtype=float32)
    """
    _, weights, probs_a, probs_b = prepare(None, weights, probs_a, probs_b)
    return mean((predicted(probs_a) != predicted(probs_b)).astype(weights.dtype), weights)


@jitted(PROBS)
def total_variation(
    probs_a: ArrayLike, probs_b: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    r"""Mean total variation distance of two predictions, `sum_n w_n 1/2 sum_k |a_nk - b_nk|`, in [0, 1].

    See Levin & Peres, "Markov chains and mixing times", proposition 4.2.

    >>> total_variation(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]]))
    Array(0.5, dtype=float32)
    """
    _, weights, probs_a, probs_b = prepare(None, weights, probs_a, probs_b)
    return mean(0.5 * jnp.sum(jnp.abs(probs_a - probs_b), axis=1), weights)


@jitted(PROBS)
def aurc(probs: ArrayLike, labels: ArrayLike, *, weights: ArrayLike | None = None) -> jax.Array:
    r"""Area under the risk-coverage curve of `probs [N, K]`, in [0, 1]; lower is better.

    It is `sum_n w_n risk_n`, where `risk_n` is the weighted error rate of the examples at least as
    confident as n. See Geifman & El-Yaniv (2017), "Selective classification for deep neural networks".

    >>> aurc(np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([0, 0]))
    Array(0.25, dtype=float32)
    """
    labels, weights, probs = prepare(labels, weights, probs)
    confidence, correct = top_label(probs, labels)
    weights, mass, errors = cumulative(confidence, weights, 1 - correct)
    return mean(errors / jnp.where(mass == 0, 1, mass), weights)


def mean_corruption_error(errors: ArrayLike, baseline: ArrayLike | None = None) -> jax.Array:
    r"""Mean corruption error of error rates `errors [C, S]`, by corruption and severity.

        mCE = 1 / C sum_c (sum_s E[c, s]) / (sum_s B[c, s])

    relative to the errors `baseline [C, S]` of a stated model, or the plain mean without one. Raises
    ValueError: the shapes are not two equal ones of rank two. See Hendrycks & Dietterich 2019,
    "Benchmarking neural network robustness to common corruptions and perturbations".

    >>> mean_corruption_error(jnp.array([[0.1, 0.3]]), jnp.array([[0.2, 0.6]]))
    Array(0.5, dtype=float32)
    """
    check_numbers(errors=errors, **({} if baseline is None else {"baseline": baseline}))
    shape = jnp.shape(errors)
    if len(shape) != 2 or 0 in shape or (baseline is not None and jnp.shape(baseline) != shape):
        raise ValueError(
            f"errors has shape {list(shape)} and the baseline "
            f"{None if baseline is None else list(jnp.shape(baseline))}; give both one row per "
            "corruption and one column per severity."
        )
    errors = widened(errors)
    if baseline is None:
        return errors.mean()
    return (errors.sum(1) / jnp.asarray(baseline, errors.dtype).sum(1)).mean()


def mean(values: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean of `values [N]`; nan if the weights are all zero."""
    return jnp.sum(values * weights) / jnp.sum(weights)


def predicted(probs: jax.Array) -> jax.Array:
    """Predicted classes `[N]`, int32, of `probs [N, K]`: the first of the most probable ones."""
    return jax.lax.argmax(probs, 1, jnp.int32)


def top_label(probs: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Confidence and correctness `[N]`, in their dtype, of `probs [N, K]` for `labels [N]`."""
    return jnp.max(probs, axis=1), (predicted(probs) == labels).astype(probs.dtype)


def cumulative(
    confidence: jax.Array, weights: jax.Array, values: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """By falling confidence, weights and sums of weights and values `[N]`, to the end of each tie."""
    order = jnp.argsort(-confidence)
    ranked, weights = -confidence[order], weights[order]
    end = jnp.searchsorted(ranked, ranked, side="right") - 1
    return weights, jnp.cumsum(weights)[end], jnp.cumsum(weights * values[order])[end]


def _one_hot(classes: jax.Array, probs: jax.Array) -> jax.Array:
    return jax.nn.one_hot(classes, probs.shape[1], dtype=probs.dtype)


def _edges(num_bins: int, dtype: jnp.dtype) -> jax.Array:
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins} but must be at least 1: pass a positive number.")
    # Divided by NumPy, so that the edges are the numbers of this dtype nearest to b / num_bins.
    return jnp.asarray(np.arange(num_bins + 1, dtype=dtype) / np.asarray(num_bins, dtype))


def _bin(confidence: jax.Array, num_bins: int) -> jax.Array:
    """Index of the equal-width bin, closed on the right, of each confidence."""
    return jnp.searchsorted(_edges(num_bins, confidence.dtype)[1:-1], confidence, side="left")


def _group_sums(values: jax.Array, groups: jax.Array, num_groups: int) -> jax.Array:
    """Sums `[G, C]` of values `[N, C]` by group `[N]`; scatter-add would vary from run to run."""
    # Sums of sums: one running sum would lose digits of many examples.
    chunks = -(-len(values) // _CHUNK)
    more = chunks * _CHUNK - len(values)
    one_hot = jax.nn.one_hot(groups, num_groups, dtype=values.dtype)
    one_hot, values = (
        jnp.pad(x, ((0, more), (0, 0))).reshape(chunks, _CHUNK, x.shape[1])
        for x in (one_hot, values)
    )
    return jnp.einsum("bng,bnc->bgc", one_hot, values, precision="highest").sum(0)


def _group_means(
    values: jax.Array, groups: jax.Array, weights: jax.Array, num_groups: int
) -> tuple[jax.Array, jax.Array]:
    """Weighted means `[G, C]`, 0 for a group without weight, and weights `[G]` of the groups."""
    mass = _group_sums(weights[:, None], groups, num_groups)
    sums = _group_sums(values * weights[:, None], groups, num_groups)
    return sums / jnp.where(mass == 0, 1, mass), mass[:, 0]


def _gaps(diagram: Reliability) -> jax.Array:
    """Calibration error `[B]` of each bin, 0 for an empty one."""
    return jnp.where(diagram.weight == 0, 0, jnp.abs(diagram.accuracy - diagram.confidence))
