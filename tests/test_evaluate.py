"""Evaluation: each point with statistics of its own, metrics that are those of the logits, JSON."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
import tiny
from hypothesis import given
from hypothesis import strategies as st

import subspace_jax as ss
from experiments import evaluate, train
from experiments.data import Split
from experiments.errors import UserError

TEST = tiny.dataset().test
SPLITS = {"test": TEST}


def settings_of(run, **changes):
    evaluation = {f"evaluation__{name}": value for name, value in changes.items()}
    return evaluate.make_settings(tiny.config(**evaluation), run)


def untrained(kind, **changes):
    """A run and endpoints, with batch-norm parameters that differ between them."""
    run = tiny.run(kind, **changes)
    endpoints = train.init_state(run).endpoints
    rng = np.random.default_rng(0)

    def jitter(leaf):
        return leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

    return run, jax.tree.map(jitter, endpoints)


@pytest.fixture(scope="module")
def line():
    return untrained("line")


@pytest.fixture(scope="module")
def predicted(line):
    """Coordinates of five points of the line and their logits on the test split."""
    run, endpoints = line
    coords = np.linspace(0, 1, 5, dtype=np.float32)
    logits, _ = evaluate.predict_points(run, endpoints, coords, SPLITS, settings_of(run))
    return coords, np.asarray(logits["test"], np.float64)


@pytest.fixture(scope="module")
def results(line):
    run, endpoints = line
    return evaluate.evaluate(run, endpoints, SPLITS, settings_of(run))


def assert_close(actual, desired):
    np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-4)


# Points


@given(st.integers(1, 100), st.sampled_from([ss.line(), ss.bezier(2), ss.layerwise(ss.line())]))
def test_points_of_a_path_are_a_grid_from_end_to_end(half, subspace):
    points = evaluate.points_of(subspace, 2 * half + 1)
    coords = np.array([point.coords for point in points])
    np.testing.assert_allclose(coords, np.arange(2 * half + 1) / (2 * half), atol=1e-7)
    assert coords.dtype == np.float32
    assert (coords[0], coords[half], coords[-1]) == (0, subspace.center, 1)
    names = {i: point.name for i, point in enumerate(points) if point.name}
    last = f"endpoint {subspace.num_endpoints - 1}"
    assert names == {0: "endpoint 0", half: "midpoint", 2 * half: last}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("wrap", [lambda s: s, ss.layerwise])
def test_points_of_a_simplex_are_corners_edges_and_the_center(n, wrap):
    subspace = wrap(ss.simplex(n))
    points = {point.name: point.coords for point in evaluate.points_of(subspace, 21)}
    corners = [f"endpoint {i}" for i in range(n)] if n > 1 else []
    pairs = list(itertools.combinations(range(n), 2)) if n > 2 else []
    assert list(points) == [*corners, *(f"edge {i}-{j}" for i, j in pairs), "midpoint"]
    np.testing.assert_array_equal(points["midpoint"], subspace.center)
    for i, name in enumerate(corners):
        np.testing.assert_array_equal(points[name], np.eye(n)[i])
    for i, j in pairs:
        np.testing.assert_array_equal(points[f"edge {i}-{j}"], np.eye(n)[[i, j]].mean(0))
    for coords in points.values():
        assert coords.shape == (n,)
        assert coords.sum() == pytest.approx(1)


# Predictions


def test_points_together_are_each_point_alone(line, predicted):
    run, endpoints = line
    coords, logits = predicted
    assert logits.shape == (5, tiny.NUM_TEST, tiny.NUM_CLASSES)
    assert np.abs(logits[0] - logits[4]).max() > 0.1
    for i in range(5):
        alone, _ = evaluate.predict_points(
            run, endpoints, coords[i : i + 1], SPLITS, settings_of(run)
        )
        assert_close(alone["test"][0], logits[i])


@pytest.mark.parametrize("batch_size", [1, 7, 20, 1000])
def test_the_size_of_batches_and_their_padding_change_nothing(line, predicted, batch_size):
    run, endpoints = line
    coords, expected = predicted
    settings = settings_of(run, batch_size=batch_size)
    logits, _ = evaluate.predict_points(run, endpoints, coords, SPLITS, settings)
    assert_close(logits["test"], expected)


def test_networks_at_once_are_networks_one_after_another(line, predicted):
    run, endpoints = line
    coords, expected = predicted
    settings = settings_of(run, at_once=2)
    logits, _ = evaluate.predict_points(run, endpoints, coords, SPLITS, settings)
    assert_close(logits["test"], expected)


def test_the_midpoint_is_evaluated_like_any_network_that_has_its_weights(line, predicted):
    run, endpoints = line
    network = tiny.run("standard")  # of the same seed, so recalibrated on the same images
    weights = ss.stack([ss.line().midpoint(endpoints)])
    logits, _ = evaluate.predict_points(
        network, weights, np.ones((1, 1), np.float32), SPLITS, settings_of(network)
    )
    assert_close(logits["test"][0], predicted[1][2])


def test_an_image_is_predicted_whatever_the_others_of_its_split(line, predicted):
    run, endpoints = line
    coords, expected = predicted
    splits = {"last": Split(TEST.images[::-1][:9], TEST.labels[::-1][:9]), "all": TEST}
    logits, _ = evaluate.predict_points(run, endpoints, coords, splits, settings_of(run))
    assert list(logits) == ["last", "all"]
    assert_close(logits["last"], expected[:, ::-1][:, :9])
    assert_close(logits["all"], expected)


def test_all_batches_pass_through_wrap_once(line):
    run, endpoints = line
    seen = []

    def wrap(batches, what):
        for i, batch in enumerate(batches):
            seen.append((what, i, len(batches)))
            yield batch

    coords = np.float32([0, 0.25, 0.5, 0.75, 1])
    evaluate.predict_points(run, endpoints, coords, SPLITS, settings_of(run), wrap)
    expected = [("recalibrate", i, 4) for i in range(4)]
    assert seen == [*expected, *(("predict test", i, 3) for i in range(3))]


# Recalibration


@pytest.mark.parametrize("examples", [0, 1, 37, 64, 100])
@pytest.mark.parametrize("size", [1, 16, 30])
def test_recalibration_takes_full_batches_of_different_training_images(line, examples, size):
    run, _ = line
    used = min(examples or tiny.NUM_TRAIN, tiny.NUM_TRAIN)
    size = min(size, used)
    settings = settings_of(run, recalibration_examples=examples, recalibration_batch_size=size)
    batches = evaluate.recalibration_batches(run, settings)
    assert len(batches) == len(list(batches)) == used // size
    images = np.concatenate([images for _, images in batches]).reshape(-1, 64)
    assert len(images) == used // size * size
    known = {image.tobytes() for image in np.asarray(run.images)}
    assert len({image.tobytes() for image in images} & known) == len(images)
    keys = np.array([jax.random.key_data(key) for key, _ in batches])
    assert len(np.unique(keys, axis=0)) == len(keys)
    for one, other in zip(batches, batches, strict=True):
        chex.assert_trees_all_equal(jax.random.key_data(one[0]), jax.random.key_data(other[0]))
        chex.assert_trees_all_equal(one[1], other[1])


def test_recalibration_of_plain_images_has_the_moments_of_all_of_them(line):
    run, endpoints = line
    settings = settings_of(run, recalibration_augment=False)
    coords = np.float32([0, 0.3, 0.5, 0.7, 1])
    _, recalibration = evaluate.predict_points(run, endpoints, coords, SPLITS, settings)
    assert (recalibration.num_examples, recalibration.batch_size) == (64, 16)
    first = recalibration.stats["BatchNorm_0"]
    images = run.images.astype(jnp.float32) / 255
    for i, alpha in enumerate(coords):
        kernel = ss.line().point(endpoints, alpha)["Conv_0"]["kernel"]
        outputs = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        assert_close(first["mean"][i], outputs.mean((0, 1, 2)))
        assert_close(first["var"][i], outputs.var((0, 1, 2)))


def test_augmented_images_have_other_moments(line):
    run, endpoints = line
    coords = np.float32([0, 0.25, 0.5, 0.75, 1])
    stats = []
    for augment in (True, False):
        settings = settings_of(run, recalibration_augment=augment)
        _, recalibration = evaluate.predict_points(run, endpoints, coords, SPLITS, settings)
        stats.append(recalibration.stats["BatchNorm_0"]["var"])
    assert float(jnp.abs(stats[0] / stats[1] - 1).min()) > 1e-3


# Metrics


def test_metrics_are_those_of_the_logits(predicted, results):
    coords, logits = predicted
    assert [point["coords"] for point in results["points"]] == coords.tolist()
    names = [point["name"] for point in results["points"]]
    assert names == ["endpoint 0", "", "midpoint", "", "endpoint 1"]
    for point, values in zip(results["points"], logits, strict=True):
        assert_metrics(point, scipy.special.softmax(values, axis=1))


def assert_metrics(record, probs):
    labels, one_hot = TEST.labels, np.eye(3)[TEST.labels]
    confidence, correct = probs.max(1), probs.argmax(1) == labels
    bins = np.digitize(confidence, np.linspace(0, 1, 11), right=True)
    gaps = [abs((confidence - correct)[bins == b].sum()) for b in range(1, 11)]
    order = np.argsort(-confidence)
    risks = np.cumsum(~correct[order]) / np.arange(1, len(labels) + 1)
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, probs.argmax(1)),
        "nll": sklearn.metrics.log_loss(labels, probs, labels=range(3)),
        "brier": ((probs - one_hot) ** 2).sum(1).mean(),
        "ece": sum(gaps) / len(labels),
        "entropy": -(probs * np.log(probs)).sum(1).mean(),
    }
    for name, value in expected.items():
        assert record[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert record["num_bins"] == 10
    if "aurc" in record:
        assert record["aurc"] == pytest.approx(risks.mean(), rel=1e-3)
    reliability = record["reliability"]
    assert [len(reliability[name]) for name in ("accuracy", "weight", "edges")] == [10, 10, 11]
    assert sum(reliability["weight"]) == pytest.approx(1)
    parts = record["brier_decomposition"]
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"]
    assert total + parts["within_bin"] == pytest.approx(record["brier"], abs=1e-5)


def test_ensembles_are_of_opposite_points(predicted, results):
    coords, logits = predicted
    ensembles = results["ensembles"]
    assert [(e["members"], e["average"]) for e in ensembles] == [
        ([coords[i], coords[-1 - i]], average)
        for i in range(2)
        for average in ("probability", "logit")
    ]
    for ensemble in ensembles:
        i = coords.tolist().index(ensemble["members"][0])
        one, other = scipy.special.softmax(logits[[i, 4 - i]], axis=-1)
        if ensemble["average"] == "probability":
            probs = (one + other) / 2
        else:
            probs = scipy.special.softmax((logits[i] + logits[4 - i]) / 2, axis=-1)
        assert_metrics(ensemble, probs)
        disagreement = (one.argmax(1) != other.argmax(1)).mean()
        assert ensemble["disagreement"] == pytest.approx(disagreement)
        distance = 0.5 * np.abs(one - other).sum(1).mean()
        assert ensemble["total_variation"] == pytest.approx(distance, rel=1e-4)


def test_geometry_is_that_of_the_kernels(line, results):
    kernels = np.concatenate(
        [np.asarray(leaf).reshape(2, -1) for leaf in jax.tree.leaves(line[1]) if leaf.ndim > 2],
        axis=1,
    )
    distance = np.linalg.norm(kernels[0] - kernels[1])
    cosine = kernels[0] @ kernels[1] / np.prod(np.linalg.norm(kernels, axis=1))
    assert results["geometry"].keys() == {"distances", "squared_cosines"}
    assert results["geometry"]["distances"][0][1] == pytest.approx(distance, rel=1e-4)
    assert results["geometry"]["squared_cosines"][1][0] == pytest.approx(cosine**2, rel=1e-3)


def test_recalibration_is_recorded(results):
    assert results["recalibration"] == {"num_examples": 64, "batch_size": 16, "augmented": True}


def test_results_are_json(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert any(value is None for value in results["points"][0]["reliability"]["accuracy"])


def test_other_splits_are_under_their_names(line, results):
    run, endpoints = line
    splits = {"test": TEST, "validation": Split(TEST.images[:6], TEST.labels[:6])}
    both = evaluate.evaluate(run, endpoints, splits, settings_of(run))
    for point, alone in zip(both["points"], results["points"], strict=True):
        validation = point.pop("validation")
        assert point == alone
        assert validation.keys() == alone.keys() - {"name", "coords"}
    assert both["ensembles"] == results["ensembles"]
    swapped = evaluate.evaluate(run, endpoints, {"test": splits["validation"]}, settings_of(run))
    assert validation["nll"] == pytest.approx(swapped["points"][-1]["nll"], rel=1e-4)


def test_a_simplex_has_ensembles_of_all_corners_and_of_pairs():
    run, endpoints = untrained("simplex")
    results = evaluate.evaluate(run, endpoints, SPLITS, settings_of(run))
    assert len(results["points"]) == 7
    corners = np.eye(3).tolist()
    expected = [corners, corners[:2], corners[::2], corners[1:]]
    assert [e["members"] for e in results["ensembles"][::2]] == expected
    pairs = results["ensembles"][2::2]
    for name in ("disagreement", "total_variation"):
        mean = np.mean([pair[name] for pair in pairs])
        assert results["ensembles"][0][name] == pytest.approx(mean, rel=1e-4, abs=1e-6)
    chex.assert_shape(np.array(results["geometry"]["distances"]), (3, 3))


def test_one_network_has_one_point_and_no_ensemble_and_diverged_it_has_no_metrics():
    run, endpoints = untrained("standard")
    results = evaluate.evaluate(run, endpoints, SPLITS, settings_of(run))
    assert [(p["name"], p["coords"]) for p in results["points"]] == [("midpoint", [1.0])]
    assert results["ensembles"] == []
    assert 0 <= results["points"][0]["accuracy"] <= 1

    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, endpoints)
    results = evaluate.evaluate(run, broken, SPLITS, settings_of(run))
    assert results["points"][0]["accuracy"] is None
    json.dumps(results, allow_nan=False)


# Settings


def test_settings_are_those_of_the_config():
    config = tiny.config()
    settings = evaluate.make_settings(config, tiny.run())
    assert settings._asdict() == config.evaluation.to_dict()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("num_points", 1, "is 1; use at least 3"),
        ("num_points", 6, "is 6, which leaves out the midpoint; use an odd number"),
        ("num_bins", 0, "is 0; use at least 1"),
        ("batch_size", 0, "is 0; use at least 1"),
        ("recalibration_examples", -1, "is -1; use at least 0"),
        ("at_once", -1, "is -1; use at least 0"),
        ("recalibration_batch_size", 0, "is 0 but there are 64 images"),
        ("recalibration_batch_size", 65, "is 65 but there are 64 images to recalibrate on; use"),
    ],
)
def test_what_evaluation_cannot_work_with_is_refused(line, name, value, sentence):
    with pytest.raises(UserError, match=rf"^config\.evaluation\.{name} {sentence}"):
        settings_of(line[0], **{name: value})


def test_more_images_a_batch_than_recalibration_has_are_refused(line):
    with pytest.raises(UserError, match="batch_size is 16 but there are 15 images"):
        settings_of(line[0], recalibration_examples=15)
