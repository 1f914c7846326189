"""The list of commands for a GPU that is there for some minutes: its time, and a dry run on the CPU."""

import json
import os

import numpy as np
import pytest

from benchmarks import accelerator
from benchmarks.accelerator import Part
from experiments.data.sets import NPZ_KEYS

# What such a machine may lack.
ABSENT = ("array_record", "grain", "psutil", "requests", "safetensors", "sklearn", "torch")
ABSENT += ("tensorflow_datasets",)
WORK = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path("saved").touch(), sys.exit()))
name, result, *slow = sys.argv[1:]
with open("begun", "a") as begun: begun.write(name + " ")
if name == "fails": sys.exit(3)
if slow and not pathlib.Path("saved").exists(): time.sleep(60)
pathlib.Path(result).touch()
"""


@pytest.fixture
def images(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "cifar10.npz"
    arrays = (rng.integers(0, 256, (n, 32, 32, 3), np.uint8) for n in (20, 8))
    labels = (np.arange(n) % 10 for n in (20, 8))
    train, test = zip(arrays, labels, strict=True)
    np.savez(path, **dict(zip(NPZ_KEYS, (*train, *test), strict=True)))
    return path


def test_parts_stop_when_the_minutes_are_over_and_go_on_the_next_time(
    tmp_path, monkeypatch, capsys
):
    """What fails keeps no other from its turn; what needs another waits for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(accelerator, "_SAVING_SECONDS", 2.0)
    (tmp_path / "work.py").write_text(WORK)
    paths = {name: tmp_path / f"{name}.json" for name in ("fails", "slow", "last")}
    wanted = [
        Part("fails", ("work", "fails", str(paths["fails"])), paths["fails"]),
        Part("slow", ("work", "slow", str(paths["slow"]), "slow"), paths["slow"]),
        Part("last", ("work", "last", str(paths["last"])), paths["last"], (paths["slow"],)),
    ]
    assert accelerator.run_parts(wanted, tmp_path / "made", 4 / 60) == ["fails"]
    assert "Not done yet: fails; slow; last. Run the same command" in capsys.readouterr().out
    assert accelerator.run_parts(wanted, tmp_path / "made", 30 / 60) == ["fails"]
    assert "Not done yet: fails. Run" in capsys.readouterr().out
    assert (tmp_path / "begun").read_text().split() == ["fails", "slow", "fails", "slow", "last"]
    assert accelerator.run_parts(wanted[1:], tmp_path / "made", 1) == []
    assert len((tmp_path / "begun").read_text().split()) == 5


def test_a_dry_run_of_one_method(tmp_path, images, monkeypatch):
    """On a machine with few packages; the steps beside PyTorch's were timed before."""
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    for name in ABSENT:
        (lacking / f"{name}.py").write_text(f"raise ModuleNotFoundError(name={name!r})")
    paths = f"{lacking}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", paths)
    monkeypatch.setattr(accelerator, "PRODUCTS", ("line",))
    folder = tmp_path / "made"
    (folder / "performance").mkdir(parents=True)
    (folder / "performance" / "performance.json").write_text("{}")
    small = ("num_epochs=1", "batch_size=8", "validation_size=4", "optimizer.warmup_epochs=0")
    small += ("model.depth=8", "model.width=2", "evaluation.num_points=3")
    small += ("evaluation.recalibration_batch_size=8",)
    arguments = [f"--config.run.{value}" for value in small]
    arguments += ["--config.seeds=(0,1)", f"--data_dir={images}", f"--output={folder}"]
    assert accelerator.main([*arguments, "--device=cpu", "--minutes=9"]) == 0
    found = json.loads((folder / "cifar10" / "metrics.json").read_text())
    runs = {(run["method"], run["label_noise"], run["seed"]) for run in found["runs"]}
    assert runs == {("line", noise, seed) for noise in (0.0, 0.2) for seed in (0, 1)}
    assert all(run["cost"]["runs_at_once"] == 3 for run in found["runs"])
