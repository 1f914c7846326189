"""How the benchmarks begin and end: arguments; a record and its table, or one sentence and code 2."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from benchmarks import rounds
from experiments.system import cli, files
from experiments.system.errors import UserError


def at_least(options: argparse.Namespace, **minima: int) -> None:
    """Refuses counts that are too small."""
    for name, minimum in minima.items():
        if (value := getattr(options, name)) < minimum:
            raise UserError(f"--{name} is {value}; use at least {minimum}.")


def write(
    measure: Callable[[], dict], markdown: Callable[[dict], str], folder: Path, name: str
) -> int:
    """Measures, writes `NAME.json` and `NAME.md`, prints the table; returns the exit code."""
    try:
        results = measure()
        folder.mkdir(parents=True, exist_ok=True)
        text = markdown(results)
        files.write_atomically(folder / f"{name}.json", json.dumps(results, indent=1))
        files.write_atomically(folder / f"{name}.md", text)
    except (UserError, rounds.Failed) as error:
        return cli.fail(error)
    except OSError as error:
        return cli.fail(f"{error.filename or folder} can't be written: {error.strerror}.")
    print(text)
    return 0
