"""One process at a time in a run's folder, by a lock that the kernel gives up when the process ends."""

import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import filelock

from experiments.system.errors import UserError

LOCK = ".lock"
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which is made if it is not there.

    Afterwards the lock's file is gone, and so is the folder if nothing was put into it. Processes that
    share a run take one lock together: that with `jax.process_index() == 0` takes it for all. Where the
    file system has no locks, that is said on standard error and the body runs without.

    Args:
      folder: of the run.

    Raises:
      UserError: another process, which the sentence names, holds it; or nothing can be written there.
    """
    path, made = folder / LOCK, [p for p in (folder, *folder.parents) if not p.exists()]
    lock, holder = filelock.FileLock(path, timeout=0, on_acquired=_sign), os.getpid()
    try:
        _acquire(lock, path)
    except OSError as error:
        _remove(made)
        raise UserError(
            f"{folder} can't be written ({error.strerror}); mend that or choose another --workdir."
        ) from error
    except UserError:
        _remove(made)
        raise
    try:
        yield
    finally:
        if os.getpid() == holder:  # and not in a forked child
            with contextlib.suppress(OSError):
                path.unlink()  # while it is locked, so that it is nobody else's
            lock.release()
            _remove(made)


def _acquire(lock: filelock.FileLock, path: Path) -> None:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
            return
        except filelock.Timeout:
            if path.exists():  # else its holder has just deleted it
                raise UserError(
                    f"{path.parent} is in use by {_holder(path)}; wait until it has finished, stop "
                    "it, or choose another --workdir."
                ) from None
        except FileNotFoundError:
            continue  # who held it before took the folder with it
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            print(
                f"{path.parent} can't be locked ({error.strerror}): see to it yourself that no "
                "other process uses it.",
                file=sys.stderr,
            )
            return


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(
        descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname()}).encode()
    )


def _holder(path: Path) -> str:
    try:
        found = json.loads(path.read_bytes())
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is only just writing its name
        return "another process"


def _remove(folders: list[Path]) -> None:
    """Deletes folders that are empty, innermost first."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
