"""Where numbers come from: command, commit, versions, hardware, seed, time."""

import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import jax

import subspace_jax
from experiments.system import xla

# What is kept of every run of a suite, whose runs may come from several machines.
_OF_A_RUN = ("commit", "versions", "device", "cpu", "precision", "xla_flags", "date", "data_sha256")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def provenance(module: str, precision: str = "float32") -> dict:
    """What can be known before the work of `python -m MODULE`; add seeds and times after it."""
    return {
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "commit": commit(),
        "versions": {"python": platform.python_version(), "subspace_jax": subspace_jax.__version__}
        | {package: importlib.metadata.version(package) for package in PACKAGES},
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})",
        "processes": jax.process_count(),
        "cpu": f"{os.cpu_count()} x {xla.cpu_model()}",
        "precision": precision,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def of_a_run(record: dict) -> dict:
    """How one run was made, from what `provenance` says of the command that made it."""
    return {name: record[name] for name in _OF_A_RUN if name in record}


def finished_now() -> dict:
    """The date, for when the work is done."""
    return {"date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}


@functools.cache  # of the code that runs, whatever is checked out meanwhile
def commit(folder: Path = Path(__file__).parent) -> str:
    """The commit of a checkout, by default this one, with `-dirty` if tracked files differ from it."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
