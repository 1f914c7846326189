"""How the commands use XLA: its flags and the cache of compiled programs; the library sets neither."""

import hashlib
import os
import pathlib
import platform

import jax
import jaxlib

# XLA's own thread-parallel convolutions instead of YNNPACK's, which jaxlib 0.10 runs on one core from
# some sizes on; reductions stay with YNNPACK. Add a version only after trying it there.
_CPU_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_CPU_FLAGS = {"0.10": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


def configure() -> None:
    """Sets XLA's flags and the folder of compiled programs, where the user's environment has none."""
    flags = cpu_flags(os.environ.get("XLA_FLAGS", ""), jaxlib.__version__)
    if flags:
        os.environ["XLA_FLAGS"] = flags
    if jax.config.jax_enable_compilation_cache and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))


def cpu_flags(given: str, version: str) -> str:
    """`XLA_FLAGS` for a version of jaxlib, those that are given included."""
    value = _CPU_FLAGS.get(".".join(version.split(".")[:2]))
    if value is None or _CPU_FLAG in given:
        return given
    return f"{given} {_CPU_FLAG}={value}".strip()


def cache_folder() -> pathlib.Path:
    """In the user's cache, apart for every kind of processor: machines share home folders."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    names = ("model name", "flags", "Features")
    kind = "\n".join(sorted({line for line in _cpuinfo() if line.startswith(names)}))
    kind = kind or f"{platform.machine()} {platform.processor()}"
    digest = hashlib.sha256(kind.encode()).hexdigest()[:12]
    return pathlib.Path(home) / "subspace_jax" / f"xla-{digest}"


def cpu_model() -> str:
    """The processor's name."""
    names = (line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _cpuinfo() -> list[str]:
    """What Linux says of the processors, by lines; elsewhere nothing."""
    path = pathlib.Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
