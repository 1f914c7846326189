"""Runs taken from a results file: which, and what is refused."""

import copy
import json

import pytest
from records import RESULTS
from synthetic_metrics import config_of, metrics_from, records_of

from experiments.configs import suites
from experiments.reproduce import known_runs, plan
from experiments.reproduce.records import identity, run_folder, weights_path, write_known
from experiments.runs import workdir
from experiments.system.errors import UserError

PRODUCTS = ("standard", "dropout", "line", "spro")


def written(path, config):
    path.write_text(json.dumps(metrics_from(config, records_of(config))))
    return known_runs.read(str(path))


def planned(config):
    return plan.entries(config, suites.FIGURES)


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
    assert all(found[e.id]["places"] == file.runs[e.id]["places"] for e in entries)
    values = {"optimizer.learning_rate": 0.1, "optimizer.weight_decay": 1e-4}
    config = config_of(products=PRODUCTS)
    tuned = plan.tuned_entries(config, {("tuning", 0.2, "standard"): values})
    assert {entry.id for entry in tuned} <= known([file], tuned).keys()


def test_landscapes_are_known_and_their_networks_need_not_be(tmp_path):
    config = config_of(num_seeds=2, products=("line", "simplex_3"), landscape__seeds=(0,))
    scenery = plan.landscape_entries(config, ("fig2", "curvature"))
    more = {"places": {}, "landscape": {}, "wall_seconds": 1.0, "made": {"cpu": "one"}}
    records = [*records_of(config), *(identity(entry) | more for entry in scenery)]
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps(metrics_from(config, records)))
    entries = plan.entries(config, ("fig2", "curvature"))
    assert known([known_runs.read(str(path))], entries).keys() == {e.id for e in entries}
    config.landscape.resolution = 4
    entries = plan.entries(config, ("fig2",))
    with pytest.raises(UserError, match="its landscape/simplex_3/noise0/seed0 was made with"):
        known([known_runs.read(str(path))], entries)


def test_networks_that_a_new_run_starts_from_are_trained_again(file):
    """Those of a whole chain, and of it alone."""
    file.runs.pop("article/spro/noise0/seed0")
    found = known([file], planned(config_of(num_seeds=1, products=PRODUCTS)))
    assert not any("spro_1/noise0/seed0" in name for name in found)
    assert "article/standard/noise0/seed0" not in found
    assert "article/standard/noise20/seed0" in found


def test_a_record_without_weights_is_stale_if_another_run_starts_from_it(tmp_path, file):
    entries = planned(config_of(num_seeds=1, products=("standard", "curve_finding")))
    new = next(entry for entry in entries if entry.id == "article/curve_finding/noise0/seed0")
    needed = [entry for entry in entries if entry.id in new.needs]
    names = {entry.id for entry in needed}
    for entry in needed:
        write_known(tmp_path, entry, identity(entry) | {"made": {}})
    assert known_runs.sort(tmp_path, [], needed) == (names, {}, set())
    assert known_runs.sort(tmp_path, [file], [*needed, new]) == (set(), {}, names)
    # With weights, or where nothing can start since the run diverged, nothing is missing.
    weights_path(tmp_path, needed[0].id).touch()
    diverged = run_folder(tmp_path, needed[1].id)
    (diverged / workdir.KNOWN).unlink()
    workdir.set_diverged(diverged, "It did.")
    assert known_runs.sort(tmp_path, [], [*needed, new]) == (names, {}, set())
    # Nothing in the folder counts.
    assert known_runs.sort(None, [], [*needed, new]) == (set(), {}, set())


def test_another_config_and_other_data_are_refused(file, monkeypatch):
    entries = planned(config_of(products=("line",), run__num_epochs=7))
    with pytest.raises(UserError, match=r"config.run.num_epochs is 20 there and 7 here.*leave"):
        known([file], entries)
    entry = planned(config_of(num_seeds=1, products=("line",)))[0]
    monkeypatch.setattr(known_runs.sets, "fingerprint", lambda _: "a" * 64)
    for made in ({}, {"data_sha256": "a" * 64}):
        file.runs[entry.id]["made"] = made
        assert known([file], [entry])
    file.runs[entry.id]["made"] = {"data_sha256": "b" * 64}
    with pytest.raises(UserError, match="other data .bbbbbbbbbbbb there, aaaaaaaaaaaa here"):
        known([file], [entry])


def test_what_is_no_results_file_is_refused(tmp_path):
    path = tmp_path / "file.json"
    for text in ("nothing", "[1]", '{"runs": [3], "config": {"suite": "x"}}'):
        path.write_text(text)
        with pytest.raises(UserError, match="not the metrics.json of a suite; give"):
            known_runs.read(str(path))


_FIVE = ("standard", "ema", "line", "layerwise_line", "curve")
# Committed results -> their suite, and the values with which its command takes their runs.
COMMITTED = {
    "digits": ("digits", {}),
    "digits-bfloat16": ("digits", {"run.model.dtype": "bfloat16", "products": _FIVE}),
    "cifar10-small": ("cifar10-small", {}),
}


@pytest.mark.parametrize("name", COMMITTED)
def test_a_suite_goes_on_from_what_is_committed(name):
    suite, values = COMMITTED[name]
    config = suites.get_config(suite)
    config.update_from_flattened_dict(values)
    file = known_runs.read(str(RESULTS / name / "metrics.json"))
    assert file.runs.keys() <= file.entries.keys()
    entries = plan.article_entries(config, ("fig3", "fig7"))
    assert {entry.id for entry in entries} == known([file], entries).keys()
