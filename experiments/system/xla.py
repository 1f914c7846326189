"""How the commands use XLA: its flags and the cache of compiled programs; the library sets neither."""

import hashlib
import os
import pathlib
import platform
import warnings

import jax
import jaxlib

# YNNPACK's reductions, and XLA's own convolutions or oneDNN's instead of YNNPACK's: those of jaxlib 0.10
# run on one core from some sizes on. Add a version only after trying it there.
_YNN = "--xla_cpu_experimental_ynn_fusion_type"
_ONEDNN = "--xla_cpu_experimental_onednn_custom_call"
_CPU_FLAGS = {
    "0.10": {_YNN: "LIBRARY_FUSION_TYPE_REDUCE"},
    "0.12": {_YNN: "LIBRARY_FUSION_TYPE_REDUCE", _ONEDNN: "true"},
}


def configure() -> None:
    """Sets XLA's flags and the folder of compiled programs, where the user's environment has none."""
    flags = cpu_flags(os.environ.get("XLA_FLAGS", ""), jaxlib.__version__)
    if flags:
        os.environ["XLA_FLAGS"] = flags
    if has_onednn():  # XLA can't write such programs down, and compiles them in every process
        warnings.filterwarnings(
            "ignore", message="Error writing persistent compilation cache entry"
        )
    if jax.config.jax_enable_compilation_cache and not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder()))


def cpu_flags(given: str, version: str) -> str:
    """`XLA_FLAGS` for a version of jaxlib, those that are given included."""
    flags = _CPU_FLAGS.get(".".join(version.split(".")[:2]), {})
    added = (f"{flag}={value}" for flag, value in flags.items() if flag not in given)
    return " ".join([*given.split(), *added])


def has_onednn() -> bool:
    """Whether XLA's programs for a CPU call oneDNN."""
    return f"{_ONEDNN}=true" in os.environ.get("XLA_FLAGS", "").split()


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
