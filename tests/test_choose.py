"""Choices on validation data against exhaustive search; none of them changes with the test set."""

import functools
import itertools

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
SUBSPACES = {"line": ss.line(), "curve": ss.bezier(2), "simplex": ss.simplex(3)}
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
BATCHES = [(jax.random.key(i), images_of(10 + i, 40)) for i in range(3)]


def by_gradient(subspace, validation=VALIDATION, **changes):
    settings = {"layerwise": False, "joint_temperature": False, "num_steps": 30} | changes
    endpoints = endpoints_of(subspace.num_endpoints)
    return choose.by_gradient(
        subspace, endpoints, stats_fn, logits_fn, BATCHES, validation, **settings
    )


def expected_nll(subspace, coords, joint_temperature=False, validation=VALIDATION):
    """With the statistics of the concatenated batches."""
    params = subspace.point(endpoints_of(subspace.num_endpoints), coords)
    stats = stats_fn(params, (None, np.concatenate([images for _, images in BATCHES])))
    logits = np.asarray(logits_fn((params, stats), validation.images), np.float64)
    if joint_temperature:
        logits /= float(ss.calibration.fit_temperature(logits, validation.labels))
    log_probs = scipy.special.log_softmax(logits, axis=1)
    return -log_probs[np.arange(len(log_probs)), validation.labels].mean()


def grid_of(subspace, steps):
    if subspace.center.ndim == 0:
        return np.linspace(0, 1, steps + 1, dtype=np.float32)
    cells = itertools.product(range(steps + 1), repeat=subspace.num_endpoints)
    return np.array([cell for cell in cells if sum(cell) == steps], np.float32) / steps


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


# The gradient


@pytest.mark.parametrize("joint_temperature", [False, True], ids=["plain", "joint"])
@pytest.mark.parametrize("name", SUBSPACES)
def test_the_gradient_finds_what_a_fine_grid_finds(name, joint_temperature):
    subspace = SUBSPACES[name]
    nll = functools.partial(expected_nll, subspace, joint_temperature=joint_temperature)
    start = min(grid_of(subspace, 4), key=nll)
    joint = {"joint_temperature": joint_temperature}
    coords = by_gradient(subspace, start=start, num_steps=50, **joint)
    chex.assert_shape(coords, subspace.center.shape)
    assert nll(coords) <= min(map(nll, grid_of(subspace, 10))) + 2e-3
    assert nll(by_gradient(subspace, **joint)) <= nll(subspace.center) + 1e-5


@pytest.mark.parametrize("name", SUBSPACES)
def test_layers_choose_for_themselves(name):
    subspace = SUBSPACES[name]
    start = by_gradient(subspace)
    coords = by_gradient(subspace, layerwise=True, start=start)
    chex.assert_trees_all_equal_structs(coords, endpoints_of(2))
    chex.assert_tree_shape_suffix(coords, subspace.center.shape)
    assert expected_nll(subspace, coords) < expected_nll(subspace, start)
    first, second = jax.tree.leaves(coords)
    assert not np.allclose(first, second, atol=1e-2)


def test_the_statistics_move_with_the_point():
    # Along the line the first layer grows, which batch norm undoes, and the second one shrinks, which
    # makes right predictions less sure. Statistics that stayed would see the network grow.
    one = ss.line().point(endpoints_of(2), 0.25)
    other = {
        "first": {"kernel": 3 * one["first"]["kernel"]},
        "second": {"kernel": 0.8 * one["second"]["kernel"]},
    }
    growing = ss.stack([one, other])
    images = VALIDATION.images
    logits = logits_fn((one, stats_fn(one, BATCHES[0])), images)
    right = Split(images, np.asarray(jax.lax.argmax(logits, 1, jnp.int32)))
    settings = {"layerwise": False, "joint_temperature": False, "num_steps": 30}
    args = ss.line(), growing, stats_fn, logits_fn, BATCHES[:1], right
    assert choose.by_gradient(*args, **settings) < 0.2


@pytest.mark.parametrize("layerwise", [False, True], ids=["global", "layerwise"])
def test_how_the_subspace_was_trained_does_not_matter(layerwise):
    coords = by_gradient(ss.line(), layerwise=layerwise)
    chex.assert_trees_all_equal(by_gradient(ss.layerwise(ss.line()), layerwise=layerwise), coords)


def test_the_largest_number_of_images_bounds_what_is_read_and_no_class_is_left_out():
    order = np.argsort(VALIDATION.labels, kind="stable")
    ordered = Split(VALIDATION.images[order], VALIDATION.labels[order])
    read = np.arange(0, N, 2)
    assert set(ordered.labels[read]) == set(range(K))
    coords = by_gradient(ss.line(), ordered, max_images=N // 2)
    part = Split(ordered.images[read], ordered.labels[read])
    chex.assert_trees_all_equal(by_gradient(ss.line(), part), coords)
    poisoned = Split(np.zeros_like(ordered.images), np.full_like(ordered.labels, -1))
    poisoned.images[read], poisoned.labels[read] = part
    chex.assert_trees_all_equal(by_gradient(ss.line(), poisoned, max_images=N // 2), coords)


def test_a_network_is_compiled_once_for_all_its_subspaces():
    traces = []

    def counted(params, batch):
        traces.append(1)
        return stats_fn(params, batch)

    def search(subspace, validation, layerwise):
        choose.by_gradient(
            subspace,
            endpoints_of(subspace.num_endpoints),
            counted,
            logits_fn,
            BATCHES,
            validation,
            layerwise=layerwise,
            joint_temperature=True,
            num_steps=1,
        )

    search(ss.line(), VALIDATION, False)
    first = len(traces)
    assert first > 0
    for subspace in SUBSPACES.values():
        for layerwise in (False, True):
            search(subspace, make_validation(1), layerwise)
    assert len(traces) == first


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
    "gradient": lambda: by_gradient(ss.line(), EMPTY),
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
    changes = {"model__widths": (4,), "evaluation__choose_steps": 2, "evaluation__num_points": 3}
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
    assert {"chosen point", "gradient point", "layerwise point"} <= plain.keys()
    assert choices(poisoned) == choices(plain)
    for name in plain.keys() - {"endpoints"}:
        assert poisoned[name]["scaled"] != plain[name]["scaled"]
