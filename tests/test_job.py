"""The command for one run, end to end on a small data set."""

import ast
import contextlib
import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import cifar, tiny_imagenet
from experiments.configs import digits
from experiments.runs import job, logs
from experiments.runs.inputs import Inputs
from experiments.system.errors import UserError

# Orbax leaves futures of a closed event loop behind when it reads damaged files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "--config.evaluation.grid_steps=0",
    "--config.dataset=small",
    "--config.normalization=imagenet",
    "--config.augmentation=crop_and_flip",
    "--config.num_epochs=3",
    "--config.steps_per_call=1",
    "--config.optimizer.warmup_epochs=1",
    "--config.validation_size=20",
    "--config.batch_size=20",
    "--config.evaluation.num_points=3",
    "--config.evaluation.batch_size=20",
    "--config.evaluation.recalibration_batch_size=50",
    "--config.evaluation.recalibration_augment=True",
]
NETWORKS = {
    "digits": ["--config.model.widths=(4, 8)"],
    "cifar10": ["--config.model.depth=8", "--config.model.width=4"],
}
ALWAYS = "--config.checkpoint_seconds=0"  # after each step; else at the end alone


@pytest.fixture(scope="module")
def npz(tmp_path_factory) -> Path:
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 4
    images = rng.integers(0, 200, (160, 8, 8, 3)) + 15 * labels[:, None, None, None]
    path = tmp_path_factory.mktemp("data") / "small.npz"
    images, labels = images.astype(np.uint8), labels.astype(np.uint8)
    np.savez(
        path,
        train_images=images[:120],
        train_labels=labels[:120],
        test_images=images[120:],
        test_labels=labels[120:],
    )
    return path


def arguments(
    npz: Path, workdir: Path, *more: str, kind: str = "line", config: str = "digits"
) -> list[str]:
    path = ROOT / "experiments" / "configs" / f"{config}.py:{kind}"
    small = [f"--config.data_dir={npz}", *SMALL, *NETWORKS[config]]
    return ["--config", str(path), "--workdir", str(workdir), *small, *more]


def digest(workdir: Path) -> str:
    """Of all arrays of the last checkpoint: endpoints and optimizer, bit for bit."""
    last = workdir / "checkpoints" / str(progress(workdir))
    return json.loads((last / "record" / "metadata").read_text())["sha256"]


def metrics(workdir: Path) -> dict:
    return json.loads((workdir / "metrics.json").read_text())


def results(workdir: Path) -> dict:
    """The metrics that must not depend on interruptions."""
    found = metrics(workdir)
    for epoch in found["history"]:
        del epoch["seconds"], epoch["images_per_second"]
    return {name: found[name] for name in ("config", "history", "points", "ensembles", "geometry")}


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished") / "line"
    assert cifar.main(arguments(npz, workdir)) == 0
    return workdir


def test_metrics_hold_all_that_is_promised(finished):
    found = metrics(finished)
    assert found["config"]["kind"] == "line"
    assert found["config"]["num_epochs"] == 3
    assert [epoch["step"] for epoch in found["history"]] == [5, 10, 15]
    assert [point["coords"] for point in found["points"]] == [0.0, 0.5, 1.0]
    assert [point["name"] for point in found["points"]] == ["endpoint 0", "midpoint", "endpoint 1"]
    assert {e["average"] for e in found["ensembles"]} == {"probability", "logit"}
    assert "validation" in found["points"][1]
    assert np.shape(found["geometry"]["squared_cosines"]) == (2, 2)
    assert found["data"] == {"num_skipped": 0, "skipped": []}
    keys = {"command", "commit", "versions", "device", "seed", "wall_seconds", "images_per_second"}
    assert keys <= found["provenance"].keys()
    assert found["recalibration"] == {"num_examples": 100, "batch_size": 50, "augmented": True}


def test_logs_pictures_and_report_are_there(finished):
    lines = (finished / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics(finished)["history"]
    assert list((finished / "tensorboard").iterdir())
    for name in ("path", "reliability", "history"):
        assert (finished / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "</html>" in (finished / "report.html").read_text()


@pytest.mark.parametrize(
    ("kind", "config"),
    [("standard", "cifar10"), ("layerwise_simplex", "digits")],
)
def test_other_kinds_train_and_report(npz, tmp_path, kind, config):
    more = ["--config.num_epochs=2", "--config.average.name=ema", "--config.label_noise.rate=0.2"]
    assert cifar.main(arguments(npz, tmp_path / kind, *more, kind=kind, config=config)) == 0
    points = metrics(tmp_path / kind)["points"]
    assert len(points) == (7 if kind == "layerwise_simplex" else 1)


def test_weights_of_finished_runs_are_what_others_start_from(npz, finished, tmp_path, capsys):
    weights = f"--config.subspace.weights=('{finished / 'weights.npz'}',)"
    workdir = tmp_path / "curve"
    assert cifar.main(arguments(npz, workdir, weights, kind="curve_finding")) == 0
    ends, middle = np.load(finished / "weights.npz"), np.load(workdir / "weights.npz")
    assert list(ends) == list(middle)
    for name in ends:
        np.testing.assert_array_equal(middle[name][[0, 2]], ends[name])
    assert cifar.main(arguments(npz, tmp_path / "none", kind="curve_finding")) == 2
    assert (
        "subspace.weights names 0 files but curve_finding starts from 2" in capsys.readouterr().err
    )


def test_a_finished_run_is_left_as_it_is(npz, finished, capsys):
    before = (finished / "metrics.json").read_bytes()
    assert cifar.main(arguments(npz, finished)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (finished / "metrics.json").read_bytes() == before


def test_a_workdir_of_another_config_is_refused(npz, finished, capsys):
    assert cifar.main(arguments(npz, finished, "--config.seed=7")) == 2
    assert "config.seed is 0 there and 7 here" in capsys.readouterr().err


def test_resumed_after_sigkill_equals_uninterrupted(npz, finished, tmp_path):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "experiments.cifar", *arguments(npz, workdir, ALWAYS)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and progress(workdir) < 0:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (workdir / "metrics.json").exists()
    assert cifar.main(arguments(npz, workdir)) == 0
    assert digest(workdir) == digest(finished)
    assert {**results(workdir), "config": 0} == {**results(finished), "config": 0}


def progress(workdir: Path) -> int:
    """The newest finished checkpoint."""
    steps = (workdir / "checkpoints").glob("[0-9]*/_CHECKPOINT_METADATA")
    return max((int(p.parent.name) for p in steps if p.parent.name.isdigit()), default=-1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["steps", "evaluate"])
def test_a_signal_saves_exits_0_and_the_rest_is_the_same(
    npz, finished, tmp_path, monkeypatch, capsys, number, module
):
    """While it trains, and while it evaluates: then nothing is trained again."""
    workdir, owner = tmp_path / "stopped", getattr(job, module)
    name = {"steps": "train_call", "evaluate": "evaluate"}[module]
    function = getattr(owner, name)

    def signalled(*arguments, **keywords):
        if module == "evaluate" or progress(workdir) >= 0:
            signal.raise_signal(number)
        return function(*arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, signalled)
        assert cifar.main(arguments(npz, workdir, ALWAYS)) == 0
    assert "run the same command again" in capsys.readouterr().out
    assert not (workdir / "metrics.json").exists()
    if module == "evaluate":
        monkeypatch.setattr(job.steps, "train_call", lambda *_: pytest.fail("trained again"))
    assert cifar.main(arguments(npz, workdir)) == 0
    assert digest(workdir) == digest(finished)
    assert {**results(workdir), "config": 0} == {**results(finished), "config": 0}


def executed(npz, folder, **more):
    """The function itself, of a line."""
    config = digits.get_config("line")
    values = dict(part.removeprefix("--config.").split("=") for part in SMALL)
    values |= {"data_dir": str(npz), "model.widths": "(4, 8)"} | more
    for name, value in values.items():
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)
        config.update_from_flattened_dict({name: value})
    inputs = Inputs()
    return job.execute(
        folder,
        config,
        data=inputs.dataset(config),
        shifted=inputs.shifted(config),
        stop=lambda: False,
        module="tests",
    )


def test_twice_is_the_same_as_once(npz, finished, tmp_path, monkeypatch):
    found = executed(npz, tmp_path)
    assert found == metrics(tmp_path)
    assert found["points"] == metrics(finished)["points"]
    monkeypatch.setattr(job, "make_run", pytest.fail)
    assert executed(npz, tmp_path) == found
    with pytest.raises(UserError, match="config.seed is 0 there and 1 here"):
        executed(npz, tmp_path, seed="1")


def test_the_oracle_is_the_best_look_at_the_test_split(npz, tmp_path):
    """At every second epoch and at the last one."""
    found = executed(npz, tmp_path, **{"evaluation.oracle_epochs": "2"})["places"]
    oracle = found["early stopping"]
    assert [look["epoch"] for look in oracle["looks"]] == [2, 3]
    assert oracle["accuracy"] == max(look["accuracy"] for look in oracle["looks"])
    last = oracle["looks"][-1]["accuracy"]
    assert last == pytest.approx(found["midpoint"]["accuracy"])
    assert oracle["oracle"] is True
    job.publish(tmp_path, metrics(tmp_path))
    assert "early stopping" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("where", ["pages.of_run", "workdir.publish"])
def test_a_signal_while_the_report_is_made_waits_for_it(
    npz, finished, tmp_path, monkeypatch, where
):
    """A finished run without its report gets one."""
    workdir = tmp_path / "late"
    shutil.copytree(finished, workdir)
    (workdir / "report.html").unlink()
    owner, name = getattr(job, where.split(".")[0]), where.split(".")[1]
    function = getattr(owner, name)

    def signalled(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return function(*arguments)

    monkeypatch.setattr(owner, name, signalled)
    assert cifar.main(arguments(npz, workdir)) == 0
    assert metrics(workdir) == metrics(finished)
    assert "</html>" in (workdir / "report.html").read_text()


def test_logs_on_a_full_disk_are_a_sentence_and_the_checkpoint_is_kept(
    npz, finished, tmp_path, monkeypatch, capsys
):
    """In the thread that trains: nothing waits for another one."""
    workdir, write = tmp_path / "full", logs.EventsWriter.write_event

    def full(writer, *arguments):
        if progress(workdir) > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(writer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(logs.EventsWriter, "write_event", full)
        assert cifar.main(arguments(npz, workdir, ALWAYS)) == 2
    said = capsys.readouterr().err
    assert f"The disk is full: the logs of the training could not be written to {workdir}" in said
    assert "resumes from the last checkpoint, which is kept." in said
    assert progress(workdir) > 0
    assert cifar.main(arguments(npz, workdir)) == 0
    assert digest(workdir) == digest(finished)


def test_events_are_those_of_the_history(finished):
    (path,) = (finished / "tensorboard").iterdir()
    content, found, at = path.read_bytes(), [], 0
    while at < len(content):  # length, checksum, event, checksum
        (size,) = struct.unpack("Q", content[at : at + 8])
        event = logs.Event.FromString(content[at + 12 : at + 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        at += size + 16
    expected = [
        (epoch["step"], f"train/{name}", pytest.approx(value, rel=1e-6))
        for epoch in metrics(finished)["history"]
        for name, value in epoch.items()
    ]
    assert found == expected


def test_a_damaged_checkpoint_is_passed_over(npz, finished, tmp_path, capsys):
    workdir = tmp_path / "damaged"
    assert cifar.main(arguments(npz, workdir, ALWAYS)) == 0
    (workdir / "metrics.json").unlink()
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    for path in (last / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    assert cifar.main(arguments(npz, workdir)) == 0
    assert f"{last} is damaged" in capsys.readouterr().err
    assert digest(workdir) == digest(finished)


def test_checkpoints_of_another_network_are_refused(npz, finished, tmp_path, capsys):
    workdir = tmp_path / "wider"
    shutil.copytree(finished / "checkpoints", workdir / "checkpoints")
    found = metrics(finished)["config"]
    found["model"]["widths"] = [4, 6]
    (workdir / "config.json").write_text(json.dumps(found))
    others = [argument.replace("(4, 8)", "(4, 6)") for argument in arguments(npz, workdir)]
    assert cifar.main(others) == 2
    said = capsys.readouterr().err
    assert "error: Checkpoint" in said
    assert "checkpoints/15 is of another network" in said
    there, copied = ((folder / "checkpoints").iterdir() for folder in (finished, workdir))
    assert sorted(path.name for path in copied) == sorted(path.name for path in there)
    assert not list(workdir.glob("damaged*"))


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(npz, tmp_path, capsys):
    workdir = tmp_path / "diverged"
    assert cifar.main(arguments(npz, workdir, ALWAYS, "--config.optimizer.learning_rate=1e30")) == 2
    said = capsys.readouterr().err
    assert "learning rate 1e+30" in said
    assert cifar.main(arguments(npz, workdir, "--config.optimizer.learning_rate=1e30")) == 2
    assert said.splitlines()[-1] == capsys.readouterr().err.strip()  # without training it again
    assert not (workdir / "metrics.json").exists()


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config.batch_size=1000", "batch_size is 1000 but the training split has 100"),
        ("--config.subspace.num_endpoints=0", "num_endpoints is 0; use at least 1"),
        ("--config.label_noise.rate=1.5", "1.5"),
        ("--config.validation_size=120", "120"),
        ("--config.normalization=bogus", "config.normalization is 'bogus'"),
        ("--config.data_dir=/nowhere/x.npz", "/nowhere/x.npz"),
        ("--config.evaluation.num_points=4", "leaves out the midpoint"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_leaves_nothing(
    npz, tmp_path, capsys, argument, sentence
):
    workdir = tmp_path / "bad"
    assert cifar.main(arguments(npz, workdir, argument)) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert not workdir.exists()


@pytest.mark.skipif("SUBSPACE_JAX_DATA_DIR" not in os.environ, reason="needs the real CIFAR-10")
def test_a_line_learns_real_cifar10(tmp_path):
    """From a part of the file: test_data shows that it is whole, and that TFDS has the same images."""
    with np.load(Path(os.environ["SUBSPACE_JAX_DATA_DIR"]) / "cifar10.npz") as whole:
        sizes = {"train": 3500, "test": 500}
        part = {name: whole[name][: sizes[name.partition("_")[0]]] for name in whole}
    np.savez(tmp_path / "cifar10.npz", **part)
    arguments = [
        "--config",
        str(ROOT / "experiments/configs/cifar10.py:line"),
        f"--workdir={tmp_path / 'line'}",
        f"--config.data_dir={tmp_path / 'cifar10.npz'}",
        "--config.validation_size=500",
        "--config.model.depth=8",
        "--config.model.width=8",
        "--config.num_epochs=3",
        "--config.optimizer.warmup_epochs=0",
        "--config.batch_size=32",
        "--config.evaluation.num_points=3",
        "--config.evaluation.recalibration_examples=1000",
    ]
    assert cifar.main(arguments) == 0
    found = metrics(tmp_path / "line")
    assert found["provenance"]["num_training_images"] == 3_000
    # Ten classes: far from chance after 279 steps, on the test images and on those held out.
    assert found["points"][1]["accuracy"] > 0.2
    assert found["points"][1]["validation"]["accuracy"] > 0.2


@pytest.mark.skipif("SUBSPACE_JAX_DATA_DIR" not in os.environ, reason="needs Tiny-ImageNet")
def test_a_line_trains_on_real_tiny_imagenet(tmp_path):
    """On those of its classes that are there, from the official folders to the report."""
    arguments = [
        "--config",
        str(ROOT / "experiments/configs/tiny_imagenet.py:line"),
        f"--workdir={tmp_path / 'line'}",
        f"--config.data_dir={Path(os.environ['SUBSPACE_JAX_DATA_DIR']) / 'tiny-imagenet-20'}",
        "--config.model.width=4",
        "--config.num_epochs=1",
        "--config.optimizer.warmup_epochs=0",
        "--config.validation_size=100",
        "--config.train_size=300",
        "--config.evaluation.num_points=3",
    ]
    assert tiny_imagenet.main(arguments) == 0
    found = metrics(tmp_path / "line")
    assert found["provenance"]["num_training_images"] == 300
    assert "experiments.tiny_imagenet" in found["provenance"]["command"]
    assert [epoch["step"] for epoch in found["history"]] == [2]
    assert all(np.isfinite(point["nll"]) for point in found["points"])


def test_the_committed_run_of_tiny_imagenet_is_what_the_documentation_says():
    found = json.loads((ROOT / "results" / "tiny-imagenet-20" / "metrics.json").read_text())
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert f"{100 * found['points'][2]['accuracy']:.1f} % of 1,000" in text
    assert f"{found['provenance']['wall_seconds']:.0f} seconds" in text
    assert found["config"]["num_epochs"] == 5
    assert "dirty" not in found["provenance"]["commit"]
