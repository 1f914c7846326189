"""Real processes that train one run: they make what one process makes, whatever happens to them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import newest
from experiments import imagenet
from experiments.training.history import History
from experiments.training.run import make_run
from experiments.training.steps import fit, init_state
from experiments.training.weights import save
from tests import jpegs, tiny
from tests.records import ROOT

STEPS = 15  # of 3 epochs
ALWAYS = "--config.checkpoint_seconds=0"  # after each of them; else at the end alone
BAD = "train/n002/n002_4.JPEG"
LOST = "run the same command everywhere again, and training goes on from the last checkpoint."


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    """Of a run whose images are streamed."""
    folder = jpegs.make(tmp_path_factory.mktemp("data") / "imagenet")
    (folder / BAD).write_bytes(b"no image")
    config = f"--config={ROOT / 'tests' / 'jpegs.py'}:line"
    return [config, f"--config.data_dir={folder}"]


class Processes:
    """A run of several processes, four devices in all; of a Slurm job if they are not told by hand."""

    def __init__(
        self,
        count: int,
        arguments: list[str],
        workdir: Path,
        *more: str,
        by_hand: bool = False,
        module: str = "experiments.imagenet",
    ):
        command = [sys.executable, "-m", module, *arguments, *more, "--workdir", str(workdir)]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]

        def start(index):
            environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(4 // count)}
            where = [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
            where += [f"--process_id={index}"]
            if not by_hand:
                where = ["--distributed"]
                job = {"JOB_ID": port, "NTASKS": count, "PROCID": index, "LOCALID": index}
                environment |= {f"SLURM_{name}": str(value) for name, value in job.items()}
                environment |= {"SLURM_STEP_NODELIST": "localhost"}
            output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            return subprocess.Popen([*command, *where], cwd=ROOT, env=environment, **output)

        self.all = [start(index) for index in range(count)]
        self.workdir = workdir

    def ended(self, seconds: float = 240) -> tuple[list[int], list[str]]:
        """Exit codes and what was said."""
        said = [process.communicate(timeout=seconds)[0] for process in self.all]
        return [process.returncode for process in self.all], said

    def wait_for(self, there: Callable[[], bool]) -> None:
        """Until something is there while all of them run."""
        while not there():
            if any(process.poll() is not None for process in self.all):
                raise AssertionError(self.ended())
            time.sleep(0.01)

    def end_trained(self) -> None:
        """Ends them without their evaluation."""
        self.wait_for((self.workdir / "weights.npz").exists)
        for process in self.all:
            process.kill()
        self.ended()


def weights(workdir: Path) -> dict[str, np.ndarray]:
    """The trained endpoints."""
    return dict(np.load(workdir / "weights.npz"))


def results(workdir: Path) -> dict[str, np.ndarray]:
    """All that must not depend on processes, devices or interruptions, but for rounding."""
    found = json.loads((workdir / "metrics.json").read_text())
    history = [(epoch["step"], epoch["loss"], epoch["penalty"]) for epoch in found["history"]]
    points = [(p["nll"], p["validation"]["nll"]) for p in found["points"]]
    ensembles = [entry["nll"] for entry in found["ensembles"]]
    return weights(workdir) | {"history": history, "points": points, "ensembles": ensembles}


def assert_close(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-4, atol=2e-5, err_msg=name)


@pytest.fixture(scope="module")
def alone(arguments, tmp_path_factory) -> Path:
    """What one process with eight devices makes of it."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    assert imagenet.main([*arguments, "--workdir", str(workdir), "--config.mesh=data=8"]) == 0
    return workdir


@pytest.fixture(scope="module")
def stopped(arguments, tmp_path_factory) -> Path:
    """The folder of two processes, of which one was killed, and of those that went on one stopped."""
    workdir = tmp_path_factory.mktemp("stopped") / "run"
    killed = Processes(2, arguments, workdir, ALWAYS, by_hand=True)
    killed.wait_for(lambda: newest(workdir) >= 2)
    killed.all[1].kill()
    codes, said = killed.ended(60)
    assert codes[0] != 0
    assert LOST in said[0]
    assert not (workdir / "metrics.json").exists()

    reached, told = newest(workdir), Processes(2, arguments, workdir, ALWAYS)
    told.wait_for(lambda: newest(workdir) > reached)
    told.all[1].send_signal(signal.SIGTERM)  # one of them is enough
    codes, said = told.ended()
    assert codes == [75, 75]
    step = newest(workdir)
    assert f"Stopped at step {step} of {STEPS}; everything is saved" in said[0]
    return workdir


def test_two_processes_that_are_killed_stop_and_go_on_train_as_one(
    arguments, stopped, alone, tmp_path
):
    workdir = shutil.copytree(stopped, tmp_path / "run")
    assert Processes(2, arguments, workdir).ended()[0] == [0, 0]
    assert_close(results(workdir), results(alone))
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["provenance"]["processes"] == 2
    (skipped,) = metrics["data"]["skipped"]  # whichever of them read it
    assert skipped["file"].endswith(BAD)


@pytest.mark.slow
def test_four_processes_go_on_from_the_checkpoint_of_two(arguments, stopped, alone, tmp_path):
    workdir = shutil.copytree(stopped, tmp_path / "run")
    Processes(4, arguments, workdir, "--config.mesh=data=2,endpoint=2").end_trained()
    assert_close(weights(workdir), weights(alone))


def test_images_that_every_process_has_are_split_too(tmp_path):
    more = {"data_dir": tiny.npz_file(tmp_path / "tiny.npz"), "batch_size": 16}
    config = tiny.get_config()
    config.update_from_flattened_dict(more | {"mesh": "data=8"})
    run = make_run(config, tiny.dataset())
    *_, state = fit(run, init_state(run), History(run))

    workdir, given = tmp_path / "run", [f"--config={tiny.__file__}:line"]
    given += [f"--config.{name}={value}" for name, value in more.items()]
    Processes(2, given, workdir, module="experiments.cifar").end_trained()
    save(tmp_path / "expected.npz", state.endpoints)
    assert_close(weights(workdir), dict(np.load(tmp_path / "expected.npz")))


def test_bad_flags(arguments, tmp_path, capsys):
    by_hand = ["--num_processes=2", "--process_id=2"]
    for given, sentence in (
        (["--coordinator=here:1"], "--num_processes None and --process_id None; give HOST"),
        (["--coordinator=here:1", *by_hand], "which one this is, from 0, or"),
        (["--coordinator=here:1", "--distributed"], "give one or the other."),
    ):
        assert imagenet.main([*arguments, "--workdir", str(tmp_path / "run"), *given]) == 2
        assert sentence in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_processes_that_never_come_are_named(arguments, tmp_path):
    never = "127.0.0.1:9"  # where nobody listens
    command = [sys.executable, "-m", "experiments.imagenet", *arguments, "--connect_seconds=1"]
    command += [f"--coordinator={never}", "--num_processes=2", "--process_id=1"]
    command += ["--workdir", str(tmp_path / "run")]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    sentence = f"error: Not all processes met at {never} within 1 seconds; start all of them"
    assert process.stderr.splitlines()[-1].startswith(sentence)
    assert not (tmp_path / "run").exists()
