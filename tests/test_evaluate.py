"""An evaluation as a whole: nothing is chosen on test images, and nothing is compiled twice."""

import compilations
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from untrained import TEST, VALIDATION, evaluated, untrained

from experiments.data.corrupted import Corrupted
from experiments.data.sets import Split
from experiments.evaluation import predict
from experiments.evaluation.inputs import Shifted

SPLITS = {"test": TEST, "validation": VALIDATION}
CHOOSING = {
    "line": {"model__dropout": 0.2},
    "snapshot": {"schedule__num_models": 2, "optimizer__warmup_epochs": 0},
}
CHOSEN_PLACES = {
    "line": {"chosen point", "mc ensemble"},
    "snapshot": {"greedy soup"},
}


def choosing(recipe, seed=0):
    return untrained(recipe, model__widths=(4,), seed=seed, **CHOOSING[recipe])


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
