"""Devices, JAX's settings, processor, memory and disks."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from experiments.checks.findings import LOOK, OK, PROBLEM, Finding, size

CUDA = "python -m pip install 'jax[cuda13]' (with an older driver 'jax[cuda12]')"
LEAST_MEMORY = 2e9  # of the digits with JAX's compiler
LEAST_DISK = 1e9
_CGROUP = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
    ),
)


def check_devices(backend: str, kinds: list[str], has_nvidia: bool) -> Iterator[Finding]:
    """What JAX computes on.

    Args:
      backend: JAX's default one.
      kinds: of its devices.
      has_nvidia: whether the machine has an NVIDIA GPU.
    """
    what = f"JAX computes on {len(kinds)} x {kinds[0]} ({backend})"
    if backend == "cpu" and has_nvidia:
        yield Finding(PROBLEM, f"{what}, but the machine has an NVIDIA GPU.", CUDA)
    elif backend == "cpu":
        yield Finding(OK, f"{what}: enough for the digits; 160 epochs of CIFAR-10 want a GPU.")
    else:
        yield Finding(OK, f"{what}.")


def has_nvidia_gpu(root: str = "/") -> bool:
    """Whether the NVIDIA driver shows a GPU."""
    return bool(list(Path(root, "proc/driver/nvidia/gpus").glob("*"))) or (
        Path(root, "dev/nvidia0").exists()
    )


def devices() -> Iterator[Finding]:
    """Of this process."""
    import jax

    kinds = [device.device_kind for device in jax.devices()]
    yield from check_devices(jax.default_backend(), kinds, has_nvidia_gpu())


def check_settings(x64: bool, precision: str | None, given: Mapping[str, str]) -> Iterator[Finding]:
    """JAX's settings that change numbers or speed.

    Args:
      x64: whether 64-bit types are on.
      precision: of matrix products; `None` is the backend's own.
      given: the environment as the user set it.
    """
    if x64:
        yield Finding(
            LOOK,
            "64-bit types are on (JAX_ENABLE_X64): all recorded numbers are of 32 bits.",
            "unset JAX_ENABLE_X64",
        )
    if precision not in (None, "default", "highest", "float32"):
        yield Finding(
            LOOK,
            f"Matrix products have the precision {precision!r}, so that numbers differ slightly.",
            "unset JAX_DEFAULT_MATMUL_PRECISION",
        )
    if given.get("JAX_DISABLE_JIT", "").lower() in ("1", "true", "yes", "on"):
        yield Finding(PROBLEM, "JAX_DISABLE_JIT is set: training is far slower.", "unset it")
    if given.get("JAX_DEBUG_NANS", "").lower() in ("1", "true", "yes", "on"):
        yield Finding(LOOK, "JAX_DEBUG_NANS is set: training is slower.", "unset it")
    yield Finding(
        OK,
        f"Precision of matrix products: {precision or 'the default'}; XLA_FLAGS: "
        f"{given.get('XLA_FLAGS') or 'none given'}.",
    )


def settings() -> Iterator[Finding]:
    """Of this process."""
    import jax

    precision = jax.config.jax_default_matmul_precision
    yield from check_settings(jax.config.jax_enable_x64, precision, os.environ)


def check_cache(folder: str | None, enabled: bool) -> Iterator[Finding]:
    """The folder of compiled programs."""
    if not enabled or not folder:
        yield Finding(
            LOOK,
            "Compiled programs are not kept, so that every start compiles anew.",
            "unset JAX_ENABLE_COMPILATION_CACHE",
        )
        return
    path = Path(folder)
    parent = _existing(path)
    if not os.access(parent, os.W_OK | os.X_OK):
        yield Finding(
            LOOK,
            f"Compiled programs can't be kept: {parent} can't be written.",
            "set JAX_COMPILATION_CACHE_DIR to a folder that can",
        )
        return
    held = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    yield Finding(OK, f"Compiled programs are kept in {path} ({size(held)} now).")


def cache() -> Iterator[Finding]:
    """Of the commands: where they keep what this one may not have made yet."""
    import jax

    from experiments import compiler

    enabled = jax.config.jax_enable_compilation_cache
    folder = jax.config.jax_compilation_cache_dir or str(compiler.cache_folder())
    yield from check_cache(folder, enabled)


def check_cores(
    cores: int, usable: int, load: float, given: Mapping[str, str]
) -> Iterator[Finding]:
    """The processor's cores, and settings that leave some of them idle."""
    if usable < cores:
        yield Finding(
            LOOK, f"{usable} of {cores} CPU cores may be used.", "widen taskset or the container"
        )
    else:
        yield Finding(OK, f"{cores} CPU cores.")
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        if given.get(name, "").isdigit() and int(given[name]) < usable:
            yield Finding(
                OK, f"{name} is {given[name]}: it slows NumPy and PyTorch down, and not JAX."
            )
    if "xla_cpu_multi_thread_eigen=false" in given.get("XLA_FLAGS", ""):
        yield Finding(
            LOOK,
            "XLA_FLAGS has --xla_cpu_multi_thread_eigen=false: JAX uses one core.",
            "take it out of XLA_FLAGS",
        )
    if load > 1.5 * usable:
        yield Finding(
            LOOK,
            f"The load is {load:.1f} on {usable} cores: other programs run, and times will be long.",
            "wait for them, or measure no times now",
        )


def cores() -> Iterator[Finding]:
    """Of this process."""
    count = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    yield from check_cores(count, usable, load, os.environ)


def available_memory(root: str = "/") -> int | None:
    """Bytes that can be had: of the machine, and of the process's group if that has a limit."""
    try:
        lines = Path(root, "proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in _CGROUP:
        try:
            texts = [Path(root, name.lstrip("/")).read_text().strip() for name in (limit, used)]
        except OSError:
            continue
        if texts[0].isdigit():
            found.append(max(0, int(texts[0]) - int(texts[1])))
    return min(found, default=None)


def check_memory(free: int | None, needed: float, what: str) -> Iterator[Finding]:
    """Memory that is free against what is needed for `what`."""
    if free is None:
        yield Finding(OK, "How much memory is free can't be told on this system.")
    elif free < needed:
        yield Finding(
            PROBLEM,
            f"{size(free)} of memory are free but {what} needs about {size(needed)}.",
            "close other programs, raise the container's limit, or make config.batch_size smaller",
        )
    else:
        yield Finding(OK, f"{size(free)} of memory are free; {what} needs about {size(needed)}.")


def memory() -> Iterator[Finding]:
    """Of this process."""
    yield from check_memory(available_memory(), LEAST_MEMORY, "a small run")


def check_disk(free: int, needed: float, folder: object) -> Iterator[Finding]:
    """Space on a disk."""
    if free < needed:
        yield Finding(
            PROBLEM,
            f"{size(free)} are free where {folder} is, less than {size(needed)}.",
            "free space, or name another folder",
        )
    else:
        yield Finding(OK, f"{size(free)} are free where {folder} is.")


def check_folder(folder: str) -> Iterator[Finding]:
    """Whether something can be written to a folder, and how much."""
    parent = _existing(Path(folder).expanduser().absolute())
    if not parent.is_dir():
        yield Finding(
            PROBLEM, f"{folder} can't be made: {parent} is a file.", "name another folder"
        )
        return
    if not os.access(parent, os.W_OK | os.X_OK):
        yield Finding(PROBLEM, f"{parent} can't be written.", "name a folder that is yours")
        return
    yield from check_disk(shutil.disk_usage(parent).free, LEAST_DISK, folder)


def _existing(path: Path) -> Path:
    """The nearest folder above, or the path itself, that is there."""
    return next(p for p in (path, *path.parents) if p.exists())
