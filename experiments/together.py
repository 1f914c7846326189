"""Training calls of several runs of one program, made as one: for accelerators that one run leaves idle.

Every run is a thread that trains as if it were alone. Its calls wait until all runs of the group have
made one; then one call trains all of them, vectorised over a leading axis. A run that ends, or fails,
leaves the group, and the others go on without it.
"""

import concurrent.futures
import threading
from collections.abc import Callable, Iterable

import numpy as np

from experiments import train


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
        self._lock = threading.Lock()
        self._waiting: dict[str, tuple] = {}

    def enter(self, names: Iterable[str]) -> None:
        """Adds runs to the group, before any of them trains: no call is made without them."""
        with self._lock:
            self.members.update(names)

    def call(self, name: str) -> Callable:
        """A member's `train.train_call`: the same arguments and results."""
        if self.at_once == 1:
            return train.train_call

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
    for arguments, static, future in calls:
        _, _, _, images, labels, indices = arguments
        # The same images, not equal ones: each call has them once. Streamed batches are of one run.
        same = (*static, id(images), labels.shape, np.shape(indices))
        groups.setdefault(same, []).append((arguments, static, future))
    for group in groups.values():
        futures = [future for _, _, future in group]
        try:
            results = _call([arguments for arguments, _, _ in group], *group[0][1])
        except BaseException as error:  # every member raises it
            for future in futures:
                future.set_exception(error)
        else:
            for future, result in zip(futures, results, strict=True):
                future.set_result(result)


def _call(calls: list[tuple], program, unroll) -> list[tuple]:
    if len(calls) == 1:
        return [train.train_call(*calls[0], program=program, unroll=unroll)]
    states = [state for state, *_ in calls]
    others = [(hyper, key, labels, indices) for _, hyper, key, _, labels, indices in calls]
    return train.train_calls(states, others, calls[0][3], program=program, unroll=unroll)
