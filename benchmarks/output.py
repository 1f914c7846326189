"""How the benchmarks end: a JSON file and a table in a folder, or one sentence and exit code 2."""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks import rounds
from experiments.system import cli, files
from experiments.system.errors import UserError


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
