"""One process at a time in a run's folder, by a lock that the kernel gives up when the process ends."""

import contextlib
import errno
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from experiments.errors import UserError

try:
    import fcntl
except ModuleNotFoundError:  # not on Windows
    fcntl = None

LOCK = ".lock"
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS, errno.EINVAL)
_held: set[int] = set()


def _leave_to_parent() -> None:
    """A forked child shares its parent's lock, and would keep it when the parent is dead."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


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
    try:
        descriptor = _acquire(path)
    except OSError as error:
        _remove(made)
        raise UserError(
            f"{folder} can't be written ({error.strerror}); mend that or choose another --workdir."
        ) from error
    except UserError:
        _remove(made)
        raise
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:  # and not in a forked child
            with contextlib.suppress(OSError):
                path.unlink()  # while it is locked: see _acquire
            _held.discard(descriptor)
            os.close(descriptor)
            _remove(made)


def _acquire(path: Path) -> int:
    """The descriptor of the lock's file, locked and with the name of this process in it."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closed by exec
        except FileNotFoundError:
            continue  # who held it before took the folder with it
        try:
            _lock(descriptor, path)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                holder = {"process": os.getpid(), "host": socket.gethostname()}
                os.pwrite(descriptor, json.dumps(holder).encode(), 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder deleted the file after it was opened here


def _lock(descriptor: int, path: Path) -> None:
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"{path.parent} is in use by {_holder(descriptor)}; wait until it has finished, stop it, "
            "or choose another --workdir."
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        print(
            f"{path.parent} can't be locked ({error.strerror}): see to it yourself that no other "
            "process uses it.",
            file=sys.stderr,
        )


def _holder(descriptor: int) -> str:
    try:
        found = json.loads(os.pread(descriptor, 1000, 0))
        return f"process {found['process']} on {found['host']}"
    except (ValueError, KeyError, TypeError):  # it is only just writing its name
        return "another process"


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _remove(folders: list[Path]) -> None:
    """Deletes folders that are empty, innermost first."""
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return
