"""Detection against scikit-learn, and the properties it must have."""

import chex
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from stacks import arbitrary, normal

from subspace_jax import metrics
from subspace_jax.detection import auroc, fpr_at_tpr, risk_coverage

# A coarse grid, so that ties are common.
SCORES = npst.arrays(
    np.float32, st.sampled_from([1, 9]), elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 8.0])
)
SMOOTH = (normal(0, 500) + 1, normal(1, 300))


def oracle(scores_in, scores_out):
    labels = np.r_[np.ones(len(scores_in)), np.zeros(len(scores_out))]
    return labels, np.r_[scores_in, scores_out]


def sklearn_fpr(scores_in, scores_out, tpr):
    fprs, tprs, _ = sklearn.metrics.roc_curve(
        *oracle(scores_in, scores_out), drop_intermediate=False
    )
    return fprs[np.argmax(tprs >= tpr - 1e-9)]


def random_batch(seed, n=24, k=4, levels=None):
    """Probabilities, labels that they often get right, and weights 0 to 3."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[labels]
    if levels:
        logits = np.round(logits * levels)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs.astype(np.float32), labels, rng.permutation(np.arange(n) % 4).astype(np.float32)


# ROC


@arbitrary
@given(SCORES, SCORES)
def test_auroc_is_that_of_scikit_learn(scores_in, scores_out):
    expected = sklearn.metrics.roc_auc_score(*oracle(scores_in, scores_out))
    np.testing.assert_allclose(auroc(scores_in, scores_out), expected, atol=1e-6)


@arbitrary
@given(SCORES, SCORES, st.sampled_from([0.07, 0.5, 0.95, 1.0]))
def test_fpr_is_that_of_scikit_learn(scores_in, scores_out, tpr):
    expected = sklearn_fpr(scores_in, scores_out, tpr)
    np.testing.assert_allclose(fpr_at_tpr(scores_in, scores_out, tpr), expected, atol=1e-6)


def test_many_distinct_scores():
    expected = sklearn.metrics.roc_auc_score(*oracle(*SMOOTH))
    np.testing.assert_allclose(auroc(*SMOOTH), expected, atol=1e-6)
    for tpr in (0.07, 0.8, 0.95):
        np.testing.assert_allclose(
            fpr_at_tpr(*SMOOTH, tpr=tpr), sklearn_fpr(*SMOOTH, tpr), atol=1e-6
        )


@arbitrary
@given(SCORES, SCORES)
def test_swapping_the_arguments_reflects_auroc(scores_in, scores_out):
    total = auroc(scores_in, scores_out) + auroc(scores_out, scores_in)
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("metric", [auroc, fpr_at_tpr])
def test_only_the_order_of_the_scores_matters(metric):
    scores_in, scores_out = SMOOTH
    value = metric(scores_in, scores_out)
    np.testing.assert_allclose(metric(np.exp(scores_in), np.exp(scores_out)), value, atol=1e-6)
    np.testing.assert_allclose(metric(scores_in[::-1], scores_out[::-1]), value, atol=1e-6)


def test_extremes():
    high, low = np.array([2.0, 3.0]), np.array([0.0, 1.0, 1.5])
    assert (float(auroc(high, low)), float(fpr_at_tpr(high, low))) == (1, 0)
    assert (float(auroc(low, high)), float(fpr_at_tpr(low, high))) == (0, 1)
    assert (float(auroc(high * 0, low * 0)), float(fpr_at_tpr(high * 0, low * 0))) == (0.5, 1)
    assert float(auroc(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]))) == 0.875


def test_rounding_of_the_rate_accepts_no_further_score():
    scores_in = np.arange(100.0)
    assert float(fpr_at_tpr(scores_in, np.array([92.5]), tpr=0.07)) == 0  # 0.07 * 100 > 7
    assert float(fpr_at_tpr(scores_in, np.array([93.0]), tpr=0.07)) == 1


@pytest.mark.parametrize("metric", [auroc, fpr_at_tpr])
def test_nan_scores_give_nan(metric):
    for place in (0, 1):
        scores = [np.array([0.5, 1.0]), np.array([0.5, 1.0])]
        scores[place][1] = np.nan
        assert np.isnan(metric(*scores))


@pytest.mark.parametrize("metric", [auroc, fpr_at_tpr])
def test_scores_of_another_shape_are_refused(metric):
    with pytest.raises(ValueError, match=r"scores_out have shape \[0\]; pass one score for each"):
        metric(np.ones(3), np.ones(0))
    with pytest.raises(ValueError, match=r"scores_in have shape \[3, 2\]"):
        metric(np.ones((3, 2)), np.ones(3))


@pytest.mark.parametrize("tpr", [0.0, 1.5, -1.0])
def test_rates_out_of_range_are_refused(tpr):
    with pytest.raises(ValueError, match=r"is not a rate in \(0, 1\]; the usual one is 0.95"):
        fpr_at_tpr(np.ones(3), np.ones(3), tpr)


# Risk and coverage


@pytest.mark.parametrize("levels", [None, 1], ids=["distinct", "ties"])
@pytest.mark.parametrize("seed", range(3))
def test_the_area_under_the_curve_is_aurc(seed, levels):
    probs, labels, weights = random_batch(seed, levels=levels)
    for w in (None, weights):
        coverage, risk = risk_coverage(probs, labels, weights=w)
        area = np.sum(np.diff(coverage, prepend=0) * risk)
        np.testing.assert_allclose(area, metrics.aurc(probs, labels, weights=w), atol=1e-6)
    curve = risk_coverage(probs, labels)
    np.testing.assert_allclose(np.mean(curve.risk), metrics.aurc(probs, labels), atol=1e-6)


def test_the_curve_is_that_of_a_loop():
    probs, labels, weights = random_batch(0, levels=1)
    confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != labels
    order = np.lexsort((np.arange(len(probs)), -confidence, weights == 0))
    coverage, risk = risk_coverage(probs, labels, weights=weights)
    for i, n in enumerate(order):
        accepted = confidence >= confidence[n] if weights[n] else np.ones(len(probs), bool)
        expected = np.average(wrong[accepted], weights=weights[accepted])
        np.testing.assert_allclose(risk[i], expected, atol=1e-6)
        np.testing.assert_allclose(
            coverage[i], weights[order[: i + 1]].sum() / weights.sum(), atol=1e-6
        )


def test_the_curve_ends_at_the_error_rate_of_all():
    probs, labels, weights = random_batch(1)
    coverage, risk = risk_coverage(probs, labels, weights=weights)
    assert (np.diff(coverage) >= 0).all()
    assert float(coverage[-1]) == 1
    error = 1 - metrics.accuracy(probs, labels, weights=weights)
    np.testing.assert_allclose(risk[-1], error, atol=1e-6)


def test_padding_only_repeats_the_end_of_the_curve():
    probs, labels, _ = random_batch(2)
    padded = np.concatenate([np.full((3, 4), np.nan, np.float32), probs])
    curve = risk_coverage(
        padded, np.r_[[-1] * 3, labels], weights=np.r_[[0.0] * 3, np.ones(len(labels))]
    )
    for with_padding, without in zip(curve, risk_coverage(probs, labels), strict=True):
        np.testing.assert_allclose(with_padding[:-3], without, atol=1e-6)
        np.testing.assert_allclose(with_padding[-3:], without[-1:].repeat(3), atol=1e-6)


def test_invalid_examples_make_the_curve_nan():
    probs, labels, _ = random_batch(0)
    labels[3] = 4
    chex.assert_trees_all_equal(
        list(risk_coverage(probs, labels)), [np.full(len(labels), np.nan, np.float32)] * 2
    )


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="labels have shape"):
        risk_coverage(np.ones((3, 2)), np.zeros(4, int))
