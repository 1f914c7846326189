"""The metrics of one prediction in float64, by NumPy and scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics


def random_batch(seed, n=24, k=4):
    """float32 probabilities without ties, labels that they often get right, weights 0 to 3."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs.astype(np.float32), labels, rng.permutation(np.arange(n) % 4).astype(np.float32)


def assert_metrics(record, probs, labels, num_bins=10):
    """That a record of `predictors.all_metrics` is one of `probs [N, K]`, float64."""
    num_classes = probs.shape[1]
    one_hot = np.eye(num_classes)[labels]
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    bins = np.digitize(confidence, np.linspace(0, 1, num_bins + 1), right=True)
    gaps = [abs((confidence - correct)[bins == b].sum()) for b in range(1, num_bins + 1)]
    largest = [abs((confidence - correct)[bins == b].mean()) for b in np.unique(bins)]
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, probs.argmax(1)),
        "nll": sklearn.metrics.log_loss(labels, probs, labels=range(num_classes)),
        "brier": ((probs - one_hot) ** 2).sum(1).mean(),
        "ece": sum(gaps) / len(labels),
        "max_calibration_error": max(largest),
        "entropy": -(probs * np.log(probs)).sum(1).mean(),
        "aurc": risks(probs, labels).mean(),
    }
    for name, value in expected.items():
        assert record[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert {"adaptive_ece", "classwise_ece"} <= record.keys()
    reliability = record["reliability"]
    sizes = [len(reliability[name]) for name in ("accuracy", "weight", "edges")]
    assert sizes == [num_bins, num_bins, num_bins + 1]
    assert sum(reliability["weight"]) == pytest.approx(1)
    parts = record["brier_decomposition"]
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    assert total + parts["within_bin"] == pytest.approx(record["brier"], abs=1e-5)


def risks(probs, labels):
    """The error rates `[N]` of the most confident example, of the two most confident, ..."""
    wrong = (probs.argmax(1) != labels)[np.argsort(-probs.max(1))]
    return np.cumsum(wrong) / np.arange(1, len(labels) + 1)
