"""How the commands that train use memory, by glibc's environment; see docs/performance.md."""

import os
import sys
from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
# Huge pages; and a heap that keeps what a step frees, where glibc would return it to the system, which
# clears it again for the next step.
_TUNABLES = {"hugetlb": 1, "arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40}


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """An environment whose processes use memory so, but for what it says of malloc already."""
    tunables = given.get(_VARIABLE, "")
    names = {f"glibc.malloc.{name}": value for name, value in _TUNABLES.items()}
    added = (f"{name}={value}" for name, value in names.items() if name not in tunables)
    return {**given, _VARIABLE: ":".join(filter(None, [tunables, *added]))}


def with_tuned_memory() -> None:
    """Starts this process anew in such an environment, on Linux, before JAX is imported."""
    wanted = environment(os.environ)
    if sys.platform == "linux" and wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
