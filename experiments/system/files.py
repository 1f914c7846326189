"""Files that are either whole or not there, and reading those of others."""

import contextlib
import functools
import io
import json
import math
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.system.errors import UserError


@contextlib.contextmanager
def open_npz(path: str | os.PathLike[str], what: str) -> Iterator[np.lib.npyio.NpzFile]:
    """An .npz file of plain arrays, open for reading; a `UserError` says if it is none of `what`."""
    try:
        with open(path, "rb") as stream, np.load(stream) as file:
            yield file
    except UserError:
        raise
    except Exception as error:  # whatever zip, zlib and NumPy raise on damaged files
        reason = getattr(error, "strerror", None) or "it is no .npz file of plain arrays"
        raise UserError(
            f"{path} can't be read as {what} ({reason}); name another one, or write it anew with "
            "numpy.savez."
        ) from error


def open_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """A plain array in an .npy file, whose parts are read when they are used."""
    try:
        return np.load(path, mmap_mode="r")
    except Exception as error:  # whatever NumPy raises on damaged files
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path} can't be read as an .npy file ({reason}); unpack or write it anew."
        ) from error


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as an .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_atomically(path, buffer.getbuffer())


def write_atomically(path: str | os.PathLike[str], content: str | bytes | memoryview) -> None:
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


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder, in one for scratch, that is moved to its place when whole, for an older one."""
    # Beside its place, so that it can be moved there.
    beside = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=beside) as scratch:
        made, older = Path(scratch) / "made", Path(scratch) / "older"
        made.mkdir()
        yield made
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.rename(path, older)
        try:
            os.rename(made, path)
        except BaseException:  # a signal too: the older one stays
            if older.exists():
                os.rename(older, path)
            raise


def plain(value: Any, digits: int | None = None) -> Any:
    """JSON values: arrays and tuples as lists, `None` for what is not finite, floats of some digits."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(entry, digits) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry, digits) for entry in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return None
    return value if digits is None else float(f"{value:.{digits}g}")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes JSON: one line for every entry of a list at the top, so that changes can be read."""
    write_atomically(path, to_json(value))


def to_json(value: dict[str, Any]) -> str:
    """A dictionary as JSON, each entry of the lists in it on a line of its own."""
    dumps, items = functools.partial(json.dumps, allow_nan=False), []
    for name, entry in value.items():
        if isinstance(entry, list) and entry and isinstance(entry[0], dict):
            rows = ",\n".join(f"  {dumps(row)}" for row in entry)
            text = f"[\n{rows}\n ]"
        elif isinstance(entry, dict):
            text = dumps(entry, indent=1).replace("\n", "\n ")
        else:
            text = dumps(entry)
        items.append(f" {dumps(name)}: {text}")
    return "{\n" + ",\n".join(items) + "\n}\n"
