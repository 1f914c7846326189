"""Detection and selective prediction against scikit-learn and loops."""

import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from hypothesis import given
from reference_metrics import random_batch
from stacks import arbitrary, normal

from subspace_jax import metrics
from subspace_jax.detection import auroc, energy_score, fpr_at_tpr, max_logit, risk_coverage

# A coarse grid, so that ties are common.
SCORES = npst.arrays(
    np.float32, st.sampled_from([1, 9]), elements=st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 8.0])
)
SMOOTH = (normal(0, 500) + 1, normal(1, 300))


def assert_those_of_scikit_learn(scores_in, scores_out, tpr):
    truth = np.r_[np.ones(len(scores_in)), np.zeros(len(scores_out))]
    scores = np.r_[scores_in, scores_out]
    area = auroc(scores_in, scores_out)
    np.testing.assert_allclose(area, sklearn.metrics.roc_auc_score(truth, scores), atol=1e-6)
    np.testing.assert_allclose(auroc(scores_out, scores_in), 1 - area, atol=1e-6)
    fprs, tprs, _ = sklearn.metrics.roc_curve(truth, scores, drop_intermediate=False)
    expected = fprs[np.argmax(tprs >= tpr - 1e-9)]
    np.testing.assert_allclose(fpr_at_tpr(scores_in, scores_out, tpr), expected, atol=1e-6)


@arbitrary
@given(SCORES, SCORES, st.sampled_from([0.07, 0.5, 0.95, 1.0]))
def test_tied_scores(scores_in, scores_out, tpr):
    assert_those_of_scikit_learn(scores_in, scores_out, tpr)


@pytest.mark.parametrize("tpr", [0.07, 0.8, 0.95])
def test_many_distinct_scores_of_which_only_the_order_matters(tpr):
    assert_those_of_scikit_learn(*SMOOTH, tpr)
    assert_those_of_scikit_learn(*(np.exp(scores)[::-1] for scores in SMOOTH), tpr)


def test_extremes():
    assert float(auroc(np.array([np.inf, 1.0]), np.array([-np.inf, 1.0]))) == 0.875
    scores = np.arange(100.0)  # 0.07 * 100 > 7, whose rounding accepts no further score
    assert float(fpr_at_tpr(scores, np.array([92.5]), tpr=0.07)) == 0
    assert float(fpr_at_tpr(scores, np.array([93.0]), tpr=0.07)) == 1


@pytest.mark.parametrize("temperature", [0.1, 1.0, 50.0])
def test_scores_of_logits_are_those_of_loops(temperature):
    logits = 300 * normal(0, 40, 6)
    energy = [temperature * scipy.special.logsumexp(row / temperature) for row in logits]
    for number in (temperature, jnp.float32(temperature)):  # as `fit_temperature` gives it
        np.testing.assert_allclose(energy_score(logits, number), energy, rtol=1e-6)
    np.testing.assert_array_equal(max_logit(logits), [max(row) for row in logits])
    assert np.isnan(max_logit(logits * np.where(np.arange(6) == 2, np.nan, 1).astype("f"))).all()


# Risk and coverage


@pytest.mark.parametrize("digits", [7, 1], ids=["distinct", "ties"])
def test_the_curve_is_that_of_a_loop_and_its_area_aurc(digits):
    probs, labels, weights = random_batch(0)
    probs = probs.round(digits)
    confidence, wrong = probs.max(axis=1), probs.argmax(axis=1) != labels
    for w in (np.ones_like(weights), weights):
        coverage, risk = risk_coverage(probs, labels, weights=w)
        order = np.lexsort((np.arange(len(probs)), -confidence, w == 0))
        accepted = [confidence >= confidence[n] if w[n] else confidence >= 0 for n in order]
        expected = [np.average(wrong[a], weights=w[a]) for a in accepted]
        np.testing.assert_allclose(risk, expected, atol=1e-6)
        np.testing.assert_allclose(coverage, np.cumsum(w[order]) / w.sum(), atol=1e-6)
        area = np.sum(np.diff(coverage, prepend=0) * risk)
        np.testing.assert_allclose(area, metrics.aurc(probs, labels, weights=w), atol=1e-6)


# Mistakes


def test_invalid_scores_and_examples_give_nan():
    broken, whole = np.array([0.5, np.nan]), np.array([0.5, 1.0])
    for metric in (auroc, fpr_at_tpr):
        assert np.isnan(metric(broken, whole))
        assert np.isnan(metric(whole, broken))
    probs, labels, _ = random_batch(0)
    labels[3] = 4
    assert all(np.isnan(x).all() for x in risk_coverage(probs, labels))
