"""Metrics against scikit-learn and plain float64 loops, and the properties they must have."""

import inspect

import chex
import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.calibration
import sklearn.metrics

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


# Every metric as a function of (probs, labels, *, weights).
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
every_metric = pytest.mark.parametrize("name", METRICS)


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


arbitrary = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


# Oracles: float64, one example at a time.


def confidence_and_correct(probs, labels):
    rows = [row.tolist() for row in probs]
    confidence = [max(row) for row in rows]
    correct = [float(row.index(c) == y) for row, c, y in zip(rows, confidence, labels, strict=True)]
    return confidence, correct


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


def loop_aurc(confidence, correct, weights):
    area = 0.0
    for n, level in enumerate(confidence):
        if weights[n]:
            accepted = [m for m, c in enumerate(confidence) if c >= level]
            errors = sum(weights[m] * (1 - correct[m]) for m in accepted)
            area += weights[n] * errors / sum(weights[m] for m in accepted)
    return area / sum(weights)


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
        for name in ("ece", "max_calibration_error", "adaptive_ece", "classwise_ece", "aurc")
    }
    expected = {
        "ece": loop_ece(confidence, correct, w, BINS),
        "max_calibration_error": np.nanmax(np.abs(diagram[1] - diagram[0])),
        "adaptive_ece": loop_adaptive_ece(confidence, correct, w, BINS),
        "classwise_ece": loop_classwise_ece(probs, labels, w, BINS),
        "aurc": loop_aurc(confidence, correct, w),
    }
    chex.assert_trees_all_close(actual, expected, atol=2e-6)
    value = metrics.reliability(probs, labels, weights=weights, num_bins=BINS)
    np.testing.assert_allclose(value[:3], diagram, atol=2e-6)
    chex.assert_trees_all_close(
        metrics.brier_decomposition(probs, labels, weights=weights),
        loop_brier_decomposition(probs, labels, weights.astype(np.float64)),
        atol=2e-6,
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


@hypothesis.given(small_batches())
@arbitrary
def test_ranges(batch):
    probs, labels, weights = batch
    upper = {"nll": np.inf, "brier": 2, "entropy": np.log(3), "classwise_ece": 2 / 3}
    values = {name: METRICS[name](probs, labels, weights=weights) for name in SCALARS}
    for name, value in values.items():
        assert 0 <= value <= upper.get(name, 1) + 1e-6, name
    assert values["ece"] <= values["max_calibration_error"] + 1e-6


def test_adaptive_ece_of_distinct_confidences_splits_the_sorted_examples():
    probs, labels, _ = random_batch(2, n=20)
    confidence, correct = map(np.asarray, confidence_and_correct(probs, labels))
    gaps = np.split((correct - confidence)[confidence.argsort()], 4)
    np.testing.assert_allclose(
        metrics.adaptive_ece(probs, labels, num_bins=4),
        np.mean([abs(gap.mean()) for gap in gaps]),
        rtol=1e-5,
    )


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


def test_total_variation_and_disagreement_are_symmetric_and_zero_for_equal_predictions():
    (a, _, weights), (b, _, _) = random_batch(4), random_batch(5)
    for metric in (metrics.total_variation, metrics.disagreement):
        assert metric(a, a) == 0
        assert metric(a, b, weights=weights) == metric(b, a, weights=weights) > 0
    distance = np.average(np.abs(a - b).sum(axis=1) / 2, weights=weights)
    np.testing.assert_allclose(metrics.total_variation(a, b, weights=weights), distance, rtol=1e-5)
    differ = np.average(a.argmax(axis=1) != b.argmax(axis=1), weights=weights)
    np.testing.assert_allclose(metrics.disagreement(a, b, weights=weights), differ, rtol=1e-5)


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


def test_brier_decomposition_within_bins_rewards_telling_examples_apart():
    # One bin: forecasts 0.6 and 1.0 for class 0, right only for the second.
    terms = metrics.brier_decomposition(np.array([[0.6, 0.4], [1.0, 0.0]]), np.array([1, 0]))
    np.testing.assert_allclose(terms, (0.18, 0, 0.5, 2 * (0.04 - 2 * 0.1)), atol=1e-6)


def test_uniform_predictions_have_the_largest_entropy():
    np.testing.assert_allclose(metrics.entropy(np.full((3, 7), 1 / 7)), np.log(7), rtol=1e-6)


@pytest.mark.parametrize("labels", [None, np.array([-1]), np.array([[0.5, 0.5]])])
def test_entropy_ignores_labels(labels):
    probs = np.array([[0.25, 0.75]])
    assert metrics.entropy(probs, labels) == metrics.entropy(probs)


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


@pytest.mark.parametrize("name", ["disagreement", "total_variation"])
def test_two_predictions_must_have_one_shape(name):
    with pytest.raises(ValueError, match=r"\(24, 4\) and \(24, 3\): pass predictions of the same"):
        getattr(metrics, name)(np.ones((24, 4)), np.ones((24, 3)))


@pytest.mark.parametrize(
    "name", ["reliability", "ece", "max_calibration_error", "adaptive_ece", "classwise_ece"]
)
def test_num_bins_must_be_positive(name):
    with pytest.raises(ValueError, match="num_bins is 0 but must be at least 1"):
        getattr(metrics, name)(np.ones((2, 1)), np.zeros(2, int), num_bins=0)
