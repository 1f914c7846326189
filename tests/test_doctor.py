"""The doctor: every check's every branch by its values, and the command on runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import doctor, files, finished_run, predict, train, weights, workdir
from experiments.checks import images, machine, packages, runs
from experiments.checks.findings import LOOK, OK, PROBLEM, guarded
from experiments.configs.base import base_config
from experiments.data import Split
from experiments.errors import UserError
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent

# Orbax leaves futures of a closed event loop behind when it reads damaged files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def levels(found):
    found = list(found)
    assert all(finding.fix for finding in found if finding.level != OK)
    assert all("\n" not in finding.line() for finding in found)
    return [finding.level for finding in found]


# What checks do together


def test_a_check_that_raises_is_a_finding_and_keeps_what_it_found():
    def check():
        yield from machine.check_disk(10**12, 1, "/")
        raise KeyError("no such thing")

    found = guarded(check)
    assert levels(found) == [OK, PROBLEM]
    assert "KeyError: 'no such thing'" in found[1].what

    def refuse():
        raise UserError("It is 3 but 4 is needed; use 4.")
        yield

    assert guarded(refuse)[0][1:] == ("It is 3 but 4 is needed", "use 4.")


# Packages


def test_versions_of_python_and_packages():
    assert levels(packages.check_python("3.12.1", ">=3.11")) == [OK]
    assert levels(packages.check_python("3.10.9", ">=3.11")) == [PROBLEM]
    wanted = {"python": ">=3.11", "jax": ">=0.10,<0.13", "grain": ">=0.2,<0.3", "torch": ">=2.8"}
    check = packages.check_packages

    def found(**versions):
        return list(check(wanted, ({"jax": "0.12", "grain": "0.2", "torch": "2.9"} | versions).get))

    assert levels(found()) == [OK]
    assert levels(found(torch=None)) == [OK, OK]
    assert levels(found(grain=None)) == [LOOK, OK]
    assert "ImageNet" in found(grain=None)[0].what
    assert levels(found(jax="0.9.2")) == levels(found(jax="0.13.0")) == [PROBLEM, OK]
    assert "pip install 'jax>=0.10,<0.13'" in found(jax="0.13.0")[0].fix
    assert packages.INSTALL in found(jax=None)[0].fix


def test_ranges_are_read_from_setup_cfg():
    wanted = packages.requirements()
    assert wanted["python"].startswith(">=3")
    assert {"jax", "flax", "matplotlib", "tensorboardX", "torch"} <= wanted.keys()
    assert not packages.fits("999", "<1")
    assert wanted.keys() >= packages.NEEDED_BY.keys()
    assert levels(packages.check_versions()).count(PROBLEM) == 0


# The machine


def test_devices(tmp_path):
    assert levels(machine.check_devices("cpu", ["cpu"], False)) == [OK]
    assert levels(machine.check_devices("gpu", ["H100"], True)) == [OK]
    (finding,) = machine.check_devices("cpu", ["cpu"], True)
    assert (finding.level, "jax[cuda13]" in finding.fix) == (PROBLEM, True)
    assert not machine.has_nvidia_gpu(str(tmp_path))
    (tmp_path / "proc/driver/nvidia/gpus/0000:01").mkdir(parents=True)
    assert machine.has_nvidia_gpu(str(tmp_path))


def test_settings():
    assert levels(machine.check_settings(False, None, {})) == [OK]
    assert levels(machine.check_settings(True, "bfloat16", {})) == [LOOK, LOOK, OK]
    given = {"JAX_DISABLE_JIT": "1", "JAX_DEBUG_NANS": "true", "XLA_FLAGS": "--xla_a=1"}
    found = list(machine.check_settings(False, "highest", given))
    assert levels(found) == [PROBLEM, LOOK, OK]
    assert "--xla_a=1" in found[-1].what


def test_the_cache_of_programs(tmp_path, monkeypatch):
    (tmp_path / "program").write_bytes(bytes(3_000_000))
    (finding,) = machine.check_cache(str(tmp_path), True)
    assert (finding.level, "3 MB" in finding.what) == (OK, True)
    assert levels(machine.check_cache(str(tmp_path / "new" / "one"), True)) == [OK]
    assert levels(machine.check_cache(str(tmp_path), False)) == [LOOK]
    monkeypatch.setattr(machine.os, "access", lambda *_: False)
    assert levels(machine.check_cache(str(tmp_path), True)) == [LOOK]
    assert levels(machine.check_folder(str(tmp_path))) == [PROBLEM]


def test_cores():
    assert levels(machine.check_cores(4, 4, 1.0, {})) == [OK]
    assert levels(machine.check_cores(4, 2, 9.0, {"OMP_NUM_THREADS": "1"})) == [LOOK, OK, LOOK]
    given = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    assert levels(machine.check_cores(4, 4, 1.0, given)) == [OK, LOOK]


def test_memory(tmp_path):
    assert machine.available_memory(str(tmp_path)) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 8 kB\n")
    assert machine.available_memory(str(tmp_path)) == 8 * 1024
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert machine.available_memory(str(tmp_path)) == 8 * 1024
    (group / "memory.max").write_text("1500\n")
    assert machine.available_memory(str(tmp_path)) == 500
    assert levels(machine.check_memory(None, 1, "it")) == [OK]
    assert levels(machine.check_memory(5, 6, "it")) == [PROBLEM]
    assert levels(machine.check_memory(6, 5, "it")) == [OK]


def test_disks(tmp_path, monkeypatch):
    assert levels(machine.check_disk(5, 6, "here")) == [PROBLEM]
    for free, level in ((machine.LEAST_DISK, OK), (0, PROBLEM)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert levels(machine.check_folder(str(tmp_path / "a/b"))) == [level]
    (tmp_path / "file").touch()
    (finding,) = machine.check_folder(str(tmp_path / "file" / "run"))
    assert "is a file" in finding.what


# Data


def test_where_data_are(tmp_path):
    assert levels(images.check_place("digits", "")) == [OK]
    assert levels(images.check_place("digit", "")) == [PROBLEM]
    path = tmp_path / "a.npz"
    assert levels(images.check_place("mine", str(path))) == [PROBLEM]
    path.write_bytes(b"1")
    assert levels(images.check_place("mine", str(path))) == [OK]
    (finding,) = images.check_place("cifar10", str(tmp_path))
    assert f"experiments.prepare cifar10 --data_dir {tmp_path}" in finding.fix
    assert list(tmp_path.iterdir()) == [path]  # nothing is downloaded or made
    assert levels(images.check_place("tiny_imagenet", "")) == [PROBLEM]
    assert levels(images.check_place("tiny_imagenet", str(tmp_path))) == [OK]


def test_the_digits_are_the_published_ones_and_others_are_not(capsys):
    assert doctor.main(["--dataset", "digits"]) in (0, 1)
    assert capsys.readouterr().out.count("are the published ones") == 2
    part = Split(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int32))
    assert levels(images.check_pixels("digits", part, part)) == [LOOK, LOOK]
    assert levels(images.check_pixels("mine", part, part)) == [OK]


def test_the_digest_is_of_pixels_labels_and_order():
    split = Split(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), np.arange(3, dtype=np.int32))
    same = Split(split.images.copy(), split.labels.astype(np.int64))
    assert images.digest(same) == images.digest(split)
    assert images.digest(Split(split.images[::-1], split.labels)) != images.digest(split)
    assert images.digest(Split(split.images, split.labels[::-1])) != images.digest(split)


def test_counts_and_balance():
    def split(count):
        return Split(None, np.zeros(count, np.int32))

    assert levels(images.check_counts("digits", split(1297), split(500), 10)) == [OK]
    assert levels(images.check_counts("digits", split(1297), split(499), 10)) == [LOOK]
    assert levels(images.check_counts("mine", split(7), split(1), 2)) == [OK]
    for labels, expected in (([0, 1, 2], OK), ([0, 0, 0, 1, 2], LOOK), ([0, 2, 2], LOOK)):
        assert levels(images.check_balance("train", np.array(labels), 3)) == [expected]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 255], OK), ([7, 7], PROBLEM), ([0, 1], PROBLEM), ([0, 16], LOOK)],
)
def test_ranges_of_pixels(values, expected):
    array = np.array(values, np.uint8).reshape(2, 1, 1, 1)
    assert levels(images.check_values("train", array)) == [expected]


def test_test_images_that_are_training_images():
    train_images = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    test_images = np.full((200, 1, 1, 1), 255, np.uint8)
    assert levels(images.check_duplicates(train_images, test_images)) == [OK]
    test_images[:1] = 5
    assert levels(images.check_duplicates(train_images, test_images)) == [LOOK]
    test_images[:9] = 5
    assert levels(images.check_duplicates(train_images, test_images)) == [PROBLEM]


# Runs


def test_folders_that_are_no_runs(tmp_path):
    assert levels(runs.read_config(str(tmp_path / "new"))[1]) == [OK]
    assert levels(runs.read_config(str(tmp_path))[1]) == [OK]
    (tmp_path / "file").touch()
    assert levels(runs.read_config(str(tmp_path / "file"))[1]) == [PROBLEM]
    assert levels(runs.read_config(str(tmp_path))[1]) == [LOOK]
    for text in ("{", "[1]"):
        (tmp_path / "config.json").write_text(text)
        assert levels(runs.read_config(str(tmp_path))[1]) == [PROBLEM]


def test_states_of_a_run(tmp_path):
    assert levels(runs.check_state(tmp_path)) == [LOOK]
    (tmp_path / "checkpoints" / "40").mkdir(parents=True)
    (tmp_path / ".lock").touch()
    (tmp_path / f"{workdir.DAMAGED}20").mkdir()
    found = list(runs.check_state(tmp_path))
    assert levels(found) == [LOOK, LOOK, LOOK]
    assert "step 40" in found[-1].what
    shutil.rmtree(tmp_path / f"{workdir.DAMAGED}20")
    (tmp_path / ".lock").unlink()
    (tmp_path / "metrics.json").write_text("{")
    assert levels(runs.check_state(tmp_path)) == [PROBLEM]
    for count in (0, 1000):
        found = {"num_examples": count, "augmented": False, "batch_size": 10}
        files.write_json(tmp_path / "metrics.json", {"recalibration": found})
        assert levels(runs.check_state(tmp_path)) == [OK, OK]


def test_accuracies_that_are_reproduced_or_not():
    def check(*values):
        return levels(runs.check_accuracies(runs.Accuracies(*values)))

    assert check(0.9, 0.9, None) == [OK]
    assert check(0.9, 0.8, None) == [PROBLEM]
    assert check(0.9, 0.9, 0.899) == check(0.9, 0.9, 0.5) == [OK, OK]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run that was not trained, in a folder as a finished one leaves it."""
    folder = tmp_path_factory.mktemp("run")
    config, dataset = tiny.config("line"), tiny.dataset()
    run = train.make_run(config, dataset)
    state = train.init_state(run)
    checkpoints = runs_checkpoints(folder)
    checkpoints.save(3, state, {})
    checkpoints.close()
    weights.save(folder / "weights.npz", state.endpoints)
    settings = predict.make_settings(config, run)
    middle = predict.mixtures(state.endpoints, np.full((1, 2), 0.5, np.float32))
    networks, _ = predict.recalibrated(run, middle, settings)
    logits = predict.predict(run.program.model, networks, dataset.test.images, settings)
    accuracy = float(np.mean(np.argmax(np.asarray(logits[0]), -1) == dataset.test.labels))
    points = [{"name": name, "accuracy": accuracy} for name in ("endpoint 0", "midpoint")]
    return SimpleNamespace(
        folder=folder, run=run, config=config, test=dataset.test, points=points, accuracy=accuracy
    )


def runs_checkpoints(folder):
    from experiments.checkpoint import Checkpoints

    return Checkpoints(folder / "checkpoints")


def test_numbers_of_a_run_are_computed_anew(done):
    def check():
        return list(runs.check_reproduced(done.folder, done.run, done.config, done.test))

    assert check() == []
    (done.folder / "metrics.json").write_text(json.dumps({"points": done.points}))
    found = check()
    assert levels(found) == [OK, OK]
    assert found[0].what.count(f"{100 * done.accuracy:.2f} %") == 2
    wrong = [point | {"accuracy": done.accuracy + 0.1} for point in done.points]
    (done.folder / "metrics.json").write_text(json.dumps({"points": wrong}))
    assert levels(check()) == [PROBLEM, OK]
    (done.folder / "metrics.json").write_text(json.dumps({"table": []}))
    assert levels(check()) == [OK]


def test_weights_that_are_missing(tmp_path):
    (tmp_path / "metrics.json").write_text("{}")
    assert levels(runs.check_reproduced(tmp_path, None, None, None)) == [LOOK]


def test_checkpoints_are_examined_and_left_where_they_are(done, tmp_path):
    shutil.copytree(done.folder / "checkpoints", tmp_path / "checkpoints")
    assert levels(runs.check_checkpoints(tmp_path, done.run)) == [OK]
    for path in (tmp_path / "checkpoints" / "3" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"x" * path.stat().st_size)
    (finding,) = runs.check_checkpoints(tmp_path, done.run)
    assert (finding.level, "Checkpoint 3 can't be read" in finding.what) == (PROBLEM, True)
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert list(runs.check_checkpoints(tmp_path / "none", done.run)) == []


# The command


def test_the_exit_code_and_the_lines(capsys, tmp_path):
    arguments = ["--quick", "--dataset", "cifar10", "--data_dir", str(tmp_path / "no.npz")]
    assert doctor.main(arguments) == 1
    out = capsys.readouterr().out
    assert f"problem  There is no file {tmp_path / 'no.npz'}. -> give --data_dir another" in out
    assert "are the published ones" not in out
    with pytest.raises(SystemExit) as error:
        doctor.main(["--worktree"])
    assert error.value.code == 2


def test_a_config_that_is_wrong_is_a_finding(capsys):
    assert doctor.main(["--quick", "--config", "missing.py:line"]) == 1
    assert "There is no config missing.py -> give --config" in capsys.readouterr().out
    config = f"{doctor.__file__.removesuffix('doctor.py')}configs/digits.py:lines"
    assert doctor.main(["--quick", "--config", config]) == 1
    assert "Unknown method 'lines' -> choose one of standard" in capsys.readouterr().out


def test_it_says_what_is_missing_without_numpy():
    code = (
        "import sys; sys.modules['numpy'] = None; from experiments import doctor; "
        "sys.exit(doctor.main(['--quick']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "problem" in done.stdout


def test_what_a_run_needed_only_to_be_trained_may_be_gone(tmp_path):
    """As its start, its devices and its files of labels; what came after it has today's values."""
    config = tiny.config("standard", init_from="/gone", mesh="data=64", label_noise__mode="file")
    config.label_noise.file = "/gone.npy"
    values = json.loads(config.to_json_best_effort())
    del values["init_head"], values["evaluation"]["grid_steps"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    own = finished_run.alone(finished_run.config_of(tmp_path), tmp_path / "weights.npz")
    assert own.init_head == base_config("standard").init_head
    run = train.make_run(own, tiny.dataset())
    assert run.program.model.mesh is None
