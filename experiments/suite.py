"""Many runs of small networks in one process: threads share the compiled programs and both cores."""

import concurrent.futures
import os
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import ml_collections
import tqdm

from experiments import data, evaluate, job, train

Advance = Callable[[float], None]
_TRAINING = 0.8  # about the share of a run's time that is training; the rest is evaluation
_BAR = "{l_bar}{bar}| {n:.0f} of {total:.0f} runs [{elapsed}, {remaining} left]"


class Entry(NamedTuple):
    """One run of a suite: what it is called in the results, and its config."""

    method: str
    setting: str
    label_noise: float
    seed: int
    config: ml_collections.ConfigDict


def run_all(
    entries: Sequence[Entry],
    run_one: Callable[[Entry, Advance], dict],
    num_threads: int,
) -> list[dict]:
    """Runs every entry, with progress and time left; the results are in the order of the entries.

    Args:
      entries: what to run. Programs are compiled when they are first met, each once.
      run_one: `(entry, advance) -> result`; as it goes it calls `advance(share)` with the share of its
        work that is newly done, and lets pass whatever that raises.
      num_threads: how many run at once; 0 for one per CPU core.

    Raises:
      KeyboardInterrupt: Ctrl-C was pressed; runs that have begun are given up.
    """
    stop, lock = threading.Event(), threading.Lock()
    with (
        tqdm.tqdm(total=len(entries), bar_format=_BAR, mininterval=0.5) as bar,
        concurrent.futures.ThreadPoolExecutor(num_threads or os.cpu_count()) as pool,
    ):

        def advance(share):
            if stop.is_set():
                raise KeyboardInterrupt
            with lock:
                bar.update(min(share, bar.total - bar.n))

        futures = [pool.submit(run_one, entry, advance) for entry in entries]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def check(entries: Sequence[Entry]) -> None:
    """Refuses what can't run, before anything is written.

    Raises:
      UserError: a config that training or evaluation can't work with.
    """
    first = {entry[:3]: entry for entry in reversed(entries)}
    for entry in first.values():
        _prepare(entry)


def _prepare(entry: Entry) -> tuple[data.Dataset, train.Run, evaluate.Settings]:
    dataset = job.load_data(entry.config)
    run = train.make_run(entry.config, dataset)
    return dataset, run, evaluate.make_settings(entry.config, run)


def train_and_evaluate(entry: Entry, advance: Advance, split: str) -> dict:
    """Trains a run and evaluates it on one split: the values of `evaluate.evaluate`.

    Raises:
      NonFiniteLoss: training diverged.
    """
    dataset, run, settings = _prepare(entry)
    state, history = train.init_state(run), train.History(run)
    seen = 0
    for latest in train.fit(run, state, history):
        state = latest
        advance(_TRAINING * (history.num_steps - seen) / run.program.num_steps)
        seen = history.num_steps
    train.check_finite(run, state)
    endpoints = run.program.method.trained(state)
    results = evaluate.evaluate(run, endpoints, {split: getattr(dataset, split)}, settings)
    advance(1 - _TRAINING * seen / run.program.num_steps)
    return results
