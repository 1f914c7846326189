"""Huge memory pages for the commands, decided before anything is imported.

A training step on a CPU moves hundreds of megabytes of activations, and the C library asks for them
anew in every step: in pages of 4 KiB, each one a fault, with addresses that miss the processor's
tables. The GNU C library takes pages of 2 MiB if its environment says so when a process starts.
docs/performance.md has what that gains.
"""

import os
import sys
from collections.abc import Mapping

_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """An environment whose processes use huge pages, unless it says something about them already.

    Example:
      >>> environment({"GLIBC_TUNABLES": "glibc.malloc.check=1"})
      {'GLIBC_TUNABLES': 'glibc.malloc.check=1:glibc.malloc.hugetlb=1'}
    """
    tunables = given.get(_TUNABLES, "")
    if _HUGE_PAGES not in tunables:
        tunables = f"{tunables}:{_HUGE_PAGES}=1".lstrip(":")
    return {**given, _TUNABLES: tunables}


def with_huge_pages(package: str) -> None:
    """Starts this process anew (it keeps its number) in such an environment, if it is a command.

    Nothing happens elsewhere than on Linux, or where the package is imported by other code: it is a
    command while Python looks for `python -m PACKAGE.MODULE`.
    """
    arguments = sys.orig_argv
    wanted = environment(os.environ)
    is_command = sys.argv[:1] == ["-m"] and any(a.startswith(f"{package}.") for a in arguments)
    if sys.platform == "linux" and is_command and wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *arguments[1:]], wanted)
