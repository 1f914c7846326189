"""How the commands that train use memory, by glibc's environment; see docs/performance.md."""

import os
import sys
from collections.abc import Mapping

_VARIABLE = "GLIBC_TUNABLES"
_HUGE_PAGES = {"hugetlb": 1}
# One heap that keeps what a step frees, where glibc would return it to the system, which clears it again
# for the next step. Threads that compile or train at once would wait for each other's turn in it.
_ONE_HEAP = {"arena_max": 1, "mmap_max": 0, "trim_threshold": 2**40}


def environment(given: Mapping[str, str], *, threads: bool = False) -> dict[str, str]:
    """An environment that says so, but for what it says of malloc already; for one run or several."""
    tunables = given.get(_VARIABLE, "")
    wanted = _HUGE_PAGES | ({} if threads else _ONE_HEAP)
    names = {f"glibc.malloc.{name}": value for name, value in wanted.items()}
    added = (f"{name}={value}" for name, value in names.items() if name not in tunables)
    return {**given, _VARIABLE: ":".join(filter(None, [tunables, *added]))}


def with_tuned_memory(*, threads: bool = False) -> None:
    """Starts this process anew in such an environment, on Linux, before JAX is imported."""
    wanted = environment(os.environ, threads=threads)
    if sys.platform == "linux" and wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
