"""A run's folder: what is refused, what is kept, what is deleted."""

import json
import re

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict

from experiments.runs import workdir
from experiments.system.errors import UserError

FILES = (workdir.METRICS, workdir.HISTORY, workdir.REPORT, workdir.WEIGHTS, workdir.TABLE)
FOLDERS = (
    *(workdir.CHECKPOINTS, workdir.TENSORBOARD, workdir.FIGURES, workdir.RUNS),
    f"{workdir.DAMAGED}3",
)
METRICS = {"points": [{"name": "midpoint", "accuracy": 0.5}]}


@pytest.fixture
def config():
    return tiny.config("line").lock()


@pytest.fixture
def held(tmp_path, config):
    """A folder with a finished run of `config` and a file that is none of its business."""
    folder = tmp_path / "run"
    workdir.prepare(folder, config, overwrite=False)
    workdir.publish(folder, METRICS, {"path.png": b"png"}, "<html>")
    for name in FOLDERS:
        (folder / name / "1").mkdir(parents=True)
    for name in (workdir.HISTORY, workdir.WEIGHTS, workdir.TABLE):
        (folder / name).write_text("{}")
    (folder / "notes.txt").write_text("mine")
    return folder


def below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("overwrite", [True, False])
def test_checking_writes_and_deletes_nothing(tmp_path, held, config, overwrite):
    before = below(tmp_path)
    assert workdir.check(str(tmp_path / "new"), config, overwrite) == tmp_path / "new"
    assert workdir.check(str(held), config, overwrite) == held
    assert below(tmp_path) == before


def test_a_folder_of_the_same_config_is_used_again(held, config):
    before = below(held)
    folder = workdir.check(str(held), config, overwrite=False)
    workdir.prepare(folder, config, overwrite=False)
    assert below(held) == before


def test_pairs_of_vertices_are_the_same_in_the_file(tmp_path):
    config = tiny.config("spro_1")
    workdir.prepare(tmp_path, config, overwrite=False)
    assert workdir.check(str(tmp_path), config, overwrite=False) == tmp_path
    config.subspace.simplexes = ((0, 2), (0, 1))
    sentence = r"simplexes is \[\[0, 2\], \[1, 2\]\] there and \[\[0, 2\], \[0, 1\]\] here"
    with pytest.raises(UserError, match=sentence):
        workdir.check(str(tmp_path), config, overwrite=False)


def test_a_folder_of_other_files_is_used(tmp_path, config):
    (tmp_path / "notes.txt").write_text("mine")
    folder = workdir.check(str(tmp_path), config, overwrite=False)
    workdir.prepare(folder, config, overwrite=False)
    assert below(tmp_path) == ["config.json", "notes.txt"]


def test_the_config_is_written_as_json(tmp_path, config):
    workdir.prepare(tmp_path / "a" / "b", config, overwrite=False)
    written = json.loads((tmp_path / "a" / "b" / workdir.CONFIG).read_text())
    assert written == json.loads(json.dumps(config.to_dict()))
    assert workdir.check(str(tmp_path / "a" / "b"), config, overwrite=False)


def test_a_tilde_is_the_home_folder(tmp_path, config, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir.check("~/run", config, overwrite=False) == tmp_path / "run"


def test_where_things_are_does_not_make_another_config(held, config):
    moved = ConfigDict(config.to_dict())
    moved.data_dir, moved.checkpoint_seconds, moved.num_threads = "/elsewhere", 1.0, 2
    assert workdir.check(str(held), moved, overwrite=False) == held


def test_the_data_of_a_run_may_move_but_not_change(tmp_path, config):
    here, there = tmp_path / "here.npz", tmp_path / "there.npz"
    for path, images in ((here, 1), (there, 1)):
        np.savez(path, images=images)
    config.data_dir = str(here)
    workdir.prepare(tmp_path / "run", config, overwrite=False)
    config.data_dir = str(there)
    assert workdir.check(str(tmp_path / "run"), config, overwrite=False)
    np.savez(there, images=2)
    with pytest.raises(UserError, match="holds a run of other data .*; choose another --workdir"):
        workdir.check(str(tmp_path / "run"), config, overwrite=False)
    assert workdir.check(str(tmp_path / "run"), config, overwrite=True)
    there.unlink()
    assert workdir.check(str(tmp_path / "run"), config, overwrite=False)


# Refusals


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_is_refused(tmp_path, config, overwrite):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=r"^--workdir .*run is a file; name a folder\.$"):
        workdir.check(str(tmp_path / "run"), config, overwrite)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_results_without_a_config_are_refused(tmp_path, config, name):
    (tmp_path / name).mkdir() if name in FOLDERS else (tmp_path / name).write_text("")
    sentence = rf"holds {re.escape(name)} but no config\.json, so it is not known what made it; "
    for overwrite in (False, True):
        with pytest.raises(UserError, match=sentence):
            workdir.check(str(tmp_path), config, overwrite=overwrite)


@pytest.mark.parametrize("text", ["", "{", "half a"])
def test_a_config_that_is_not_json_is_refused(held, config, text):
    (held / workdir.CONFIG).write_text(text)
    with pytest.raises(UserError, match=r"config\.json is not JSON \(.*\); choose another"):
        workdir.check(str(held), config, overwrite=False)
    assert workdir.check(str(held), config, overwrite=True) == held


def test_another_config_is_refused_with_what_differs(held):
    other = tiny.config("line", seed=3, model__widths=(4, 9))
    with pytest.raises(UserError) as caught:
        workdir.check(str(held), other, overwrite=False)
    assert str(caught.value) == (
        f"{held} holds a run of another config (config.model.widths is [4, 8] there and [4, 9] "
        "here, config.seed is 0 there and 3 here); choose another --workdir or pass --overwrite."
    )


def test_of_many_differences_three_are_named(held):
    other = tiny.config("simplex", seed=3, batch_size=9, num_epochs=7)
    with pytest.raises(
        UserError, match=r"batch_size is 6 .*kind is 'line' .* and 3 more\)"
    ) as caught:
        workdir.check(str(held), other, overwrite=False)
    assert str(caught.value).count(" there and ") == 3


@pytest.mark.parametrize("name", ["new", "seed"])
def test_a_key_that_only_one_config_has_is_a_difference(held, config, name):
    other = ConfigDict(config.to_dict())
    if name in other:
        del other[name]
    else:
        other[name] = 1
    with pytest.raises(UserError, match=rf"\(config\.{name} is .* there and .* here\)"):
        workdir.check(str(held), other, overwrite=False)


# Overwriting


def test_overwriting_deletes_the_run_and_nothing_else(held):
    config = tiny.config("curve")
    (held / "notes").mkdir()
    (held / "notes" / workdir.METRICS).write_text("mine too")
    folder = workdir.check(str(held), config, overwrite=True)
    workdir.prepare(folder, config, overwrite=True)
    assert below(held) == ["config.json", "notes", "notes.txt", "notes/metrics.json"]
    assert json.loads((held / workdir.CONFIG).read_text())["kind"] == "curve"


def test_overwriting_what_is_not_there_makes_it(tmp_path, config):
    folder = workdir.check(str(tmp_path / "run"), config, overwrite=True)
    workdir.prepare(folder, config, overwrite=True)
    assert below(tmp_path) == ["run", "run/config.json"]


# Finishing


def test_a_run_is_finished_when_its_metrics_are_there(held, tmp_path):
    assert workdir.finished(held, overwrite=False) == METRICS
    assert workdir.finished(held, overwrite=True) is None
    assert workdir.finished(tmp_path, overwrite=False) is None
    assert workdir.finished(tmp_path / "missing", overwrite=False) is None


def test_what_is_published_is_there(held):
    assert (held / workdir.FIGURES / "path.png").read_bytes() == b"png"
    assert (held / workdir.REPORT).read_text() == "<html>"
    workdir.publish(held, {"points": []}, {"path.png": b"new"}, "<html lang>")
    assert (held / workdir.FIGURES / "path.png").read_bytes() == b"new"
    assert workdir.finished(held, overwrite=False) == {"points": []}


def test_a_failure_to_publish_leaves_the_run_unfinished(tmp_path, config, monkeypatch):
    def fail(path, content):
        raise OSError("full")

    workdir.prepare(tmp_path, config, overwrite=False)
    monkeypatch.setattr(workdir.files, "write_atomically", fail)
    with pytest.raises(OSError, match="full"):
        workdir.publish(tmp_path, METRICS, {}, "<html>")
    assert workdir.finished(tmp_path, overwrite=False) is None
