"""Scores against scikit-learn and plain float64 loops, and the properties that every metric has."""

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics
from batches import (
    METRICS,
    SCALARS,
    UNLABELLED,
    K,
    N,
    confidence_and_correct,
    random_batch,
    small_batches,
    tied_batch,
)

from subspace_jax import metrics

every_metric = pytest.mark.parametrize("name", METRICS)
arbitrary = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


# Scores and comparisons


@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learn_agrees(weighted):
    probs, labels, weights = random_batch(0)
    weights = weights if weighted else None
    exact = probs.astype(np.float64) / probs.sum(axis=1, keepdims=True, dtype=np.float64)
    pairs = {
        "accuracy": sklearn.metrics.accuracy_score(
            labels, probs.argmax(axis=1), sample_weight=weights
        ),
        "nll": sklearn.metrics.log_loss(labels, exact, sample_weight=weights, labels=np.arange(K)),
        "brier": sum(
            sklearn.metrics.brier_score_loss(labels == k, exact[:, k], sample_weight=weights)
            for k in range(K)
        ),
        "entropy": np.average(-(exact * np.log(exact)).sum(axis=1), weights=weights),
    }
    for name, expected in pairs.items():
        actual = METRICS[name](probs, labels, weights=weights)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, err_msg=name)


def test_perfect_and_worst_predictions():
    labels, weights = np.arange(N) % K, np.ones(N)
    perfect, worst = np.eye(K)[labels], np.eye(K)[(labels + 1) % K]
    best = {"accuracy": 1, "disagreement": 1, "total_variation": 1}
    bound = {"accuracy": 0, "nll": np.inf, "brier": 2, "classwise_ece": 2 / K, "entropy": 0}
    for name in SCALARS:
        for probs, expected in ((perfect, best.get(name, 0)), (worst, bound.get(name, 1))):
            value = METRICS[name](probs, labels, weights=weights)
            np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=name)
    for probs, reliability in ((perfect, 0), (worst, 2)):
        terms = metrics.brier_decomposition(probs, labels, weights=weights)
        expected = (reliability, 1 - 1 / K, 1 - 1 / K, 0)
        np.testing.assert_allclose(terms, expected, atol=1e-6)


def test_uniform_predictions_have_the_largest_entropy():
    np.testing.assert_allclose(metrics.entropy(np.full((3, 7), 1 / 7)), np.log(7), rtol=1e-6)


@pytest.mark.parametrize("labels", [None, np.array([-1]), np.array([[0.5, 0.5]])])
def test_entropy_ignores_labels(labels):
    probs = np.array([[0.25, 0.75]])
    assert metrics.entropy(probs, labels) == metrics.entropy(probs)


def test_nll_ignores_impossible_wrong_classes():
    log_probs = np.array([[0.0, -np.inf], [-np.inf, 0.0]])
    assert metrics.nll(log_probs, np.array([0, 1])) == 0
    assert metrics.nll(log_probs, np.array([0, 0])) == np.inf
    gradient = jax.grad(metrics.nll)(jnp.asarray(log_probs, jnp.float32), np.array([0, 1]))
    np.testing.assert_array_equal(gradient, [[-0.5, 0], [0, -0.5]])


def test_gradients_of_the_proper_scores():
    probs, labels, weights = random_batch(15)
    targets, share = np.eye(K, dtype=np.float32)[labels], (weights / weights.sum())[:, None]
    probs[weights == 0], labels[weights == 0] = np.nan, -1
    gradient = jax.grad(metrics.brier)(probs, labels, weights=weights)
    expected = np.where(share > 0, 2 * share * (probs - targets), 0)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    gradient = jax.grad(metrics.nll)(np.log(probs), labels, weights=weights)
    np.testing.assert_allclose(gradient, -share * targets, atol=1e-6)


def test_total_variation_and_disagreement_are_symmetric_and_zero_for_equal_predictions():
    (a, _, weights), (b, _, _) = random_batch(4), random_batch(5)
    for metric in (metrics.total_variation, metrics.disagreement):
        assert metric(a, a) == 0
        assert metric(a, b, weights=weights) == metric(b, a, weights=weights) > 0
    distance = np.average(np.abs(a - b).sum(axis=1) / 2, weights=weights)
    np.testing.assert_allclose(metrics.total_variation(a, b, weights=weights), distance, rtol=1e-5)
    differ = np.average(a.argmax(axis=1) != b.argmax(axis=1), weights=weights)
    np.testing.assert_allclose(metrics.disagreement(a, b, weights=weights), differ, rtol=1e-5)


@pytest.mark.parametrize("name", ["disagreement", "total_variation"])
def test_two_predictions_must_have_one_shape(name):
    with pytest.raises(ValueError, match=r"\(24, 4\) and \(24, 3\): pass predictions of the same"):
        getattr(metrics, name)(np.ones((24, 4)), np.ones((24, 3)))


# Selective prediction and corruptions


def loop_aurc(confidence, correct, weights):
    area = 0.0
    for n, level in enumerate(confidence):
        if weights[n]:
            accepted = [m for m, c in enumerate(confidence) if c >= level]
            errors = sum(weights[m] * (1 - correct[m]) for m in accepted)
            area += weights[n] * errors / sum(weights[m] for m in accepted)
    return area / sum(weights)


@hypothesis.given(small_batches())
@arbitrary
def test_aurc_is_that_of_a_loop(batch):
    probs, labels, weights = batch
    expected = loop_aurc(*confidence_and_correct(probs, labels), weights.tolist())
    np.testing.assert_allclose(metrics.aurc(probs, labels, weights=weights), expected, atol=2e-6)


def test_aurc_of_distinct_confidences_is_the_mean_selective_risk():
    probs, labels, _ = random_batch(3)
    confidence, correct = map(np.asarray, confidence_and_correct(probs, labels))
    errors = (1 - correct)[(-confidence).argsort()]
    np.testing.assert_allclose(
        metrics.aurc(probs, labels), np.mean(errors.cumsum() / np.arange(1, N + 1)), rtol=1e-5
    )


def test_aurc_of_equal_confidences_is_the_error_rate():
    probs = np.tile(np.float32([0.75, 0.25]), (4, 1))
    assert metrics.aurc(probs, np.array([0, 1, 1, 0])) == 0.5


@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_mean_corruption_error_by_hand(shape):
    errors, baseline = np.random.default_rng(0).uniform(0.1, 0.9, (2, *shape))
    raw = sum(sum(row) for row in errors) / errors.size
    relative = [sum(row) / sum(base) for row, base in zip(errors, baseline, strict=True)]
    error = metrics.mean_corruption_error(errors)
    assert error.dtype == np.float32
    np.testing.assert_allclose(error, raw, rtol=1e-5)
    error = metrics.mean_corruption_error(errors, baseline)
    np.testing.assert_allclose(error, sum(relative) / shape[0], rtol=1e-5)


def test_mean_corruption_error_relative_to_itself_is_one():
    errors = np.random.default_rng(0).uniform(0.1, 0.9, (4, 5))
    np.testing.assert_allclose(metrics.mean_corruption_error(errors, errors), 1, rtol=1e-6)
    half = metrics.mean_corruption_error(errors / 2, errors)
    np.testing.assert_allclose(half, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("errors", "baseline", "message"),
    [
        (np.ones(5), None, r"errors has shape \[5\] and the baseline None; give both one row per"),
        (np.ones((0, 5)), None, r"errors has shape \[0, 5\]"),
        (np.ones((2, 5)), np.ones((2, 3)), r"shape \[2, 5\] and the baseline \[2, 3\]; give both"),
    ],
)
def test_corruption_errors_are_one_row_per_corruption(errors, baseline, message):
    with pytest.raises(ValueError, match=message):
        metrics.mean_corruption_error(errors, baseline)


# Every metric


@hypothesis.given(small_batches())
@arbitrary
def test_ranges(batch):
    probs, labels, weights = batch
    upper = {"nll": np.inf, "brier": 2, "entropy": np.log(3), "classwise_ece": 2 / 3}
    values = {name: METRICS[name](probs, labels, weights=weights) for name in SCALARS}
    for name, value in values.items():
        assert 0 <= value <= upper.get(name, 1) + 1e-6, name
    assert values["ece"] <= values["max_calibration_error"] + 1e-6


@every_metric
@pytest.mark.parametrize("batch", [random_batch, tied_batch])
def test_order_of_examples_does_not_matter(name, batch):
    arrays = batch(6)
    order = np.random.default_rng(7).permutation(N)
    probs, labels, weights = (array[order] for array in arrays)
    chex.assert_trees_all_close(
        METRICS[name](probs, labels, weights=weights),
        METRICS[name](*arrays[:2], weights=arrays[2]),
        atol=1e-6,
    )


@every_metric
def test_order_of_classes_does_not_matter(name):
    probs, labels, weights = random_batch(8)
    # Commutes with the reversal in on_reversed.
    order = np.array([1, 3, 0, 2])
    chex.assert_trees_all_close(
        METRICS[name](probs[:, order], order.argsort()[labels], weights=weights),
        METRICS[name](probs, labels, weights=weights),
        atol=1e-6,
    )


@every_metric
@pytest.mark.parametrize("batch", [random_batch, tied_batch])
def test_weights_repeat_and_remove_examples(name, batch):
    probs, labels, weights = batch(9)
    times = weights.astype(int)  # 0 to 3
    repeated = METRICS[name](probs.repeat(times, axis=0), labels.repeat(times))
    for factor in (1, 0.125):
        weighted = METRICS[name](probs, labels, weights=factor * weights)
        chex.assert_trees_all_close(weighted, repeated, atol=1e-6)


@every_metric
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -1.0, 7.0])
def test_padding_has_no_effect(name, garbage):
    probs, labels, weights = random_batch(10)
    clean = METRICS[name](probs, labels, weights=weights)
    padding = weights == 0
    probs[padding], labels[padding] = garbage, (-1, K, 1000, -1000, -K, 0)
    chex.assert_trees_all_equal(METRICS[name](probs, labels, weights=weights), clean)


@every_metric
def test_weights_that_are_all_zero_give_nan(name):
    probs, labels, _ = random_batch(11)
    value = METRICS[name](probs, labels, weights=np.zeros(N))
    value = value[:3] if name == "reliability" else value
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(value))


@every_metric
@pytest.mark.parametrize("fault", ["nan", "label -1", "label K"])
def test_invalid_examples_give_nan(name, fault):
    probs, labels, _ = random_batch(12)
    if fault == "nan":
        probs[3, 1] = np.nan
    else:
        labels[3] = {"label -1": -1, "label K": K}[fault]
    value = METRICS[name](probs, labels, weights=np.ones(N))
    value = value.weight if name == "reliability" else value
    expected = fault == "nan" or name not in UNLABELLED
    assert all(np.isnan(leaf).all() == expected for leaf in jax.tree.leaves(value))


@every_metric
def test_one_example_and_one_class(name):
    value = METRICS[name](np.ones((1, 1)), np.array([0]))
    if name == "reliability":
        chex.assert_trees_all_close(value.weight, np.float32([0, 0, 0, 0, 1]))
    else:
        expected = 1.0 if name == "accuracy" else 0.0
        assert all(leaf == expected for leaf in jax.tree.leaves(value))


@every_metric
def test_bfloat16_is_converted_first(name):
    probs, labels, weights = random_batch(13)
    probs, weights = probs.astype(jnp.bfloat16), weights.astype(jnp.bfloat16)
    value = METRICS[name](probs, labels.astype(np.uint8), weights=weights)
    expected = METRICS[name](probs.astype(np.float32), labels, weights=weights.astype(np.float32))
    chex.assert_trees_all_equal_dtypes(value, expected)
    # The logarithm that the test takes for nll is a bfloat16.
    chex.assert_trees_all_close(value, expected, rtol=1e-2 if name == "nll" else 1e-6)


@every_metric
def test_float64_is_converted_first(name):
    probs, labels, weights = random_batch(13)
    value = METRICS[name](probs, labels, weights=weights)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(value))
    probs, weights = probs.astype(np.float64), weights.astype(np.float64)
    chex.assert_trees_all_equal(METRICS[name](probs, labels, weights=weights), value)
    with jax.enable_x64(True):
        double = METRICS[name](probs, labels, weights=weights)
    chex.assert_trees_all_equal_dtypes(double, value)
    chex.assert_trees_all_close(double, value, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_of_half_precision_are_in_float32(dtype):
    # In float16 the sum would stop growing at 2048, in bfloat16 at 256.
    probs, labels = jnp.full((8192, 2), 0.5, dtype), jnp.zeros(8192, jnp.int8)
    assert metrics.brier(probs, labels, weights=jnp.ones(8192, bool)) == 0.5
    assert metrics.ece(probs, labels, weights=jnp.ones(8192, dtype)) == 0.5
    assert metrics.nll(-probs, labels) == 0.5


def test_many_examples_lose_no_precision():
    probs, labels, _ = random_batch(14, n=200_000, k=3)
    confidence, correct = probs.max(axis=1).astype(np.float64), probs.argmax(axis=1) == labels
    index = np.digitize(confidence, np.linspace(0, 1, 16)[1:-1], right=True)
    sums = np.bincount(index, correct - confidence, minlength=15)
    np.testing.assert_allclose(metrics.ece(probs, labels), np.abs(sums).mean() * 15 / 2e5, 1e-4)
    np.testing.assert_allclose(metrics.accuracy(probs, labels), correct.mean(), 1e-6)
    errors = ~correct[np.argsort(-confidence, kind="stable")]
    risk = errors.cumsum() / np.arange(1, len(errors) + 1)
    np.testing.assert_allclose(metrics.aurc(probs, labels), risk.mean(), 1e-4)


@every_metric
def test_gradients_are_finite(name):
    probs, labels, weights = random_batch(16)

    def total(probs):
        leaves = jax.tree.leaves(METRICS[name](probs, labels, weights=weights))
        return sum(jnp.nansum(leaf) for leaf in leaves)

    chex.assert_tree_all_finite(jax.grad(total)(probs))


@every_metric
def test_vmap(name):
    batches = [random_batch(seed) for seed in (1, 2)]
    stacked = [np.stack(arrays) for arrays in zip(*batches, strict=True)]
    mapped = jax.vmap(lambda p, y, w: METRICS[name](p, y, weights=w))(*stacked)
    for i, (probs, labels, weights) in enumerate(batches):
        alone = METRICS[name](probs, labels, weights=weights)
        ith = jax.tree.map(lambda leaf, i=i: leaf[i], mapped)
        chex.assert_trees_all_close(ith, alone, rtol=1e-5, atol=1e-6)


@every_metric
def test_compiles_once_per_shape(name):
    metric = getattr(metrics, name)
    metric.clear_cache()
    for seed, n in ((0, 5), (1, 5), (2, 6), (3, 6)):
        probs, labels, weights = random_batch(seed, n=n)
        second = probs if name in ("disagreement", "total_variation") else labels
        metric(probs, second, weights=weights)
    assert metric._cache_size() == 2


@every_metric
def test_shapes_that_do_not_fit(name):
    probs, labels, weights = random_batch(17)
    metric = METRICS[name]
    with pytest.raises(ValueError, match=r"weights have shape \(23,\) .* shape \(24, 4\): pass"):
        metric(probs, labels, weights=weights[1:])
    with pytest.raises(ValueError, match=r"weights have shape \(24, 1\) .* shape \(24, 4\): pass"):
        metric(probs, labels, weights=weights[:, None])
    with pytest.raises(ValueError, match=r"shape \(2, 24, 4\) instead of \[N, K\]"):
        metric(np.stack([probs, probs]), labels)
    if name in UNLABELLED:
        return
    with pytest.raises(ValueError, match=r"labels have shape \(23,\) .* shape \(24, 4\): pass"):
        metric(probs, labels[1:])
    with pytest.raises(ValueError, match=r"labels have shape \(24, 4\) .* shape \(24, 4\): pass"):
        metric(probs, np.eye(K, dtype=int)[labels])
    with pytest.raises(ValueError, match="labels have dtype float32 instead of an integer"):
        metric(probs, labels.astype(np.float32))
