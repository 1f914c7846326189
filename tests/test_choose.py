"""Choices on validation data against exhaustive search; none of them changes with the test set."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import tiny
from stacks import normal

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation import choose, evaluate, predict
from experiments.system.errors import UserError
from experiments.training.steps import init_state

N, K, HIDDEN = 60, 3, 5
MODES = ("per_member", "after_average")


# A network of two layers with a batch norm between them, whose statistics depend on the point.


def hidden(params, images):
    images = images.astype(jnp.float32).reshape(len(images), -1) / 128 - 1
    return images @ params["first"]["kernel"]


def stats_fn(params, batch):
    _, images = batch
    x = hidden(params, images)
    return {"norm": {"mean": x.mean(0), "var": x.var(0)}}


def logits_fn(network, images):
    params, stats = network
    norm = stats["norm"]
    x = (hidden(params, images) - norm["mean"][None]) * jax.lax.rsqrt(norm["var"] + 1e-5)[None]
    return jax.nn.relu(x) @ params["second"]["kernel"]


@functools.cache
def endpoints_of(n):
    return {
        "first": {"kernel": jnp.asarray(normal(1, n, 4, HIDDEN))},
        "second": {"kernel": jnp.asarray(2 * normal(2, n, HIDDEN, K))},
    }


def images_of(seed, size):
    return np.random.default_rng(seed).integers(0, 256, (size, 2, 2, 1), np.uint8)


def make_validation(seed=0, size=N):
    """Labels that the network at a quarter of the line predicts, most of the time."""
    images = images_of(seed, size)
    network = ss.line().point(endpoints_of(2), 0.25)
    logits = logits_fn((network, stats_fn(network, (None, images))), images)
    labels = jax.random.categorical(jax.random.key(seed), 2 * logits)
    return Split(images, np.asarray(labels, np.int32))


VALIDATION = make_validation()


# The grid


@pytest.mark.parametrize("criterion", ["nll", "accuracy"])
def test_the_grid_gives_the_best_point(criterion):
    logits, labels = 3 * normal(0, 5, N, K), VALIDATION.labels
    log_probs = scipy.special.log_softmax(logits, axis=-1)
    losses = {
        "nll": -log_probs[:, np.arange(N), labels].mean(axis=1),
        "accuracy": -(logits.argmax(axis=-1) == labels).mean(axis=1),
    }
    chosen = choose.by_grid(logits, labels, criterion)
    assert isinstance(chosen, int)
    assert chosen == losses[criterion].argmin()


# Temperatures


def test_a_temperature_is_that_of_validation_and_scores_the_test_predictions():
    val, test = (scipy.special.log_softmax(3 * normal(i, N, K), axis=1) for i in range(2))
    labels, test_labels = VALIDATION.labels, make_validation(1).labels
    record = choose.temperature_record(val, labels, test, test_labels, 10)
    temperature = ss.calibration.fit_temperature(val, labels)
    np.testing.assert_array_equal(record["temperature"], temperature)
    scaled = scipy.special.log_softmax(test / np.asarray(temperature), axis=1)
    nll = -scaled[np.arange(N), test_labels].mean()
    np.testing.assert_allclose(record["scaled"]["nll"], nll, rtol=1e-5)
    ece = ss.metrics.ece(np.exp(scaled), test_labels, num_bins=10)
    np.testing.assert_allclose(record["scaled"]["ece"], ece, atol=1e-5)


@pytest.mark.parametrize("average", ["probability", "logit"])
def test_an_ensemble_is_calibrated_in_both_ways(average):
    val, test = 3 * normal(0, 2, N, K), 3 * normal(1, 2, N, K)
    labels, test_labels = VALIDATION.labels, make_validation(1).labels
    records = choose.ensemble_temperature_record(val, labels, test, test_labels, average, 10)
    assert tuple(records) == MODES
    members = records["per_member"]["temperature"]
    alone = [choose.temperature_record(logits, labels, test[0], labels, 10) for logits in val]
    np.testing.assert_allclose(members, [record["temperature"] for record in alone], rtol=1e-5)
    averaged = ss.ensemble(val, average), labels, ss.ensemble(test, average), test_labels
    expected = choose.temperature_record(*averaged, 10)
    chex.assert_trees_all_close(records["after_average"], expected, rtol=1e-4)
    scaled = ss.ensemble(test / np.asarray(members)[:, None, None], average)
    nll = ss.metrics.nll(scaled, test_labels)
    np.testing.assert_allclose(records["per_member"]["scaled"]["nll"], nll, rtol=1e-5)


EMPTY = Split(VALIDATION.images[:0], VALIDATION.labels[:0])
ON_NOTHING = {
    "grid": lambda: choose.by_grid(np.ones((2, 0, K)), EMPTY.labels, "nll"),
    "temperature": lambda: choose.temperature_record(
        np.ones((0, K)), EMPTY.labels, np.ones((N, K)), VALIDATION.labels, 10
    ),
    "ensemble": lambda: choose.ensemble_temperature_record(
        np.ones((2, 0, K)), EMPTY.labels, np.ones((2, N, K)), VALIDATION.labels, "logit", 10
    ),
}


@pytest.mark.parametrize("name", ON_NOTHING)
def test_an_empty_validation_split_is_refused(name):
    what = "temperature" if name in ("temperature", "ensemble") else "point"
    message = f"config.validation_size is 0 but a {what} is chosen .* set config.validation_size to"
    with pytest.raises(UserError, match=message):
        ON_NOTHING[name]()


# The test set chooses nothing


@pytest.mark.parametrize("spoil", ["nan", "permuted"])
def test_temperatures_do_not_change_with_the_test_predictions(spoil):
    logits, labels = 3 * normal(0, 2, N, K), VALIDATION.labels
    test, test_labels = 3 * normal(1, 2, N, K), make_validation(1).labels
    poisoned = test * np.nan if spoil == "nan" else test[:, ::-1]

    def temperatures(test, test_labels):
        single = choose.temperature_record(logits[0], labels, test[0], test_labels, 10)
        both = choose.ensemble_temperature_record(
            logits, labels, test, test_labels, "probability", 10
        )
        return [single["temperature"], *(both[mode]["temperature"] for mode in MODES)]

    chex.assert_trees_all_equal(
        temperatures(poisoned, np.roll(test_labels, 1)), temperatures(test, test_labels)
    )


def evaluated(test):
    """The places of an untrained line."""
    changes = {"model__widths": (4,), "evaluation__num_points": 3}
    run = tiny.run("line", **changes)
    settings = predict.make_settings(tiny.config("line", **changes), run)
    splits = {"test": test, "validation": tiny.dataset(1).test}
    return evaluate.evaluate(run, init_state(run).endpoints, splits, settings)["places"]


def choices(places):
    """All that validation data decide, and how the choice does on them."""
    keys = ("coords", "temperature", "validation")
    found = {name: {key: place.get(key) for key in keys} for name, place in places.items()}
    of_ensemble = places["ensemble"]["temperatures"]
    return found | {mode: of_ensemble[mode]["temperature"] for mode in MODES}


def test_no_choice_of_an_evaluation_changes_with_the_test_set():
    test = tiny.dataset().test
    plain = evaluated(test)
    poisoned = evaluated(Split(255 - test.images, np.roll(test.labels, 1)))
    assert "chosen point" in plain
    assert choices(poisoned) == choices(plain)
    for name in plain.keys() - {"endpoints"}:
        assert poisoned[name]["scaled"] != plain[name]["scaled"]
