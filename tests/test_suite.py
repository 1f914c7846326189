"""Many runs in one process: order, failures, folders, and that threads share nothing else."""

import time

import numpy as np
import pytest
import tiny

from experiments.data import sets
from experiments.evaluation.inputs import Inputs
from experiments.reproduce import records, scheduler
from experiments.reproduce.records import Entry, Suite, finished, run_folder
from experiments.runs import job, workdir
from experiments.system.errors import Interrupted, UserError

INPUTS = Inputs()


def entries_of(count):
    return [Entry("line", "article", 0.0, seed, None) for seed in range(count)]


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_every_entry_has_its_record_in_its_place(num_threads):
    running, most = [], []

    def run_one(entry, advance):
        running.append(entry)
        most.append(len(running))
        time.sleep(0.002 * (7 - entry.seed))  # the last ends first
        running.remove(entry)
        return {"seed": entry.seed}

    outcome = scheduler.run_all(entries_of(7), run_one, num_threads)
    expected = {entry.id: {"seed": entry.seed} for entry in entries_of(7)}
    assert list(outcome.records.items()) == list(expected.items())
    assert outcome.failures == {}
    assert not num_threads or max(most) <= num_threads
    assert scheduler.run_all([], run_one, 2) == ({}, {})


def test_one_of_every_method_comes_first_and_what_an_entry_needs_before_it():
    done = []
    entries = [
        Entry(method, "article", 0.0, seed, None)
        for method in ("line", "curve", "ema")
        for seed in (0, 1)
    ]
    entries[2] = entries[2]._replace(needs=(entries[1].id,))
    scheduler.run_all(entries, lambda entry, advance: done.append(entry) or {}, 1)
    assert done == [entries[i] for i in (0, 4, 1, 3, 5, 2)]


def test_one_failure_is_named_and_the_others_run(capsys):
    entries = entries_of(4)
    needy = Entry("spro", "article", 0.0, 0, None, needs=(entries[1].id,))

    def run_one(entry, advance):
        advance(1 / 3)
        if entry.id == entries[1].id:
            raise UserError("too\n hot")
        return {}

    outcome = scheduler.run_all([*entries, needy], run_one, 2)
    assert set(outcome.records) == {entries[i].id for i in (0, 2, 3)}
    assert outcome.failures == {
        entries[1].id: "too hot",
        needy.id: f"It starts from {entries[1].id}, which failed.",
    }
    assert "5 of 5 runs" in capsys.readouterr().err.split("\r")[-1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, Interrupted])
def test_what_the_user_cannot_mend_is_passed_on_and_the_rest_is_given_up(error, capsys):
    begun, ended = [], []

    def run_one(entry, advance):
        begun.append(entry.seed)
        if entry.seed in (0, 1):
            time.sleep(0.02 * entry.seed)
            raise (UserError("full"), error("too hot"))[entry.seed]
        for i in range(1000):  # raises where the work is given up
            advance(i / 1000)
            time.sleep(0.005)
        ended.append(entry.seed)

    with pytest.raises(error, match="^too hot$"):
        scheduler.run_all(entries_of(20), run_one, num_threads=2)
    assert ended == []
    assert len(begun) <= 5
    assert f"Failed: {entries_of(1)[0].id}: full" in capsys.readouterr().err


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    npz = tiny.npz_file(tmp_path_factory.mktemp("data") / "tiny.npz")
    return tiny.config("line", dataset="tiny", data_dir=npz, validation_size=4)


def entry_of(config, setting="article", **changes):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return Entry(config.recipe, setting, 0.0, config.seed, config)


def run_entry(entry, folder, advance=lambda share: None, stop=lambda: False):
    return scheduler.run_entry(entry, advance, Suite(folder, INPUTS, stop))


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """The folder of a suite with one run, its row and the shares of its work."""
    folder, shares = tmp_path_factory.mktemp("done"), []
    return folder, entry_of(config), run_entry(entry_of(config), folder, shares.append), shares


def test_a_row_holds_what_tables_and_figures_need(done, monkeypatch):
    folder, entry, row, shares = done
    assert shares == sorted(shares)
    assert shares[-1] == 0.7  # the pool's bar is filled by the run's end
    midpoint = row["places"]["midpoint"]
    assert {"accuracy", "nll", "ece", "validation", "temperature", "scaled"} <= midpoint.keys()
    assert [point["coords"] for point in row["points"]] == [0, 0.25, 0.5, 0.75, 1]
    middle = row["points"][2]
    assert (middle["name"], middle["accuracy"]) == ("midpoint", midpoint["accuracy"])
    assert row["cost"]["gradient_passes"] == row["cost"]["training_images"] == 2 * 10 * 6
    assert {"commit", "cpu", "device", "versions", "date", "data_sha256"} <= row["made"].keys()
    own = {path.name for path in run_folder(folder, "article/line/noise0/seed0").iterdir()}
    assert own == {"config.json", "metrics.json", "weights.npz"}
    # What is done is read and not trained.
    monkeypatch.setattr(job.steps, "fit", pytest.fail)
    assert run_entry(entry, folder) == row == finished(folder, entry)


def test_a_run_of_another_config_is_refused_and_a_damaged_one_is_named(done, config, tmp_path):
    folder, entry, *_ = done
    with pytest.raises(UserError, match="config.batch_size is 6 there and 7 here"):
        finished(folder, entry_of(config, batch_size=7))
    assert finished(folder, entry._replace(seed=5)) is None
    own = run_folder(tmp_path, entry.id)
    workdir.prepare(own, entry.config, False, entry.in_suite)
    for content in ("{", "[]", '{"provenance": {}}'):
        (own / workdir.METRICS).write_text(content)
        with pytest.raises(UserError, match="metrics.json is not a run's whole record; delete it"):
            finished(tmp_path, entry)


def test_tuning_never_sees_the_test_split(config, tmp_path, monkeypatch):
    entry = entry_of(config, "tuning")
    row = run_entry(entry, tmp_path)
    assert set(row["places"]["midpoint"]) == {"inference_passes", "validation"}
    assert not records.weights_path(tmp_path, entry.id).exists()
    dataset = Inputs.dataset

    def poisoned(inputs, config):
        data = dataset(inputs, config)
        return data._replace(test=sets.Split(255 - data.test.images, (data.test.labels + 1) % 3))

    monkeypatch.setattr(Inputs, "dataset", poisoned)
    assert run_entry(entry, tmp_path / "again")["places"] == row["places"]


def test_a_run_starts_from_the_runs_it_needs_and_pays_for_them(config, tmp_path):
    data = {"dataset": "tiny", "data_dir": config.data_dir, "validation_size": 4}
    firsts = [entry_of(tiny.config("standard", seed=seed, **data)) for seed in (0, 1)]
    needs = tuple(first.id for first in firsts)
    both = entry_of(tiny.config("ensemble", **data))._replace(needs=needs, given="x")
    run_one = lambda entry, advance: run_entry(entry, tmp_path, advance)
    rows = scheduler.run_all([*firsts, both], run_one, 2).records
    ends = [rows[first.id]["places"]["midpoint"] for first in firsts]
    place = rows[both.id]["places"]
    assert place["ensemble"]["inference_passes"] == 2
    assert place["endpoints"]["accuracy"] == pytest.approx(np.mean([e["accuracy"] for e in ends]))
    assert rows[both.id]["cost"]["gradient_passes"] == 2 * 120


def test_a_config_that_cannot_run_is_refused(config):
    for changes, sentence in (
        ({"batch_size": 100}, "batch_size is 100 but the training split has 60"),
        ({"evaluation__corruptions": ("rain",)}, "rain"),
    ):
        with pytest.raises(UserError, match=sentence):
            scheduler.check([entry_of(config), entry_of(config, "tuned", **changes)], INPUTS)
