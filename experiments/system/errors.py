"""The exceptions that end a command: with a sentence and exit code 2, or saved and with 75."""

import contextlib
from collections.abc import Iterator

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: all is saved, and the same command goes on
KILLED = 130  # what shells say of a process that Ctrl-C has ended


class UserError(ValueError):
    """Something that the person at the keyboard can mend: one sentence, both values, the fix."""


class Interrupted(Exception):
    """A signal came; what was done is saved."""

    code = STOPPED


@contextlib.contextmanager
def needed_for(what: str) -> Iterator[None]:
    """Refuses what needs a package that the body imports, where that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(
            f"{what} needs {error.name}, which is not installed; pip install "
            "'subspace_jax[experiments]'."
        ) from error
