"""The doctor: situation -> finding, and the command on a run and where packages are missing."""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import psutil
import pytest

from experiments import cifar
from experiments.data.sets import Split
from experiments.doctor import __main__ as doctor
from experiments.doctor import data, machine, runs
from experiments.doctor.findings import LOOK, NOTE, OK, PROBLEM, guarded
from experiments.system.errors import UserError
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent

# Orbax leaves futures of a closed event loop behind when it reads damaged files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def levels(found):
    found = list(found)
    assert all(finding.fix for finding in found if finding.level in (LOOK, PROBLEM))
    assert not any(finding.fix for finding in found if finding.level in (OK, NOTE))
    assert all("\n" not in str(finding) for finding in found)
    return {finding.level for finding in found}


def test_a_check_that_raises_is_a_finding_and_keeps_what_it_found():
    def check(error):
        yield from machine.disk("/")
        raise error

    found = guarded(check, KeyError("no such thing"))
    assert len(found) == 2
    assert "KeyError: 'no such thing'" in found[1].what
    said = guarded(check, UserError("It is 3 but 4 is needed; use 4."))[1]
    assert said == (PROBLEM, "It is 3 but 4 is needed", "use 4.")


def _version(monkeypatch, **versions):
    def version(name, of=importlib.metadata.version):
        if versions.get(name, "") is None:
            raise importlib.metadata.PackageNotFoundError
        return versions.get(name) or of(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


def _gpu(monkeypatch, tmp_path):
    (tmp_path / "0000:01").mkdir()
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)


def _container(monkeypatch, tmp_path):
    (tmp_path / "max").write_text("1500\n")
    (tmp_path / "current").write_text("1000\n")
    names = (str(tmp_path / "max"), str(tmp_path / "current"))
    monkeypatch.setattr(machine, "CONTAINER", (names,))


def _free(monkeypatch, free):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr(machine, "CONTAINER", ())


MACHINE = {  # check, level, what is said, what is done before
    "all packages": (machine.versions, OK, "In their ranges: jax 0", lambda m, t: None),
    "old": (machine.versions, PROBLEM, "jax is 0.9.2, not", lambda m, t: _version(m, jax="0.9.2")),
    "new": (machine.versions, PROBLEM, "jax is 0.13.0", lambda m, t: _version(m, jax="0.13.0")),
    "needed": (machine.versions, PROBLEM, "jax is not", lambda m, t: _version(m, jax=None)),
    "some": (machine.versions, LOOK, "it is for ImageNet", lambda m, t: _version(m, grain=None)),
    "python": (
        *(machine.versions, PROBLEM, "Python is 3.10.9"),
        lambda m, t: m.setattr(machine.platform, "python_version", lambda: "3.10.9"),
    ),
    "cpu": (
        machine.devices,
        OK,
        "on the CPU: enough",
        lambda m, t: m.setattr(machine, "NVIDIA", t),
    ),
    "idle GPU": (machine.devices, PROBLEM, "an NVIDIA GPU", _gpu),
    "GPU": (
        *(machine.devices, OK, " x cpu (gpu)"),
        lambda m, t: m.setattr(jax, "default_backend", lambda: "gpu"),
    ),
    "flags": (machine.settings, OK, "--xla_a=1", lambda m, t: m.setenv("XLA_FLAGS", "--xla_a=1")),
    "cores": (
        *(machine.cores, NOTE, "OMP_NUM_THREADS is 0"),
        lambda m, t: m.setenv("OMP_NUM_THREADS", "0"),
    ),
    "one core": (
        *(machine.cores, LOOK, "JAX uses one core"),
        lambda m, t: m.setenv("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false"),
    ),
    "load": (
        *(machine.cores, LOOK, "The load is 999.0"),
        lambda m, t: m.setattr(os, "getloadavg", lambda: (999.0, 0, 0)),
    ),
    "cache": (
        machine.cache,
        LOOK,
        "can't be kept",
        lambda m, t: m.setattr(os, "access", lambda *_: 0),
    ),
    "memory": (machine.memory, OK, "5.0 GB of memory are free", lambda m, t: _free(m, 5e9)),
    "no memory": (machine.memory, PROBLEM, "1.0 GB of memory are free", lambda m, t: _free(m, 1e9)),
    "container": (machine.memory, PROBLEM, "0 MB of memory are free", _container),
}


@pytest.mark.parametrize(("check", "level", "said", "before"), MACHINE.values(), ids=MACHINE)
def test_machine(monkeypatch, tmp_path, check, level, said, before):
    before(monkeypatch, tmp_path)
    found = guarded(check)
    levels(found)
    assert [f for f in found if f.level == level and said in f.what], found


def test_places_of_data_and_runs(tmp_path, monkeypatch):
    file, other = tmp_path / "a.npz", tmp_path / "other"
    file.write_bytes(b"1")
    other.mkdir()
    (tmp_path / "config.json").write_text("{")
    table = [
        (data.place, ("digits", ""), OK, "scikit-learn"),
        (data.place, ("digit", ""), PROBLEM, "no data set 'digit'"),
        (data.place, ("mine", str(file)), OK, "The data are"),
        (data.place, ("mine", f"{other}/b.npz"), PROBLEM, "There is no file"),
        (data.place, ("cifar10", str(other)), PROBLEM, "cifar10 is not prepared"),
        (data.place, ("tiny_imagenet", ""), PROBLEM, "no folder"),
        (data.place, ("tiny_imagenet", str(other)), OK, "The data are in"),
        (machine.disk, (str(other / "new"),), OK, "are free where"),
        (machine.disk, (str(file / "run"),), PROBLEM, "is a file"),
        (runs.state, (other / "new",), OK, "a run would make it"),
        (runs.state, (other,), OK, "is empty"),
        (runs.state, (file,), PROBLEM, "is a file"),
        (runs.state, (tmp_path,), PROBLEM, "is not JSON"),
    ]
    for check, arguments, level, said in table:
        (finding,) = guarded(check, *arguments)
        assert levels([finding]) == {level}, finding
        assert said in finding.what
    assert not list(other.iterdir())  # nothing is downloaded or made
    monkeypatch.setattr(machine, "LEAST_DISK", 1e18)
    assert levels(machine.disk("/")) == {PROBLEM}


def test_content_of_data():
    def said(name, train, test, labels=(0, 1, 2)):
        parts = [
            Split(np.array(x, np.uint8).reshape(-1, 1, 1, 1), np.resize(labels, len(x)))
            for x in (train, test)
        ]
        found = list(data.content(name, *parts, 3, np))
        levels(found)
        return {(finding.level, word) for finding in found for word in finding.what.split()}

    good, test = range(0, 240, 2), range(1, 240, 2)
    assert {level for level, _ in said("mine", good, test)} == {OK, NOTE}
    assert {(LOOK, "SHA-256"), (LOOK, "1,297,")} <= said("digits", good, test)
    assert (LOOK, "no") in said("mine", good, test, (0, 2))
    assert (LOOK, "to") in said("mine", good, test, (0, 0, 0, 1, 2))
    assert (PROBLEM, "fractions") in said("mine", [0, 1, 0], test)
    assert (PROBLEM, "equal.") in said("mine", [7, 7, 7], test)
    assert (LOOK, "far") in said("mine", [0, 16, 8], test)
    assert (PROBLEM, "too.") in said("mine", good, good)
    assert (LOOK, "too.") in said("mine", good, [*test, 2])


def test_a_run_from_its_start_to_its_damage(tmp_path, capsys):
    """Finished, with other numbers, without metrics, and with a damaged checkpoint."""
    folder = tmp_path / "run"
    config = tiny.config("line", data_dir=tiny.npz_file(tmp_path / "tiny.npz"))
    config.dataset = "tiny"
    path = tmp_path / "config.py"
    path.write_text(
        "import json, ml_collections\n"
        f"def get_config(): return ml_collections.ConfigDict(json.loads({config.to_json()!r}))\n"
    )

    def said():
        code = doctor.main(["--workdir", str(folder)])
        return code, capsys.readouterr().out

    assert cifar.main([f"--config={path}", f"--workdir={folder}"]) == 0
    capsys.readouterr()
    code, out = said()
    assert code == 0
    assert "metrics.json is reproduced" in out
    assert "are intact (SHA-256)" in out
    assert "batch-norm statistics the deployed network has" in out
    metrics = json.loads((folder / "metrics.json").read_text())
    for point in metrics["points"]:
        point["accuracy"] += 0.1
    (folder / "metrics.json").write_text(json.dumps(metrics))
    code, out = said()
    assert code == 1
    assert "metrics.json is not reproduced" in out
    (folder / "metrics.json").write_text("{")
    for file in (folder / "checkpoints").rglob("state/**/*"):
        if file.is_file():
            file.write_bytes(b"x" * file.stat().st_size)
    code, out = said()
    assert code == 1
    assert "metrics.json is damaged" in out
    assert "can't be read" in out
    (folder / "metrics.json").unlink()
    (folder / ".lock").touch()
    shutil.rmtree(folder / "checkpoints")
    found = list(runs.state(folder))
    assert levels(found) == {LOOK}
    assert "has no checkpoint yet" in found[-1].what


def test_digits_are_the_published_ones(capsys):
    assert doctor.main([]) in (0, 1)
    assert capsys.readouterr().out.count("are the published ones") == 2


def test_exit_codes_and_configs(capsys):
    assert doctor.main(["--quick", "--config", "missing.py:line"]) == 1
    assert "There is no config missing.py -> give --config" in capsys.readouterr().out
    config = f"{ROOT}/experiments/configs/digits.py:lines"
    assert doctor.main(["--quick", "--config", config]) == 1
    assert "Unknown method 'lines', did you mean 'line' -> choose one of" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--worktree"])


@pytest.mark.parametrize("missing", ["numpy", "jax", "packaging", "psutil"])
def test_it_says_what_is_missing(missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; from experiments.doctor import __main__; "
        "sys.exit(__main__.main(['--quick']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False), done.stderr
    assert re.search(f"The check .* failed: ModuleNotFoundError: .*{missing}", done.stdout)
