"""A finding: how bad it is, what was found, what mends it; and checks that can't fail."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

OK, LOOK, PROBLEM = "ok", "look", "problem"


class Finding(NamedTuple):
    """What a check found.

    Attributes:
      level: `OK`, `LOOK` (it may be meant so) or `PROBLEM`.
      what: what was found.
      fix: what to do about it; empty if nothing is to be done.
    """

    level: str
    what: str
    fix: str = ""

    def line(self) -> str:
        """The finding as one line.

        Example:
          >>> Finding(LOOK, "1 GB is free.", "Free some.").line()
          'look     1 GB is free. -> Free some.'
        """
        fix = f" -> {self.fix}" if self.fix else ""
        return " ".join(f"{self.level:8} {self.what}{fix}".split("\n"))


def guarded(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a check; what it raises is one of them.

    A `UserError` says the fix itself. Anything else is a mistake of the check, which is no reason to
    keep the other findings back.
    """
    found = []
    try:
        for finding in check():
            found.append(finding)
    except Exception as error:
        name = getattr(check, "__name__", type(check).__name__)
        text = " ".join(str(error).split())[:500]
        if type(error).__name__ == "UserError":
            what, _, fix = text.partition("; ")
            found.append(Finding(PROBLEM, what, fix))
        else:
            found.append(
                Finding(
                    PROBLEM,
                    f"The check {name} failed: {type(error).__name__}: {text}",
                    "mend what it names, or report it as a bug of the doctor",
                )
            )
    return found


def size(num_bytes: float) -> str:
    """A number of bytes for people.

    Example:
      >>> size(3_200_000_000), size(1_500_000)
      ('3.2 GB', '2 MB')
    """
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
