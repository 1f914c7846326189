"""Training of several runs as one: of one program, on accelerators, or of a network and its average.

One call trains all, vectorised over a leading axis. On a mesh with the axis `run` every run has devices
of its own, where it starts, is saved and is evaluated, and one program of all of them trains the group.
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
from experiments.training.run import Program, Run


class Member(NamedTuple):
    """A run of a group, where it starts, and what `steps.fit` takes besides."""

    run: Run
    state: ss.TrainState
    history: History
    on_epoch: steps.OnEpoch = lambda epoch, state: None
    of: int | None = None  # the member that takes its steps, and keeps an average besides


class _Call(NamedTuple):
    program: Program
    state: ss.TrainState
    images: jax.Array
    others: tuple  # hyper, key, labels, indices


def fit(members: Sequence[Member]) -> Iterator[list[ss.TrainState | NonFiniteLoss]]:
    """`steps.fit` of several runs: yields after every call all states, or errors of some."""
    found = [member.state for member in members]

    def noted(i, note, *arguments):
        try:
            note(*arguments)
        except NonFiniteLoss as error:
            found[i] = error

    with contextlib.ExitStack() as stack:
        given = [steps.arguments_of_calls(m.run, int(m.state.step)) for m in members]
        given = [stack.enter_context(contextlib.closing(calls)) for calls in given]
        while True:
            going = [i for i, state in enumerate(found) if not isinstance(state, NonFiniteLoss)]
            going = [i for i in going if members[i].of is None]
            made = {i: call for i in going if (call := next(given[i], None)) is not None}
            if not made:
                break
            calls = []
            for i, ((hyper, key, images, *rest), _) in made.items():
                calls.append(_Call(members[i].run.program, found[i], images, (hyper, key, *rest)))
            results = dict(zip(made, _train(calls), strict=True))
            for i, (run, begin, history, on_epoch, of) in enumerate(members):
                if (by := i if of is None else of) in results:
                    state, metrics = results[by]
                    links = state.opt_state[: len(begin.opt_state)]  # all, or all but the average
                    found[i] = state._replace(opt_state=links)
                    noted(i, steps.took, run, found[i], history, metrics | made[by][1], on_epoch)
            yield list(found)
    for i, member in enumerate(members):
        if not isinstance(found[i], NonFiniteLoss):
            noted(i, member.history.flush)
    yield found


def _train(calls: Sequence[_Call]) -> list[tuple]:
    """The results of calls, of which those of one program are made as one."""
    results: dict[int, tuple] = {}
    groups: dict[tuple, list[int]] = {}
    for i, (program, _, images, (_, _, labels, indices)) in enumerate(calls):
        # Of one program, but for the devices.
        same = (_on(program, None), images.shape, labels.shape, np.shape(indices))
        groups.setdefault(same, []).append(i)
    for group in groups.values():
        for block in _blocks(calls, group):
            found = _train_block([[calls[i] for i in row] for row in block])
            results |= dict(zip(itertools.chain(*block), found, strict=True))
    return [results[i] for i in range(len(calls))]


def _on(program: Program, mesh: jax.sharding.Mesh | None) -> Program:
    return dataclasses.replace(program, model=dataclasses.replace(program.model, mesh=mesh))


def _blocks(calls: Sequence[_Call], group: list[int]) -> Iterable[list[list[int]]]:
    """Calls that can be made as one: as many on every mesh, with one array of images on each."""
    waiting: dict[tuple, list[int]] = {}
    for i in group:
        # The same images, not equal ones: each call has them once.
        place = calls[i].program.model.mesh, id(calls[i].images)
        waiting.setdefault(place, []).append(i)
    while waiting:
        # In the order of the devices, whoever came first: it is part of what is compiled.
        first_device = lambda row: 0 if row[0] is None else row[0].devices.flat[0].id
        rows = sorted({place[0]: place for place in waiting}.values(), key=first_device)
        depth = min(len(waiting[row]) for row in rows)
        yield [waiting[row][:depth] for row in rows]
        for row in rows:
            del waiting[row][:depth]
        waiting = {row: left for row, left in waiting.items() if left}


def _train_block(block: list[list[_Call]]) -> list[tuple]:
    """One call of runs on a mesh or on several, as many on each."""
    program, first = block[0][0].program, block[0]
    static = {"program": program, "unroll": on_cpu()}
    if len(block) == len(first) == 1:
        ((_, state, images, (hyper, key, *rest)),) = first
        return [steps.train_call(state, hyper, key, images, *rest, **static)]
    if len(block) == 1:
        states, others = [call.state for call in first], [call.others for call in first]
        return steps.train_calls(states, others, first[0].images, **static)
    mesh = placement.beside([row[0].program.model.mesh for row in block])
    states = placement.joined(mesh, [[call.state for call in row] for row in block])
    for call in itertools.chain(*block):  # donated: only the joined copy is kept
        jax.tree.map(lambda leaf: leaf.delete(), call.state)
    others = placement.joined(mesh, [[call.others for call in row] for row in block])
    images = placement.shared(mesh, [row[0].images for row in block])
    found = steps.train_apart(states, others, images, **static | {"program": _on(program, mesh)})
    return [result for row in placement.parted(mesh, found) for result in row]
