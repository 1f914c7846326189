"""Files that are either whole or not there, and reading those of others."""

import contextlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from experiments.system.errors import UserError


@contextlib.contextmanager
def open_npz(path: str | os.PathLike[str], what: str) -> Iterator[np.lib.npyio.NpzFile]:
    """An .npz file of plain arrays, open for reading.

    Raises:
      UserError: the file is none, or an array that is read in the body can't be; it says that the path
        can't be read as `what`.
    """
    try:
        with open(path, "rb") as stream, np.load(stream) as file:
            yield file
    except UserError:
        raise
    except (OSError, ValueError, EOFError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} can't be read as {what}; write it anew with numpy.savez."
        ) from error


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file under a temporary name beside it, then renames it into place."""
    path = Path(path)
    # Of this process alone: numbers of processes repeat on other hosts.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON: one line for every entry of a list at the top, so that changes can be read."""
    write_atomically(path, to_json(value))


def to_json(value: dict[str, Any]) -> str:
    """A dictionary as JSON, each entry of the lists in it on a line of its own.

    Example:
      >>> print(to_json({"a": 1, "b": [{"c": 2}, {"c": 3}]}), end="")
      {
       "a": 1,
       "b": [
        {"c": 2},
        {"c": 3}
       ]
      }
    """
    items = []
    for name, entry in value.items():
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            rows = ",\n".join(f"  {_dumps(row)}" for row in entry)
            items.append(f" {_dumps(name)}: [\n{rows}\n ]")
        elif isinstance(entry, dict):
            text = json.dumps(entry, indent=1, allow_nan=False).replace("\n", "\n ")
            items.append(f" {_dumps(name)}: {text}")
        else:
            items.append(f" {_dumps(name)}: {_dumps(entry)}")
    return "{\n" + ",\n".join(items) + "\n}\n"


def _dumps(value):
    return json.dumps(value, allow_nan=False)
