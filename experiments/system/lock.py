"""One process at a time in a run's folder, by a lock that the kernel gives up when the process ends."""

import contextlib
import errno
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
    """Keeps other processes out of a folder, which is made, and deleted again if it stays empty."""
    path, made = folder / LOCK, [p for p in (folder, *folder.parents) if not p.exists()]
    lock = filelock.FileLock(path, timeout=0, on_acquired=_sign)
    try:
        _acquire(lock, path)
        yield
    finally:
        if lock.is_locked:  # so that the file is nobody else's
            path.unlink(missing_ok=True)
            lock.release()
        with contextlib.suppress(OSError):  # not empty
            for each in made:
                each.rmdir()


def _acquire(lock: filelock.FileLock, path: Path) -> None:
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise UserError(
            f"{folder} is in use by {path.read_text() or 'another process'}; wait until it has "
            "finished, stop it, or choose another --workdir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(
                f"{folder} can't be written ({error.strerror}); mend that or choose another --workdir."
            ) from error
        path.unlink(missing_ok=True)
        print(
            f"{folder} can't be locked ({error.strerror}): see to it yourself that no other process "
            "uses it.",
            file=sys.stderr,
        )


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
