"""Runs that train as one program: each as if it were alone."""

import concurrent.futures

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.sets import Split
from experiments.reproduce import scheduler
from experiments.reproduce.records import Entry
from experiments.runs.inputs import Inputs
from experiments.system.errors import UserError
from experiments.training import run as training_run
from experiments.training import steps
from experiments.training.groups import Together
from experiments.training.history import History, NonFiniteLoss
from tests import compilations, tiny

DATA = tiny.dataset()


def make_run(recipe, seed, **changes):
    """A run with labels and a learning rate of its own."""
    rate = 0.02 * (seed + 1)
    config = tiny.config(recipe, seed=seed, optimizer__learning_rate=rate, **changes)
    split = Split(DATA.train.images, np.roll(DATA.train.labels, seed))
    return training_run.make_run(config, DATA._replace(train=split))


def runs(**changes):
    return [make_run("line", seed, **changes) for seed in range(3)]


def trained(run, call=None):
    history = History(run)
    state = steps.init_state(run)
    for latest in steps.fit(run, state, history, call):
        state = latest
    return state, history.epochs


def train_together(runs, together=None):
    names = [str(run.seed) for run in runs]
    together = together or Together(len(runs))
    together.enter(names)

    def one(name, run):
        try:
            return trained(run, together.call(name))
        finally:
            together.leave(name)

    with concurrent.futures.ThreadPoolExecutor(len(runs)) as pool:
        return [pool.submit(one, *pair) for pair in zip(names, runs, strict=True)]


def test_runs_are_what_they_are_alone():
    """Seeds, labels and learning rates of their own; equal up to float32 rounding."""
    three = runs()
    together = [future.result() for future in train_together(three)]
    for run, (state, epochs) in zip(three, together, strict=True):
        alone, expected = trained(run)
        chex.assert_trees_all_close(state, alone, rtol=2e-3, atol=2e-4)
        losses = ([epoch["loss"] for epoch in found] for found in (epochs, expected))
        np.testing.assert_allclose(*losses, rtol=1e-3)
    ends = [jax.tree.leaves(state.endpoints)[0] for state, _ in together]
    assert all(jnp.abs(a - b).max() > 1e-3 for a, b in zip(ends, ends[1:], strict=False))


def test_all_runs_are_one_compilation():
    three = runs(model__widths=(5,))  # a program that no other test compiles
    with compilations.noted() as names:
        for future in train_together(three):
            future.result()
    assert sum("train_calls" in name for name in names) == 1
    assert not any(name == "jit(train_call)" for name in names)


def test_images_are_on_the_device_once():
    first, *others = runs()
    assert all(run.images is first.images for run in others)


def test_a_run_that_diverges_leaves_the_others():
    three = runs()
    bad = three[1]._replace(hyper=three[1].hyper._replace(learning_rate=jnp.float32(1e25)))
    good, failed, other = train_together([three[0], bad, three[2]])
    with pytest.raises(NonFiniteLoss, match="learning rate 1e"):
        failed.result()
    for future, run in ((good, three[0]), (other, three[2])):
        chex.assert_trees_all_close(future.result()[0], trained(run)[0], rtol=2e-3, atol=2e-4)


def test_runs_of_other_programs_are_called_apart():
    """They are in one group, and nobody waits for ever."""
    both = make_run("line", 0), make_run("standard", 1)
    for future, run in zip(train_together(both), both, strict=True):
        chex.assert_trees_all_equal(future.result()[0], trained(run)[0])


def test_an_error_of_a_call_is_every_member_s(monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(steps, "train_calls", broken)
    for future in train_together(runs()):
        with pytest.raises(RuntimeError, match="out of memory"):
            future.result()


def test_no_call_is_made_before_the_last_member_s(monkeypatch):
    monkeypatch.setattr(steps, "train_call", lambda *arguments, **static: arguments[0])
    together, rows, program = Together(2), np.zeros(3), make_run("line", 0).program
    together.enter(["a", "b"])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        call = together.call("a")
        made = pool.submit(
            call, "state", None, None, rows, rows, rows, program=program, unroll=True
        )
        with pytest.raises(TimeoutError):
            made.result(timeout=0.2)
        together.leave("b")
        assert made.result(timeout=10) == "state"


def test_a_suite_s_records_are_those_of_its_runs_alone(tmp_path):
    file = tiny.npz_file(tmp_path / "tiny.npz")
    config = tiny.config("line", dataset="tiny", data_dir=file)
    entries = []
    for seed in range(3):  # the last group has one member
        entry_config = config.copy_and_resolve_references()
        entry_config.seed = seed
        entries.append(Entry("line", "article", 0.0, seed, entry_config))

    def records(at_once):
        together = Together(at_once)

        def run_one(entry, advance):
            folder = tmp_path / str(at_once)
            never = lambda: False
            return scheduler.run_entry(
                entry, advance, folder=folder, inputs=Inputs(), stop=never, together=together
            )

        outcome = scheduler.run_all(entries, run_one, 1, together)
        assert not outcome.failures
        assert not together.members
        return outcome.records

    alone, found = records(1), records(2)
    assert alone.keys() == found.keys()
    for name, record in found.items():
        assert record["cost"]["runs_at_once"] == 2
        nll, expected = (r["places"]["midpoint"]["nll"] for r in (record, alone[name]))
        assert nll == pytest.approx(expected, rel=1e-2)


def test_a_failed_need_keeps_nobody_waiting(tmp_path):
    """Of a group of two, one can't run: the other goes on alone."""
    entries = [Entry("line", "article", 0.0, seed, None) for seed in range(3)]
    entries[1] = entries[1]._replace(method="needy", needs=(entries[0].id,))
    entries[2] = entries[2]._replace(method="needy")
    together = Together(2)

    def run_one(entry, advance):
        if entry.seed == 0:
            raise UserError("It failed.")
        assert together.members == {entry.id}
        return {}

    outcome = scheduler.run_all(entries, run_one, 1, together)
    assert outcome.records.keys() == {entries[2].id}
    assert outcome.failures.keys() == {entries[0].id, entries[1].id}
