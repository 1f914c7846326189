"""Runs that train as one program: each as if it were alone."""

import functools
import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.sets import Split
from experiments.evaluation.inputs import Inputs
from experiments.reproduce import scheduler
from experiments.reproduce.records import Entry, Suite
from experiments.system.errors import Interrupted
from experiments.training import groups, steps
from experiments.training import run as training_run
from experiments.training.history import History, NonFiniteLoss
from tests import compilations, tiny

DATA = tiny.dataset()


def make_run(recipe, seed, slot=None, **changes):
    """A run with labels and a learning rate of its own."""
    rate = 0.02 * (seed + 1)
    config = tiny.config(recipe, seed=seed, optimizer__learning_rate=rate, **changes)
    split = Split(DATA.train.images, np.roll(DATA.train.labels, seed))
    return training_run.make_run(config, DATA._replace(train=split), slot)


def runs(**changes):
    return [make_run("line", seed, **changes) for seed in range(3)]


def trained(run, state=None):
    history, state = History(run), state or steps.init_state(run)
    for latest in steps.fit(run, state, history):
        state = latest
    return state, history.epochs


def train_together(runs):
    """The state, or the error, and the epochs of each."""
    histories = [History(run) for run in runs]
    begin = [steps.init_state(run) for run in runs]
    *_, states = groups.fit(list(map(groups.Member, runs, begin, histories)))
    return [(state, history.epochs) for state, history in zip(states, histories, strict=True)]


def test_all_runs_of_a_program_are_one_compilation_with_its_images_once():
    three = runs(model__widths=(5,))  # a program that no other test compiles
    with compilations.noted() as names:
        train_together(three)
    assert sum("train_calls" in name for name in names) == 1
    assert all(run.images is three[0].images for run in three)


def test_runs_are_what_they_are_alone_whether_another_diverges():
    """Seeds, labels and learning rates of their own; equal up to float32 rounding."""
    three = runs()
    bad = three[1]._replace(hyper=three[1].hyper._replace(learning_rate=jnp.float32(1e25)))
    good, (failed, _), other = train_together([three[0], bad, three[2]])
    assert isinstance(failed, NonFiniteLoss)
    for (state, epochs), run in ((good, three[0]), (other, three[2])):
        alone, expected = trained(run)
        chex.assert_trees_all_close(state, alone, rtol=2e-3, atol=2e-4)
        losses = ([epoch["loss"] for epoch in found] for found in (epochs, expected))
        np.testing.assert_allclose(*losses, rtol=1e-3)


def test_runs_of_other_programs_are_called_apart():
    both = make_run("line", 0), make_run("standard", 1)
    for (state, _), run in zip(train_together(both), both, strict=True):
        chex.assert_trees_all_equal(state, trained(run)[0])


@pytest.fixture
def entries(tmp_path):
    config = tiny.config("line", dataset="tiny", data_dir=tiny.npz_file(tmp_path / "tiny.npz"))

    def entry(seed):
        own = config.copy_and_resolve_references()
        own.seed = seed
        return Entry("line", "article", 0.0, seed, own)

    return [entry(seed) for seed in range(3)]  # of two, the last group has one member


def run_all(entries, folder, at_once, stop=lambda: False, train=scheduler.train_group):
    suite = Suite(folder, Inputs(), stop)

    def run_one(entry, advance):
        slot = entry.seed % at_once
        return scheduler.run_entry(entry, advance, suite, slot=slot, at_once=at_once)

    train = train and functools.partial(train, suite=suite)
    return scheduler.run_all(entries, run_one, 1, train, at_once)


def test_a_suite_that_was_stopped_goes_on_with_its_group(entries, tmp_path):
    expected = run_all(entries[:2], tmp_path / "whole", 2).records
    calls, folder = itertools.count(1), tmp_path / "stopped"
    with pytest.raises(Interrupted):
        run_all(entries[:2], folder, 2, lambda: next(calls) > 8)
    assert len(list(folder.rglob("checkpoints/7"))) == 0
    assert len(list(folder.rglob("checkpoints/8"))) == 2
    found = run_all(entries[:2], folder, 2).records
    for name, record in found.items():
        assert record["points"] == expected[name]["points"]


def test_a_run_that_diverges_or_has_no_start_fails_alone(entries, tmp_path):
    entries[1].config.optimizer.learning_rate = 1e30
    entries[2] = entries[2]._replace(needs=(entries[1].id,))
    outcome = run_all(entries, tmp_path, 2)
    assert outcome.records.keys() == {entries[0].id}
    assert "learning rate 1e+30" in outcome.failures[entries[1].id]
    assert f"starts from {entries[1].id}" in outcome.failures[entries[2].id]


def averages(entry):
    """The entry's network, its averages by two decays, and SWA, which takes other steps."""
    config = entry.config.copy_and_resolve_references()
    config.kind, config.evaluation.oracle_epochs = "standard", 1
    for config.recipe, config.average.name, config.average.decay in (
        *(("standard", "none", 0.5), ("swa_constant_5", "swa", 0.5)),
        *(("ema", "ema", 0.5), ("layerwise_line_ema", "ema", 0.9)),
    ):
        yield Entry(config.recipe, "article", 0.0, 0, config.copy_and_resolve_references())


def test_one_training_gives_a_network_and_its_average(entries, tmp_path, monkeypatch):
    """Of runs that differ in their average alone; what each sees is what it would see alone."""
    entries, calls, train_call = list(averages(entries[0])), [], steps.train_call
    expected = run_all(entries, tmp_path / "alone", 1, train=None).records
    monkeypatch.setattr(
        steps, "train_call", lambda *a, **given: calls.append(given) or train_call(*a, **given)
    )
    found, stops = tmp_path / "together", itertools.count(1)
    with pytest.raises(Interrupted):
        run_all(entries, found, 1, lambda: next(stops) > 3)
    records = run_all(entries, found, 1).records
    kinds = [given["program"].method.average for given in calls]
    assert {kind: kinds.count(kind) for kind in kinds} == {"ema": 40, "swa": 20}
    for name, record in records.items():
        for kept in ("points", "places", "last_epoch"):
            assert record[kept] == expected[name][kept]


def test_a_training_of_several_that_fails_fails_each_of_its_runs(entries, tmp_path):
    entries[:0] = averages(entries[0])
    for entry in entries[:3]:
        entry.config.optimizer.learning_rate = 1e30
    outcome = run_all(entries, tmp_path, 1)
    assert outcome.failures.keys() == {entry.id for entry in entries[:3]}
    assert outcome.records.keys() == {entry.id for entry in entries[3:]}
