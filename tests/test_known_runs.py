"""Runs taken from a results file: which, and what is refused."""

import copy
import json

import pytest
from synthetic_metrics import config_of, metrics_from, records_of

from experiments import known_runs, plan, suite
from experiments.configs import suites
from experiments.errors import UserError

PRODUCTS = ("standard", "dropout", "line", "spro")


def written(path, config):
    path.write_text(json.dumps(metrics_from(config, records_of(config))))
    return known_runs.read(str(path))


def planned(config):
    figures = tuple(suites.FIGURES)
    return [*plan.article_entries(config, figures), *plan.tuning_entries(config, figures)]


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return written(tmp_path_factory.mktemp("file") / "metrics.json", config_of(products=PRODUCTS))


@pytest.fixture
def file(everything):
    return everything._replace(runs=copy.deepcopy(everything.runs))


def test_every_run_of_the_same_config_is_known(file):
    entries = planned(config_of(products=PRODUCTS))
    found = known_runs.records([file], entries, set())
    assert found.keys() == {entry.id for entry in entries}
    for entry in entries:
        assert found[entry.id]["config_sha256"] == suite.digest(entry)
        assert found[entry.id]["places"] == file.runs[entry.id]["places"]


def test_what_a_sweep_or_the_tuning_chose_is_known(file):
    config = config_of(products=PRODUCTS)
    chosen = {("tuning", 0.2, "standard"): {"optimizer.learning_rate": 0.1}}
    chosen["tuning", 0.2, "standard"]["optimizer.weight_decay"] = 1e-4
    entries = plan.tuned_entries(config, chosen)
    known = [entry.id for entry in entries if entry.id in file.runs]
    assert list(known_runs.records([file], entries, set())) == known[::-1]


def test_further_seeds_and_methods_are_not_known_and_settled_ones_not_taken(file):
    entries = planned(config_of(num_seeds=6, products=(*PRODUCTS, "curve")))
    settled = {"article/line/noise0/seed0"}
    found = known_runs.records([file], entries, settled)
    missing = {entry.id for entry in entries} - found.keys()
    further = (4, 5, 1004, 1005)
    new = {entry.id for entry in entries if entry.method == "curve" or entry.seed in further}
    assert missing == settled | new


def test_networks_that_a_new_run_starts_from_are_trained_again(file):
    entries = planned(config_of(num_seeds=1, products=("standard", "curve_finding")))
    found = known_runs.records([file], entries, set())
    new = next(e for e in entries if e.id == "article/curve_finding/noise0/seed0")
    assert "article/standard/noise0/seed0" in new.needs
    assert new.id not in found
    assert not found.keys() & set(new.needs)
    assert "article/standard/noise20/seed0" not in found
    # Those of a whole chain.
    file.runs.pop("article/spro/noise0/seed0")
    entries = planned(config_of(num_seeds=1, products=PRODUCTS))
    found = known_runs.records([file], entries, set())
    assert not any("spro_1/noise0/seed0" in name for name in found)
    assert "article/standard/noise0/seed0" not in found
    assert "article/spro/noise20/seed0" in found


def test_of_two_files_the_first_counts(file, tmp_path):
    config = config_of(products=("standard",), num_seeds=6)
    second = written(tmp_path / "second.json", config)
    second.runs["article/standard/noise0/seed0"]["seed"] = -1
    entries = planned(config)
    found = known_runs.records([file, second], entries, set())
    assert found.keys() == {entry.id for entry in entries}
    assert found["article/standard/noise0/seed0"]["seed"] == 0


def test_how_a_run_was_made_comes_with_it(file):
    entry = planned(config_of(num_seeds=1, products=("line",)))[0]
    made = known_runs.records([file], [entry], set())[entry.id]["made"]
    assert made["commit"]
    assert made["versions"]["jax"]
    other = file._replace(made=[{"cpu": "one"}, {"cpu": "two"}])
    other.runs[entry.id]["made"] = 1
    assert known_runs.records([other], [entry], set())[entry.id]["made"] == {"cpu": "two"}


def test_another_config_is_refused_by_the_names_of_its_values(file):
    entries = planned(config_of(products=("line",), run__num_epochs=7))
    with pytest.raises(UserError, match=r"config.run.num_epochs is 20 there and 7 here.*leave"):
        known_runs.records([file], entries, set())


def test_other_data_are_refused(file, tmp_path, monkeypatch):
    entry = planned(config_of(num_seeds=1, products=("line",)))[0]
    monkeypatch.setattr(suite.data, "fingerprint", lambda _: "a" * 64)
    found = known_runs.records([file], [entry], set())[entry.id]
    assert "data_sha256" not in found  # unknown there
    other = file._replace(made=[{"data_sha256": "b" * 64}] * 2)
    with pytest.raises(UserError, match="other data .bbbbbbbbbbbb there, aaaaaaaaaaaa here"):
        known_runs.records([other], [entry], set())


def test_records_without_the_weights_that_others_start_from_are_refused(tmp_path):
    entries = planned(config_of(num_seeds=1, products=("standard", "curve_finding")))
    new = next(entry for entry in entries if entry.method == "curve_finding")
    known_runs.check_weights(tmp_path, entries, set())
    known_runs.check_weights(tmp_path, entries, {*new.needs, new.id})
    with pytest.raises(UserError, match="has a record in .* but no weights; bring"):
        known_runs.check_weights(tmp_path, entries, set(new.needs))


@pytest.mark.parametrize(
    "text",
    ["nothing", "[1]", "{}", '{"runs": [], "provenance": {}, "config": {"suite": "x"}}']
    + ['{"runs": [3], "provenance": {}, "config": {"suite": "digits", "scale": "digits"}}'],
)
def test_what_is_no_results_file_is_refused(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_text(text)
    with pytest.raises(UserError, match="not the metrics.json of a suite; give"):
        known_runs.read(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.json'.*No such file"):
        known_runs.read(str(tmp_path / "nowhere.json"))
