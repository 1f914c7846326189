"""Many runs in one process: order, failures, files, and that threads share nothing else."""

import json
import threading
import time

import numpy as np
import pytest
import tiny

from experiments.data import sets
from experiments.reproduce import scheduler
from experiments.reproduce.records import (
    Entry,
    digest,
    finished,
    identity,
    is_settled,
    read,
    record_path,
    weights_path,
    write,
)
from experiments.reproduce.scheduler import Interrupted
from experiments.system.errors import UserError


def entries_of(count):
    return [Entry("line", "article", 0.0, seed, None) for seed in range(count)]


def never():
    return False


# Running them all


@pytest.mark.parametrize("num_threads", [0, 1, 3, 10])
def test_every_entry_has_its_record(num_threads):
    def run_one(entry, advance):
        time.sleep(0.002 * (7 - entry.seed))  # the last ends first
        return {"seed": entry.seed}

    outcome = scheduler.run_all(entries_of(7), run_one, num_threads)
    assert outcome.records == {
        f"article/line/noise0/seed{seed}": {"seed": seed} for seed in range(7)
    }
    assert list(outcome.records) == [entry.id for entry in entries_of(7)]
    assert outcome.failures == {}


def test_no_entries_have_no_records():
    assert scheduler.run_all([], lambda entry, advance: {}, 2) == ({}, {})


@pytest.mark.parametrize("num_threads", [1, 3])
def test_no_more_run_at_once_than_threads(num_threads):
    lock, running, most = threading.Lock(), [0], [0]

    def run_one(entry, advance):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return {}

    scheduler.run_all(entries_of(9), run_one, num_threads)
    assert most[0] == num_threads


def test_what_an_entry_needs_runs_before_it():
    done = []

    def run_one(entry, advance):
        time.sleep(0.01 * (2 - entry.seed))
        done.append(entry.id)
        return {}

    entries = entries_of(3)
    first = entries[0]._replace(needs=(entries[2].id,))
    second = entries[1]._replace(needs=(first.id,))
    scheduler.run_all([first, second, entries[2]], run_one, 3)
    assert done == [entries[2].id, first.id, second.id]


def test_one_of_every_method_comes_first():
    done = []
    entries = [
        Entry(method, "article", noise, seed, None)
        for method in ("line", "curve", "ema")
        for noise in (0.0, 0.2)
        for seed in (0, 1)
    ]
    scheduler.run_all(entries, lambda entry, advance: done.append(entry) or {}, 1)
    assert [entry.method for entry in done[:3]] == ["line", "curve", "ema"]
    assert done[3:] == [entry for entry in entries if entry not in done[:3]]


def test_one_failure_is_named_and_the_others_run():
    entries = entries_of(4)
    needy = Entry("spro", "article", 0.0, 0, None, needs=(entries[1].id,))
    needier = Entry("spro", "article", 0.0, 1, None, needs=(needy.id,))

    def run_one(entry, advance):
        if entry.id == entries[1].id:
            raise UserError("too\n hot")
        return {}

    outcome = scheduler.run_all([*entries, needy, needier], run_one, 2)
    assert set(outcome.records) == {entries[i].id for i in (0, 2, 3)}
    assert outcome.failures[entries[1].id] == "too hot"
    assert f"starts from {entries[1].id}, which failed" in outcome.failures[needy.id]
    assert f"starts from {needy.id}, which failed" in outcome.failures[needier.id]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, Interrupted])
def test_what_the_user_cannot_mend_is_passed_on_and_the_rest_is_given_up(error):
    begun, given_up = [], []

    def run_one(entry, advance):
        begun.append(entry.seed)
        if entry.seed == 1:
            time.sleep(0.02)
            raise error("too hot")
        try:
            for _ in range(2000):
                advance(1 / 2000)
                time.sleep(0.005)
        except Interrupted:
            given_up.append(entry.seed)
            raise
        return {}

    with pytest.raises(error, match="^too hot$"):
        scheduler.run_all(entries_of(20), run_one, num_threads=2)
    assert 0 in given_up
    assert len(begun) <= 4
    count = len(begun)
    time.sleep(0.03)
    assert len(begun) == count


def test_shares_of_work_fill_the_bar(capsys):
    def run_one(entry, advance):
        for _ in range(3):
            advance(1 / 3)
        return {}

    scheduler.run_all(entries_of(5), run_one, 2)
    output = capsys.readouterr()
    assert output.out == ""
    assert "0 of 5 runs" in output.err
    assert "100%" in output.err.split("\r")[-1]
    assert "5 of 5 runs" in output.err.split("\r")[-1]


# Training and evaluating one


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    tiny_data = tiny.dataset()
    arrays = (*tiny_data.train, *tiny_data.test)
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **dict(zip(sets.NPZ_KEYS, arrays, strict=True)))
    return str(path)


@pytest.fixture(scope="module")
def config(npz):
    return tiny.config("line", dataset="tiny", data_dir=npz, validation_size=4)


def entry_of(config, setting="article", **changes):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return Entry("line", setting, 0.0, config.seed, config)


def run_entry(entry, folder, advance=lambda share: None, requested=never):
    return scheduler.run_entry(entry, advance, folder=folder, requested=requested)


def timeless(record):
    """A record without what another run of the same need not repeat."""
    times = ("training_seconds", "images_per_second", "evaluation_seconds", "step_memory_bytes")
    cost = {name: value for name, value in record["cost"].items() if name not in times}
    return {**record, "made": {**record["made"], "date": ""}, "wall_seconds": 0, "cost": cost}


@pytest.fixture(scope="module")
def done(config, tmp_path_factory):
    """The folder of a run with looks at the test split, its record and the shares of its work."""
    folder, shares = tmp_path_factory.mktemp("done"), []
    entry = entry_of(config, evaluation__oracle_epochs=1)
    return folder, entry, run_entry(entry, folder, shares.append), shares


def test_a_record_holds_what_tables_and_figures_need(done):
    folder, entry, record, shares = done
    assert record == json.loads(record_path(folder, entry.id).read_text())
    assert sum(shares) == pytest.approx(0.7)  # the pool's bar is filled by the run's end
    assert record["id"] == "article/line/noise0/seed0"
    midpoint = record["places"]["midpoint"]
    assert {"accuracy", "nll", "ece", "validation", "temperature", "scaled"} <= midpoint.keys()
    assert [point["coords"] for point in record["points"]] == [0, 0.25, 0.5, 0.75, 1]
    middle = record["points"][2]
    assert (middle["name"], middle["accuracy"]) == ("midpoint", midpoint["accuracy"])
    assert record["cost"]["gradient_passes"] == record["cost"]["training_images"] == 2 * 10 * 6
    assert record["cost"]["step_memory_bytes"] > 0
    assert weights_path(folder, entry.id).exists()
    assert [path.name for path in record_path(folder, entry.id).parent.iterdir()] != []


def test_the_oracle_is_the_best_look_at_the_test_split(done):
    oracle = done[2]["places"]["early stopping"]
    assert [look["epoch"] for look in oracle["looks"]] == [1, 2]
    assert oracle["accuracy"] == max(look["accuracy"] for look in oracle["looks"])
    assert oracle["looks"][-1]["accuracy"] == done[2]["places"]["midpoint"]["accuracy"]
    assert oracle["oracle"] is True


def test_the_oracle_looks_at_the_last_epoch_too(config, tmp_path):
    entry = entry_of(config, evaluation__oracle_epochs=2, num_epochs=3)
    places = run_entry(entry, tmp_path)["places"]
    assert [look["epoch"] for look in places["early stopping"]["looks"]] == [2, 3]


def test_a_run_that_is_done_is_read_and_not_trained(done, monkeypatch):
    folder, entry, record, _ = done
    monkeypatch.setattr(scheduler.steps, "fit", pytest.fail)
    shares = []
    assert run_entry(entry, folder, shares.append) == record
    assert shares == [1.0]


def test_a_record_of_another_config_is_refused(done, config):
    folder, entry, *_ = done
    with pytest.raises(UserError, match="is the record of a run of another config"):
        finished(folder, entry_of(config, batch_size=7))
    assert finished(folder, entry._replace(seed=5)) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"id": "x"}'])
def test_a_damaged_record_is_named(done, tmp_path, content):
    _, entry, *_ = done
    path = record_path(tmp_path, entry.id)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UserError, match=f"^{path} is not a run's whole record; delete it"):
        finished(tmp_path, entry)


def test_where_data_lie_is_no_part_of_a_run(config, npz):
    there = entry_of(config, data_dir="/elsewhere.npz", checkpoint_seconds=1.0)
    assert digest(there) == digest(entry_of(config))
    assert digest(entry_of(config, seed=1)) != digest(entry_of(config))
    assert digest(there._replace(given="x")) != digest(there)


def test_tuning_never_sees_the_test_split(config, tmp_path, monkeypatch):
    entry = entry_of(config, "tuning")
    record = run_entry(entry, tmp_path)
    assert set(record["places"]["midpoint"]) == {"inference_passes", "validation"}
    assert not weights_path(tmp_path, entry.id).exists()
    load = scheduler.job.load_data

    def poisoned(config):
        dataset = load(config)
        images, labels = dataset.test
        return dataset._replace(test=sets.Split(255 - images, (labels + 1) % 3))

    monkeypatch.setattr(scheduler.job, "load_data", poisoned)
    again = run_entry(entry, tmp_path / "again")
    assert again["places"] == record["places"]


def test_a_run_that_was_stopped_goes_on_and_ends_the_same(done, config, tmp_path):
    _, entry, record, _ = done
    calls = []

    def requested():
        calls.append(1)
        return len(calls) > 13

    with pytest.raises(Interrupted):
        run_entry(entry, tmp_path, requested=requested)
    assert finished(tmp_path, entry) is None
    resumed = run_entry(entry, tmp_path)
    assert timeless(resumed) == timeless(record)
    folder = record_path(tmp_path, entry.id).parent
    assert {path.name for path in folder.iterdir()} == {"seed0.json", "seed0.npz"}


def test_a_run_that_was_stopped_while_it_is_evaluated_is_not_trained_again(
    done, config, tmp_path, monkeypatch
):
    _, entry, record, _ = done

    def evaluate(run, stack, splits, settings, wrap, *others):
        assert list(wrap([1, 2], "predict")) == [1, 2]
        monkeypatch.undo()
        signals.append("SIGTERM")
        return list(wrap([1, 2], "predict"))

    signals = []
    monkeypatch.setattr(scheduler.evaluate, "evaluate", evaluate)
    with pytest.raises(Interrupted):
        run_entry(entry, tmp_path, requested=lambda: bool(signals))
    monkeypatch.setattr(
        scheduler.steps, "train_call", lambda *_: pytest.fail("it was trained again")
    )
    resumed = run_entry(entry, tmp_path)
    different = timeless(resumed)["cost"] | {"step_memory_bytes": 0}
    assert different == timeless(record)["cost"] | {"step_memory_bytes": 0}
    assert resumed["places"] == record["places"]


def test_a_run_that_diverged_is_not_tried_again(config, tmp_path, monkeypatch):
    entry = entry_of(config, optimizer__learning_rate=1e30)
    assert not is_settled(tmp_path, entry)
    with pytest.raises(UserError) as first:
        run_entry(entry, tmp_path)
    assert is_settled(tmp_path, entry)
    monkeypatch.setattr(scheduler.steps, "fit", lambda *_: pytest.fail("it was trained again"))
    with pytest.raises(UserError) as second:
        run_entry(entry, tmp_path)
    assert str(second.value) == str(first.value)
    assert not is_settled(tmp_path, entry_of(config, optimizer__learning_rate=1e29))


def test_records_of_other_data_are_refused(config, tmp_path):
    entry = entry_of(config)
    write(tmp_path, entry, identity(entry))
    assert finished(tmp_path, entry)
    write(tmp_path, entry, identity(entry) | {"data_sha256": "0" * 64})
    with pytest.raises(UserError, match="is the record of a run of another data set"):
        finished(tmp_path, entry)
    record = identity(entry)
    del record["data_sha256"]  # of a data set with a name
    write(tmp_path, entry, record)
    assert finished(tmp_path, entry)


def test_a_record_says_how_it_was_made_unless_it_knows_better(config, tmp_path):
    entry = entry_of(config, model__dtype="bfloat16")
    here = write(tmp_path, entry, identity(entry))["made"]
    assert here["precision"] == "bfloat16"
    assert here["data_sha256"] == identity(entry)["data_sha256"]
    assert {"commit", "cpu", "device", "versions", "date"} <= here.keys()
    there = identity(entry) | {"made": {"cpu": "another"}}
    assert write(tmp_path, entry, there) == there
    assert read(tmp_path, entry.id) == there


def test_threads_do_not_change_results(config, tmp_path):
    entries = [entry_of(config, seed=seed) for seed in range(3)]

    def results(num_threads):
        folder = tmp_path / str(num_threads)
        run_one = lambda entry, advance: run_entry(entry, folder, advance)
        found = scheduler.run_all(entries, run_one, num_threads).records
        return {name: timeless(record) for name, record in found.items()}

    one = results(1)
    assert one == results(3)
    accuracies = {str(record["points"]) for record in one.values()}
    assert len(accuracies) == 3


def test_a_run_starts_from_the_runs_it_needs_and_pays_for_them(config, tmp_path):
    standard = tiny.config("standard", dataset="tiny", data_dir=config.data_dir, validation_size=4)
    firsts = [
        Entry("standard", "article", 0.0, seed, entry_of(standard, seed=seed).config)
        for seed in (0, 1)
    ]
    pair = tiny.config("ensemble", dataset="tiny", data_dir=config.data_dir, validation_size=4)
    needs = tuple(first.id for first in firsts)
    both = Entry("ensemble", "article", 0.0, 0, pair, needs=needs)
    run_one = lambda entry, advance: run_entry(entry, tmp_path, advance)
    records = scheduler.run_all([both, *firsts], run_one, 2).records
    ends = [records[first.id]["places"]["midpoint"] for first in firsts]
    place = records[both.id]["places"]
    assert place["ensemble"]["inference_passes"] == 2
    assert place["endpoints"]["accuracy"] == pytest.approx(np.mean([e["accuracy"] for e in ends]))
    assert records[both.id]["cost"]["gradient_passes"] == 2 * 120


def test_divergence_is_a_failure_that_is_named(config, tmp_path):
    entry = entry_of(config, optimizer__learning_rate=1e25)
    run_one = lambda entry, advance: run_entry(entry, tmp_path, advance)
    outcome = scheduler.run_all([entry], run_one, 1)
    assert "learning rate 1e+25" in outcome.failures[entry.id]


# Checking them first


def test_fit_configs_pass(config):
    scheduler.check([entry_of(config), entry_of(config, seed=1)])
    scheduler.check([])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 100}, "batch_size is 100 but the training split has 60"),
        ({"evaluation__num_points": 4}, "num_points is 4"),
        ({"subspace__num_samples": 4}, "num_samples is 4"),
        ({"validation_size": 64}, "validation_size is 64"),
        ({"evaluation__corruptions": ("rain",)}, "rain"),
        ({"evaluation__corruptions": ("snow",), "evaluation__severities": (6,)}, "6"),
        (
            {"evaluation__corruptions": ("snow",), "evaluation__severities": ()},
            "severities is empty",
        ),
        (
            {"evaluation__corruptions": ("snow",), "evaluation__corruption_source": "/nowhere"},
            "/nowhere has neither",
        ),
        ({"evaluation__outside": ("noise", "nosuch")}, "outside has 'nosuch'"),
    ],
)
def test_a_config_that_cannot_run_is_refused(config, changes, sentence):
    bad = entry_of(config, **changes)._replace(setting="tuned")
    with pytest.raises(UserError, match=sentence):
        scheduler.check([entry_of(config), bad])
