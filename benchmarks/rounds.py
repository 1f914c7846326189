"""Timing in turns: every contestant is a process of its own, and all work once in every round.

The speed of a shared machine drifts by more than the differences that matter, so numbers are compared
within a round only: a ratio is the median, over rounds, of two contestants' images per second in the
same round.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import tqdm

from benchmarks.contestants import ENVIRONMENTS
from experiments.system import launch

_REST_SECONDS = 0.5


class Failed(Exception):
    """A contestant's process ended early."""


def measure(
    names: Sequence[str],
    options: SimpleNamespace,
    *,
    rounds: int,
    warmup: int = 1,
    sessions: int = 1,
) -> dict[str, list[dict]]:
    """What every contestant answers in every round (see `benchmarks.worker`), by name.

    `rounds` are counted, after `warmup` ones in every session, in which programs are compiled. In every
    session all processes are started anew: where its memory happens to lie makes a process some percent
    faster or slower than another of the same program. It raises `Failed` if a process ends.
    """
    answers = {name: [] for name in names}
    counts = [rounds // sessions + (i < rounds % sessions) for i in range(sessions)]
    total = sum(warmup + count for count in counts if count)
    with tqdm.tqdm(total=total, unit="round", desc="training steps") as bar:
        for count in filter(None, counts):
            with _workers(names, options) as workers:
                for number in range(warmup + count):
                    for name, worker in workers.items():
                        # Loaders go on filling their queues, and threads spin a while.
                        time.sleep(_REST_SECONDS)
                        answer = _ask(name, worker)
                        if number >= warmup:
                            answers[name].append(answer)
                    bar.update()
    return answers


@contextlib.contextmanager
def _workers(names, options) -> Iterator[dict[str, subprocess.Popen]]:
    workers = {}
    try:
        for name in names:
            told = json.dumps(vars(options) | {"contestant": name})
            workers[name] = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", told],
                # PyTorch's processes use memory as ours do
                env=launch.environment(os.environ) | ENVIRONMENTS.get(name, {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
        yield workers
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.terminate()
        for worker in workers.values():
            worker.wait()
            worker.stdout.close()


def _ask(name, worker) -> dict:
    try:
        worker.stdin.write("\n")
        line = worker.stdout.readline()
    except OSError:
        line = ""
    if not line:
        raise Failed(
            f"{name!r} ended with exit code {worker.wait()}; "
            "see its messages above, or leave it out with --only."
        )
    return json.loads(line)


def speeds(answers: Sequence[dict]) -> list[float]:
    """Images per second of every round."""
    return [answer["images"] / answer["seconds"] for answer in answers]


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, and the range of the rounds.

    Example:
      >>> spread([3.0, 1.0, 2.0])
      {'median': 2.0, 'min': 1.0, 'max': 3.0}
    """
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def ratio(first: Sequence[dict], second: Sequence[dict]) -> dict[str, float]:
    """The first's images per second as a multiple of the second's, round by round.

    Example:
      >>> slow, fast = {"images": 1, "seconds": 2.0}, {"images": 1, "seconds": 1.0}
      >>> ratio([fast, fast], [slow, fast])
      {'median': 1.5, 'min': 1.0, 'max': 2.0}
    """
    return spread([a / b for a, b in zip(speeds(first), speeds(second), strict=True)])
