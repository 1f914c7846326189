"""A finding: how bad it is, what was found, what mends it; and checks that can't fail."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

# As it should be; worth knowing, nothing to do; it may be meant so; it is wrong.
OK, NOTE, LOOK, PROBLEM = "ok", "-", "look", "problem"
INSTALL = "python -m pip install -e '.[experiments]'"


class Finding(NamedTuple):
    """A level, what was found, and what to do about it."""

    level: str
    what: str
    fix: str = ""

    def __str__(self) -> str:
        fix = f" -> {self.fix}" if self.fix else ""
        return " ".join(f"{self.level:8} {self.what}{fix}".split("\n"))


def guarded(check: Callable[..., Iterable[Finding]], *args) -> list[Finding]:
    """The findings of a check; what it raises is one of them, and keeps no other one back."""
    found = []
    try:
        for finding in check(*args):
            found.append(finding)
    except Exception as error:
        text = " ".join(str(error).split())[:500]
        if type(error).__name__ == "UserError":  # a sentence that says the fix itself
            what, _, fix = text.partition("; ")
        else:
            what = f"The check {check.__name__} failed: {type(error).__name__}: {text}"
            fix = "mend what it names, or report it as a bug of the doctor"
            fix = INSTALL if isinstance(error, ModuleNotFoundError) else fix
        found.append(Finding(PROBLEM, what, fix))
    return found


def first(*rows: tuple) -> Finding:
    """The finding of the first row whose condition holds: condition, level, what, and perhaps a fix."""
    return next(Finding(*row) for holds, *row in rows if holds)


def size(num_bytes: float) -> str:
    """A number of bytes for people, such as 3.2 GB."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"


def existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())
