"""Many runs in one process: their order, their failures, and that threads share nothing else."""

import itertools
import json
import threading
import time

import numpy as np
import pytest
import tiny

from experiments import data, evaluate, suite, train
from experiments.errors import UserError
from experiments.suite import Entry
from experiments.train import NonFiniteLoss


def entries_of(count):
    return [Entry("line", "article", 0.0, seed, None) for seed in range(count)]


# Running them all


@pytest.mark.parametrize("num_threads", [0, 1, 3, 10])
def test_results_are_in_the_order_of_the_entries(num_threads):
    def run_one(entry, advance):
        time.sleep(0.002 * (7 - entry.seed))  # the last ends first
        return {"seed": entry.seed}

    results = suite.run_all(entries_of(7), run_one, num_threads)
    assert results == [{"seed": seed} for seed in range(7)]


def test_no_entries_have_no_results():
    assert suite.run_all([], lambda entry, advance: {}, 2) == []


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

    suite.run_all(entries_of(9), run_one, num_threads)
    assert most[0] == num_threads


@pytest.mark.parametrize("error", [UserError("too hot"), KeyboardInterrupt("too hot")])
def test_a_failure_is_passed_on_and_the_rest_is_given_up(error):
    begun, given_up = [], []

    def run_one(entry, advance):
        begun.append(entry.seed)
        if entry.seed == 1:
            time.sleep(0.02)
            raise error
        try:
            for _ in range(2000):
                advance(1 / 2000)
                time.sleep(0.005)
        except KeyboardInterrupt:
            given_up.append(entry.seed)
            raise
        return {}

    with pytest.raises(type(error), match="^too hot$"):
        suite.run_all(entries_of(20), run_one, num_threads=2)
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

    suite.run_all(entries_of(5), run_one, 2)
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
    np.savez(path, **dict(zip(data.NPZ_KEYS, arrays, strict=True)))
    return str(path)


@pytest.fixture(scope="module")
def config(npz):
    return tiny.config("line", dataset="tiny", data_dir=npz, validation_size=4)


def entry_of(config, **changes):
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return Entry("line", "article", 0.0, config.seed, config)


@pytest.mark.parametrize("split", ["test", "validation"])
def test_an_entry_is_trained_and_evaluated_on_one_split(config, split):
    shares = []
    results = suite.train_and_evaluate(entry_of(config), shares.append, split)
    assert sum(shares) == pytest.approx(1)

    dataset = data.load("tiny", config.data_dir, validation_size=4)
    run = train.make_run(config, dataset)
    for state in train.fit(run, train.init_state(run), train.History(run)):
        endpoints = run.program.method.trained(state)
    settings = evaluate.make_settings(config, run)
    splits = {split: getattr(dataset, split)}
    assert results == evaluate.evaluate(run, endpoints, splits, settings)
    json.dumps(results, allow_nan=False)


def test_threads_do_not_change_results(config):
    entries = [entry_of(config, seed=seed) for seed in range(4)]

    def results(num_threads):
        def run_one(entry, advance):
            return suite.train_and_evaluate(entry, advance, "test")

        return suite.run_all(entries, run_one, num_threads)

    one, three = results(1), results(3)
    assert one == three
    for first, second in itertools.combinations(one, 2):
        assert first["points"] != second["points"]


def test_divergence_is_passed_on(config):
    entry = entry_of(config, optimizer__learning_rate=1e25)
    with pytest.raises(NonFiniteLoss, match="learning rate 1e\\+25"):
        suite.train_and_evaluate(entry, lambda share: None, "test")


# Checking them first


def test_fit_configs_pass(config):
    suite.check([entry_of(config), entry_of(config, seed=1)])
    suite.check([])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 100}, "batch_size is 100 but the training split has 60"),
        ({"evaluation__num_points": 4}, "num_points is 4"),
        ({"subspace__num_samples": 4}, "num_samples is 4"),
        ({"validation_size": 64}, "validation_size must be"),
    ],
)
def test_a_config_that_cannot_run_is_refused(config, changes, sentence):
    bad = entry_of(config, **changes)._replace(setting="tuned")
    with pytest.raises(UserError, match=sentence):
        suite.check([entry_of(config), bad])
