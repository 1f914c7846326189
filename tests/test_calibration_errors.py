"""Calibration errors and the Brier score's parts against scikit-learn and plain float64 loops."""

import inspect

import chex
import hypothesis
import numpy as np
import pytest
import sklearn.calibration
from batches import (
    BINS,
    METRICS,
    confidence_and_correct,
    random_batch,
    small_batches,
)

from subspace_jax import metrics

arbitrary = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


# Oracles: float64, one example at a time.


def loop_bins(confidence, num_bins):
    """For every bin, the examples in it."""
    edges = [float(np.float32(b / num_bins)) for b in range(num_bins + 1)]
    bins = [[] for _ in range(num_bins)]
    for n, c in enumerate(confidence):
        inside = [b for b in range(num_bins) if edges[b] < c <= edges[b + 1]]
        assert len(inside) == 1 or c == 0
        bins[inside[0] if inside else 0].append(n)
    return bins


def loop_reliability(confidence, correct, weights, num_bins):
    """Rows of mean confidence, accuracy and share of the weight."""
    columns = []
    for members in loop_bins(confidence, num_bins):
        mass = sum(weights[n] for n in members)
        sums = [sum(weights[n] * x[n] for n in members) for x in (confidence, correct)]
        columns.append([s / mass if mass else np.nan for s in sums] + [mass / sum(weights)])
    return np.array(columns).T


def loop_ece(confidence, correct, weights, num_bins):
    gaps = [
        abs(sum(weights[n] * (correct[n] - confidence[n]) for n in members))
        for members in loop_bins(confidence, num_bins)
    ]
    return sum(gaps) / sum(weights)


def loop_classwise_ece(probs, labels, weights, num_bins):
    columns = [
        loop_ece(probs[:, k].tolist(), [float(y == k) for y in labels], weights, num_bins)
        for k in range(probs.shape[1])
    ]
    return sum(columns) / len(columns)


def loop_adaptive_ece(confidence, correct, weights, num_bins):
    total, start, sums = sum(weights), 0.0, [0.0] * num_bins
    for level in sorted(set(confidence)):
        tied = [n for n, c in enumerate(confidence) if c == level]
        mass = sum(weights[n] for n in tied)
        if mass == 0:
            continue
        gap = sum(weights[n] * correct[n] for n in tied) / mass - level
        for b in range(num_bins):
            low, high = b * total / num_bins, (b + 1) * total / num_bins
            sums[b] += gap * max(0.0, min(high, start + mass) - max(low, start))
        start += mass
    return sum(abs(s) for s in sums) / total


def loop_brier_decomposition(probs, labels, weights):
    probs, targets = probs.astype(np.float64), np.eye(probs.shape[1])[labels]
    predicted, total = probs.argmax(axis=1), weights.sum()
    overall = np.average(targets, axis=0, weights=weights)
    reliability = resolution = within = 0.0
    for b in set(predicted[weights > 0]):
        p, y, w = (array[predicted == b] for array in (probs, targets, weights))
        mean_p, mean_y = np.average(p, axis=0, weights=w), np.average(y, axis=0, weights=w)
        reliability += w.sum() / total * ((mean_p - mean_y) ** 2).sum()
        resolution += w.sum() / total * ((mean_y - overall) ** 2).sum()
        covariances = ((p - mean_p) * (p - mean_p - 2 * (y - mean_y))).sum(axis=1)
        within += (w * covariances).sum() / total
    return metrics.BrierDecomposition(reliability, resolution, 1 - (overall**2).sum(), within)


# Values


def test_calibration_curve_of_scikit_learn_agrees_for_fifteen_bins():
    probs, labels, _ = random_batch(1, n=200)
    correct = probs.argmax(axis=1) == labels
    accuracy, confidence = sklearn.calibration.calibration_curve(
        correct, probs.max(axis=1), n_bins=15, strategy="uniform"
    )
    diagram = metrics.reliability(probs, labels)
    filled = diagram.weight > 0
    chex.assert_trees_all_close(
        [diagram.accuracy[filled], diagram.confidence[filled]], [accuracy, confidence], rtol=1e-5
    )
    largest = np.abs(accuracy - confidence).max()
    np.testing.assert_allclose(metrics.max_calibration_error(probs, labels), largest, rtol=1e-5)
    for metric in (metrics.ece, metrics.adaptive_ece, metrics.classwise_ece):
        assert inspect.signature(metric).parameters["num_bins"].default == 15


@hypothesis.given(small_batches())
@arbitrary
def test_loops_agree(batch):
    probs, labels, weights = batch
    confidence, correct = confidence_and_correct(probs, labels)
    w = weights.tolist()
    diagram = loop_reliability(confidence, correct, w, BINS)
    actual = {
        name: METRICS[name](probs, labels, weights=weights)
        for name in ("ece", "max_calibration_error", "adaptive_ece", "classwise_ece")
    }
    expected = {
        "ece": loop_ece(confidence, correct, w, BINS),
        "max_calibration_error": np.nanmax(np.abs(diagram[1] - diagram[0])),
        "adaptive_ece": loop_adaptive_ece(confidence, correct, w, BINS),
        "classwise_ece": loop_classwise_ece(probs, labels, w, BINS),
    }
    chex.assert_trees_all_close(actual, expected, atol=2e-6)
    value = metrics.reliability(probs, labels, weights=weights, num_bins=BINS)
    np.testing.assert_allclose(value[:3], diagram, atol=2e-6)
    chex.assert_trees_all_close(
        metrics.brier_decomposition(probs, labels, weights=weights),
        loop_brier_decomposition(probs, labels, weights.astype(np.float64)),
        atol=2e-6,
    )


def test_adaptive_ece_of_distinct_confidences_splits_the_sorted_examples():
    probs, labels, _ = random_batch(2, n=20)
    confidence, correct = map(np.asarray, confidence_and_correct(probs, labels))
    gaps = np.split((correct - confidence)[confidence.argsort()], 4)
    np.testing.assert_allclose(
        metrics.adaptive_ece(probs, labels, num_bins=4),
        np.mean([abs(gap.mean()) for gap in gaps]),
        rtol=1e-5,
    )


@hypothesis.given(small_batches())
@arbitrary
def test_brier_decomposition_is_exact(batch):
    probs, labels, weights = batch
    terms = metrics.brier_decomposition(probs, labels, weights=weights)
    np.testing.assert_allclose(
        terms.reliability - terms.resolution + terms.uncertainty + terms.within_bin,
        metrics.brier(probs, labels, weights=weights),
        atol=2e-6,
    )
    assert -1e-6 <= terms.reliability <= 2 + 1e-6
    assert -1e-6 <= terms.resolution <= terms.uncertainty + 1e-6
    assert terms.uncertainty <= 2 / 3 + 1e-6


def test_brier_decomposition_within_bins_rewards_telling_examples_apart():
    # One bin: forecasts 0.6 and 1.0 for class 0, right only for the second.
    terms = metrics.brier_decomposition(np.array([[0.6, 0.4], [1.0, 0.0]]), np.array([1, 0]))
    np.testing.assert_allclose(terms, (0.18, 0, 0.5, 2 * (0.04 - 2 * 0.1)), atol=1e-6)


# Bins


@pytest.mark.parametrize("num_bins", [1, 2, 3, 10, 15, 49])
def test_edges_belong_to_the_lower_bin(num_bins):
    # One class, so that the confidence can be any number.
    edges = np.array([b / num_bins for b in range(num_bins + 1)])
    labels = np.zeros(num_bins + 1, np.int32)
    diagram = metrics.reliability(edges[:, None], labels, num_bins=num_bins)
    counts = np.ones(num_bins)
    counts[0] = 2  # a confidence of 0, and the upper edge
    np.testing.assert_array_equal(diagram.edges, edges.astype(np.float32))
    np.testing.assert_array_equal(np.rint(diagram.weight * (num_bins + 1)), counts)
    above = np.nextafter(diagram.edges, np.float32(2))
    diagram = metrics.reliability(above[:, None], labels, num_bins=num_bins)
    counts = np.ones(num_bins)
    counts[-1] = 2  # just above the last inner edge, and just above 1
    np.testing.assert_array_equal(np.rint(diagram.weight * (num_bins + 1)), counts)


def test_empty_bins_are_nan_without_weight():
    diagram = metrics.reliability(np.array([[0.1, 0.9]]), np.array([1]), num_bins=2)
    np.testing.assert_array_equal(diagram.weight, [0, 1])
    np.testing.assert_array_equal(diagram.accuracy, [np.nan, 1])
    np.testing.assert_array_equal(diagram.confidence, np.float32([np.nan, 0.9]))


@pytest.mark.parametrize(
    "name", ["reliability", "ece", "max_calibration_error", "adaptive_ece", "classwise_ece"]
)
def test_num_bins_must_be_positive(name):
    with pytest.raises(ValueError, match="num_bins is 0 but must be at least 1"):
        getattr(metrics, name)(np.ones((2, 1)), np.zeros(2, int), num_bins=0)
