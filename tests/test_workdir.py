"""A run's folder: what is refused, kept and deleted, and that one process is in it."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny
from ml_collections import ConfigDict
from records import ROOT

from experiments import cifar
from experiments.reproduce import __main__ as reproduce
from experiments.runs import workdir
from experiments.runs.workdir import InSuite
from experiments.system import lock
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


def test_the_same_run_goes_on_in_its_folder_wherever_things_are(tmp_path, held, config):
    before = below(tmp_path)
    moved = ConfigDict(config.to_dict())
    moved.data_dir, moved.checkpoint_seconds, moved.loader.num_workers = "/elsewhere", 1.0, 2
    moved.mesh = "data=8"
    for folder, given in ((tmp_path / "new", config), (held, config), (held, moved)):
        for overwrite in (True, False):
            assert check(folder, given, overwrite) == folder
    workdir.prepare(held, config, overwrite=False)
    assert below(tmp_path) == before
    written = json.loads((held / workdir.CONFIG).read_text())
    assert written == json.loads(json.dumps(config.to_dict())) == workdir.stored_config(held)


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
    there.unlink()
    assert check(tmp_path / "run", config)


def test_a_suite_s_run_may_move_with_its_suite_but_starts_from_the_same_runs(tmp_path):
    config, in_suite = tiny.config("line"), InSuite("a digest", ("article/standard",))
    config.subspace.weights = ("/here/weights.npz",)
    workdir.prepare(tmp_path, config, False, in_suite)
    assert workdir.needs(tmp_path) == ["article/standard"]
    config.subspace.weights = ("/there/weights.npz",)
    assert check(tmp_path, config, in_suite=in_suite) == tmp_path
    with pytest.raises(UserError, match="looks at is not article/standard of now"):
        check(tmp_path, config, in_suite=InSuite("another", in_suite.needs))
    with pytest.raises(UserError, match="config.subspace.weights is"):
        check(tmp_path, config)


def test_what_no_config_explains_is_refused(tmp_path, held, config):
    (tmp_path / "file").write_text("")
    table = [(tmp_path / "file", r"^--workdir .*file is a file; name a folder\.$")]
    for name in (*FILES, *FOLDERS):
        (tmp_path / f"of {name}" / name).mkdir(parents=True)
        table.append((tmp_path / f"of {name}", rf"holds {re.escape(name)} but no config\.json"))
    for folder, sentence in table:
        for overwrite in (False, True):
            with pytest.raises(UserError, match=sentence):
                check(folder, config, overwrite)
    (held / workdir.CONFIG).write_text("[]")
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
    other = ConfigDict(config.to_dict())
    other.new = other.seed
    del other.seed
    said = r"\(config\.new is None there and 0 here, config\.seed is 0 there and None here\)"
    with pytest.raises(UserError, match=said):
        check(held, other)


def test_overwriting_deletes_the_run_and_nothing_else(held):
    config = tiny.config("curve")
    (held / "notes").mkdir()
    (held / "notes" / workdir.METRICS).write_text("mine too")
    workdir.prepare(check(held, config, overwrite=True), config, overwrite=True)
    assert below(held) == ["config.json", "notes", "notes.txt", "notes/metrics.json"]
    assert workdir.stored_config(held)["kind"] == "curve"


# One process


HOLDER = """
import pathlib, sys
from experiments.system import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_process_is_refused_by_name_and_touches_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, **pipes)
    assert holder.stdout.readline() == "held\n"
    # What another config left there, which would be deleted.
    (folder / "config.json").write_text('{"seed": 1}')
    (folder / "runs").mkdir()
    (folder / "runs" / "record.json").write_text("{}")
    before = contents(folder)
    line = [f"--config={ROOT / 'experiments/configs/digits.py'}:line"]
    for command, arguments in ((cifar.main, line), (reproduce.main, ["digits"])):
        assert command([*arguments, "--workdir", str(folder), "--overwrite"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder} is in use by process {holder.pid} on ")
        assert said.endswith("wait until it has finished, stop it, or choose another --workdir.\n")
        assert contents(folder) == before
    holder.kill()  # leaves it to the next
    holder.communicate()
    assert (folder / lock.LOCK).exists()
    with lock.hold(folder):
        pass


def test_it_is_given_up_at_the_end_and_nothing_is_left(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock.hold(folder):
        refused = pytest.raises(UserError, match=f"in use by process {os.getpid()} on")
        with refused, lock.hold(folder):
            pass
    assert not (tmp_path / "a").exists()
    with pytest.raises(RuntimeError), lock.hold(folder):
        (folder / "kept").write_text("")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["kept"]
