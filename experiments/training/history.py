"""The means of training metrics over epochs; what diverged."""

import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

import subspace_jax as ss
from experiments.system import hosts
from experiments.system.errors import UserError
from experiments.training.run import Run, learning_rate


class NonFiniteLoss(UserError):
    """Training diverged."""


class History:
    """Means of the training metrics over epochs, read one call late so that nothing waits."""

    def __init__(self, run: Run):
        self.epochs: list[dict] = []
        self.logs: Sequence[Callable[[int, dict], object]] = ()  # of step and record, every epoch
        self._run = run
        self.num_steps = 0  # that it has read, all but those of the last call
        self._sums, self._pending = {}, None
        self._start = time.perf_counter()

    @property
    def num_dispatched(self) -> int:
        """How many steps were taken, those of the last call included."""
        pending = 0 if self._pending is None else len(self._pending["loss"])
        return self.num_steps + pending

    def to_json(self) -> dict:
        """A copy of all of it, for a checkpoint that is written while training goes on."""
        self.flush()
        loader = self._run.loader
        return {
            **({} if loader is None else {"corrupt": list(loader.corrupt)}),
            "epochs": list(self.epochs),
            "step": self.num_steps,
            "sums": dict(self._sums),
            "seconds": time.perf_counter() - self._start,
        }

    def restore(self, saved: dict) -> None:
        """Takes up where `to_json` left off."""
        self.epochs, self.num_steps, self._sums = saved["epochs"], saved["step"], saved["sums"]
        self._start = time.perf_counter() - saved["seconds"]
        if self._run.loader is not None:
            self._run.loader.corrupt[:] = saved.get("corrupt", [])

    def append(self, metrics: dict[str, jax.Array] | None) -> None:
        """Takes the metrics `[k]` of a call that may still be running; reads those before it."""
        previous, self._pending = self._pending, metrics
        if previous is not None:
            self._read(hosts.fetch(previous))

    def flush(self) -> None:
        """Reads all metrics there are, waiting for them."""
        self.append(None)

    def _read(self, metrics) -> None:
        finite = np.isfinite(metrics["loss"]) & np.isfinite(metrics["penalty"])
        if not finite.all():
            first = int(np.argmin(finite))
            step = self.num_steps + first
            name = "penalty" if np.isfinite(metrics["loss"][first]) else "loss"
            raise NonFiniteLoss(
                f"The {name} is {metrics[name][first]} at step {step} with learning rate "
                f"{learning_rate(self._run, step):.3g}; lower the learning rate."
            )
        for name, values in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum(dtype=np.float64))
        self.num_steps += len(finite)
        if self.num_steps % self._run.program.length.steps_per_epoch == 0:
            self._finish_epoch()

    def _finish_epoch(self) -> None:
        steps, now = self._run.program.length.steps_per_epoch, time.perf_counter()
        seconds, self._start = now - self._start, now
        record = {
            "epoch": self.num_steps // steps,
            "step": self.num_steps,
            **{name: total / steps for name, total in sorted(self._sums.items())},
            "learning_rate": learning_rate(self._run, self.num_steps - 1),
            "seconds": seconds,
            "images_per_second": steps * self._run.batch_size / seconds,
        }
        if "data_wait" in record:  # seconds of a step, so far
            record["data_wait"] *= steps / seconds
        self._sums = {}
        self.epochs.append(record)
        for log in self.logs:
            log(self.num_steps, record)


def check_finite(run: Run, state: ss.TrainState) -> None:
    """Refuses a state with weights that are not finite, which the next loss would be first to show."""
    if not all(np.isfinite(hosts.fetch(leaf)).all() for leaf in jax.tree.leaves(state)):
        step = int(state.step)
        raise NonFiniteLoss(
            f"Weights are no longer finite after step {step} with learning rate "
            f"{learning_rate(run, step - 1):.3g}; lower the learning rate."
        )
