"""An evaluation as a whole: metrics of the logits, as JSON; nothing chosen on test images."""

import json

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from reference_metrics import assert_metrics
from untrained import TEST, VALIDATION, evaluated, untrained

import subspace_jax as ss
from experiments.data.corrupted import Corrupted
from experiments.data.sets import Split
from experiments.evaluation import predict
from experiments.evaluation.shifted import Shifted

SPLITS = {"test": TEST, "validation": VALIDATION}
COORDS = [0.0, 0.25, 0.5, 0.75, 1.0]


def small(recipe, **changes):
    return untrained(recipe, model__widths=(4,), **changes)


@pytest.fixture(scope="module")
def line():
    return small("line")


@pytest.fixture(scope="module")
def results(line):
    return evaluated(line, {"test": TEST})


@pytest.fixture(scope="module")
def logits(line):
    """Of five points of the line, on the test split."""
    params = ss.stack([ss.line().point(line.stack, alpha) for alpha in COORDS])
    found, _, _ = predict.predict_networks(line.run, params, {"test": TEST}, line.settings)
    return np.asarray(found["test"], np.float64)


def test_metrics_of_points_are_those_of_their_logits(results, logits):
    assert [point["coords"] for point in results["points"]] == COORDS
    names = [point["name"] for point in results["points"]]
    assert names == ["endpoint 0", "", "midpoint", "", "endpoint 1"]
    for point, values in zip(results["points"], logits, strict=True):
        assert_metrics(point, scipy.special.softmax(values, axis=1), TEST.labels)
        assert point["num_bins"] == 10


def test_ensembles_are_of_opposite_points(results, logits):
    ensembles = results["ensembles"]
    assert [(e["members"], e["average"]) for e in ensembles] == [
        ([COORDS[i], COORDS[-1 - i]], average)
        for i in range(2)
        for average in ("probability", "logit")
    ]
    for ensemble in ensembles:
        i = COORDS.index(ensemble["members"][0])
        one, other = scipy.special.softmax(logits[[i, 4 - i]], axis=-1)
        if ensemble["average"] == "probability":
            probs = (one + other) / 2
        else:
            probs = scipy.special.softmax((logits[i] + logits[4 - i]) / 2, axis=-1)
        assert_metrics(ensemble, probs, TEST.labels)
        disagreement = (one.argmax(1) != other.argmax(1)).mean()
        assert ensemble["disagreement"] == pytest.approx(disagreement)
        distance = 0.5 * np.abs(one - other).sum(1).mean()
        assert ensemble["total_variation"] == pytest.approx(distance, rel=1e-4)
    assert ensembles[0]["disagreement"] > 0


def test_results_are_json_without_what_is_not_a_number(results):
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    reliability = results["points"][0]["reliability"]
    empty = [weight == 0 for weight in reliability["weight"]]
    assert any(empty)
    assert [x is None for x in reliability["accuracy"]] == empty
    assert results["recalibration"] == {"num_examples": 64, "batch_size": 16, "augmented": True}


def test_one_network_has_one_point_and_no_ensemble_and_diverged_it_has_no_metrics():
    made = small("standard")
    broken = made._replace(stack=jax.tree.map(lambda leaf: leaf * jnp.nan, made.stack))
    for each in (made, broken):
        results = evaluated(each, {"test": TEST})
        assert [(p["name"], p["coords"]) for p in results["points"]] == [("midpoint", [1.0])]
        assert (results["ensembles"], [*results["places"]]) == ([], ["midpoint"])
        for record in (results["points"][0], results["places"]["midpoint"]):
            assert (record["accuracy"] is None) == (each is broken)
        json.dumps(results, allow_nan=False)


CHOOSING = {
    "line": {"model__dropout": 0.2},
    "snapshot": {"schedule__num_models": 2, "optimizer__warmup_epochs": 0},
}
CHOSEN_PLACES = {
    "line": {"chosen point", "mc ensemble"},
    "snapshot": {"greedy soup"},
}


def choosing(recipe, seed=0):
    return small(recipe, seed=seed, **CHOOSING[recipe])


def poisoned(images):
    """Other pixels everywhere."""
    spoiled = 255 - images
    spoiled[spoiled == images] += 1
    return spoiled


def adversarial(made):
    """A test split without a pixel or label of `TEST`, which the last network predicts best."""
    images = poisoned(TEST.images)
    params = predict.mixtures(made.stack, jnp.array([[0.5, 0.5], [0.0, 1.0]]))
    networks, _ = predict.recalibrated(made.run, params, made.settings)
    logits = predict.predict(made.run.program.model, networks, images, made.settings)
    middle, last = scipy.special.log_softmax(np.asarray(logits), axis=-1)
    gains = np.where(np.eye(3)[TEST.labels], -np.inf, last - middle)
    return Split(images, gains.argmax(1).astype(np.int32))


def shifted(test, spoil=lambda images: images):
    """Corrupted and foreign images that belong to a test split."""
    dark = Corrupted(Split(spoil(test.images // 2), test.labels), "made up")
    return Shifted({"dark": {1: lambda: dark}}, {"flat": lambda: spoil(0 * test.images + 100)})


def decided(results):
    """All that test images and their labels may not change."""
    names = ("inference_passes", "validation", "coords", "weights", "temperature")
    temperatures = results["places"]["ensemble"]["temperatures"]
    return {
        "places": {
            name: {key: place.get(key) for key in names}
            for name, place in results["places"].items()
        },
        "temperatures": {mode: found["temperature"] for mode, found in temperatures.items()},
        "points": [(p["name"], p["coords"], p["validation"]) for p in results["points"]],
        "members": [(e["members"], e["average"]) for e in results["ensembles"]],
        "others": (results["geometry"], results["recalibration"]),
    }


@pytest.mark.parametrize("recipe", CHOOSING)
def test_a_poisoned_test_split_changes_no_choice(recipe):
    made = choosing(recipe)
    robust = ("midpoint", "ensemble", *CHOSEN_PLACES[recipe])
    plain = evaluated(made, SPLITS, shifted=shifted(TEST), robust=robust)
    other = adversarial(made)
    assert (other.images != TEST.images).all()
    assert (other.labels != TEST.labels).all()
    spoiled = evaluated(
        made,
        {"test": other, "validation": VALIDATION},
        shifted=shifted(other, poisoned),
        robust=robust,
    )
    assert CHOSEN_PLACES[recipe] <= plain["places"].keys()
    assert decided(spoiled) == decided(plain)
    # And everything that is measured on it was changed, and which point is best on it.
    best = [min(found["points"], key=lambda point: point["nll"]) for found in (plain, spoiled)]
    assert best[0]["coords"] != best[1]["coords"]
    for name, place in plain["places"].items():
        kinds = ["nll"] + ["scaled"] * (name != "endpoints")
        kinds += ["corruptions", "ood"] * (name in robust)
        assert all(spoiled["places"][name][kind] != place[kind] for kind in kinds)
    # Other validation images would have chosen otherwise.
    flipped = VALIDATION._replace(labels=(VALIDATION.labels + 1) % 3)
    chosen = evaluated(made, {"test": TEST, "validation": flipped})["places"]
    for name in CHOSEN_PLACES[recipe]:
        assert chosen[name]["temperature"] != plain["places"][name]["temperature"]


@pytest.mark.parametrize("recipe", CHOOSING)
def test_a_second_run_of_a_program_is_evaluated_without_a_new_compilation(recipe):
    first, second = (choosing(recipe, seed) for seed in (0, 1))
    assert first.run.program is not second.run.program
    assert first.run.program.model is not second.run.program.model
    robust = ("midpoint", "mc ensemble")
    before = evaluated(first, SPLITS, shifted=shifted(TEST), robust=robust)
    with compilations.noted() as names:
        after = evaluated(second, SPLITS, shifted=shifted(TEST), robust=robust)
    assert names == []
    assert before["places"]["midpoint"]["nll"] != after["places"]["midpoint"]["nll"]
    with compilations.noted() as names:  # which would have been noted
        jax.jit(lambda x: x + 1)(jnp.zeros(3))
    assert names
