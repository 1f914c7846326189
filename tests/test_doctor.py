"""The doctor: situation -> finding, and the command on a run and where packages are missing."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import cifar
from experiments.data.sets import Split
from experiments.doctor import __main__ as doctor
from experiments.doctor import data, machine, runs
from experiments.doctor.findings import LOOK, OK, PROBLEM, guarded
from experiments.system.errors import UserError
from tests import tiny
from tests.records import ROOT

# Orbax leaves futures of a closed event loop behind when it reads damaged files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def has(found, level, said):
    """Whether there is such a finding; what is wrong always has a fix, on one line."""
    assert all(bool(finding.fix) == (finding.level in (LOOK, PROBLEM)) for finding in found)
    assert all("\n" not in str(finding) for finding in found)
    return any(finding.level == level and said in finding.what for finding in found)


def test_a_check_that_raises_is_a_finding_and_keeps_what_it_found():
    def check(error):
        yield from machine.disk("/")
        raise error

    _, found = guarded(check, KeyError("no such thing"))
    assert "KeyError: 'no such thing'" in found.what
    _, found = guarded(check, UserError("It is 3 but 4 is needed; use 4."))
    assert found == (PROBLEM, "It is 3 but 4 is needed", "use 4.")


def test_machine(tmp_path):
    (tmp_path / "max").write_text("1500\n")
    (tmp_path / "current").write_text("1000\n")
    container = (str(tmp_path / "max"), str(tmp_path / "current"))
    table = (  # check, level, what is said, what is done before
        (machine.versions, OK, "In their ranges: jax 0", lambda m: None),
        (
            *(machine.versions, PROBLEM, "jax is 0.1.2, not"),
            lambda m: m.setattr(importlib.metadata, "version", lambda name: "0.1.2"),
        ),
        (machine.devices, OK, "CPU: enough", lambda m: m.setattr(machine, "NVIDIA", Path("/no"))),
        (machine.devices, PROBLEM, "NVIDIA GPU", lambda m: m.setattr(machine, "NVIDIA", tmp_path)),
        (machine.settings, OK, "--xla_a=1", lambda m: m.setenv("XLA_FLAGS", "--xla_a=1")),
        (machine.settings, LOOK, "can't be kept", lambda m: m.setattr(os, "access", lambda *_: 0)),
        (
            *(machine.memory, PROBLEM, "0 MB of memory are free"),
            lambda m: m.setattr(machine, "CONTAINER", [container]),
        ),
    )
    for check, level, said, before in table:
        with pytest.MonkeyPatch.context() as patch:
            before(patch)
            assert has(guarded(check), level, said), said


def test_places_of_data_and_runs(tmp_path):
    file, other = tmp_path / "a.npz", tmp_path / "other"
    file.write_bytes(b"1")
    other.mkdir()
    (tmp_path / "config.json").write_text("{")
    table = (
        (data.place, ("digits", ""), OK, "scikit-learn"),
        (data.place, ("mine", f"{other}/b.npz"), PROBLEM, "mine has no data in"),
        (data.place, ("cifar10", str(other)), PROBLEM, "cifar10 is not prepared"),
        (machine.disk, (str(other / "new"),), OK, "are free where"),
        (machine.disk, (str(file / "run"),), PROBLEM, "is a file"),
        (runs.state, (other,), OK, "is free for a run"),
        (runs.state, (file,), PROBLEM, "is a file"),
        (runs.state, (tmp_path,), PROBLEM, "is not JSON"),
    )
    for check, arguments, level, said in table:
        found = guarded(check, *arguments)
        assert len(found) == 1
        assert has(found, level, said), found
    assert not list(other.iterdir())  # nothing is downloaded or made


def test_test_images_that_are_trained_on_are_found(monkeypatch):
    good, test = range(0, 240, 2), range(1, 240, 2)
    for name, *parts, level, said in (
        ("digits", good, test, LOOK, "those of digits f7e"),
        ("mine", good, good, PROBLEM, "120 of 120 test images are training images"),
        ("mine", good, [*test, 2], LOOK, "1 of 121 test images are training images"),
    ):
        splits = [
            Split(np.array(x, np.uint8).reshape(-1, 1, 1, 1), np.resize(range(3), len(x)))
            for x in parts
        ]
        monkeypatch.setattr("experiments.data.sets.load_arrays", lambda *_, s=splits: (*s, 3))
        assert has(list(data.content(name, "", 0)), level, said), said


def test_a_run_from_its_start_to_its_damage(tmp_path, capsys):
    """Finished, with other numbers, and with damaged metrics and checkpoints."""
    folder, npz = tmp_path / "run", tiny.npz_file(tmp_path / "tiny.npz")

    def said(expected, *sentences):
        capsys.readouterr()
        assert doctor.main(["--workdir", str(folder)]) == expected
        out = capsys.readouterr().out
        assert all(sentence in out for sentence in sentences), out

    config = [f"--config={tiny.__file__}:line", f"--config.data_dir={npz}"]
    assert cifar.main([*config, f"--workdir={folder}"]) == 0
    said(0, "metrics.json is reproduced", "is intact (SHA-256)")
    metrics = json.loads((folder / "metrics.json").read_text())
    for point in metrics["points"]:
        point["accuracy"] += 0.1
    (folder / "metrics.json").write_text(json.dumps(metrics))
    said(1, "metrics.json is not reproduced")
    (folder / "metrics.json").write_text("{")
    for file in (folder / "checkpoints").rglob("state/**/*"):
        if file.is_file():
            file.write_bytes(b"x" * file.stat().st_size)
    said(1, "metrics.json is not JSON", "can't be read")
    (folder / "metrics.json").unlink()
    assert "is not finished" in str(*runs.state(folder))


def test_the_command(capsys):
    assert doctor.main([]) in (0, 1)
    assert capsys.readouterr().out.count("are the published ones") == 2
    assert doctor.main(["--quick", "--dataset", "missing"]) == 1
    assert "There is no data set 'missing'. -> choose one" in capsys.readouterr().out


def test_it_says_what_is_missing():
    code = (
        "import sys; sys.modules['jax'] = None; from experiments.doctor import __main__; "
        "sys.exit(__main__.main(['--quick']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert re.search("The check .* failed: ModuleNotFoundError: .*jax", done.stdout)
