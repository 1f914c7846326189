"""The command for one run, end to end on a small data set."""

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

from benchmarks.faults import newest, outcome
from experiments import cifar
from experiments.data import sets
from experiments.runs import finished as finished_run
from experiments.runs import job, logs
from experiments.system import values
from tests import tiny
from tests.records import ROOT

# Orbax leaves futures of a closed event loop behind when it reads damaged files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SMALL = {
    "num_epochs": 3,
    "batch_size": 10,
    "validation_size": 14,
    "evaluation.num_points": 3,
    "evaluation.recalibration_batch_size": 25,
    "evaluation.recalibration_augment": True,
}
LOGGED = []  # what the finished run gave to `log`
ALWAYS = "--config.checkpoint_seconds=0"  # after each step; else at the end alone


@pytest.fixture(scope="module")
def npz(tmp_path_factory) -> str:
    return tiny.npz_file(tmp_path_factory.mktemp("data") / "tiny.npz")


def arguments(npz: str, workdir: Path, *more: str, kind: str = "line") -> list[str]:
    small = [f"--config.{name}={value}" for name, value in (SMALL | {"data_dir": npz}).items()]
    return [f"--config={tiny.__file__}:{kind}", f"--workdir={workdir}", *small, *more]


def metrics(workdir: Path) -> dict:
    return json.loads((workdir / "metrics.json").read_text())


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("finished") / "line"
    assert cifar.main(arguments(npz, workdir), log=lambda *given: LOGGED.append(given)) == 0
    return workdir


def test_a_finished_run_holds_all_that_is_promised(finished):
    found = metrics(finished)
    assert [epoch["step"] for epoch in found["history"]] == [5, 10, 15]
    assert [point["name"] for point in found["points"]] == ["endpoint 0", "midpoint", "endpoint 1"]
    assert "validation" in found["points"][1]
    assert np.shape(found["geometry"]["squared_cosines"]) == (2, 2)
    assert found["data"] == {"num_skipped": 0, "skipped": []}
    assert {"command", "commit", "versions", "device", "seed"} <= found["provenance"].keys()
    assert found["recalibration"] == {"num_examples": 50, "batch_size": 25, "augmented": True}
    lines = (finished / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == found["history"]
    assert {"path.png", "history.png"} <= {f.name for f in (finished / "figures").iterdir()}
    assert "</html>" in (finished / "report.html").read_text()


def test_a_finished_run_gets_no_more_than_its_report_and_its_folder_is_no_other_s(
    npz, finished, tmp_path, capsys, monkeypatch
):
    workdir = shutil.copytree(finished, tmp_path / "late")
    (workdir / "report.html").unlink()
    assert cifar.main(arguments(npz, workdir)) == 0
    assert "</html>" in (workdir / "report.html").read_text()
    monkeypatch.setattr(job, "make_run", pytest.fail)
    assert cifar.main(arguments(npz, workdir)) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert cifar.main(arguments(npz, workdir, "--config.seed=7")) == 2
    assert "config.seed is 0 there and 7 here" in capsys.readouterr().err
    assert metrics(workdir) == metrics(finished)


def test_a_quick_run_says_so_and_no_suite_takes_it(npz, tmp_path, capsys, monkeypatch):
    """What a flag gives it keeps."""
    monkeypatch.setattr(sets, "_QUICK_TEST_SIZE", 7)
    given = arguments(npz, tmp_path / "run", "--config.train_size=30")
    assert cifar.main([*given, "--quick", "--config.batch_size=15"]) == 0
    said = capsys.readouterr().out
    assert "--quick, so no result" in said
    assert "--quick" in (tmp_path / "run" / "report.html").read_text()
    config = metrics(tmp_path / "run")["config"]
    assert config["quick"]
    quick = dict(values.flatten(config))
    assert quick["config.num_epochs"] == 3  # as given
    assert job.QUICK["optimizer.warmup_epochs"] == quick["config.optimizer.warmup_epochs"]
    assert len(finished_run.reopen(tmp_path / "run").dataset.test.labels) == 7
    assert finished_run.command_of(tmp_path / "run").endswith(" --quick")
    assert cifar.main(given) == 2
    assert "config.quick is True there and None here" in capsys.readouterr().err


def test_resumed_after_sigkill_equals_uninterrupted(npz, finished, tmp_path):
    workdir = tmp_path / "killed"
    command = [sys.executable, "-m", "experiments.cifar", *arguments(npz, workdir, ALWAYS)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while process.poll() is None and not newest(workdir):
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (workdir / "metrics.json").exists()
    assert cifar.main(arguments(npz, workdir)) == 0
    assert outcome(workdir) == outcome(finished)


@pytest.mark.parametrize(
    ("module", "number", "code"),
    [("steps", signal.SIGTERM, 75), ("evaluate", signal.SIGINT, 130)],
)
def test_a_signal_saves_and_the_rest_is_the_same(
    npz, finished, tmp_path, monkeypatch, capsys, number, module, code
):
    """While it trains, and while it evaluates: then nothing is trained again."""
    workdir, owner = tmp_path / "stopped", getattr(job, module)
    name = {"steps": "train_call", "evaluate": "evaluate"}[module]
    function = getattr(owner, name)

    def signalled(*arguments, **keywords):
        if module == "evaluate" or newest(workdir):
            signal.raise_signal(number)
        return function(*arguments, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(owner, name, signalled)
        assert cifar.main(arguments(npz, workdir, ALWAYS)) == code
    assert "run the same command again" in capsys.readouterr().out
    assert not (workdir / "metrics.json").exists()
    if module == "evaluate":
        monkeypatch.setattr(job.steps, "train_call", lambda *_: pytest.fail("trained again"))
    assert cifar.main(arguments(npz, workdir)) == 0
    assert outcome(workdir) == outcome(finished)


def test_the_oracle_is_the_best_look_at_the_test_split(npz, tmp_path):
    """At every second epoch and at the last one."""
    assert cifar.main(arguments(npz, tmp_path / "run", "--config.evaluation.oracle_epochs=2")) == 0
    found = metrics(tmp_path / "run")["places"]
    oracle = found["early stopping"]
    assert [look["epoch"] for look in oracle["looks"]] == [2, 3]
    assert oracle["accuracy"] == max(look["accuracy"] for look in oracle["looks"])
    last = oracle["looks"][-1]["accuracy"]
    assert last == pytest.approx(found["midpoint"]["accuracy"])
    assert oracle["oracle"] is True
    assert "early stopping" in (tmp_path / "run" / "report.html").read_text()


def test_logs_on_a_full_disk_are_a_sentence_and_the_checkpoint_is_kept(
    npz, finished, tmp_path, monkeypatch, capsys
):
    workdir, write = tmp_path / "full", logs.EventsWriter.write_event

    def full(writer, *arguments):
        if newest(workdir):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(writer, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(logs.EventsWriter, "write_event", full)
        assert cifar.main(arguments(npz, workdir, ALWAYS)) == 2
    said = capsys.readouterr().err
    assert f"The disk is full: the logs of the training could not be written to {workdir}" in said
    assert cifar.main(arguments(npz, workdir)) == 0
    assert outcome(workdir) == outcome(finished)


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
    *epochs, (step, values) = LOGGED
    assert epochs == [(epoch["step"], epoch) for epoch in metrics(finished)["history"]]
    assert (step, values["test/nll"]) == (15, metrics(finished)["points"][1]["nll"])


def test_a_diverging_run_stops_and_keeps_the_last_good_checkpoint(npz, tmp_path, capsys):
    workdir = tmp_path / "diverged"
    assert cifar.main(arguments(npz, workdir, ALWAYS, "--config.optimizer.learning_rate=1e30")) == 2
    said = capsys.readouterr().err
    assert "learning rate 1e+30" in said
    assert cifar.main(arguments(npz, workdir, "--config.optimizer.learning_rate=1e30")) == 2
    assert said.splitlines()[-1] == capsys.readouterr().err.strip()  # without training it again
    assert not (workdir / "metrics.json").exists()


def test_bad_input_is_one_sentence_exit_code_2_and_leaves_nothing(npz, tmp_path, capsys):
    for argument, sentence in (
        ("--config.batch_size=1000", "batch_size is 1000 but the training split has 50"),
        ("--config.subspace.num_endpoints=0", "num_endpoints is 0; use at least 1"),
        ("--config.data_dir=/nowhere/x.npz", "/nowhere/x.npz"),
    ):
        assert cifar.main(arguments(npz, tmp_path / "bad", argument)) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("error: ")
        assert sentence in said
        assert not (tmp_path / "bad").exists()


@pytest.mark.skipif("SUBSPACE_JAX_DATA_DIR" not in os.environ, reason="needs real images")
def test_a_line_learns_real_images(tmp_path):
    """A part of CIFAR-10, on the test images and on those held out."""
    with np.load(Path(os.environ["SUBSPACE_JAX_DATA_DIR"]) / "cifar10.npz") as whole:
        sizes = {"train": 3500, "test": 500}
        parts = {key: whole[key][: sizes[key.partition("_")[0]]] for key in whole}
        np.savez(tmp_path / "cifar10.npz", **parts)
    more = {"model.width": 8, "model.depth": 8, "num_epochs": 3, "batch_size": 32}
    more |= {"data_dir": tmp_path / "cifar10.npz", "validation_size": 500}
    more |= {"optimizer.warmup_epochs": 0, "evaluation.num_points": 3}
    more |= {"evaluation.recalibration_examples": 1000}
    given = [f"--config={ROOT / 'experiments' / 'configs' / 'cifar10.py'}:line"]
    given += [f"--config.{key}={value}" for key, value in more.items()]
    assert cifar.main([*given, f"--workdir={tmp_path / 'line'}"]) == 0
    midpoint = metrics(tmp_path / "line")["points"][1]
    assert min(midpoint["accuracy"], midpoint["validation"]["accuracy"]) > 0.2  # chance is 0.1


def test_the_committed_run_of_tiny_imagenet_is_what_the_documentation_says():
    found = json.loads((ROOT / "results" / "tiny-imagenet-20" / "metrics.json").read_text())
    text = (ROOT / "docs" / "imagenet.md").read_text()
    assert f"{100 * found['points'][2]['accuracy']:.1f} % of 1,000" in text
    assert f"{found['provenance']['wall_seconds']:.0f} seconds" in text
    assert found["config"]["num_epochs"] == 5
    assert "dirty" not in found["provenance"]["commit"]
