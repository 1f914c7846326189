"""Versions, devices, JAX's settings, processor, memory and disks."""

import configparser
import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from experiments.doctor.findings import INSTALL, LOOK, NOTE, OK, PROBLEM, Finding, existing, size

SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"
CUDA = "python -m pip install 'jax[cuda13]' (with an older driver 'jax[cuda12]')"
# Packages without which some commands work; of all others every command needs some.
NEEDED_BY = {
    "array_record": "CIFAR from TFDS's folders, and ImageNet's array records",
    "grain": "ImageNet",
    "importlib_resources": "preparing CIFAR",
    "packaging": "the doctor",
    "pillow": "Tiny-ImageNet, ImageNet and preparing CIFAR",
    "psutil": "the doctor",
    "requests": "preparing CIFAR",
    "scikit-learn": "the digits",
    "tensorflow-datasets": "CIFAR without an .npz file",
}
LEAST_MEMORY = 2e9  # of the digits with JAX's compiler
LEAST_DISK = 1e9
NVIDIA = Path("/proc/driver/nvidia/gpus")
# Limit and use of a container, by either version of Linux's control groups.
CONTAINER = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def versions(setup: Path = SETUP) -> Iterator[Finding]:
    """Python's and the packages' versions against the ranges of setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read_string(setup.read_text())
    extras = parser["options.extras_require"]
    lines = parser["options"]["install_requires"] + extras["experiments"]
    python, least = platform.python_version(), parser["options"]["python_requires"].strip(">=")
    if [int(n) for n in python.split(".")[:2]] >= [int(n) for n in least.split(".")]:
        yield Finding(OK, f"Python {python}.")
    else:
        fix = "make a virtual environment with Python 3.11 to 3.13: python3.12 -m venv .venv"
        yield Finding(PROBLEM, f"Python is {python}, not at least {least}.", fix)
    good, have = [], {}
    for line in filter(None, map(str.strip, lines.splitlines())):
        name = line.split(">")[0]
        try:
            have[line] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            level, what, fix = PROBLEM, f"{name} is not installed.", INSTALL
            if name in NEEDED_BY:
                level, what = LOOK, f"{name} is not installed; it is for {NEEDED_BY[name]}."
                fix = f"python -m pip install '{line}'"
            yield Finding(level, what, fix)
    if importlib.util.find_spec("torch") is None:
        yield Finding(NOTE, "torch is not installed; python -m benchmarks.run compares with it.")
    from packaging.requirements import Requirement

    for line, version in have.items():
        wanted = Requirement(line)
        if wanted.specifier.contains(version, prereleases=True):
            good.append(f"{wanted.name} {version}")
        else:
            what = f"{wanted.name} is {version}, not {wanted.specifier}."
            yield Finding(PROBLEM, what, f"python -m pip install '{line}'")
    if good:
        yield Finding(OK, f"In their ranges: {', '.join(good)}.")


def devices() -> Iterator[Finding]:
    """What JAX computes on."""
    import jax

    kinds, backend = [device.device_kind for device in jax.devices()], jax.default_backend()
    if backend != "cpu":
        yield Finding(OK, f"JAX computes on {len(kinds)} x {kinds[0]} ({backend}).")
    elif NVIDIA.exists() and any(NVIDIA.iterdir()):
        yield Finding(PROBLEM, "JAX computes on the CPU, but there is an NVIDIA GPU.", CUDA)
    else:
        what = "JAX computes on the CPU: enough for the digits; 160 epochs of CIFAR-10 want a GPU."
        yield Finding(OK, what)


def settings() -> Iterator[Finding]:
    """JAX's settings that change numbers or speed."""
    import jax

    if jax.config.jax_enable_x64:
        what = "64-bit types are on (JAX_ENABLE_X64): all recorded numbers are of 32 bits."
        yield Finding(LOOK, what, "unset JAX_ENABLE_X64")
    precision = jax.config.jax_default_matmul_precision
    if precision not in (None, "default", "highest", "float32"):
        what = f"Matrix products have the precision {precision!r}, so that numbers differ slightly."
        yield Finding(LOOK, what, "unset JAX_DEFAULT_MATMUL_PRECISION")
    if jax.config.jax_disable_jit:
        yield Finding(PROBLEM, "JAX_DISABLE_JIT is set: training is far slower.", "unset it")
    if jax.config.jax_debug_nans:
        yield Finding(LOOK, "JAX_DEBUG_NANS is set: training is slower.", "unset it")
    flags = os.environ.get("XLA_FLAGS") or "none given"
    precision = precision or "the default"
    yield Finding(OK, f"Precision of matrix products: {precision}; XLA_FLAGS: {flags}.")


def cache() -> Iterator[Finding]:
    """The folder of compiled programs, which this command may not have made yet."""
    import jax

    from experiments.system import xla

    path = Path(jax.config.jax_compilation_cache_dir or xla.cache_folder())
    if not jax.config.jax_enable_compilation_cache:
        what = "Compiled programs are not kept, so that every start compiles anew."
        yield Finding(LOOK, what, "unset JAX_ENABLE_COMPILATION_CACHE")
    elif not os.access(existing(path), os.W_OK | os.X_OK):
        what = f"Compiled programs can't be kept: {existing(path)} can't be written."
        yield Finding(LOOK, what, "set JAX_COMPILATION_CACHE_DIR to a folder that can")
    else:
        held = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        yield Finding(OK, f"Compiled programs are kept in {path} ({size(held)} now).")


def cores() -> Iterator[Finding]:
    """The processor's cores, what leaves some of them idle, and what else uses them."""
    count = usable = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        usable = len(os.sched_getaffinity(0))
    if usable < count:
        fix = "widen taskset or the container"
        yield Finding(LOOK, f"{usable} of {count} CPU cores may be used.", fix)
    else:
        yield Finding(OK, f"{count} CPU cores.")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        given = os.environ.get(name, "")
        if given.isdigit() and int(given) < usable:
            yield Finding(NOTE, f"{name} is {given}: it slows NumPy down, and not JAX.")
    if "xla_cpu_multi_thread_eigen=false" in os.environ.get("XLA_FLAGS", ""):
        what = "XLA_FLAGS has --xla_cpu_multi_thread_eigen=false: JAX uses one core."
        yield Finding(LOOK, what, "take it out of XLA_FLAGS")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.5 * usable:
        what = f"The load is {load:.1f} on {usable} cores: other programs run, and times are long."
        yield Finding(LOOK, what, "wait for them, or measure no times now")


def memory(needed: float = LEAST_MEMORY, what: str = "a small run") -> Iterator[Finding]:
    """Memory that can be had, of the machine and of the container, against what is needed."""
    import psutil

    free = psutil.virtual_memory().available
    for names in CONTAINER:
        if all(map(os.path.exists, names)):
            limit, used = (Path(name).read_text().strip() for name in names)
            free = min(free, max(0, int(limit) - int(used))) if limit.isdigit() else free
    text = f"{size(free)} of memory are free; {what} needs about {size(needed)}."
    fix = "close other programs, raise the container's limit, or make config.batch_size smaller"
    yield Finding(PROBLEM, text, fix) if free < needed else Finding(OK, text)


def disk(folder: str) -> Iterator[Finding]:
    """Whether a folder can be made or written, and how much."""
    parent = existing(Path(folder).expanduser().absolute())
    free = shutil.disk_usage(parent).free
    if not parent.is_dir():
        what = f"{folder} can't be made: {parent} is a file."
        yield Finding(PROBLEM, what, "name another folder")
    elif not os.access(parent, os.W_OK | os.X_OK):
        yield Finding(PROBLEM, f"{parent} can't be written.", "name a folder that is yours")
    elif free < LEAST_DISK:
        what = f"{size(free)} are free where {folder} is, less than {size(LEAST_DISK)}."
        yield Finding(PROBLEM, what, "free space, or name another folder")
    else:
        yield Finding(OK, f"{size(free)} are free where {folder} is.")
