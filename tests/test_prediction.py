"""Predictions over batches, and ensembles against plain NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, normal

from subspace_jax import ensemble, for_each, predict

FEATURES, CLASSES = 3, 4


def apply_fn(params, x):
    return x @ params["kernel"] + params["bias"][None]


def make_params(seed, *leading):
    kernel = normal(seed, *leading, FEATURES, CLASSES)
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(normal(seed + 1, *leading, CLASSES))}


def test_predictions_are_those_on_all_examples_and_compile_once_per_shape():
    traces = []

    def traced(params, batch):
        traces.append(batch["image"].shape)
        return apply_fn(params, batch["image"])

    x = normal(2, 14, FEATURES)
    batches = [{"image": images} for images in np.split(x, [4, 8, 12])]
    for seed in range(2):
        params = make_params(seed)
        expected = x @ params["kernel"] + params["bias"][None]
        logits = predict(traced, params, iter(batches))
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
    assert traces == [(4, FEATURES), (2, FEATURES)]
    stack = make_params(0, 2)
    many = predict(for_each(apply_fn), stack, np.split(x, [4]))
    expected = x[None] @ stack["kernel"] + stack["bias"][:, None]
    np.testing.assert_allclose(many, expected, rtol=1e-4, atol=1e-5)


def softmax(logits):
    exp = np.exp(logits.astype(np.float64))
    return exp / exp.sum(-1, keepdims=True)


@arbitrary
@given(seed=SEEDS, members=st.integers(1, 3))
def test_ensembles_average_probabilities_or_logits(seed, members):
    logits = 3 * normal(seed, members, 2, CLASSES)
    shifted = logits[::-1] + normal(seed, members, 2, 1)  # no member or shift is special
    for average, expected in [
        ("probability", softmax(logits).mean(0)),
        ("logit", softmax(logits.mean(0))),
    ]:
        log_probs = ensemble(logits, average)
        np.testing.assert_allclose(np.exp(log_probs), expected, rtol=1e-5)
        np.testing.assert_allclose(ensemble(shifted, average), log_probs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(ensemble(logits), ensemble(logits, "probability"))


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_ensembles_of_huge_logits_are_finite(average):
    log_probs = ensemble(np.array([[[1000, 0]], [[1000, -1000]]], np.float32), average)
    assert np.isfinite(log_probs).all()
