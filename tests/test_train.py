"""Training: the schedule, the order of the examples, calls of several steps, and what is recorded."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import subspace_jax as ss
from experiments.system.errors import UserError
from experiments.training import steps as training_steps
from experiments.training.history import History, NonFiniteLoss, check_finite
from experiments.training.model import training_logits
from experiments.training.run import learning_rate
from experiments.training.steps import epoch_order, fit, init_state

STEPS_PER_EPOCH = tiny.NUM_TRAIN // 6
TIMES = ("seconds", "images_per_second")


def copied(tree):
    """A copy that the next call can't overwrite."""
    return jax.tree.map(np.array, jax.device_get(tree))


def fitted(run, state=None, history=None):
    """Copies of the state after every call."""
    state = init_state(run) if state is None else jax.tree.map(jnp.asarray, state)
    history = history or History(run)
    return [copied(state) for state in fit(run, state, history)]


def one_network(run):
    return jax.tree.map(lambda leaf: leaf[0], init_state(run).endpoints)


def metrics_of(*losses, **others):
    losses = np.asarray(losses, np.float32)
    return {"loss": losses, "penalty": np.zeros_like(losses)} | others


def timeless(records):
    return [{k: v for k, v in record.items() if k not in TIMES} for record in records]


def batches(run, first=0):
    """The examples of every step from one on, and how many steps each call takes."""
    calls = [given[-1] for given, _ in training_steps.arguments_of_calls(run, first)]
    return np.array([batch for call in calls for batch in call]), [len(call) for call in calls]


@pytest.fixture(scope="module")
def line():
    """A run, the state after each of its steps, and its history."""
    run = tiny.run("line")
    history = History(run)
    return run, fitted(run, history=history), history


# Order of the examples


@pytest.mark.parametrize(("size", "batch_size"), [(64, 6), (20, 20), (7, 4)])
def test_an_epoch_is_a_permutation_and_differs_from_others(size, batch_size):
    static = {"size": size, "batch_size": batch_size}
    orders = [
        np.asarray(epoch_order(jax.random.key(seed), jnp.int32(epoch), **static))
        for seed in range(2)
        for epoch in range(3)
    ]
    for indices in orders:
        assert indices.shape == (size // batch_size, batch_size)
        assert len(np.unique(indices)) == indices.size
        assert 0 <= indices.min() <= indices.max() < size
    for one, other in itertools.combinations(orders, 2):
        assert (one != other).any()


@pytest.mark.parametrize("per_call", [1, 3, 10])
def test_the_batches_are_the_same_whatever_the_calls_and_the_start(per_call):
    expected, _ = batches(tiny.run("standard"))
    assert len(expected) == 2 * STEPS_PER_EPOCH
    run = tiny.run("standard", steps_per_call=per_call)
    for first in (0, 9, 10, 13):
        found, lengths = batches(run, first)
        np.testing.assert_array_equal(found, expected[first:])
        ends = first + np.cumsum(lengths)
        assert set(ends) >= {10, 20} - set(range(first + 1))
        assert max(lengths) <= per_call
    assert batches(run, 20)[1] == []


def test_all_methods_of_a_seed_see_the_same_batches_and_other_seeds_others():
    runs = [tiny.run("standard"), tiny.run("curve"), tiny.run("line", subspace__num_samples=2)]
    standard, *others = (batches(run)[0] for run in runs)
    chex.assert_trees_all_equal(standard, *others)
    assert (batches(tiny.run("standard", seed=1))[0] != standard).any(1).all()


# The loss


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_loss_is_the_cross_entropy_with_smoothed_labels(smoothing):
    run = tiny.run("standard", augmentation="none", label_smoothing=smoothing)
    params = one_network(run)
    batch = (run.images[:9], run.labels[:9])
    loss_fn = training_steps.make_loss_fn(run.program, run.hyper)
    loss, metrics = loss_fn(params, jax.random.key(0), batch)

    logits, _ = training_logits(run.program.model, params, batch[0])
    logits, labels = np.asarray(logits, np.float64), np.asarray(batch[1])
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = (1 - smoothing) * np.eye(3)[labels] + smoothing / 3
    assert float(loss) == pytest.approx(-(targets * log_probs).sum(1).mean(), rel=1e-5)
    assert metrics.keys() == {"accuracy"}
    assert float(metrics["accuracy"]) == pytest.approx((logits.argmax(1) == labels).mean())


def test_loss_is_that_of_augmented_images():
    runs = [tiny.run("standard", augmentation=name) for name in ("none", "crop_and_flip")]
    plain, augmented = (training_steps.make_loss_fn(run.program, run.hyper) for run in runs)
    params, key = one_network(runs[0]), jax.random.key(3)
    images, labels = runs[0].images[:6], runs[0].labels[:6]
    shifted = training_steps.AUGMENTATIONS["crop_and_flip"](key, images)
    loss = augmented(params, key, (images, labels))
    chex.assert_trees_all_close(loss, plain(params, key, (shifted, labels)), rtol=1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_step_adds_the_penalty_of_its_method(weight):
    run = tiny.run("line", subspace__penalty=weight)
    state, order = init_state(run), jnp.arange(6)[None]
    expected = weight * ss.squared_cosines(state.endpoints)[0, 1]
    given = run.hyper, jax.random.key(1), run.images, run.labels, order
    _, found = training_steps.train_call(state, *given, program=run.program, unroll=True)
    np.testing.assert_allclose(found["penalty"], [expected], rtol=1e-5)
    assert (expected > 0) == (weight > 0)


# Training


@pytest.mark.parametrize("unrolled", [True, False])
def test_calls_of_several_steps_change_nothing(line, monkeypatch, unrolled):
    monkeypatch.setattr(training_steps, "on_cpu", lambda: unrolled)
    _, states, history = line
    several = tiny.run("line", steps_per_call=3)
    other = History(several)
    others = fitted(several, history=other)
    steps = [3, 6, 9, 10, 13, 16, 19, 20]  # the last call of an epoch is what is left
    assert [int(state.step) for state in others] == steps
    same = [states[step - 1] for step in steps]
    chex.assert_trees_all_close(others, same, rtol=2e-4, atol=2e-5)
    for one, record in zip(timeless(other.epochs), timeless(history.epochs), strict=True):
        assert one == pytest.approx(record, rel=1e-4)


@pytest.mark.parametrize("step", [3, 10, 20])
def test_a_run_that_goes_on_from_a_state_is_the_one_that_never_stopped(line, step):
    run, states, history = line
    assert [int(state.step) for state in states] == list(range(1, run.program.num_steps + 1))
    first = History(run)
    for state in fit(run, init_state(run), first):
        if int(state.step) == step:
            saved, record = copied(state), json.dumps(first.to_json())
            break
    resumed = History(run)
    resumed.restore(json.loads(record))
    assert resumed.num_steps == step
    chex.assert_trees_all_equal(fitted(run, saved, resumed), states[step:])
    assert timeless(resumed.epochs) == timeless(history.epochs)


# Networks that are given


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Files of two networks that two seeds start with."""
    folder = tmp_path_factory.mktemp("weights")
    return tuple(tiny.weights_file(folder / f"{seed}.npz", seed) for seed in (1, 2))


@pytest.mark.parametrize(("recipe", "places"), [("curve_finding", (0, 2)), ("spro_1", (0, 1))])
def test_given_networks_stay_bit_for_bit_and_the_third_is_trained_from_their_mean(
    two, recipe, places
):
    run = tiny.run(recipe, subspace__weights=two, optimizer__weight_decay=0.1)
    given = [init_state(tiny.run("standard", seed=seed)).endpoints for seed in (1, 2)]
    start, (*_, end) = copied(init_state(run).endpoints), fitted(run)
    third = 3 - sum(places)
    for first, last, *networks in zip(
        *map(jax.tree.leaves, (start, end.endpoints, *given)), strict=True
    ):
        networks = np.concatenate(networks)
        np.testing.assert_allclose(first[third], networks.mean(0), rtol=1e-6, atol=1e-7)
        assert (last[third] != first[third]).any()
        for found in (first, last):
            np.testing.assert_array_equal(found[list(places)], networks)


def test_networks_that_are_only_put_together_are_not_trained(two):
    run = tiny.run("ensemble", subspace__weights=two)
    assert run.program.num_steps == len(fitted(run)) == 0
    chex.assert_trees_all_equal(run.program.method.trained(init_state(run)), run.given)


def test_other_networks_than_a_run_starts_from_are_refused(two):
    for recipe, files, sentence in (
        ("curve_finding", (), "holds 0 networks but curve_finding starts from 2; name"),
        ("ensemble", two + two[:1], "holds 3 networks but ensemble starts from 2; name"),
    ):
        with pytest.raises(UserError, match=rf"^config\.subspace\.weights .*{sentence}"):
            tiny.run(recipe, subspace__weights=files)


# History


def test_records_are_means_over_epochs_and_are_read_one_call_late():
    run, records = tiny.run(steps_per_call=5), []
    history = History(run)
    history.logs = [lambda step, values: records.append(values)]
    losses = np.random.default_rng(0).random(20).astype(np.float32)
    for i, call in enumerate(losses.reshape(4, 5)):
        history.append(metrics_of(*call, accuracy=call / 2))
        assert history.num_steps == 5 * i
        assert len(records) == i // 2
    history.flush()
    history.flush()
    assert history.num_steps == 20
    assert records == history.epochs
    for i, record in enumerate(history.epochs):
        mean = losses[10 * i : 10 * i + 10].mean(dtype=np.float64)
        assert record["loss"] == pytest.approx(mean, rel=1e-6)
        assert record["accuracy"] == pytest.approx(mean / 2, rel=1e-6)
        assert record["penalty"] == 0
        assert (record["epoch"], record["step"]) == (i + 1, 10 * i + 10)
        assert record["learning_rate"] == learning_rate(run, 10 * i)
        assert record["images_per_second"] == pytest.approx(60 / record["seconds"])
    saved = history.to_json()
    before = json.dumps(saved, allow_nan=False)
    history.append(metrics_of(*losses[:5]))
    history.flush()
    assert json.dumps(saved) == before  # what was saved does not change when training goes on


@pytest.mark.parametrize(("name", "value"), [("loss", np.nan), ("penalty", -np.inf)])
def test_a_loss_that_is_not_finite_is_named_with_its_step_and_rate(name, value):
    run = tiny.run(num_epochs=4)
    history, values = History(run), metrics_of(*[1.0] * 10)
    history.append(metrics_of(*[1.0] * 10))
    values[name][[7, 8]] = value
    history.append(values)
    sentence = (
        rf"^The {name} is {value} at step 17 with learning rate {learning_rate(run, 17):.3g};"
    )
    with pytest.raises(NonFiniteLoss, match=sentence):
        history.append(metrics_of(*[1.0] * 10))


@pytest.mark.parametrize("place", ["endpoints", "opt_state"])
def test_weights_that_are_not_finite_are_refused(line, place):
    run, states, _ = line
    state = copied(states[12])
    check_finite(run, state)
    jax.tree.leaves(getattr(state, place))[0].ravel()[:1] = np.nan
    sentence = f"after step 13 with learning rate {learning_rate(run, 12):.3g}; lower"
    with pytest.raises(NonFiniteLoss, match=sentence):
        check_finite(run, state)


def test_what_training_cannot_work_with_is_refused():
    for changes, sentence in (
        ({"batch_size": 65}, r"batch_size is 65 but the training split has 64 .* from 1 to 64"),
        ({"normalization": "cifar"}, r"=cifar is for 3 channels .* have 1; use .*=none"),
        ({"augmentation": "random_resized_crop"}, "images of tiny are decoded already; use crop"),
        ({"schedule__name": "snapshot"}, "visits 5 networks .* does not fit into 2 epochs of 10"),
    ):
        with pytest.raises(UserError, match=rf"^config\..*{sentence}"):
            tiny.run(**changes)
