"""Metrics against scikit-learn and plain float64 loops, and the properties that all of them have."""

import itertools

import chex
import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
import sklearn.metrics
from reference_metrics import random_batch

from subspace_jax import metrics

arbitrary = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
N, K, BINS = 24, 4, 5
BINNED = ("reliability", "ece", "max_calibration_error", "adaptive_ece", "classwise_ece")
PAIRED = ("disagreement", "total_variation", "mutual_information")
NAMES = (*BINNED, *PAIRED, "smooth_ece", "accuracy", "nll", "brier", "brier_decomposition")
NAMES += ("entropy", "aurc")
UNLABELLED = ("entropy", *PAIRED)


def call(name, probs, labels, weights=None):
    """A metric of probabilities; of two predictions, the second has the classes reversed."""
    options = {"num_bins": BINS} if name in BINNED else {}
    first = jnp.log(probs) if name == "nll" else probs
    second = probs[:, ::-1] if name in PAIRED else labels
    if name == "mutual_information":
        return metrics.mutual_information(jnp.stack([first, second]), weights=weights)
    return getattr(metrics, name)(first, second, weights=weights, **options)


@jax.jit
def every(probs, labels, weights=None):
    return {name: call(name, probs, labels, weights) for name in NAMES}


@st.composite
def small_batches(draw):
    counts = draw(npst.arrays(np.int32, (8, 3), elements=st.integers(0, 4)))
    counts[counts.sum(axis=1) == 0] = 1
    labels = draw(npst.arrays(np.int32, 8, elements=st.integers(0, 2)))
    weights = draw(npst.arrays(np.float32, 8, elements=st.sampled_from([0, 0.25, 1, 3])))
    hypothesis.assume(weights.any())
    return (counts / counts.sum(axis=1, keepdims=True)).astype(np.float32), labels, weights


# Oracles: float64, one bin or level at a time.


def in_bins(confidence):
    """For every bin, which examples are in it; closed above, 0 in the first."""
    edges = np.float32([b / BINS for b in range(BINS + 1)])
    edges[0] = -1
    return [(low < confidence) & (confidence <= high) for low, high in itertools.pairwise(edges)]


def loop_ece(confidence, correct, w):
    return sum(abs((w * (correct - confidence))[b].sum()) for b in in_bins(confidence)) / w.sum()


def loop_reliability(confidence, correct, w):
    mean = lambda x, b: np.average(x[b], weights=w[b]) if w[b].any() else np.nan
    columns = [
        (mean(confidence, b), mean(correct, b), w[b].sum() / w.sum()) for b in in_bins(confidence)
    ]
    return np.array(columns).T


def loop_adaptive_ece(confidence, correct, w):
    start, sums, cuts = 0.0, np.zeros(BINS), w.sum() * np.arange(BINS + 1) / BINS
    for level in np.unique(confidence[w > 0]):
        tied = confidence == level
        gap, mass = np.average((correct - confidence)[tied], weights=w[tied]), w[tied].sum()
        shared = np.minimum(cuts[1:], start + mass) - np.maximum(cuts[:-1], start)
        sums, start = sums + gap * np.maximum(0, shared), start + mass
    return np.abs(sums).sum() / w.sum()


def smooth_ece_by_densities(confidence, correct, w):
    """Normal densities at the mirror images of every confidence, and SciPy's root."""
    t = (np.arange(4000) + 0.5) / 4000

    def error(bandwidth):
        curve = np.zeros_like(t)
        for c, y, weight in zip(confidence, correct, w / w.sum(), strict=True):
            images = [2 * k + side * c for k in range(-4, 5) for side in (1, -1)]
            curve += weight * (y - c) * scipy.stats.norm.pdf(t[:, None], images, bandwidth).sum(1)
        return np.abs(curve).mean()

    return scipy.optimize.brentq(lambda bandwidth: error(bandwidth) - bandwidth, 1e-3, 1)


def loop_brier_decomposition(probs, targets, w):
    overall, predicted = np.average(targets, axis=0, weights=w), probs.argmax(axis=1)
    reliability = resolution = within = 0.0
    for b in (predicted == k for k in set(predicted[w > 0])):
        share, p, y = w[b].sum() / w.sum(), probs[b], targets[b]
        mean_p, mean_y = np.average(p, axis=0, weights=w[b]), np.average(y, axis=0, weights=w[b])
        reliability += share * ((mean_p - mean_y) ** 2).sum()
        resolution += share * ((mean_y - overall) ** 2).sum()
        rest = ((p - mean_p) * (p - mean_p - 2 * (y - mean_y))).sum(axis=1)
        within += share * np.average(rest, weights=w[b])
    return metrics.BrierDecomposition(reliability, resolution, 1 - (overall**2).sum(), within)


def loop_aurc(confidence, correct, w):
    accepted = (w * (confidence[None] >= confidence[:, None]))[w > 0]
    return np.average(
        np.average(np.tile(1 - correct, (len(accepted), 1)), 1, accepted), 0, w[w > 0]
    )


# Values


@hypothesis.given(small_batches())
@arbitrary
def test_loops_agree(batch):
    probs, labels, w = (x.astype(np.float64) for x in batch)
    targets = np.eye(3)[batch[1]]
    curve = probs.max(axis=1), (probs.argmax(axis=1) == labels).astype(np.float64), w
    values = every(*batch)
    diagram = loop_reliability(*curve)
    classes = [loop_ece(probs[:, k], targets[:, k], w) for k in range(3)]
    expected = {
        "accuracy": np.average(curve[1], weights=w),
        "brier": np.average(((probs - targets) ** 2).sum(axis=1), weights=w),
        "brier_decomposition": loop_brier_decomposition(probs, targets, w),
        "ece": loop_ece(*curve),
        "max_calibration_error": np.nanmax(np.abs(diagram[1] - diagram[0])),
        "adaptive_ece": loop_adaptive_ece(*curve),
        "classwise_ece": np.mean(classes),
        "aurc": loop_aurc(*curve),
        "disagreement": np.average(
            probs.argmax(axis=1) != probs[:, ::-1].argmax(axis=1), weights=w
        ),
        "total_variation": np.average(np.abs(probs - probs[:, ::-1]).sum(axis=1) / 2, weights=w),
    }
    mean = (probs + probs[:, ::-1]) / 2
    towards = [scipy.special.rel_entr(p, mean).sum(axis=1) for p in (probs, probs[:, ::-1])]
    expected["mutual_information"] = np.average(np.mean(towards, axis=0), weights=w)
    chex.assert_trees_all_close({name: values[name] for name in expected}, expected, atol=1e-6)
    np.testing.assert_allclose(values["reliability"][:3], diagram, atol=1e-6)
    # Ranges, and the parts of the Brier score.
    upper = {"nll": np.inf, "brier": 2, "entropy": np.log(3), "classwise_ece": 2 / 3}
    upper["mutual_information"] = np.log(2)
    same = np.stack([batch[0]] * 7)  # equal members differ by rounding
    assert 0 <= metrics.mutual_information(same, weights=batch[2]) < 1e-6
    for name in set(NAMES) - {"reliability", "brier_decomposition"}:
        assert -1e-6 <= values[name] <= upper.get(name, 1) + 1e-6, name
    reliability, resolution, uncertainty, within = values["brier_decomposition"]
    total = reliability - resolution + uncertainty + within
    np.testing.assert_allclose(total, values["brier"], atol=2e-6)


@pytest.mark.parametrize("seed", range(3))
def test_smooth_ece_is_the_fixed_point_of_mirrored_densities(seed):
    probs, labels, weights = random_batch(seed)
    for w in (np.ones(N), weights):
        curve = probs.max(axis=1), probs.argmax(axis=1) == labels, w
        expected = smooth_ece_by_densities(*(x.astype(np.float64) for x in curve))
        np.testing.assert_allclose(
            metrics.smooth_ece(probs, labels, weights=w), expected, atol=1e-5
        )
    # One gap everywhere is the error at every bandwidth, the narrowest too.
    for gap in (0.4, 2.0**-12):
        probs, labels = np.float32([[1 - gap, gap]] * 50), np.zeros(50, int)
        np.testing.assert_allclose(metrics.smooth_ece(probs, labels), gap, rtol=1e-4)


def test_scikit_learn_agrees():
    probs, labels, weights = random_batch(0)
    exact = probs.astype(np.float64) / probs.sum(axis=1, keepdims=True, dtype=np.float64)
    for w in (None, weights):
        found, of = every(probs, labels, w), {"labels": np.arange(K), "sample_weight": w}
        nll = sklearn.metrics.log_loss(labels, exact, **of)
        np.testing.assert_allclose(found["nll"], nll, rtol=1e-6)
        entropy = np.average(-(exact * np.log(exact)).sum(axis=1), weights=w)
        np.testing.assert_allclose(found["entropy"], entropy, rtol=1e-6)


@pytest.mark.parametrize("num_bins", [1, 3, 10, 15, 49])
def test_edges_belong_to_the_lower_bin(num_bins):
    edges = np.float32([b / num_bins for b in range(num_bins + 1)])
    above = np.nextafter(edges, np.float32(2))
    # The first bin has 0 and its upper edge; the last what is above its lower edge, and above 1.
    for confidence, doubled in ((edges, 0), (above, -1)):
        # One class, so that the confidence can be any number.
        labels, counts = np.zeros(num_bins + 1, np.int32), np.ones(num_bins)
        diagram = metrics.reliability(confidence[:, None], labels, num_bins=num_bins)
        counts[doubled] = 2
        np.testing.assert_array_equal(diagram.edges, edges)
        np.testing.assert_array_equal(np.rint(diagram.weight * (num_bins + 1)), counts)


def test_nll_ignores_impossible_wrong_classes():
    log_probs = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    assert metrics.nll(log_probs, np.array([0, 1])) == 0
    assert metrics.nll(log_probs, np.array([0, 0])) == np.inf
    gradient = jax.grad(metrics.nll)(jnp.asarray(log_probs, jnp.float32), np.array([0, 1]))
    np.testing.assert_array_equal(gradient, [[-0.5, 0], [0, -0.5]])


def test_mean_corruption_errors_are_means_of_ratios():
    errors, baseline = np.random.default_rng(0).uniform(0.1, 0.9, (2, 3, 5))
    relative = metrics.mean_corruption_error(errors, baseline)
    np.testing.assert_allclose(relative, np.mean(errors.sum(1) / baseline.sum(1)), rtol=1e-5)
    np.testing.assert_allclose(metrics.mean_corruption_error(errors), errors.mean(), rtol=1e-5)


# Every metric


def test_orders_do_not_matter_and_weights_repeat_examples():
    probs, labels, weights = random_batch(9)
    value = every(probs, labels, weights)
    turned = every(probs[::-1], labels[::-1], weights[::-1])
    chex.assert_trees_all_close(turned, value, atol=1e-6)
    times = weights.astype(int)  # 0 to 3
    repeated = every(probs.repeat(times, axis=0), labels.repeat(times))
    chex.assert_trees_all_close(every(probs, labels, 0.125 * weights), repeated, atol=1e-6)
    chex.assert_trees_all_close(value, repeated, atol=1e-6)
    order = np.array([1, 3, 0, 2])  # commutes with the reversal in `call`
    turned = every(probs[:, order], order.argsort()[labels], weights)
    chex.assert_trees_all_close(turned, value, atol=1e-6)


def test_padding_has_no_effect():
    probs, labels, weights = random_batch(10)
    clean, padding = every(probs, labels, weights), weights == 0
    for garbage in (np.nan, np.inf, -1.0, 7.0):
        probs[padding], labels[padding] = garbage, (-1, K, 1000, -1000, -K, 0)
        chex.assert_trees_all_equal(every(probs, labels, weights), clean)


def test_invalid_examples_and_weights_that_are_all_zero_give_nan():
    probs, labels, _ = random_batch(12)
    broken, below, above = probs.copy(), labels.copy(), labels.copy()
    broken[3, 1], below[3], above[3] = np.nan, -1, K
    for arguments, spared in [
        ((probs, labels, np.zeros(N)), ()),
        ((broken, labels, np.ones(N)), ()),
        ((probs, below, np.ones(N)), UNLABELLED),
        ((probs, above, np.ones(N)), UNLABELLED),
    ]:
        for name, value in every(*arguments).items():
            value = value.weight if name == "reliability" else value
            nan = {bool(np.isnan(leaf).all()) for leaf in jax.tree.leaves(value)}
            assert nan == {name not in spared}, name


def test_gradients_are_finite_and_those_of_the_proper_scores_exact():
    probs, labels, weights = random_batch(15)
    targets, share = np.eye(K, dtype=np.float32)[labels], (weights / weights.sum())[:, None]

    @jax.jit
    def gradients(probs, labels):
        leaves = lambda name, probs: jax.tree.leaves(call(name, probs, labels, weights))
        total = lambda name: lambda probs: sum(jnp.nansum(leaf) for leaf in leaves(name, probs))
        return {name: jax.grad(total(name))(probs) for name in NAMES}

    chex.assert_tree_all_finite(gradients(probs, labels))
    probs[weights == 0], labels[weights == 0] = np.nan, -1
    expected = np.where(share > 0, 2 * share * (probs - targets), 0)
    np.testing.assert_allclose(gradients(probs, labels)["brier"], expected, atol=1e-6)


def test_metrics_are_mapped_and_compile_once_per_shape():
    batches = [random_batch(seed) for seed in (1, 2)]
    mapped = jax.jit(jax.vmap(every))(*map(np.stack, zip(*batches, strict=True)))
    for name in NAMES:
        getattr(metrics, name).compiled.clear_cache()
        for i, batch in enumerate(batches):
            ith = jax.tree.map(lambda leaf, i=i: leaf[i], mapped[name])
            chex.assert_trees_all_close(ith, call(name, *batch), rtol=1e-5, atol=1e-6)
        assert getattr(metrics, name).compiled._cache_size() == 1
