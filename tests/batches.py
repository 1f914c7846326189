"""Batches of predictions, and every metric as a function of one."""

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np

from subspace_jax import metrics

N, K, BINS = 24, 4, 5


def on_log(metric):
    return lambda probs, labels, *, weights=None: metric(jnp.log(probs), labels, weights=weights)


def on_reversed(metric):
    """A metric of two predictions, the second being the first with the classes reversed."""
    return lambda probs, labels, *, weights=None: metric(probs, probs[:, ::-1], weights=weights)


def binned(metric):
    return lambda probs, labels, *, weights=None: metric(
        probs, labels, weights=weights, num_bins=BINS
    )


# Of (probs, labels, *, weights).
METRICS = {
    "accuracy": metrics.accuracy,
    "nll": on_log(metrics.nll),
    "brier": metrics.brier,
    "brier_decomposition": metrics.brier_decomposition,
    "reliability": binned(metrics.reliability),
    "ece": binned(metrics.ece),
    "max_calibration_error": binned(metrics.max_calibration_error),
    "adaptive_ece": binned(metrics.adaptive_ece),
    "classwise_ece": binned(metrics.classwise_ece),
    "entropy": metrics.entropy,
    "disagreement": on_reversed(metrics.disagreement),
    "total_variation": on_reversed(metrics.total_variation),
    "aurc": metrics.aurc,
}
SCALARS = sorted(set(METRICS) - {"reliability", "brier_decomposition"})
UNLABELLED = ("entropy", "disagreement", "total_variation")


def random_batch(seed, n=N, k=K):
    """float32 probabilities without ties, labels that they often get right, weights 0 to 3."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs.astype(np.float32), labels, rng.permutation(np.arange(n) % 4).astype(np.float32)


def tied_batch(seed, n=N, k=K):
    """The same from a coarse grid, with equal confidences and confidences of 1 and on edges."""
    _, labels, weights = random_batch(seed, n, k)
    counts = np.random.default_rng(seed).multinomial(BINS, np.full(k, 1 / k), size=n)
    return (counts / BINS).astype(np.float32), labels, weights


@st.composite
def small_batches(draw):
    counts = draw(npst.arrays(np.int32, (8, 3), elements=st.integers(0, 4)))
    counts[counts.sum(axis=1) == 0] = 1
    labels = draw(npst.arrays(np.int32, 8, elements=st.integers(0, 2)))
    weights = draw(npst.arrays(np.float32, 8, elements=st.sampled_from([0, 0.25, 1, 3])))
    hypothesis.assume(weights.any())
    return (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32), labels, weights


def confidence_and_correct(probs, labels):
    """By a loop, one example at a time."""
    rows = [row.tolist() for row in probs]
    confidence = [max(row) for row in rows]
    correct = [float(row.index(c) == y) for row, c, y in zip(rows, confidence, labels, strict=True)]
    return confidence, correct
