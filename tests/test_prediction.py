"""Predictions over batches, and ensembles against plain NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, normal

from subspace_jax import ensemble, for_each, predict

FEATURES, CLASSES = 3, 4


def apply_fn(params, x):
    return x @ params["kernel"] + jnp.tile(params["bias"], (len(x), 1))


apply_each = for_each(apply_fn)


def make_params(seed, *leading):
    kernel = normal(seed, *leading, FEATURES, CLASSES)
    return {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(normal(seed + 1, *leading, CLASSES))}


def softmax(logits):
    exp = np.exp(logits.astype(np.float64))
    return exp / exp.sum(-1, keepdims=True)


# Predictions


@arbitrary
@given(seed=SEEDS, num_full=st.integers(0, 3), last=st.sampled_from([1, 2]))
def test_predict_is_the_network_on_all_examples(seed, num_full, last):
    params, x = make_params(seed), normal(seed, 5 * num_full + last, FEATURES)
    batches = np.split(x, range(5, len(x), 5))
    logits = predict(apply_fn, params, batches)
    expected = x @ params["kernel"] + params["bias"][None]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_predict_of_many_networks_is_that_of_each():
    stack = make_params(0, 2)
    batches = [normal(0, 5, FEATURES), normal(1, 2, FEATURES)]
    logits = predict(apply_each, stack, iter(batches))
    chex.assert_shape(logits, (2, 7, CLASSES))
    for i in range(2):
        alone = predict(apply_fn, jax.tree.map(lambda x, i=i: x[i], stack), batches)
        np.testing.assert_allclose(logits[i], alone, rtol=1e-5, atol=1e-6)


def test_predict_compiles_once_for_batches_of_one_shape():
    traces = []

    def traced(params, batch):
        traces.append(batch["image"].shape)
        return apply_fn(params, batch["image"])

    batches = [{"image": normal(i, 4, FEATURES)} for i in range(3)]
    for seed in range(2):
        predict(traced, make_params(seed), [*batches, {"image": normal(3, 1, FEATURES)}])
    assert traces == [(4, FEATURES), (1, FEATURES)]


def test_predict_refuses_no_batches():
    with pytest.raises(ValueError, match="predict got 0 batches; give it at least 1"):
        predict(apply_fn, make_params(0), [])


# Ensembles


@arbitrary
@given(seed=SEEDS, members=st.integers(1, 3))
def test_ensemble_averages_probabilities_or_logits(seed, members):
    logits = 3 * normal(seed, members, 2, CLASSES)
    probability = ensemble(logits)
    np.testing.assert_allclose(np.exp(probability), softmax(logits).mean(0), rtol=1e-5)
    logit = ensemble(jnp.asarray(logits), average="logit")
    np.testing.assert_allclose(np.exp(logit), softmax(logits.mean(0)), rtol=1e-5)


@pytest.mark.parametrize("average", ["probability", "logit"])
@arbitrary
@given(seed=SEEDS)
def test_ensemble_is_a_distribution_that_no_member_or_shift_is_special_to(seed, average):
    logits = normal(seed, 3, 2, CLASSES)
    log_probs = ensemble(logits, average)
    np.testing.assert_allclose(np.exp(log_probs).sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(ensemble(logits[::-1], average), log_probs, rtol=1e-4, atol=1e-5)
    shifted = logits + normal(seed, 3, 2, 1)
    np.testing.assert_allclose(ensemble(shifted, average), log_probs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_ensemble_of_one_or_of_equals_is_the_network(average):
    logits = normal(0, 1, 5, CLASSES)
    expected = jax.nn.log_softmax(logits[0])
    np.testing.assert_allclose(ensemble(logits, average), expected, rtol=1e-6)
    equals = np.repeat(logits, 3, axis=0)
    np.testing.assert_allclose(ensemble(equals, average), expected, rtol=1e-5)


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_ensemble_of_extreme_logits_is_finite(average):
    logits = np.array([[[1000, 0]], [[1000, -1000]]], np.float32)
    log_probs = ensemble(logits, average)
    assert np.isfinite(log_probs).all()
    assert log_probs[0, 0] == 0


@pytest.mark.parametrize("average", ["probability", "logit"])
@pytest.mark.parametrize(
    ("dtype", "wide"), [("bfloat16", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_ensemble_is_float32_or_wider(dtype, wide, average):
    logits = normal(0, 2, 5, CLASSES).astype(jnp.dtype(dtype))
    with jax.enable_x64(dtype == "float64"):
        log_probs = ensemble(logits, average)
        expected = ensemble(logits.astype(wide), average)
    assert log_probs.dtype == wide
    np.testing.assert_array_equal(log_probs, expected)


@pytest.mark.parametrize(
    ("shape", "average", "message"),
    [
        ((2, 5, 4), "mean", "average='mean' is unknown; use 'probability' or 'logit'"),
        ((5, 4), "logit", r"shape \[5, 4\]; stack the members to \[M, N, K\]"),
        ((2, 2, 5, 4), "probability", r"shape \[2, 2, 5, 4\]; stack the members"),
    ],
)
def test_ensemble_refuses_what_it_does_not_know(shape, average, message):
    with pytest.raises(ValueError, match=message):
        ensemble(np.zeros(shape), average)
