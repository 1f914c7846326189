"""Many runs in one process: threads share the compiled programs and the cores.

Each run leaves a record and its weights in files of its own, so that a suite that was interrupted
goes on where it stopped, and records that were made on another machine count as well.
"""

import concurrent.futures
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import tqdm

import subspace_jax as ss
from experiments.configs import recipes
from experiments.evaluation import evaluate, predict
from experiments.reproduce.records import (
    DIVERGED,
    Entry,
    cost_of,
    digest,
    diverged,
    finished,
    identity,
    kept,
    record_path,
    rounded,
    weights_path,
    write,
)
from experiments.runs import job, workdir
from experiments.runs.checkpoint import Checkpoints
from experiments.system import files
from experiments.system.errors import UserError
from experiments.training import placement, steps, weights
from experiments.training.groups import Together
from experiments.training.history import History, NonFiniteLoss, check_finite
from experiments.training.methods import make_method
from experiments.training.run import make_run

Advance = Callable[[float], None]
ALONE = Together(1)
_TRAINING = 0.7  # about the share of a run's time that is training; the rest is evaluation
_BAR = "{l_bar}{bar}| {n:.0f} of {total:.0f} runs [{elapsed}, {remaining} left]"


class Interrupted(Exception):
    """A signal came; what was done is saved."""


class Outcome(NamedTuple):
    """What became of the entries: records and reasons of failure, both by id."""

    records: dict[str, dict]
    failures: dict[str, str]


def run_all(
    entries: Sequence[Entry],
    run_one: Callable[[Entry, Advance], dict],
    num_threads: int,
    together: Together = ALONE,
) -> Outcome:
    """Runs every entry after those that it needs, with progress and time left.

    A run that fails for a reason that the user can mend, such as divergence, is reported with the
    others done; so are those that need it.

    Args:
      entries: what to run. Programs are compiled when they are first met, each once.
      run_one: `(entry, advance) -> record`; as it goes it calls `advance(share)` with the share of its
        work that is newly done, and lets pass whatever that raises.
      num_threads: how many run at once; 0 for one per CPU core.
      together: if it has groups of several, runs of a method train as one program, group by group.

    Raises:
      Interrupted: a signal came; runs that have begun were saved.
      KeyboardInterrupt: a second one came.
    """
    stop, lock = threading.Event(), threading.Lock()
    outcome, num_threads = Outcome({}, {}), max(num_threads or os.cpu_count(), together.at_once)
    with (
        tqdm.tqdm(total=len(entries), bar_format=_BAR, mininterval=0.5) as bar,
        concurrent.futures.ThreadPoolExecutor(num_threads) as pool,
    ):

        def advance(share):
            if stop.is_set():
                raise Interrupted
            with lock:
                bar.update(min(share, bar.total - bar.n))

        try:
            for layer in _layers(entries):
                for group in [layer] if together.at_once == 1 else _groups(layer, together.at_once):
                    _run_group(group, run_one, advance, pool, outcome, together)
        except BaseException:
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    ids = [entry.id for entry in entries]  # their order, whichever ended first
    return Outcome(*({name: found[name] for name in ids if name in found} for found in outcome))


def _layers(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Entries in groups, each needing only earlier ones.

    In a group one of every method comes first, so that no two threads compile the same program.
    """
    depths: dict[str, int] = {}
    by_id = {entry.id: entry for entry in entries}

    def depth(entry):
        if entry.id not in depths:
            needed = [by_id[need] for need in entry.needs if need in by_id]
            depths[entry.id] = 1 + max(map(depth, needed), default=-1)
        return depths[entry.id]

    for entry in entries:
        depth(entry)
    layers: list[list[Entry]] = [[] for _ in range(1 + max(depths.values(), default=-1))]
    firsts = {entry.method: entry for entry in reversed(entries)}
    for entry in sorted(entries, key=lambda entry: entry is not firsts[entry.method]):
        layers[depths[entry.id]].append(entry)
    return layers


def _groups(entries: Sequence[Entry], size: int) -> list[tuple[Entry, ...]]:
    """Entries of one method together, at most so many of them."""
    methods: dict[str, list[Entry]] = {}
    for entry in entries:
        methods.setdefault(entry.method, []).append(entry)
    return [
        tuple(same[start : start + size])
        for same in methods.values()
        for start in range(0, len(same), size)
    ]


def _run_group(entries, run_one, advance, pool, outcome: Outcome, together: Together) -> None:
    def run_whole(entry):
        shares = []

        def count(share):
            advance(share)
            shares.append(share)

        try:
            return run_one(entry, count)
        finally:
            together.leave(entry.id)
            left[entry.id] = max(0.0, 1.0 - sum(shares))

    futures, left = {}, {}
    together.enter(entry.id for entry in entries)
    for entry in entries:
        missing = [need for need in entry.needs if need in outcome.failures]
        if missing:
            outcome.failures[entry.id] = f"It starts from {missing[0]}, which failed."
            together.leave(entry.id)
            advance(1.0)
        else:
            futures[pool.submit(run_whole, entry)] = entry
    for future in concurrent.futures.as_completed(futures):
        entry = futures[future]
        try:
            outcome.records[entry.id] = future.result()
        except UserError as error:
            outcome.failures[entry.id] = " ".join(str(error).split())
        advance(left[entry.id])


def check(entries: Sequence[Entry]) -> None:
    """Refuses what can't run, before anything is written.

    Raises:
      UserError: a config that training or evaluation can't work with.
    """
    first = {(*entry[:3], tuple(entry.values)): entry for entry in reversed(entries)}
    looked_at = set()  # for all methods alike, as a rule
    for entry in first.values():
        make_method(entry.config)
        dataset = job.load_data(entry.config)
        shifted, images = job.shifted_images(entry.config, dataset), str(entry.config.evaluation)
        if images not in looked_at:
            job.check_shifted(entry.config, shifted)
            looked_at.add(images)
        if not entry.needs:
            run = make_run(entry.config, dataset, slot=0)
            predict.make_settings(entry.config, run)


def run_entry(
    entry: Entry,
    advance: Advance,
    *,
    folder: Path,
    requested: Callable[[], bool],
    together: Together = ALONE,
) -> dict:
    """Trains and evaluates one run, and writes its record; one that is done is only read.

    Args:
      entry: what to run; what it needs is done.
      advance: see `run_all`.
      folder: of the suite.
      requested: whether a signal came, so that the run is to be saved and given up.
      together: see `run_all`; the run leaves it when it is trained.

    Raises:
      UserError: training diverged, or data are missing.
      Interrupted: a signal came.
    """
    if record := finished(folder, entry):
        advance(1.0)
        return record
    if error := diverged(folder, entry):  # as it would again
        raise UserError(error)
    begin = time.perf_counter()
    config = entry.config.copy_and_resolve_references()
    config.subspace.weights = tuple(str(weights_path(folder, need)) for need in entry.needs)
    if entry.setting != "article":  # whose test split no oracle looks at
        config.evaluation.oracle_epochs = 0
    dataset = job.load_data(config)
    run = make_run(config, dataset, together.slot(entry.id))
    settings = predict.make_settings(config, run)
    path = record_path(folder, entry.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    watch = _Watch(run, settings, dataset.test, config, path.with_suffix(""), advance, requested)
    try:
        state = watch.train(together.call(entry.id))
    except NonFiniteLoss as error:
        note = {"config_sha256": digest(entry), "error": str(error)}
        files.write_atomically(path.with_suffix(DIVERGED), json.dumps(note) + "\n")
        raise
    together.leave(entry.id)
    trained = time.perf_counter()
    stack = run.program.method.trained(state, jax.random.key(entry.seed))
    splits = {"test": dataset.test, "validation": dataset.validation}
    if entry.setting == "tuning":  # what is chosen is chosen without the test split
        splits = {"validation": dataset.validation}
    if not len(dataset.validation.labels):
        splits.pop("validation")
    shifted = job.shifted_images(config, dataset)
    places = recipes.places_of(entry.method)
    try:
        wrap = interruptible(requested)
        results = evaluate.evaluate(run, stack, splits, settings, wrap, shifted, places)
    except Interrupted:
        watch.keep(state)
        raise
    if watch.oracle:
        results["places"]["early stopping"] = watch.best_of_all()
    alone = together.at_once == 1  # else its step was never compiled
    memory = steps.step_memory(run, state) if watch.num_steps and alone else None
    own = run.program.num_steps * run.batch_size
    record = {
        "places": results["places"],
        "points": [kept(point) for point in results["points"]],
        "ensembles": [kept(ensemble) for ensemble in results["ensembles"]],
        "geometry": results["geometry"],
        "data": job.data_record(dataset, run),
        "recalibration": results["recalibration"],
        "cost": {
            "gradient_passes": own * run.program.method.gradients_per_step
            + sum(cost_of(folder, need) for need in entry.needs),
            "training_images": own,
            "step_memory_bytes": memory,
            # With other runs beside it: of all of them.
            "runs_at_once": together.at_once,
            "training_seconds": trained - begin,
            # Of this run, also with others beside it; of what this start of the command trained.
            "images_per_second": watch.num_steps * run.batch_size / (trained - begin),
            "evaluation_seconds": time.perf_counter() - trained,
        },
        "wall_seconds": time.perf_counter() - begin,
    }
    record = identity(entry) | rounded(record)
    if entry.setting != "tuning":
        weights.save(weights_path(folder, entry.id), stack)
    record = write(folder, entry, record)
    watch.clean()
    return record


def interruptible(requested: Callable[[], bool]) -> predict.Wrap:
    """Passes batches through until a signal comes, and then raises `Interrupted`."""

    def wrap(batches, what):
        del what
        for batch in batches:
            if requested():
                raise Interrupted
            yield batch

    return wrap


class _Watch:
    """The training of one run of a suite: its checkpoints, its progress, the oracle's looks."""

    def __init__(self, run, settings, test, config, folder, advance, requested):
        self._run, self._settings, self._test, self._config = run, settings, test, config
        self._folder, self._advance, self._requested = folder, advance, requested
        self._history = History(run)
        self._checkpoints: Checkpoints | None = None
        self._seen = 0
        self.oracle: list[dict] = []
        self.num_steps = 0

    def train(self, call: Callable) -> ss.TrainState:
        """The state after the last step, from the last checkpoint on if there is one."""
        run, seconds = self._run, self._config.checkpoint_seconds
        state, history = steps.init_state(run), self._history
        if (self._folder / workdir.CHECKPOINTS).exists():
            state, history = self._restored(state, history)
        begun = int(state.step)
        last, epoch = time.monotonic(), begun // run.program.steps_per_epoch
        for latest in steps.fit(run, state, history, call):
            state = latest
            now = int(history.num_dispatched) // run.program.steps_per_epoch
            if now > epoch:
                epoch = now
                self._look(epoch, state)
            stopping = self._requested()
            if stopping or time.monotonic() - last >= seconds:
                self._save(state, history)
                last = time.monotonic()
            if stopping:
                raise Interrupted
            self._report(history.num_steps)
        check_finite(run, state)
        self._report(run.program.num_steps)
        self.num_steps = int(state.step) - begun
        return state

    def _report(self, num_steps: int) -> None:
        total = self._run.program.num_steps
        if total:
            self._advance(_TRAINING * (num_steps - self._seen) / total)
        self._seen = num_steps

    def _look(self, epoch: int, state: ss.TrainState) -> None:
        """One look at the test split, for optimal early stopping; one is after the last epoch."""
        every = self._config.evaluation.oracle_epochs
        if not every or (epoch % every and epoch < self._config.num_epochs):
            return
        method = self._run.program.method
        # Averages of several networks have no midpoint: of these, the network that is trained.
        several = method.average in ("swag", "snapshots")
        middle = method.subspace.midpoint(state.endpoints if several else method.trained(state))
        params = jax.tree.map(lambda x: x[None], middle)
        splits = {"test": self._test}
        logits, _, _ = predict.predict_networks(self._run, params, splits, self._settings)
        accuracy = (np.asarray(logits["test"][0]).argmax(-1) == self._test.labels).mean()
        self.oracle.append({"epoch": epoch, "accuracy": float(accuracy)})

    def best_of_all(self) -> dict:
        """The place of optimal early stopping: an oracle, chosen on the test split itself."""
        best = max(self.oracle, key=lambda look: look["accuracy"])
        return {"inference_passes": 1, "oracle": True, **best, "looks": self.oracle}

    def keep(self, state: ss.TrainState) -> None:
        """Saves what is trained, when its evaluation is given up."""
        self._save(state, self._history)

    def _open(self) -> Checkpoints:
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(self._folder / workdir.CHECKPOINTS)
        return self._checkpoints

    def _restored(self, state, history):
        if restored := self._open().restore(state):
            state, record = placement.place(self._run.program.model.mesh, restored[0]), restored[1]
            history.restore(record["history"])
            self.oracle = record["oracle"]
        return state, history

    def _save(self, state, history) -> None:
        check_finite(self._run, state)
        record = {"history": history.to_json(), "oracle": self.oracle}
        self._open().save(int(state.step), state, record)
        if self._requested():
            self.close()

    def close(self) -> None:
        """Waits for what is being written."""
        if self._checkpoints is not None:
            self._checkpoints.close()
            self._checkpoints = None

    def clean(self) -> None:
        """Deletes the checkpoints of a run that is done."""
        self.close()
        workdir.delete(self._folder)
