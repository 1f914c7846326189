"""What is evaluated: every record's metrics are those of the networks it stands for."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics
from reference_metrics import assert_metrics
from untrained import TEST, VALIDATION, evaluated, untrained

import subspace_jax as ss
from experiments.data.corrupted import Corrupted
from experiments.data.sets import Split
from experiments.evaluation import predict
from experiments.evaluation.inputs import Shifted
from experiments.evaluation.points import DRAWS_STREAM

SPLITS = {"test": TEST, "validation": VALIDATION}
COORDS = [0.0, 0.25, 0.5, 0.75, 1.0]  # of the points of the line
FIRST, MIDDLE, LAST = 0, 2, 4

# Whole splits are batches, and recalibration sees all images whatever the seed.
CHANGES = {
    "model__widths": (4,),
    "model__dropout": 0.3,
    "evaluation__num_points": 5,
    "evaluation__num_samples": 4,
    "evaluation__batch_size": 20,
    "evaluation__recalibration_batch_size": 32,
    "evaluation__recalibration_augment": False,
}
# The points that a predictor's networks are; Monte-Carlo dropout's passes are of the midpoint.
MEMBERS = {"midpoint": [MIDDLE], "ensemble": [FIRST, LAST], "mc ensemble": [MIDDLE]}
CORRUPTED = {
    "dark": {1: TEST.images // 2, 4: TEST.images // 8},
    "pale": {1: 128 + TEST.images // 2, 4: 224 + TEST.images // 8},
}
NOISE = np.random.default_rng(5).integers(0, 256, (30, 8, 8, 1), np.uint8)


def corrupted(images):
    return lambda: Corrupted(Split(images, TEST.labels), "made up")


SHIFTED = Shifted(
    {name: {k: corrupted(x) for k, x in each.items()} for name, each in CORRUPTED.items()},
    {"same": lambda: TEST.images, "noise": lambda: NOISE},
)
close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-4)


def records_of(made, splits=SPLITS, shifted=SHIFTED, robust=tuple(MEMBERS)):
    return evaluated(made, splits, shifted=shifted, robust=robust)["places"]


@pytest.fixture(scope="module")
def line():
    return untrained("line", **CHANGES)


@pytest.fixture(scope="module")
def results(line):
    return evaluated(line, SPLITS, shifted=SHIFTED, robust=tuple(MEMBERS))


@pytest.fixture(scope="module")
def records(results):
    return results["places"]


@pytest.fixture(scope="module")
def networks(line):
    """The points of the line, recalibrated on clean images."""
    params = ss.stack([ss.line().point(line.stack, alpha) for alpha in COORDS])
    return predict.recalibrated(line.run, params, line.settings)[0]


@pytest.fixture(scope="module")
def predicted(line, networks):
    """`(name, images) -> probabilities` of a predictor, without the code that is tested."""
    model, settings = line.run.program.model, line.settings
    key = jax.random.fold_in(jax.random.key(line.run.seed), DRAWS_STREAM)
    keys = jax.random.split(key, settings.num_samples)
    middle = jax.tree.map(lambda x: x[MIDDLE], networks)

    def probs(name, images):
        if name != "mc ensemble":
            return probs_of(predict.predict(model, networks.take(MEMBERS[name]), images, settings))
        passes = predict.dropout_logits_fn(model)
        batches = predict.padded_batches(images, settings.batch_size)
        given = middle, keys, line.run.hyper.dropout
        logits = [passes(given, batch) for batch in batches]
        return probs_of(jnp.concatenate(logits, axis=1))[: len(images)]

    return probs


def probs_of(logits):
    """The mean of the members' probabilities."""
    return scipy.special.softmax(np.asarray(logits, np.float64), axis=-1).mean(axis=0)


def assert_short(record, probs, labels):
    """Of records that keep three metrics."""
    assert record["accuracy"] == pytest.approx((probs.argmax(1) == labels).mean())
    nll = sklearn.metrics.log_loss(labels, probs, labels=range(probs.shape[1]))
    assert record["nll"] == pytest.approx(nll, rel=1e-3)
    close(record["ece"], ss.metrics.ece(probs.astype(np.float32), labels, num_bins=10))


def assert_record(record, probs, passes):
    """`probs`: by the name of the split."""
    assert record["inference_passes"] == passes
    assert_metrics(record, probs["test"], TEST.labels)
    assert_short(record["validation"], probs["validation"], VALIDATION.labels)
    temperature = ss.calibration.fit_temperature(np.log(probs["validation"]), VALIDATION.labels)
    close(record["temperature"], temperature)
    scaled = scipy.special.softmax(np.log(probs["test"]) / record["temperature"], axis=1)
    assert_short({"accuracy": record["accuracy"]} | record["scaled"], scaled, TEST.labels)


@pytest.fixture(scope="module")
def logits(line, networks):
    found = predict.predict(line.run.program.model, networks, TEST.images, line.settings)
    return np.asarray(found, np.float64)


def test_metrics_of_points_are_those_of_their_logits(results, logits):
    assert [point["coords"] for point in results["points"]] == COORDS
    for point, values in zip(results["points"], logits, strict=True):
        assert_metrics(point, scipy.special.softmax(values, axis=1), TEST.labels)
    first, last = (results["points"][i] for i in (FIRST, LAST))
    for name in ("accuracy", "nll", "brier", "ece"):
        mean = (first[name] + last[name]) / 2
        assert results["places"]["endpoints"][name] == pytest.approx(mean)


def test_ensembles_are_of_opposite_points(results, logits):
    kinds = [(i, average) for i in range(2) for average in ("probability", "logit")]
    for (i, average), ensemble in zip(kinds, results["ensembles"], strict=True):
        pair = logits[[i, 4 - i]]
        one, other = scipy.special.softmax(pair, axis=-1)
        mean = scipy.special.softmax(pair.mean(0), axis=-1)
        assert ensemble["members"] == [COORDS[i], COORDS[4 - i]]
        assert ensemble["average"] == average
        assert_metrics(ensemble, mean if average == "logit" else (one + other) / 2, TEST.labels)
        disagreement = (one.argmax(1) != other.argmax(1)).mean()
        assert ensemble["disagreement"] == pytest.approx(disagreement)
        distance = 0.5 * np.abs(one - other).sum(1).mean()
        assert ensemble["total_variation"] == pytest.approx(distance, rel=1e-4)


def test_one_network_has_one_point_and_no_ensemble_and_diverged_it_has_no_metrics():
    made = untrained("standard", model__widths=(4,))
    broken = made._replace(stack=jax.tree.map(lambda leaf: leaf * jnp.nan, made.stack))
    for each in (made, broken):
        results = evaluated(each, {"test": TEST})
        assert [(p["name"], p["coords"]) for p in results["points"]] == [("midpoint", [1.0])]
        assert (results["ensembles"], [*results["places"]]) == ([], ["midpoint"])
        for record in (results["points"][0], results["places"]["midpoint"]):
            assert (record["accuracy"] is None) == (each is broken)
        json.dumps(results, allow_nan=False)


@pytest.mark.parametrize(("name", "passes"), [("midpoint", 1), ("ensemble", 2), ("mc ensemble", 4)])
def test_a_record_is_of_the_mean_probabilities_of_its_networks(records, predicted, name, passes):
    probs = {split: predicted(name, images) for split, (images, _) in SPLITS.items()}
    assert_record(records[name], probs, passes)
    others = [records[other]["nll"] for other in MEMBERS if other != name]
    assert min(abs(records[name]["nll"] - nll) for nll in others) > 1e-3


def test_an_ensemble_is_calibrated_member_by_member_and_as_one(line, records, networks):
    model, ends = line.run.program.model, networks.take([FIRST, LAST])
    test, validation = (
        np.asarray(predict.predict(model, ends, images, line.settings))
        for images, _ in SPLITS.values()
    )
    ensemble = records["ensemble"]
    members, together = (ensemble["temperatures"][x] for x in ("per_member", "after_average"))
    fit = ss.calibration.fit_temperature
    close(members["temperature"], [fit(x, VALIDATION.labels) for x in validation])
    scaled = probs_of(test / np.array(members["temperature"])[:, None, None])
    accuracy = {"accuracy": (scaled.argmax(1) == TEST.labels).mean()}
    assert_short(accuracy | members["scaled"], scaled, TEST.labels)
    chex.assert_trees_all_close({name: ensemble[name] for name in together}, together, rtol=1e-3)
    assert [name for name in records if "temperatures" in records[name]] == ["ensemble"]


@pytest.mark.parametrize("name", MEMBERS)
def test_other_images_are_predicted_with_statistics_of_clean_ones(records, predicted, name):
    found = records[name]["corruptions"]
    for corruption, severities in CORRUPTED.items():
        assert list(found[corruption]) == ["1", "4"]
        for severity, images in severities.items():
            assert_short(found[corruption][str(severity)], predicted(name, images), TEST.labels)
    errors = [1 - each["accuracy"] for by in found.values() for each in by.values()]
    assert records[name]["corruptions_mce"]["raw"] == pytest.approx(np.mean(errors))
    # Foreign ones are told by their confidence.
    found = records[name]["ood"]
    assert found["same"]["auroc"] == pytest.approx(0.5, abs=1e-6)
    assert found["same"]["fpr95"] == pytest.approx(0.95)
    inside, outside = (predicted(name, images).max(1) for images in (TEST.images, NOISE))
    labels = np.repeat([1, 0], [len(inside), len(outside)])
    expected = sklearn.metrics.roc_auc_score(labels, np.concatenate([inside, outside]))
    assert found["noise"]["auroc"] == pytest.approx(expected, abs=1e-3)


def test_logits_are_restricted_to_the_classes_that_corrupted_images_have(line, networks):
    columns = np.array([2, 0])
    images, labels = TEST.images[:20], np.arange(20, dtype=np.int32) % 2
    corrupted = Corrupted(Split(images, labels), "two of three classes", columns)
    shifted = Shifted({"some": {2: lambda: corrupted}})
    record = records_of(line, shifted=shifted, robust=("midpoint",))["midpoint"]
    logits = predict.predict(line.run.program.model, networks.take([MIDDLE]), images, line.settings)
    assert_short(record["corruptions"]["some"]["2"], probs_of(logits[..., columns]), labels)
    assert record["corruptions_mapping"] == "two of three classes"


def test_the_chosen_point_is_the_one_of_lowest_validation_nll(results):
    chosen = results["places"]["chosen point"]
    best = min(results["points"], key=lambda point: point["validation"]["nll"])
    assert chosen["coords"] == best["coords"]
    assert chosen["nll"] == pytest.approx(best["nll"], rel=1e-5)


@pytest.fixture(scope="module")
def snapshots():
    changes = CHANGES | {"schedule__num_models": 3, "optimizer__warmup_epochs": 0, "num_epochs": 6}
    return untrained("snapshot", **(changes | {"model__dropout": 0.0}))


def mixed(made, weights):
    """Probabilities of mixtures `[P, n]`, `[P, N, K]` by the name of the split."""
    params = predict.mixtures(made.stack, jnp.asarray(weights, jnp.float32))
    logits, _, _ = predict.predict_networks(made.run, params, SPLITS, made.settings)
    softmax = lambda x: scipy.special.softmax(np.asarray(x, np.float64), axis=-1)
    return jax.tree.map(softmax, logits)


def test_snapshots_predict_as_their_ensemble_and_their_soups(snapshots):
    records = records_of(snapshots)
    assert records.keys() == {"midpoint", "endpoints", "ensemble", "greedy soup"}
    probs = mixed(snapshots, np.r_[np.eye(3), [[1 / 3] * 3, records["greedy soup"]["weights"]]])
    members = {name: values[:3].mean(axis=0) for name, values in probs.items()}
    assert_record(records["ensemble"], members, passes=3)
    for i, name in ((3, "midpoint"), (4, "greedy soup")):
        assert_record(records[name], {split: x[i] for split, x in probs.items()}, passes=1)


@pytest.mark.parametrize("members", [[0], [0, 1]])
def test_a_greedy_soup_keeps_what_does_not_harm_it_on_validation_data(snapshots, members):
    # The third network has the weights of the soup of the others, and never predicts as it does.
    third = jax.tree.map(lambda x: x[:2].mean(axis=0), snapshots.stack)
    third["Dense_0"] = jax.tree.map(lambda x: -3 * x, third["Dense_0"])
    stack = jax.tree.map(lambda x, y: x.at[2].set(y), snapshots.stack, third)
    made = snapshots._replace(stack=stack)

    weights = np.isin(range(3), members) / len(members)
    labels = mixed(made, weights[None])["validation"][0].argmax(1)
    validation = VALIDATION._replace(labels=labels.astype(np.int32))
    found = records_of(made, {"test": TEST, "validation": validation}, Shifted())["greedy soup"]
    close(found["weights"], weights)
    assert found["validation"]["accuracy"] == 1


def test_without_validation_images_nothing_is_chosen_and_without_test_images_nothing_else(
    line, records
):
    names = {"midpoint", "ensemble", "mc ensemble"}
    never = Shifted({"dark": {1: pytest.fail}}, {"noise": pytest.fail})  # unless it is asked for
    unasked = records_of(line, shifted=never, robust=())
    assert all("ood" not in record for record in unasked.values())
    untested = records_of(line, {"validation": VALIDATION})
    found = records_of(line, {"test": TEST})
    assert (untested.keys(), found.keys()) == (names, names | {"endpoints"})
    chosen = {"temperature", "scaled", "validation", "temperatures"}
    for name, record in found.items():
        assert record.keys() == records[name].keys() - chosen
    for name, record in (*found.items(), *untested.items(), *unasked.items()):
        both = {key: records[name][key] for key in record}
        chex.assert_trees_all_close(record, both, rtol=1e-5)
