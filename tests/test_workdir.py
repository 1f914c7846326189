"""A run's folder: what is refused, what is kept, what is deleted."""

import json
import re

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from experiments.runs import workdir
from experiments.runs.workdir import InSuite
from experiments.system import files
from experiments.system.errors import UserError

FILES = (
    *(workdir.METRICS, workdir.HISTORY, workdir.REPORT, workdir.WEIGHTS, workdir.TABLE),
    *(workdir.DIVERGED, workdir.KNOWN),
)
FOLDERS = (
    *(workdir.CHECKPOINTS, workdir.TENSORBOARD, workdir.FIGURES, workdir.RUNS),
    f"{workdir.DAMAGED}3",
)


@pytest.fixture
def config():
    return tiny.config("line").lock()


@pytest.fixture
def held(tmp_path, config):
    """A folder with a finished run of `config` and a file that is none of its business."""
    folder = tmp_path / "run"
    workdir.prepare(folder, config, overwrite=False)
    workdir.publish(folder, {"path.png": b"png"}, "<html>")
    for name in FOLDERS:
        (folder / name / "1").mkdir(parents=True)
    for name in set(FILES) - {workdir.REPORT}:
        (folder / name).write_text("{}")
    (folder / "notes.txt").write_text("mine")
    return folder


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def check(folder, config, overwrite=False, in_suite=None):
    return workdir.check(str(folder), config, overwrite, in_suite)


def test_checking_writes_and_deletes_nothing_and_the_same_config_goes_on(tmp_path, held, config):
    before = below(tmp_path)
    for overwrite in (True, False):
        assert check(tmp_path / "new", config, overwrite) == tmp_path / "new"
        assert check(held, config, overwrite) == held
    workdir.prepare(held, config, overwrite=False)
    assert below(tmp_path) == before


def test_the_config_is_written_as_json_beside_files_of_others(tmp_path, config):
    (tmp_path / "notes.txt").write_text("mine")
    workdir.prepare(check(tmp_path, config), config, overwrite=False)
    assert below(tmp_path) == ["config.json", "notes.txt"]
    written = json.loads((tmp_path / workdir.CONFIG).read_text())
    assert written == json.loads(json.dumps(config.to_dict())) == workdir.stored_config(tmp_path)


def test_pairs_of_vertices_are_the_same_in_the_file(tmp_path):
    config = tiny.config("spro_1")
    workdir.prepare(tmp_path, config, overwrite=False)
    assert check(tmp_path, config) == tmp_path
    config.subspace.simplexes = ((0, 2), (0, 1))
    sentence = r"simplexes is \[\[0, 2\], \[1, 2\]\] there and \[\[0, 2\], \[0, 1\]\] here"
    with pytest.raises(UserError, match=sentence):
        check(tmp_path, config)


def test_a_tilde_is_the_home_folder(tmp_path, config, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check("~/run", config) == tmp_path / "run"


def test_where_things_are_does_not_make_another_config(held, config):
    moved = ConfigDict(config.to_dict())
    moved.data_dir, moved.checkpoint_seconds, moved.num_threads = "/elsewhere", 1.0, 2
    assert check(held, moved) == held


def test_the_data_of_a_run_may_move_but_not_change(tmp_path, config):
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    for path in (here, there):
        np.savez(path, images=1)
    config.data_dir = str(here)
    workdir.prepare(tmp_path / "run", config, overwrite=False)
    config.data_dir = str(there)
    assert check(tmp_path / "run", config)
    np.savez(there, images=2)
    with pytest.raises(UserError, match="holds a run of other data .*; choose another --workdir"):
        check(tmp_path / "run", config)
    assert check(tmp_path / "run", config, overwrite=True)
    there.unlink()
    assert check(tmp_path / "run", config)


def test_a_suite_s_run_may_move_with_its_suite_but_starts_from_the_same_runs(tmp_path):
    config, in_suite = tiny.config("line"), InSuite("a digest", ("article/standard",))
    config.subspace.weights = ("/here/weights.npz",)
    workdir.prepare(tmp_path, config, False, in_suite)
    assert workdir.needs(tmp_path) == ["article/standard"]
    assert workdir.stored_config(tmp_path)["subspace"]["weights"] == ["/here/weights.npz"]
    config.subspace.weights = ("/there/weights.npz",)
    assert check(tmp_path, config, in_suite=in_suite) == tmp_path
    with pytest.raises(UserError, match="looks at is not article/standard of now"):
        check(tmp_path, config, in_suite=InSuite("another", in_suite.needs))
    with pytest.raises(UserError, match="config.subspace.weights is"):
        check(tmp_path, config)


# Refusals


def test_a_file_is_refused(tmp_path, config):
    (tmp_path / "run").write_text("")
    for overwrite in (True, False):
        with pytest.raises(UserError, match=r"^--workdir .*run is a file; name a folder\.$"):
            check(tmp_path / "run", config, overwrite)


def test_results_without_a_config_are_refused(tmp_path, config):
    for number, name in enumerate([*FILES, *FOLDERS]):
        folder = tmp_path / str(number)
        (folder / name).mkdir(parents=True)
        sentence = rf"holds {re.escape(name)} but no config\.json, so it is not known what made it"
        for overwrite in (False, True):
            with pytest.raises(UserError, match=sentence):
                check(folder, config, overwrite)


@pytest.mark.parametrize("text", ["", "{", "half a", "[]"])
def test_a_config_that_is_not_json_is_refused(held, config, text):
    (held / workdir.CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"config\.json is not JSON \(.*\); choose another"):
        check(held, config)
    assert check(held, config, overwrite=True) == held


def test_another_config_is_refused_with_what_differs(held, config):
    other = tiny.config("line", seed=3, model__widths=(4, 9))
    with pytest.raises(UserError) as caught:
        check(held, other)
    assert str(caught.value) == (
        f"{held} holds a run of another config (config.model.widths is [4, 8] there and [4, 9] "
        "here, config.seed is 0 there and 3 here); choose another --workdir or pass --overwrite."
    )
    other = tiny.config("simplex", seed=3, batch_size=9, num_epochs=7)
    sentence = r"batch_size is 6 .*kind is 'line' .* and 3 more\)"
    with pytest.raises(UserError, match=sentence) as caught:
        check(held, other)
    assert str(caught.value).count(" there and ") == 3
    for name in ("new", "seed"):  # a key that only one of them has
        other = ConfigDict(config.to_dict())
        other[name] = 1
        if name == "seed":
            del other[name]
        with pytest.raises(UserError, match=rf"\(config\.{name} is .* there and .* here\)"):
            check(held, other)


# Overwriting and finishing


def test_overwriting_deletes_the_run_and_nothing_else(tmp_path, held):
    config = tiny.config("curve")
    (held / "notes").mkdir()
    (held / "notes" / workdir.METRICS).write_text("mine too")
    workdir.prepare(check(held, config, overwrite=True), config, overwrite=True)
    assert below(held) == ["config.json", "notes", "notes.txt", "notes/metrics.json"]
    assert workdir.stored_config(held)["kind"] == "curve"
    workdir.prepare(tmp_path / "new", config, overwrite=True)
    assert below(tmp_path / "new") == ["config.json"]


def test_a_run_is_finished_when_its_metrics_are_there(held, tmp_path):
    assert workdir.finished(held) == {}
    assert workdir.finished(tmp_path) is None
    assert workdir.finished(tmp_path / "missing") is None
    assert workdir.diverged(held) == ""
    files.write_json(held / workdir.DIVERGED, {"diverged": "too hot"})
    assert workdir.diverged(held) == "too hot"


def test_what_is_published_is_there_the_report_last(held, monkeypatch):
    assert (held / workdir.FIGURES / "path.png").read_bytes() == b"png"
    assert (held / workdir.REPORT).read_text() == "<html>"
    workdir.publish(held, {"path.png": b"new"}, "<html lang>")
    assert (held / workdir.FIGURES / "path.png").read_bytes() == b"new"

    def fail(path, content):
        raise OSError("full")

    (held / workdir.REPORT).unlink()
    monkeypatch.setattr(workdir.files, "write_atomically", fail)
    with pytest.raises(OSError, match="full"):
        workdir.publish(held, {"path.png": b"newer"}, "<html>")
    assert not (held / workdir.REPORT).exists()
