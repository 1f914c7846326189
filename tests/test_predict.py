"""Predictions: each network with statistics of its own, whatever the batches; nothing twice."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from untrained import TEST, untrained

import subspace_jax as ss
from experiments.evaluation import predict
from experiments.system.errors import UserError

SPLITS = {"test": TEST}
ALPHAS = np.float32([0, 0.25, 0.5, 0.75, 1])
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def line():
    return untrained("line")


@pytest.fixture(scope="module")
def points(line):
    """Five networks of the line, leaves `[5, ...]`."""
    return predict.mixtures(line.stack, jnp.stack([1 - ALPHAS, ALPHAS], axis=1))


@pytest.fixture(scope="module")
def predicted(line, points):
    """Their logits on the test split, and the networks with their statistics."""
    logits, networks, _ = predict.predict_networks(line.run, points, SPLITS, line.settings)
    return np.asarray(logits["test"], np.float64), networks


@pytest.fixture(scope="module")
def dropping():
    return untrained("standard", model__widths=(4,), model__dropout=0.4)


def logits_of(made, params, **changes):
    settings = made.settings._replace(**changes)
    return predict.predict_networks(made.run, params, SPLITS, settings)[0]["test"]


def test_points_together_are_each_point_alone(line, points, predicted):
    logits, networks = predicted
    expected = ss.stack([ss.line().point(line.stack, alpha) for alpha in ALPHAS])
    chex.assert_trees_all_close(points, expected, atol=1e-6)
    assert logits.shape == (5, tiny.NUM_TEST, tiny.NUM_CLASSES)
    assert np.abs(logits[0] - logits[4]).max() > 0.1
    chex.assert_trees_all_equal(networks.params, points)
    for i in range(5):
        alone = logits_of(line, jax.tree.map(lambda x, i=i: x[i : i + 1], points))
        close(alone[0], logits[i])


@pytest.mark.parametrize("changes", [*({"batch_size": n} for n in (1, 7, 1000)), {"at_once": 2}])
def test_batches_padding_and_vectorisation_change_nothing(line, points, predicted, changes):
    close(logits_of(line, points, **changes), predicted[0])


def test_networks_together_fit_into_a_quarter_of_the_memory(line, points):
    weights = sum(x.nbytes for x in jax.tree.leaves(points)) // 5
    each = 2 * weights + 4 * 64 * 1000
    room = [0, 4 * each, 12 * each - 1, 12 * each, 1000 * each]
    assert [predict.fitting(memory, points, 1000) for memory in room] == [1, 1, 2, 3, 5]
    assert predict.networks_at_once(line.settings, points, 1000) == 1  # tests run on a CPU
    assert predict.networks_at_once(line.settings._replace(at_once=7), points, 1000) == 7


@pytest.mark.parametrize(("examples", "size"), [(0, 16), (1, 1), (37, 30), (100, 30)])
def test_recalibration_takes_full_batches_of_different_training_images(line, examples, size):
    settings = line.settings._replace(
        recalibration_examples=examples, recalibration_batch_size=size
    )
    batches = predict.recalibration_batches(line.run, settings)
    assert len(batches) == min(examples or tiny.NUM_TRAIN, tiny.NUM_TRAIN) // size
    keys, images = zip(*batches, strict=True)
    known = {image.tobytes() for image in np.asarray(line.run.images)}
    used = {image.tobytes() for image in np.concatenate(images)}
    assert len(used & known) == len(batches) * size
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == len(keys)
    again = zip(*batches, strict=True)
    chex.assert_trees_all_equal(images, list(again)[1])


def test_recalibration_of_plain_images_has_the_moments_of_all_of_them(line, points):
    settings = line.settings._replace(recalibration_augment=False)
    networks, recalibration = predict.recalibrated(line.run, points, settings)
    assert (recalibration.num_examples, recalibration.batch_size) == (64, 16)
    chex.assert_trees_all_equal(networks.stats, recalibration.stats)
    images = line.run.images.astype(jnp.float32) / 255
    for i, alpha in enumerate(ALPHAS):
        kernel = ss.line().point(line.stack, alpha)["Conv_0"]["kernel"]
        outputs = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        first = networks.stats["BatchNorm_0"]
        close(first["mean"][i], outputs.mean((0, 1, 2)))
        close(first["var"][i], outputs.var((0, 1, 2)))


def test_dropout_is_off_in_recalibration_and_prediction(dropping):
    whole = untrained("standard", model__widths=(4,))
    chex.assert_trees_all_equal(dropping.stack, whole.stack)
    close(logits_of(dropping, dropping.stack), logits_of(whole, whole.stack))


def test_every_key_drops_other_units(dropping):
    model = dropping.run.program.model
    networks, _ = predict.recalibrated(dropping.run, dropping.stack, dropping.settings)
    params, stats = one = jax.tree.map(lambda x: x[0], networks)
    keys = jax.random.split(jax.random.key(0), 3)
    given = one, keys[jnp.array([0, 1, 2, 0])], dropping.run.hyper.dropout
    found = predict.dropout_logits_fn(model)(given, TEST.images)
    chex.assert_shape(found, (4, tiny.NUM_TEST, tiny.NUM_CLASSES))
    chex.assert_trees_all_equal(found[0], found[3])
    assert all(np.abs(found[i] - found[i - 1]).max() > 0.01 for i in (1, 2, 3))
    for key, logits in zip(keys, found[:3], strict=True):
        expected = model.network.clone(dropout=0.4).apply(
            {"params": params, "batch_stats": stats},
            jnp.asarray(TEST.images, jnp.float32) / 255,
            train=False,
            dropout=True,
            rngs={"dropout": key},
        )
        close(logits, expected)


@pytest.mark.parametrize(("examples", "size", "there"), [(0, 65, 64), (15, 16, 15)])
def test_more_images_a_batch_than_recalibration_has_are_refused(line, examples, size, there):
    changes = {"recalibration_examples": examples, "recalibration_batch_size": size}
    config = tiny.config(**{f"evaluation__{name}": value for name, value in changes.items()})
    sentence = rf"^config\.evaluation\.recalibration_batch_size is {size} but there are {there} im"
    with pytest.raises(UserError, match=sentence):
        predict.make_settings(config, line.run)
