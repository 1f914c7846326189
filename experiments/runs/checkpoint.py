"""Checkpoints that are whole or not there, written while training goes on, and verified when read."""

import contextlib
import errno
import functools
import hashlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from experiments.runs.workdir import DAMAGED
from experiments.system import hosts
from experiments.system.errors import UserError
from subspace_jax.tree import PyTree

# Orbax numbers the saves of a process: two that threads begin at once take each other's folders.
_ONE_SAVE = threading.Lock()


@functools.cache
def _quiet_orbax() -> None:
    """Orbax prints the tracebacks of its threads and raises their errors too: once is enough."""
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    previous = sys.unraisablehook

    def hook(unraisable):
        if "Event loop is closed" not in str(unraisable.exc_value):
            previous(unraisable)

    sys.unraisablehook = hook


class Checkpoints:
    """The last two states of a run in a folder, by Orbax: arrays, and JSON with their SHA-256."""

    def __init__(self, folder: str | os.PathLike[str]):
        _quiet_orbax()
        self._folder = Path(folder).absolute()
        self._opened: ocp.CheckpointManager | None = None  # not before something is saved or read
        self.last = time.monotonic()  # when the last one was saved

    @property
    def _manager(self) -> ocp.CheckpointManager:
        if self._opened is None:
            options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=True)
            self._opened = ocp.CheckpointManager(self._folder, options=options)
        return self._opened

    def save(self, step: int, state: PyTree, record: dict) -> None:
        """Starts to write a checkpoint, unless there is one of this step; arrays are copied before."""
        if step == self._manager.latest_step():
            return
        arrays = jax.tree.map(_copied, state)
        record = record | {"sha256": _digest(arrays), "arrays": _shapes(arrays)}
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays), record=ocp.args.JsonSave(record)
        )
        with self._explained(step), _ONE_SAVE:
            self._manager.save(step, args=args)
        self.last = time.monotonic()

    def restore(self, like: PyTree) -> tuple[PyTree, dict] | None:
        """The newest intact state like `like`, and its record; damaged ones are named and moved away."""
        if not self._folder.exists():
            return None
        damaged = {}
        for step, restored, reason in self._read(like):
            if hosts.any_of(bool(reason))[0]:
                damaged[step] = reason or "another process can't read it"
                continue
            for bad, reason in damaged.items():
                target = self._put_aside(bad)
                if hosts.is_first():
                    print(
                        f"Checkpoint {self._folder / str(bad)} is damaged ({reason}); it is now "
                        f"{target}, and {step} is used.",
                        file=sys.stderr,
                    )
            return restored
        if damaged:
            paths = ", ".join(str(self._folder / str(step)) for step in damaged)
            raise UserError(
                f"No checkpoint can be read: {paths} ({next(iter(damaged.values()))}); restore one of "
                "them from a copy, or start anew with --overwrite."
            )
        return None

    def examine(self, like: PyTree) -> dict[int, str]:
        """Why each checkpoint can't be read, empty if it is intact; nothing is moved or written."""
        return {step: reason for step, _, reason in self._read(like)}

    def _read(self, like) -> Iterator[tuple[int, tuple[PyTree, dict] | None, str]]:
        """Each step with its state and record, or with the reason why it can't be read."""
        like = jax.tree.map(_target, like)
        for step in sorted(self._manager.all_steps(), reverse=True):
            restored, reason = None, ""
            try:
                restored = self._restore(step, like)
            except UserError:
                raise
            except Exception as error:  # whatever Orbax and its storage raise on damaged files
                reason = " ".join(str(error).split())[:200] or type(error).__name__
            yield step, restored, reason

    def _restore(self, step, like):
        record = ocp.args.Composite(record=ocp.args.JsonRestore())
        there = self._manager.restore(step, args=record).record.get("arrays")
        here = _shapes(like)
        if there not in (None, here):  # an older one does not say
            name = next(n for n in [*here, *there] if there.get(n) != here.get(n))
            raise UserError(
                f"Checkpoint {self._folder / str(step)} is of another network, optimizer or version "
                f"({name} is {there.get(name, 'missing')} there and {here.get(name, 'missing')} here); "
                f"take the config that it was made with, move {self._folder} away, or start anew with "
                "--overwrite."
            )
        args = ocp.args.Composite(
            state=ocp.args.StandardRestore(like), record=ocp.args.JsonRestore()
        )
        restored = self._manager.restore(step, args=args)
        digest = _digest(restored.state)
        if restored.record["sha256"] != digest:
            raise ValueError(f"SHA-256 is {digest}, not {restored.record['sha256']} as written")
        return jax.tree.map(jnp.asarray, restored.state), restored.record

    def _put_aside(self, step) -> Path:
        self._manager.close()
        target = self._folder.with_name(f"{DAMAGED}{step}")
        if hosts.is_first():
            shutil.rmtree(target, ignore_errors=True)
            os.rename(self._folder / str(step), target)
        hosts.any_of(False)  # not before it is done
        self._opened = None
        return target

    def close(self) -> None:
        """Waits for what is being written."""
        if self._opened is not None:
            with self._explained(self._opened.latest_step()):
                self._opened.close()
            self._opened = None

    def _explained(self, step):
        return full_disk(f"checkpoint {step} could not be written to {self._folder}")


def _is_whole(leaf) -> bool:
    """Whether this process has all of an array."""
    return not isinstance(leaf, jax.Array) or leaf.is_fully_addressable


def _copied(leaf):
    """A copy: on a CPU the arrays of a device may be those that the next call overwrites."""
    if _is_whole(leaf):
        return np.array(leaf)
    # Elsewhere Orbax copies to the host before it returns.
    return jnp.copy(leaf) if jax.default_backend() == "cpu" else leaf


def _target(leaf):
    """What Orbax restores a leaf like: whole, or each process its part."""
    if _is_whole(leaf):
        return np.zeros(leaf.shape, leaf.dtype)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


@contextlib.contextmanager
def full_disk(what: str) -> Iterator[None]:
    """Turns the many forms of "no space left on device" into a sentence that begins with `what`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or not _is_full_disk(error):
            raise
        raise UserError(
            f"The disk is full: {what}; free space and run the same command again, it resumes from the "
            "last checkpoint, which is kept."
        ) from error


def _is_full_disk(error) -> bool:
    messages = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "RESOURCE_EXHAUSTED")
    while error is not None:
        if any(message in str(error) for message in messages):
            return True
        error = error.__cause__ or error.__context__
    return False


def _shapes(arrays: PyTree) -> dict[str, str]:
    """Names of all arrays with their dtypes and shapes."""
    return {
        jax.tree_util.keystr(path): f"{array.dtype} {list(array.shape)}"
        for path, array in jax.tree.leaves_with_path(arrays)
    }


def _digest(arrays: PyTree) -> str:
    digest = hashlib.sha256()
    for path, array in jax.tree.leaves_with_path(arrays):
        array = hosts.fetch(array)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
