"""Huge memory pages for the commands that train, by glibc's environment; see docs/performance.md."""

import os
import sys
from collections.abc import Mapping

_TUNABLES, _HUGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb"


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """An environment whose processes use huge pages, unless it says something about them already."""
    tunables = given.get(_TUNABLES, "")
    if _HUGE_PAGES not in tunables:
        tunables = f"{tunables}:{_HUGE_PAGES}=1".lstrip(":")
    return {**given, _TUNABLES: tunables}


def with_huge_pages() -> None:
    """Starts this process anew in such an environment, on Linux, before JAX is imported."""
    wanted = environment(os.environ)
    if sys.platform == "linux" and wanted != dict(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)
