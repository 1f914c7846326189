"""Training calls of several runs of one program, made as one: for accelerators that one run leaves idle.

Every run is a thread that trains as if it were alone. Its calls wait until all runs of the group have
made one; then one call trains all of them, vectorised over a leading axis. A run that ends, or fails,
leaves the group, and the others go on without it.

On a mesh with the axis `run` every run has devices of its own, where it starts, is saved and is
evaluated as if it were alone; the call of a group is one program of all of these devices, without
communication between runs.
"""

import concurrent.futures
import dataclasses
import functools
import itertools
import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import numpy as np

from experiments.training import placement, steps


class Member(NamedTuple):
    """A run of a group, or a run alone.

    Attributes:
      at_once: how many runs make their calls together.
      slot: the place of the run in its group: 0, 1, 2, ...; `None` for a run that has none.
      call: with the arguments and results of `steps.train_call`, which it is if it is `None`.
      leave: ends the membership; whoever waits for this member goes on.
    """

    at_once: int = 1
    slot: int | None = None
    call: Callable | None = None
    leave: Callable[[], None] = lambda: None


ALONE = Member()


class Together:
    """Makes calls of runs together.

    Args:
      at_once: how many runs are a group; with 1 every run makes its calls alone.

    Example:
      >>> together = Together(2)
      >>> together.enter(["a", "b"])
      >>> together.leave("b")
      >>> together.members
      {'a'}
    """

    def __init__(self, at_once: int):
        self.at_once = at_once
        self.members: set[str] = set()
        self._slots: dict[str, int] = {}
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple] = {}

    def enter(self, names: Iterable[str]) -> None:
        """Adds runs to the group, before any of them trains: no call is made without them."""
        with self._lock:
            names = list(names)
            self.members.update(names)
            self._slots = {name: i for i, name in enumerate(names)}

    def member(self, name: str) -> Member:
        """A run that has entered."""
        with self._lock:
            slot = self._slots.get(name, 0)
        call = None if self.at_once == 1 else self.call(name)
        return Member(self.at_once, slot, call, functools.partial(self.leave, name))

    def call(self, name: str) -> Callable:
        """A member's `train.train_call`: the same arguments and results."""

        def together(*arguments, program, unroll):
            future = concurrent.futures.Future()
            with self._lock:
                self._waiting[name] = (arguments, (program, unroll), future)
                ready = self._ready()
            _make(ready)
            return future.result()

        return together

    def leave(self, name: str) -> None:
        """Ends the membership, if it has not ended yet; whoever waits for this member goes on."""
        with self._lock:
            self.members.discard(name)
            ready = self._ready()
        _make(ready)

    def _ready(self) -> list[tuple]:
        if self._waiting.keys() != self.members:
            return []
        ready = list(self._waiting.values())
        self._waiting.clear()
        return ready


def _make(calls: list[tuple]) -> None:
    groups: dict[tuple, list[tuple]] = {}
    for call in calls:
        (_, _, _, images, labels, indices), (program, unroll), _ = call
        # Of one program, but for the devices.
        model = dataclasses.replace(program.model, mesh=None)
        program = dataclasses.replace(program, model=model)
        same = (program, unroll, images.shape, labels.shape, np.shape(indices))
        groups.setdefault(same, []).append(call)
    for group in groups.values():
        for block in _blocks(group):
            _make_block(block)


def _blocks(calls: list[tuple]) -> Iterable[list[list[tuple]]]:
    """Calls that can be made as one: as many on every mesh, with one array of images on each."""
    waiting: dict[tuple, list[tuple]] = {}
    for call in calls:
        (_, _, _, images, _, _), (program, _), _ = call
        # The same images, not equal ones: each call has them once.
        waiting.setdefault((program.model.mesh, id(images)), []).append(call)
    while waiting:
        # In the order of the devices, whoever came first: it is part of what is compiled.
        rows = sorted(
            {mesh: (mesh, images) for mesh, images in waiting}.values(), key=_first_device
        )
        depth = min(len(waiting[row]) for row in rows)
        yield [waiting[row][:depth] for row in rows]
        waiting = {
            row: left for row, of in waiting.items() if (left := of[depth:] if row in rows else of)
        }


def _first_device(row: tuple) -> int:
    mesh, _ = row
    return 0 if mesh is None else mesh.devices.flat[0].id


def _make_block(block: list[list[tuple]]) -> None:
    futures = [future for row in block for _, _, future in row]
    program, unroll = block[0][0][1]
    arguments = [[call for call, _, _ in row] for row in block]
    meshes = [row[0][1][0].model.mesh for row in block]
    try:
        if len(block) > 1:
            results = _call_apart(arguments, meshes, program, unroll)
        else:
            results = _call(arguments[0], program, unroll)
    except BaseException as error:  # every member raises it
        for future in futures:
            future.set_exception(error)
    else:
        for future, result in zip(futures, results, strict=True):
            future.set_result(result)


def _call(calls: list[tuple], program, unroll) -> list[tuple]:
    if len(calls) == 1:
        return [steps.train_call(*calls[0], program=program, unroll=unroll)]
    states = [state for state, *_ in calls]
    others = [(hyper, key, labels, indices) for _, hyper, key, _, labels, indices in calls]
    return steps.train_calls(states, others, calls[0][3], program=program, unroll=unroll)


def _call_apart(rows: list[list[tuple]], meshes: list, program, unroll) -> list[tuple]:
    """One call of runs on several meshes, as many on each."""
    mesh = placement.beside(meshes)
    program = dataclasses.replace(program, model=dataclasses.replace(program.model, mesh=mesh))
    states = placement.joined(mesh, [[state for state, *_ in row] for row in rows])
    for state, *_ in itertools.chain(*rows):  # donated: only the joined copy is kept
        jax.tree.map(lambda leaf: leaf.delete(), state)
    others = placement.joined(
        mesh,
        [
            [(hyper, key, labels, indices) for _, hyper, key, _, labels, indices in row]
            for row in rows
        ],
    )
    images = placement.shared(mesh, [row[0][3] for row in rows])
    found = steps.train_apart(states, others, images, program=program, unroll=unroll)
    return [result for row in placement.parted(mesh, found) for result in row]
