"""Versions, devices, settings of JAX, memory and disks."""

import configparser
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.doctor.findings import INSTALL, LOOK, OK, PROBLEM, Finding, existing, first, size

SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"
LEAST_MEMORY = 2e9  # of the digits with JAX's compiler
LEAST_DISK = 1e9
NVIDIA = Path("/proc/driver/nvidia/gpus")
# Limit and use of a container, by either version of Linux's control groups.
CONTAINER = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def versions() -> Iterator[Finding]:
    """Python's and the packages' versions against the ranges of setup.cfg."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    parser = configparser.ConfigParser()
    parser.read_string(SETUP.read_text())
    options, extras = parser["options"], parser["options.extras_require"]
    python, wanted = platform.python_version(), options["python_requires"]
    what = f"Python is {python}, not {wanted}."
    fix = "make a virtual environment with Python 3.11 to 3.13: python3.12 -m venv .venv"
    is_good = python in SpecifierSet(wanted)
    yield first((is_good, OK, f"Python {python}."), (True, PROBLEM, what, fix))
    good = []
    lines = (options["install_requires"] + extras["experiments"]).splitlines()
    for line in filter(None, lines):
        wanted = Requirement(line)
        try:
            version = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(PROBLEM, f"{wanted.name} is not installed.", INSTALL)
            continue
        if wanted.specifier.contains(version, prereleases=True):
            good.append(f"{wanted.name} {version}")
        else:
            what = f"{wanted.name} is {version}, not {wanted.specifier}."
            yield Finding(PROBLEM, what, f"python -m pip install '{line}'")
    yield Finding(OK, f"In their ranges: {', '.join(good)}.")


def devices() -> Iterator[Finding]:
    """What JAX computes on."""
    import jax

    kinds, backend = [device.device_kind for device in jax.devices()], jax.default_backend()
    idle = NVIDIA.exists() and any(NVIDIA.iterdir())
    cpu = "JAX computes on the CPU"
    fix = "python -m pip install 'jax[cuda13]' (with an older driver 'jax[cuda12]')"
    yield first(
        (backend != "cpu", OK, f"JAX computes on {len(kinds)} x {kinds[0]} ({backend})."),
        (idle, PROBLEM, f"{cpu}, but there is an NVIDIA GPU.", fix),
        (True, OK, f"{cpu}: enough for the digits; 160 epochs of CIFAR-10 want a GPU."),
    )


def settings() -> Iterator[Finding]:
    """What of JAX's settings changes numbers or speed."""
    import jax

    from experiments.system import xla

    on, flags = jax.config, os.environ.get("XLA_FLAGS", "")
    products, kept = on.jax_default_matmul_precision, on.jax_enable_compilation_cache
    usual = products in (None, "default", "highest", "float32")
    table = {
        "JAX_ENABLE_X64": (on.jax_enable_x64, "64-bit types are on: recorded numbers are of 32."),
        "JAX_DEFAULT_MATMUL_PRECISION": (not usual, f"Matrix products are of {products!r}."),
        "JAX_DISABLE_JIT": (on.jax_disable_jit, "Nothing is compiled: training is far slower."),
        "JAX_DEBUG_NANS": (on.jax_debug_nans, "Every result is checked: training is slower."),
        "JAX_ENABLE_COMPILATION_CACHE": (not kept, "Every start compiles anew."),
        "XLA_FLAGS": ("multi_thread_eigen=false" in flags, "JAX uses one core."),
    }
    for name, (is_set, what) in table.items():
        if is_set:
            yield Finding(LOOK, what, f"unset {name}")
    cache = Path(on.jax_compilation_cache_dir or xla.cache_folder())
    good = f"XLA_FLAGS: {flags or 'none given'}. Compiled programs are in {cache}."
    bad = f"Compiled programs can't be kept: {existing(cache)} can't be written."
    fix = "set JAX_COMPILATION_CACHE_DIR to a folder that can"
    yield first((os.access(existing(cache), os.W_OK), OK, good), (True, LOOK, bad, fix))


def memory() -> Iterator[Finding]:
    """The memory that can be had, of the machine and of the container."""
    import psutil

    free = psutil.virtual_memory().available
    for names in CONTAINER:
        if all(map(os.path.exists, names)):
            limit, used = (Path(name).read_text().strip() for name in names)
            free = min(free, max(0, int(limit) - int(used))) if limit.isdigit() else free
    text = f"{size(free)} of memory are free; a small run needs about {size(LEAST_MEMORY)}."
    fix = "close other programs, raise the container's limit, or make config.batch_size smaller"
    yield first((free >= LEAST_MEMORY, OK, text), (True, PROBLEM, text, fix))


def disk(folder: str) -> Iterator[Finding]:
    """Whether a folder can be made or written, and how much."""
    parent = existing(Path(folder).expanduser().absolute())
    free = shutil.disk_usage(parent).free
    can, text = os.access(parent, os.W_OK | os.X_OK), f"{size(free)} are free where {folder} is"
    least = f"{text}, less than {size(LEAST_DISK)}."
    yield first(
        (not parent.is_dir(), PROBLEM, f"{parent} is a file.", "name another folder"),
        (not can, PROBLEM, f"{parent} can't be written.", "name a folder that is yours"),
        (free < LEAST_DISK, PROBLEM, least, "free space, or name another folder"),
        (True, OK, f"{text}."),
    )
