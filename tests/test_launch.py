"""The files of launch/: what they start trains with two processes, stops and goes on."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from benchmarks.faults import newest
from tests import tiny
from tests.records import ROOT

LAUNCH = ROOT / "launch"
SKY = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
TRAINJOB = yaml.safe_load((LAUNCH / "trainjob.yaml").read_text())
# As Slurm's does: two processes with a number each, and the highest exit code.
SRUN = """#!/usr/bin/env bash
for i in 0 1; do SLURM_PROCID=$i SLURM_LOCALID=$i "$@" & pids+=($!); done
echo "${pids[@]}" > pids
code=0
for pid in "${pids[@]}"; do wait "$pid"; last=$?; if ((last > code)); then code=$last; fi; done
exit "$code"
"""


@pytest.fixture
def arguments(tmp_path) -> list[str]:
    """Of a run of some seconds."""
    data = tiny.npz_file(tmp_path / "tiny.npz")
    config = f"--config={tiny.__file__}:standard"
    return [config, f"--config.data_dir={data}", f"--workdir={tmp_path / 'run'}"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, folder: Path, **more) -> subprocess.Popen:
    path = f"{Path(sys.executable).parent}:{folder}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment | more, **output)


def test_slurm_asks_for_a_job_again_that_saved_itself_and_it_goes_on(arguments, tmp_path):
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/sh\necho "$@" >> requeued\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    text = (LAUNCH / "slurm.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(.*))?$", text, re.MULTILINE))
    assert {"requeue": "", "signal": "TERM@600"}.items() <= options.items()
    job = {"JOB_ID": str(free_port()), "NTASKS": "2", "STEP_NODELIST": "localhost"}
    job = {f"SLURM_{name}": value for name, value in job.items()}
    command = ["bash", str(LAUNCH / "slurm.sbatch"), "experiments.cifar", *arguments]
    command.append("--config.num_epochs=20")
    first = start([*command, "--config.checkpoint_seconds=0"], tmp_path, **job)
    while first.poll() is None and not newest(tmp_path / "run"):
        time.sleep(0.01)
    os.kill(int((tmp_path / "pids").read_text().split()[1]), signal.SIGTERM)
    said = first.communicate(timeout=120)[0]
    assert first.returncode == 75, said
    assert "--distributed: JAX knows this cluster, and this is process 1 of 2" in said
    again = start(command, tmp_path, **job)
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0, said
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (tmp_path / "requeued").read_text() == f"requeue {job['SLURM_JOB_ID']}\n"  # once
    assert 0 < found["provenance"]["resumed_at_step"] < found["history"][-1]["step"]


def of_sky(arguments, index, port):
    """SkyPilot's variables; its `run` begins in the clone."""
    told = {"NODE_IPS": "127.0.0.1\n127.0.0.2", "NUM_NODES": "2", "NODE_RANK": str(index)}
    more = {f"SKYPILOT_{name}": value for name, value in told.items()}
    run = SKY["run"].replace(":8476", f":{port}").replace("~/environment", "/nowhere")
    return ["bash", "-c", run], more | {"COMMAND": " ".join(["experiments.cifar", *arguments])}


def of_kubeflow(arguments, index, port):
    """What Kubeflow's runtime for JAX sets; config and workdir are this test's."""
    trainer = TRAINJOB["spec"]["trainer"]
    more = {"JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_PROCESS_ID": str(index)}
    names = [argument.split("=")[0] for argument in trainer["args"]]
    assert names == ["--distributed", "--config", "--workdir"]
    command = [*trainer["command"], names[0], *arguments]
    return command, more | {"JAX_NUM_PROCESSES": str(trainer["numNodes"])}


@pytest.mark.parametrize("of", [of_sky, of_kubeflow])
def test_two_processes_train_by_the_variables(of, arguments, tmp_path):
    port = free_port()
    started = [of(arguments, index, port) for index in range(2)]
    both = [start(command, ROOT, **more) for command, more in started]
    said = [process.communicate(timeout=240)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert (tmp_path / "run" / "metrics.json").exists()
    found = f"JAX_COORDINATOR_ADDRESS is 127.0.0.1:{port}, JAX_NUM_PROCESSES 2 and JAX_PROCESS_ID 1"
    assert f"--distributed: {found}, and this is process 1 of 2, with 1 of 2 devices." in said[1]


def test_files_say_what_the_repository_has():
    assert SKY["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    text = (LAUNCH / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split())
    assert "'.[experiments]'" in text
    assert "'.[experiments]'" in SKY["setup"]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert workflow["jobs"]["test"]["steps"][-1] == {"run": ".ci/run"}
    tried = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    said = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.cfg").read_text())
    assert tried == said
