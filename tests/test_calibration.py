"""Temperatures against SciPy, and choices of a point against exhaustive search."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from stacks import normal

from subspace_jax import ensemble, line, metrics
from subspace_jax.calibration import (
    apply_ensemble_temperature,
    apply_temperature,
    choose_point,
    conformal_threshold,
    fit_ensemble_temperature,
    fit_temperature,
    prediction_sets,
)

N, K, M = 40, 4, 3
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)


def make_batch(seed, *leading, sharpness=3.0):
    """Logits `[*leading, N, K]` that are too confident, labels and weights 0 to 3."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, K, N)
    logits = sharpness * (rng.normal(size=(*leading, N, K)) + np.eye(K)[labels])
    return logits.astype(np.float32), labels, (rng.permutation(N) % 4).astype(np.float32)


def nll(logits, labels, weights=None, temperature=1.0):
    """In float64."""
    log_probs = scipy.special.log_softmax(np.asarray(logits, np.float64) / temperature, axis=-1)
    return np.average(-log_probs[np.arange(len(labels)), labels], weights=weights)


def best_temperature(logits, labels, weights=None):
    result = scipy.optimize.minimize_scalar(
        lambda log_t: nll(logits, labels, weights, np.exp(log_t)),
        bounds=(np.log(0.01), np.log(100)),
        method="bounded",
        options={"xatol": 1e-9},
    )
    return np.exp(result.x)


# One network


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("sharpness", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("seed", range(3))
def test_temperature_is_the_minimum_that_scipy_finds(seed, sharpness, weighted):
    logits, labels, weights = make_batch(seed, sharpness=sharpness)
    weights = weights if weighted else None
    expected = best_temperature(logits, labels, weights)
    assert_close(fit_temperature(logits, labels, weights=weights), expected, rtol=3e-6)


def test_weights_count_examples_and_neither_padding_nor_impossible_classes_have_an_effect():
    logits, labels, weights = make_batch(0)
    expected = fit_temperature(*(x.repeat(weights.astype(int), axis=0) for x in (logits, labels)))
    logits[weights == 0], labels[weights == 0] = np.nan, -1
    masked = np.concatenate([logits, np.full((N, 2), -np.inf, np.float32)], axis=1)
    assert_close(fit_temperature(masked, labels, weights=weights), expected)


ZEROS = np.zeros(5, int)
DEGENERATE = {
    "all right": (0.1 * np.eye(3)[ZEROS], ZEROS, None, 0.01),
    "all wrong": (np.eye(3)[ZEROS + 1], ZEROS, None, 100),
    "equal logits": (np.ones((5, 3)), ZEROS, None, 1),
    "one class": (np.ones((5, 1)), ZEROS, None, 1),
    "no weight": (np.eye(3)[ZEROS], ZEROS, np.zeros(5), 1),
    "already certain": (1000 * np.eye(3)[ZEROS], ZEROS, None, 1),
}


@pytest.mark.parametrize(
    ("logits", "labels", "weights", "expected"), DEGENERATE.values(), ids=DEGENERATE
)
def test_degenerate_data_give_a_finite_temperature(logits, labels, weights, expected):
    temperature = fit_temperature(logits.astype(np.float32), labels, weights=weights)
    np.testing.assert_allclose(temperature, expected, rtol=1e-5)


def test_invalid_examples_give_nan():
    logits, labels, _ = make_batch(0)
    for logit, label in [(np.nan, labels[0]), (-np.inf, labels[0]), (1, K)]:
        broken, wrong = logits.copy(), labels.copy()
        broken[0, labels[0]], wrong[0] = logit, label
        assert np.isnan(fit_temperature(broken, wrong))


# Ensembles


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_temperatures_of_members_and_of_their_average_are_the_best(average):
    logits, labels, weights = make_batch(0, M)
    best = [best_temperature(member, labels, weights) for member in logits]
    mean = ensemble(logits, average)
    best_of_mean = best_temperature(mean, labels, weights)
    scaled = ensemble(logits / np.float32(best)[:, None, None], average)
    scaled_mean = jax.nn.log_softmax(mean / best_of_mean)
    for mode, expected, log_probs in [
        ("per_member", best, scaled),
        ("after_average", best_of_mean, scaled_mean),
    ]:
        options = {"average": average, "mode": mode}
        fit = jax.jit(functools.partial(fit_ensemble_temperature, **options))
        found = fit(logits, labels, weights=weights)
        assert_close(found, expected)
        assert_close(apply_ensemble_temperature(logits, found, **options), log_probs)


# The point


@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("seed", range(3))
def test_the_chosen_point_is_the_best_of_a_loop(seed, weighted):
    logits, labels, weights = make_batch(seed, 5)
    weights = weights if weighted else None
    errors = lambda point: np.average(point.argmax(axis=1) != labels, weights=weights)
    for criterion, loss in [("nll", lambda p: nll(p, labels, weights)), ("accuracy", errors)]:
        found = choose_point(logits, labels, criterion=criterion, weights=weights)
        assert int(found) == np.argmin([loss(point) for point in logits])


@pytest.mark.parametrize("criterion", ["nll", "accuracy"])
def test_the_first_of_equal_points_is_chosen_and_never_a_diverged_one(criterion):
    logits, labels, _ = make_batch(0)
    points = np.stack([logits * np.nan, logits, logits])
    assert int(choose_point(points, labels, criterion=criterion)) == 1
    assert int(choose_point(points[:1], labels, criterion=criterion)) == 0


def test_the_gradient_of_the_calibrated_nll_is_exact_without_that_of_the_temperature():
    x, endpoints = normal(0, N, 5), jnp.asarray(4 * normal(1, 2, 5, K))
    truth = x @ np.asarray(line().point(endpoints, 0.3)) / 4
    labels = np.asarray(jax.random.categorical(jax.random.key(0), truth))

    @jax.jit
    def calibrated_nll(alpha):
        logits = x @ line().point(endpoints, alpha)
        logits = apply_temperature(logits, fit_temperature(logits, labels))
        return metrics.nll(jax.nn.log_softmax(logits), labels)

    for alpha in (0.2, 0.6):
        step = 1e-2
        slope = (calibrated_nll(alpha + step) - calibrated_nll(alpha - step)) / (2 * step)
        np.testing.assert_allclose(jax.grad(calibrated_nll)(alpha), slope, rtol=0.05, atol=2e-3)


# Prediction sets


def score(probs, k, method):
    return 1 - probs[k] if method == "lac" else sum(p for p in probs if p >= probs[k])


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5, 1 - 1e-9])
def test_prediction_sets_are_those_of_loops(alpha, method):
    probs = scipy.special.softmax(make_batch(0, sharpness=1.0)[0], axis=-1).round(2)  # with ties
    labels = make_batch(0)[1]
    scores = [score(row, k, method) for row, k in zip(probs.astype(float), labels, strict=True)]
    rank = 41 * (100 - round(100 * alpha)) / 100  # of N + 1
    at_least = [q for q in scores if sum(s <= q for s in scores) >= rank]
    expected = min(at_least, default=np.inf)
    threshold = conformal_threshold(probs, labels, alpha=alpha, method=method)
    np.testing.assert_allclose(threshold, expected, atol=1e-6)
    assert np.isinf(threshold) == (alpha == 0.02)  # 40 examples can't promise 98 %
    held = [[score(row, k, method) <= expected + 1e-6 for k in range(K)] for row in probs]
    np.testing.assert_array_equal(prediction_sets(probs, threshold + 1e-6, method=method), held)


@pytest.mark.parametrize("method", ["lac", "aps"])
def test_what_is_not_finite_is_in_every_set(method):
    logits, labels, _ = make_batch(0)
    broken = scipy.special.softmax(logits, axis=1)
    broken[3, 1] = np.nan
    threshold = conformal_threshold(broken, labels, method=method)
    assert np.isnan(threshold)
    assert prediction_sets(broken, threshold, method=method).all()
    assert prediction_sets(broken, 0.5, method=method)[3].all()
