"""Runs of a suite that are trained as one, each to a checkpoint in its own folder."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.evaluation import predict
from experiments.evaluation.inputs import Inputs
from experiments.reproduce import records
from experiments.reproduce.records import Entry
from experiments.reproduce.scheduler import config_and_data
from experiments.runs import job, workdir
from experiments.runs.checkpoint import Checkpoints
from experiments.runs.job import Interrupted, Oracle
from experiments.system.errors import UserError
from experiments.training import groups, steps
from experiments.training.history import History, NonFiniteLoss
from experiments.training.run import make_run


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

    @property
    def share(self) -> float:
        """Of the run's whole work, how much is done."""
        return job.TRAINING * self.member.history.num_steps / max(self.run.program.num_steps, 1)

    def save(self, state) -> None:
        """A checkpoint, or a note that there is none since the run diverged."""
        try:
            if isinstance(state, NonFiniteLoss):
                raise state
            job.save(self.checkpoints, self.run, state, self.member.history, self._look)
        except NonFiniteLoss as error:
            workdir.set_diverged(self._folder, str(error))


def train(
    entries: Sequence[Entry],
    advance: Callable[[str, float], None],
    *,
    folder: Path,
    inputs: Inputs,
    stop: Callable[[], bool],
) -> None:
    """Trains runs of one method as one, and leaves each for `scheduler.run_entry` to evaluate."""
    trainings = {}
    for slot, entry in enumerate(entries):
        if not records.is_settled(folder, entry):
            try:
                trainings[entry.id] = _Training(entry, slot, folder, inputs)
            except UserError:  # which it will say again where it is run by itself
                continue
    if not trainings:
        return
    last, runs = time.monotonic(), list(trainings.values())
    try:
        for states in groups.fit([one.member for one in runs]):
            stopping = stop()
            if stopping or time.monotonic() - last >= min(one.seconds for one in runs):
                last = time.monotonic()
                _save(runs, states)
            if stopping:
                raise Interrupted(f"Stopped; everything is saved in {folder}.")
            for name, one in trainings.items():
                advance(name, one.share)
        _save(runs, states)
    finally:
        for one in runs:
            one.checkpoints.close()


def _save(runs: Sequence[_Training], states: Sequence) -> None:
    for one, state in zip(runs, states, strict=True):
        one.save(state)
