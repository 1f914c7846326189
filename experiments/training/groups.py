"""Training of several runs of one program as one: for accelerators that one run leaves idle.

One call trains all of them, vectorised over a leading axis. On a mesh with the axis `run` every run has
devices of its own, where it starts, is saved and is evaluated as if it were alone; the call of a group
is one program of all of these devices, without communication between runs.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np

import subspace_jax as ss
from experiments.training import placement, steps
from experiments.training.history import History, NonFiniteLoss
from experiments.training.model import on_cpu
from experiments.training.run import Run


class Member(NamedTuple):
    """A run of a group.

    Attributes:
      run: what is trained.
      state: where it starts.
      history: takes its metrics.
      on_epoch: as for `steps.fit`.
    """

    run: Run
    state: ss.TrainState
    history: History
    on_epoch: steps.OnEpoch = steps.nothing_on_epoch


def fit(members: Sequence[Member]) -> Iterator[list[ss.TrainState | NonFiniteLoss]]:
    """`steps.fit` of several runs: yields the states of all of them after every call.

    A run that diverged has the error in place of its state, and the others go on without it.

    Args:
      members: the runs, which need not be of one program; those that are, are trained by one call.
    """
    found = [member.state for member in members]

    def noted(i, note, *arguments):
        try:
            note(*arguments)
        except NonFiniteLoss as error:
            found[i] = error

    with contextlib.ExitStack() as stack:
        given = [steps.arguments_of_calls(m.run, int(m.state.step)) for m in members]
        for calls in given:
            stack.enter_context(contextlib.closing(calls))
        while True:
            going = [i for i, state in enumerate(found) if not isinstance(state, NonFiniteLoss)]
            made = {i: call for i in going if (call := next(given[i], None)) is not None}
            if not made:
                break
            calls = [(members[i].run.program, (found[i], *made[i][0])) for i in made]
            for i, (state, metrics) in zip(made, train(calls), strict=True):
                found[i] = state
                run, _, history, on_epoch = members[i]
                noted(i, steps.took, run, state, history, metrics | made[i][1], on_epoch)
            yield list(found)
    for i, member in enumerate(members):
        if not isinstance(found[i], NonFiniteLoss):
            noted(i, member.history.flush)
    yield found


def train(calls: Sequence[tuple]) -> list[tuple]:
    """Calls of several runs, `(program, arguments of train_call)`: those of one program as one."""
    results: dict[int, tuple] = {}
    groups: dict[tuple, list[tuple]] = {}
    for number, (program, arguments) in enumerate(calls):
        _, _, _, images, labels, indices = arguments
        # Of one program, but for the devices.
        shared = dataclasses.replace(program, model=dataclasses.replace(program.model, mesh=None))
        same = (shared, images.shape, labels.shape, np.shape(indices))
        groups.setdefault(same, []).append((number, program, arguments))
    for group in groups.values():
        for block in _blocks(group):
            numbers = [number for row in block for number, _, _ in row]
            results |= dict(zip(numbers, _train_block(block), strict=True))
    return [results[number] for number in range(len(calls))]


def _blocks(calls: list[tuple]) -> Iterable[list[list[tuple]]]:
    """Calls that can be made as one: as many on every mesh, with one array of images on each."""
    waiting: dict[tuple, list[tuple]] = {}
    for call in calls:
        _, program, (_, _, _, images, _, _) = call
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


def _train_block(block: list[list[tuple]]) -> list[tuple]:
    program = block[0][0][1]
    rows = [[arguments for _, _, arguments in row] for row in block]
    if len(block) == 1:
        return _call(rows[0], program)
    return _call_apart(rows, [row[0][1].model.mesh for row in block], program)


def _call(calls: list[tuple], program) -> list[tuple]:
    if len(calls) == 1:
        return [steps.train_call(*calls[0], program=program, unroll=on_cpu())]
    states = [state for state, *_ in calls]
    others = [(hyper, key, labels, indices) for _, hyper, key, _, labels, indices in calls]
    return steps.train_calls(states, others, calls[0][3], program=program, unroll=on_cpu())


def _call_apart(rows: list[list[tuple]], meshes: list, program) -> list[tuple]:
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
    found = steps.train_apart(states, others, images, program=program, unroll=on_cpu())
    return [result for row in placement.parted(mesh, found) for result in row]
