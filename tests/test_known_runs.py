"""Runs taken from a results file: which, and what is refused."""

import copy
import json
from pathlib import Path

import pytest
from synthetic_metrics import config_of, metrics_from, records_of

from experiments.configs import suites
from experiments.reproduce import known_runs, plan
from experiments.reproduce.records import identity, run_folder, weights_path, write_known
from experiments.runs import workdir
from experiments.system import files
from experiments.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
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


def known(files, entries):
    """What a new folder takes from results files."""
    return known_runs.sort(None, files, entries).known


def test_every_run_of_the_same_config_is_known(file):
    entries = planned(config_of(products=PRODUCTS))
    found = known([file], entries)
    assert found.keys() == {entry.id for entry in entries}
    for entry in entries:
        assert found[entry.id]["places"] == file.runs[entry.id]["places"]


def test_what_the_tuning_chose_is_known(file):
    config = config_of(products=PRODUCTS)
    values = {"optimizer.learning_rate": 0.1, "optimizer.weight_decay": 1e-4}
    entries = plan.tuned_entries(config, {("tuning", 0.2, "standard"): values})
    names = {entry.id for entry in entries}
    assert names & file.runs.keys()
    assert known([file], entries).keys() == names & file.runs.keys()


def test_landscapes_are_known_and_their_networks_need_not_be(tmp_path):
    config = config_of(num_seeds=2, products=("line", "simplex_3"), landscape__seeds=(0,))
    scenery = plan.landscape_entries(config, ("fig2", "curvature"))
    records = [scene_of(entry) for entry in scenery]
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics_from(config, records_of(config) + records)))
    entries = planned(config) + scenery
    assert known([known_runs.read(str(path))], entries).keys() == {e.id for e in entries}
    other = config_of(num_seeds=2, products=("line", "simplex_3"), landscape__seeds=(0,))
    other.landscape.resolution = 4
    entries = [*planned(other), *plan.landscape_entries(other, ("fig2",))]
    with pytest.raises(UserError, match="its landscape/simplex_3/noise0/seed0 was made with"):
        known([known_runs.read(str(path))], entries)


def scene_of(entry):
    record = identity(entry) | {"places": {}, "landscape": {}, "wall_seconds": 1.0}
    return record | {"made": {"cpu": "one"}}


def test_further_seeds_and_methods_are_not_known(file):
    entries = planned(config_of(num_seeds=6, products=(*PRODUCTS, "curve")))
    missing = {entry.id for entry in entries} - known([file], entries).keys()
    further = (4, 5, 1004, 1005)
    assert missing == {e.id for e in entries if e.method == "curve" or e.seed in further}


def test_networks_that_a_new_run_starts_from_are_trained_again(file):
    entries = planned(config_of(num_seeds=1, products=("standard", "curve_finding")))
    found = known([file], entries)
    new = next(e for e in entries if e.id == "article/curve_finding/noise0/seed0")
    assert "article/standard/noise0/seed0" in new.needs
    assert new.id not in found
    assert not found.keys() & set(new.needs)
    # Those of a whole chain, and of it alone.
    file.runs.pop("article/spro/noise0/seed0")
    found = known([file], planned(config_of(num_seeds=1, products=PRODUCTS)))
    assert not any("spro_1/noise0/seed0" in name for name in found)
    assert "article/standard/noise0/seed0" not in found
    assert "article/standard/noise20/seed0" in found


@pytest.fixture
def chain(tmp_path):
    """A run and those whose networks it starts from, each with a record in a folder."""
    entries = planned(config_of(num_seeds=1, products=("standard", "curve_finding")))
    new = next(entry for entry in entries if entry.id == "article/curve_finding/noise0/seed0")
    needed = [entry for entry in entries if entry.id in new.needs]
    for entry in needed:
        write_known(tmp_path, entry, identity(entry) | {"made": {}})
    return tmp_path, needed, new


def test_a_record_without_weights_is_stale_if_another_run_starts_from_it(chain, file):
    folder, needed, new = chain
    names = {entry.id for entry in needed}
    assert known_runs.sort(folder, [], needed) == (names, {}, set())
    assert known_runs.sort(folder, [file], [*needed, new]) == (set(), {}, names)
    weights_path(folder, needed[0].id).touch()
    weights_path(folder, needed[1].id).touch()
    assert known_runs.sort(folder, [file], [*needed, new]) == (names, {}, set())
    # Nothing in the folder counts.
    assert known_runs.sort(None, [], [*needed, new]) == (set(), {}, set())


def test_from_a_run_that_diverged_nothing_is_missing(chain):
    folder, needed, new = chain
    for entry in needed:
        own = run_folder(folder, entry.id)
        (own / workdir.KNOWN).unlink()
        files.write_json(own / workdir.DIVERGED, {"diverged": "It did."})
    assert known_runs.sort(folder, [], [*needed, new]).done == {entry.id for entry in needed}


def test_of_two_files_the_first_counts(file, tmp_path):
    config = config_of(products=("standard",), num_seeds=6)
    second = written(tmp_path / "second.json", config)
    second.runs["article/standard/noise0/seed0"]["seed"] = -1
    entries = planned(config)
    found = known([file, second], entries)
    assert found.keys() == {entry.id for entry in entries}
    assert found["article/standard/noise0/seed0"]["seed"] == 0


def test_how_a_run_was_made_comes_with_it(tmp_path):
    config = config_of(num_seeds=3, products=("line",))
    metrics = metrics_from(config, records_of(config))
    here = metrics["provenance"]
    groups = [{"cpu": "one", "num_runs": 9}, {"cpu": "two"}]

    def made(**record):
        path = tmp_path / "metrics.json"
        path.write_text(json.dumps(metrics | {"provenance": here | record}))
        runs = known_runs.read(str(path)).runs
        return [runs[f"article/line/noise0/seed{seed}"]["made"] for seed in range(3)]

    # All as the file says, or each as its number says and, without one, unknown.
    assert made() == [{name: here[name] for name in ("commit", "versions", "device")}] * 3
    for run in metrics["runs"]:
        run |= {0: {"made": 0}, 1: {"made": 1}, 2: {}}[run["seed"] % 100 % 3]
    assert made(made=groups) == [{"cpu": "one"}, {"cpu": "two"}, {}]


def test_times_of_runs_whose_file_has_them_in_parts_are_added(tmp_path):
    config = config_of(num_seeds=1, products=("line",))
    metrics = metrics_from(config, records_of(config))
    for run in metrics["runs"]:
        run.pop("wall_seconds")
        run["cost"] |= {"training_seconds": 2.0, "evaluation_seconds": 0.5}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics))
    assert {run["wall_seconds"] for run in known_runs.read(str(path)).runs.values()} == {2.5}


def test_another_config_is_refused_by_the_names_of_its_values(file):
    entries = planned(config_of(products=("line",), run__num_epochs=7))
    with pytest.raises(UserError, match=r"config.run.num_epochs is 20 there and 7 here.*leave"):
        known([file], entries)


def test_other_data_are_refused(file, monkeypatch):
    entry = planned(config_of(num_seeds=1, products=("line",)))[0]
    monkeypatch.setattr(known_runs.sets, "fingerprint", lambda _: "a" * 64)
    assert known([file], [entry])  # unknown there
    file.runs[entry.id]["made"] = {"data_sha256": "b" * 64}
    with pytest.raises(UserError, match="other data .bbbbbbbbbbbb there, aaaaaaaaaaaa here"):
        known([file], [entry])
    file.runs[entry.id]["made"] = {"data_sha256": "a" * 64}
    assert known([file], [entry])


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


_THIRTY = {
    "run.evaluation.num_points": 11,
    "run.evaluation.outside": ("noise", "shuffled"),
    "clean_only": (),
}
_MORE = ("standard", "standard_matched", "early_stopping", "ema", "swa_constant", "dropout")
_MORE += ("label_smoothing", "line", "layerwise_line", "curve", "line_ensemble")
# Committed results -> their suite, and the values with which its command takes their runs.
COMMITTED = {
    "digits": ("digits", {}),
    "digits-bfloat16": (
        "digits",
        {
            "run.model.dtype": "bfloat16",
            "products": ("standard", "ema", "line", "layerwise_line", "curve"),
            "landscape.seeds": (),
        },
    ),
    "cifar10-small": ("cifar10-small", {}),
    "cifar10-small-30": (
        "cifar10-small",
        _THIRTY | {"run.num_epochs": 30, "products": (*_MORE, "layerwise_line_ensemble")},
    ),
    "cifar10-small-pilot": (
        "cifar10-small",
        _THIRTY
        | {"run.num_epochs": 15, "seeds": (0, 1)}
        | {"products": ("standard", "ema", "line", "layerwise_line")},
    ),
}


@pytest.mark.parametrize("name", COMMITTED)
def test_a_suite_goes_on_from_what_is_committed(name):
    suite, values = COMMITTED[name]
    config = suites.get_config(suite)
    config.update_from_flattened_dict(values)
    known = known_runs.read(f"{ROOT}/results/{name}/metrics.json")
    figures = ("fig3", "fig7")
    entries = plan.article_entries(config, figures)
    found = known_runs.sort(None, [known], entries)
    assert {entry.id for entry in entries} == set(found.known)
