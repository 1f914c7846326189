"""Many runs in one process: threads share the compiled programs and the cores."""

import concurrent.futures
import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import ml_collections
import tqdm

from experiments.data import sets
from experiments.evaluation import predict
from experiments.evaluation.inputs import Inputs, check_shifted
from experiments.reproduce import records
from experiments.reproduce.records import Entry, Suite
from experiments.runs import job, workdir
from experiments.runs.checkpoint import Checkpoints
from experiments.runs.job import Advance, Oracle
from experiments.system.errors import Interrupted, UserError
from experiments.training import groups, steps
from experiments.training.history import History, NonFiniteLoss
from experiments.training.run import make_run

_BAR = "{l_bar}{bar}| {n:.0f} of {total:.0f} runs [{elapsed}, {remaining} left]"


class Outcome(NamedTuple):
    """What became of the entries: records and reasons of failure, both by id."""

    records: dict[str, dict]
    failures: dict[str, str]


def run_all(
    entries: Sequence[Entry],
    run_one: Callable[[Entry, Advance], dict],
    num_threads: int,
    train_group: Callable[[Sequence[Entry], Callable[[str, float], None]], None] | None = None,
    at_once: int = 1,
) -> Outcome:
    """Runs every entry after those that it needs, which stand before it, with progress and time left.

    A run that fails for a reason that the user can mend is reported with the others done, and so are
    those that need it. `run_one` and `train_group`, which trains `at_once` runs of a method or those of
    the same steps as one before, call `advance` with the share that is done, and pass on what it raises.
    """
    stop, lock, done = threading.Event(), threading.Lock(), dict[str, float]()
    outcome, num_threads = Outcome({}, {}), max(num_threads or os.cpu_count(), at_once)
    with (
        tqdm.tqdm(total=len(entries), bar_format=_BAR, mininterval=0.5) as bar,
        concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
    ):

        def advance(name, share):
            if stop.is_set():
                raise Interrupted
            with lock:
                done[name] = share
                bar.n = sum(done.values())  # sums of differences are not as exact
                bar.update(0)

        try:
            for layer in _layers(entries):
                ready = _ready(layer, outcome, advance)
                for group in _groups(ready, at_once) if at_once > 1 else [ready]:
                    if at_once > 1:
                        train_group(group, advance)
                    units = _units(group) if train_group and at_once == 1 else [[e] for e in group]
                    _run_units(units, run_one, train_group, advance, pool, outcome)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            for name, reason in outcome.failures.items():  # which would be said at the end
                print(f"Failed: {name}: {reason}", file=sys.stderr)
            raise
    ids = [entry.id for entry in entries]  # their order, whichever ended first
    return Outcome(*({name: found[name] for name in ids if name in found} for found in outcome))


def _layers(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries in groups, each needing only earlier ones, in which one of every method comes first."""
    depths: dict[str, int] = {}
    for entry in entries:
        depths[entry.id] = 1 + max((depths.get(need, -1) for need in entry.needs), default=-1)
    layers: list[list[Entry]] = [[] for _ in range(1 + max(depths.values(), default=-1))]
    # So that no two threads compile the same program; then seed by seed, of all methods.
    firsts = {entry.method: entry for entry in reversed(entries)}
    for entry in sorted(entries, key=lambda e: (e is not firsts[e.method], e.seed)):
        layers[depths[entry.id]].append(entry)
    return layers


def _groups(entries: Sequence[Entry], size: int) -> list[list[Entry]]:
    """Entries of one method together, at most so many of them."""
    methods: dict[str, list[Entry]] = {}
    for entry in entries:
        methods.setdefault(entry.method, []).append(entry)
    return [same[i : i + size] for same in methods.values() for i in range(0, len(same), size)]


def _units(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries that take the same steps together: first one that keeps an average besides."""
    averages = {records.steps_of(e): e for e in entries if e.config.average.name == "ema"}
    units: dict[str, list[Entry]] = {}
    for entry in entries:
        alone = entry.config.average.name != "none"
        of = entry if alone else averages.get(records.steps_of(entry), entry)
        units.setdefault(of.id, []).append(entry)
    return [sorted(unit, key=lambda e: e.config.average.name == "none") for unit in units.values()]


def _ready(entries: Sequence[Entry], outcome: Outcome, advance) -> list[Entry]:
    """Entries that get what they need; the others have failed."""
    for entry in entries:
        if missing := [need for need in entry.needs if need in outcome.failures]:
            outcome.failures[entry.id] = f"It starts from {missing[0]}, which failed."
            advance(entry.id, 1.0)
    return [entry for entry in entries if entry.id not in outcome.failures]


def _run_units(units, run_one, train_group, advance, pool, outcome: Outcome) -> None:
    """Runs units side by side: the entries of one in turn, which are trained as one before."""

    def run_unit(unit):
        for entry in unit:
            try:
                if len(unit) > 1 and entry is unit[0]:
                    train_group(unit, advance)
                outcome.records[entry.id] = run_one(entry, functools.partial(advance, entry.id))
            except UserError as error:
                outcome.failures[entry.id] = " ".join(str(error).split())
            advance(entry.id, 1.0)

    futures = [pool.submit(run_unit, unit) for unit in units]
    for future in concurrent.futures.as_completed(futures):
        future.result()


def check(entries: Sequence[Entry], inputs: Inputs) -> None:
    """Refuses configs that training or evaluation can't work with, before anything is written."""
    first = {(*entry[:3], tuple(entry.values)): entry for entry in reversed(entries)}
    # For all methods alike, as a rule.
    evaluated = {str(entry.config.evaluation): entry.config for entry in first.values()}
    for config in evaluated.values():
        check_shifted(config, inputs.shifted(config))
    for entry in first.values():
        if not entry.needs:
            run = make_run(entry.config, inputs.dataset(entry.config), slot=0)
            predict.make_settings(entry.config, run)


def run_entry(entry: Entry, advance: Advance, suite: Suite, **how) -> dict:
    """Trains and evaluates one run when what it needs is done, or reads what its folder has of it."""
    folder, inputs, stop = suite
    if row := records.finished(folder, entry):
        return row
    config, data = config_and_data(entry, folder, inputs)
    given = {"data": data, "shifted": inputs.shifted(config), "stop": stop, "advance": advance}
    given |= {"module": "experiments.reproduce", "in_suite": entry.in_suite} | how
    job.execute(records.run_folder(folder, entry.id), config, **given)
    return records.finished(folder, entry)


def config_and_data(
    entry: Entry, folder: Path, inputs: Inputs
) -> tuple[ml_collections.ConfigDict, sets.Dataset]:
    """With what an entry's run is made, when what it needs is done."""
    config = entry.config.copy_and_resolve_references()
    paths = (records.weights_path(folder, need) for need in entry.needs)
    config.subspace.weights = tuple(map(str, paths))
    data = inputs.dataset(config)
    # What is chosen is chosen without the test split.
    return config, sets.untested(data) if entry.setting == "tuning" else data


class _Training:
    """One run of a group: what is trained, and where it is saved."""

    def __init__(self, entry: Entry, slot: int, folder: Path, inputs: Inputs):
        config, data = config_and_data(entry, folder, inputs)
        self.run, self._folder = make_run(config, data, slot), records.run_folder(folder, entry.id)
        settings = predict.make_settings(config, self.run)
        workdir.prepare(self._folder, config, False, entry.in_suite)
        self._look, history = Oracle(self.run, settings, data.test, config), History(self.run)
        self.checkpoints = Checkpoints(self._folder / workdir.CHECKPOINTS)
        state = steps.init_state(self.run)
        state = job.restore(self.checkpoints, self.run, state, history, self._look)
        self.member = groups.Member(self.run, state, history, self._look)
        self.seconds = config.checkpoint_seconds
        # Who streams images has to note those that can't be decoded.
        self.steps = entry.id if self.run.loader else records.steps_of(entry), int(state.step)

    def save(self, state) -> None:
        """A checkpoint, or a note that there is none since the run diverged."""
        try:
            if isinstance(state, NonFiniteLoss):
                raise state
            job.save(self.checkpoints, self.run, state, self.member.history, self._look)
        except NonFiniteLoss as error:
            workdir.set_diverged(self._folder, str(error))


def train_group(
    entries: Sequence[Entry], advance: Callable[[str, float], None], suite: Suite
) -> None:
    """Trains runs of one method or of the same steps as one; `run_entry` is left to evaluate each."""
    trainings, (folder, inputs, stop) = {}, suite
    if stop():
        raise Interrupted
    for slot, entry in enumerate(entries):
        if not records.is_settled(folder, entry):
            try:
                trainings[entry.id] = _Training(entry, slot, folder, inputs)
            except UserError:  # which it will say again where it is run by itself
                continue
    last, runs = time.monotonic(), list(trainings.values())
    members, taken = [one.member for one in runs], [one.steps for one in runs]
    for i, first in enumerate(map(taken.index, taken)):
        if first < i and members[i].run.program.method.average == "none":
            members[i] = members[i]._replace(of=first)
    with contextlib.ExitStack() as opened:
        for one in runs:
            opened.callback(one.checkpoints.close)
        for states in groups.fit(members):
            stopping = stop()
            if stopping or any(time.monotonic() - last >= one.seconds for one in runs):
                last = time.monotonic()
                _save(runs, states)
            if stopping:
                raise Interrupted
            for name, one in trainings.items():
                done = one.member.history.num_steps / max(one.run.program.num_steps, 1)
                advance(name, job.TRAINING * done)
        _save(runs, states)


def _save(runs: Sequence[_Training], states: Sequence) -> None:
    for one, state in zip(runs, states, strict=True):
        one.save(state)
