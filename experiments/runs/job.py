"""One training run from config to results: resumable at any moment, evaluated at the end."""

import contextlib
import functools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

import subspace_jax as ss
from experiments.configs import check, recipes
from experiments.data import sets
from experiments.evaluation import evaluate, predict
from experiments.evaluation.inputs import Inputs, Shifted, check_shifted
from experiments.report import pages
from experiments.results import styles
from experiments.runs import logs, workdir
from experiments.runs.checkpoint import Checkpoints, full_disk
from experiments.system import cli, files, hosts, lock, progress
from experiments.system.errors import Interrupted, UserError
from experiments.system.provenance import finished_now, provenance
from experiments.system.values import flatten
from experiments.training import model, placement, steps, weights
from experiments.training.history import History, NonFiniteLoss, check_finite
from experiments.training.memory import MemoryReport, memory_report
from experiments.training.run import Run, make_run

Advance = Callable[[float], None]  # with the share of a run's work that is done
# What --quick sets, beside the number of test images.
QUICK = {
    **{"num_epochs": 2, "optimizer.warmup_epochs": 1, "train_size": 1000, "validation_size": 500},
    **{"model.depth": 8, "evaluation.num_points": 5},
}
TRAINING = 0.7  # about the share of a run's time that is training; the rest is evaluation


def execute(
    folder: Path,
    config,
    *,
    data: sets.Dataset,
    shifted: Shifted,
    stop: Callable[[], bool],
    module: str,
    advance: Advance = lambda share: None,
    log: logs.Log = lambda step, values: None,
    overwrite: bool = False,
    in_suite: workdir.InSuite | None = None,
    slot: int | None = None,  # in a group of `at_once` runs that were trained as one
    at_once: int = 1,
    begin: float | None = None,  # when the command began, or the training of several
) -> dict:
    """Trains what is left to train, evaluates, and records what it returns; twice the same as once.

    A run of a suite (`in_suite`) has neither progress bars nor logs, and keeps no checkpoints. A run
    that diverged raises `NonFiniteLoss`; one that is to `stop` is saved and raises `Interrupted`.
    """
    if not overwrite:
        workdir.check(str(folder), config, overwrite, in_suite)
        if metrics := workdir.finished(folder):
            return metrics
        if reason := workdir.diverged(folder):
            raise NonFiniteLoss(reason)
    begin = time.perf_counter() if begin is None else begin
    run = make_run(config, data, slot)
    settings = predict.make_settings(config, run)
    if hosts.is_first():
        workdir.prepare(folder, config, overwrite, in_suite)
    hosts.any_of(False)  # not before the folder is there
    record = provenance(module, config.model.dtype) | {"seed": config.seed}
    look = Oracle(run, settings, data.test, config)
    try:
        trained = _train(run, config, folder, stop, advance, look, log, in_suite is None)
    except NonFiniteLoss as error:
        if hosts.is_first():
            workdir.set_diverged(folder, str(error))
        raise
    evaluation_begin = time.perf_counter()
    stack = hosts.local(run.program.method.trained(trained.state, jax.random.key(config.seed)))
    splits = {"test": data.test, "validation": data.validation}
    splits = {name: split for name, split in splits.items() if len(split.labels)}
    if hosts.is_first() and "test" in splits:  # tuning has none, and keeps no networks
        weights.save(folder / workdir.WEIGHTS, stack)
    wrap = interruptible(stop, bars=in_suite is None, folder=folder)
    places = recipes.places_of(config.recipe)
    try:
        results = evaluate.evaluate(run, stack, splits, settings, wrap, shifted, places)
    except Interrupted:
        checkpoints = Checkpoints(folder / workdir.CHECKPOINTS)
        save(checkpoints, run, trained.state, trained.history, look)
        checkpoints.close()
        raise
    if look.found:
        results["places"]["early stopping"] = look.best()
    epochs = trained.history.epochs
    speeds = [epoch["images_per_second"] for epoch in epochs]
    num_images = run.program.num_steps * run.batch_size
    record |= trained.memory | {
        "training_seconds": sum(epoch["seconds"] for epoch in epochs),
        "training_images": num_images,
        "gradient_passes": num_images * run.program.method.gradients_per_step,
        "runs_at_once": at_once,
        "evaluation_seconds": time.perf_counter() - evaluation_begin,
        # The first epoch compiles.
        "images_per_second": statistics.median(speeds[1:] or speeds or [0.0]),
        "resumed_at_step": trained.start,
        "num_training_images": len(run.labels),
    }
    metrics = {
        "config": json.loads(config.to_json_best_effort()),
        "provenance": record | finished_now() | {"wall_seconds": time.perf_counter() - begin},
        "data": data_record(data, run),
        "history": epochs,
    } | results
    if hosts.is_first():
        files.write_json(folder / workdir.METRICS, metrics)
        if in_suite is not None:
            workdir.delete(folder / workdir.CHECKPOINTS)
    return metrics


class _Trained(NamedTuple):
    """The state after the last step, how it came there, where this process began, and its memory."""

    state: ss.TrainState
    history: History
    start: int
    memory: dict


def _train(run, config, folder, stop, advance, look, log, alone) -> _Trained:
    checkpoints = Checkpoints(folder / workdir.CHECKPOINTS)
    state, total = steps.init_state(run), run.program.num_steps
    # Logs are closed last, and what can't be written may be seen only then.
    with (
        full_disk(f"the logs of the training could not be written to {folder}"),
        contextlib.ExitStack() as opened,
    ):
        history = History(run)
        state = restore(checkpoints, run, state, history, look)
        if alone and hosts.is_first():
            usual = [opened.enter_context(kind(folder, history.epochs)) for kind in logs.KINDS]
            history.logs = [*usual, log]
        start = int(state.step)
        waits = jax.process_count() == 1  # for what is written, and so for the other processes
        try:
            report = step_report(run, state) if alone and start < total else None
            agreement = hosts.Agreement()
            states = steps.fit(run, state, history, look)
            for latest in _with_bar(states, run, start, history) if alone else states:
                state = latest
                due = time.monotonic() - checkpoints.last >= config.checkpoint_seconds
                due, stopping = agreement.any(due, stop())
                if due or stopping:
                    save(checkpoints, run, state, history, look)
                    agreement = hosts.Agreement()  # what was due before is done
                if stopping:
                    raise Interrupted(
                        f"Stopped at step {history.num_steps} of {total}; everything is saved in "
                        f"{folder}: run the same command again to go on."
                    )
                advance(TRAINING * history.num_steps / total)
            check_finite(run, state)
            if alone:
                save(checkpoints, run, state, history, look)
            advance(TRAINING)
            waits = True
        except (Interrupted, NonFiniteLoss):  # which all of them see
            waits = True
            raise
        finally:
            if waits:
                checkpoints.close()
    memory = {} if report is None else {"memory": report._asdict()}
    return _Trained(state, history, start, memory)


class Oracle:
    """Looks at the test split after epochs, and after the last one, for optimal early stopping."""

    def __init__(self, run: Run, settings: predict.Settings, test: sets.Split, config):
        self._run, self._settings, self._test, self._config = run, settings, test, config
        self.found: list[dict] = []

    def __call__(self, epoch: int, state: ss.TrainState) -> None:
        every = self._config.evaluation.oracle_epochs
        if not every or (epoch % every and epoch < self._config.num_epochs):
            return
        params = self._run.program.method.middle(state)
        splits = {"test": self._test}
        logits, _, _ = predict.predict_networks(self._run, params, splits, self._settings)
        accuracy = (np.asarray(logits["test"][0]).argmax(-1) == self._test.labels).mean()
        self.found.append({"epoch": epoch, "accuracy": float(accuracy)})

    def best(self) -> dict:
        """The place of optimal early stopping: an oracle, chosen on the test split itself."""
        best = max(self.found, key=lambda look: look["accuracy"])
        return {"inference_passes": 1, "oracle": True, **best, "looks": self.found}


def data_record(dataset: sets.Dataset, run: Run) -> dict:
    """What a record says of a data set: the training files that were left out, and why."""
    skipped = [{"file": file, "reason": reason} for file, reason in dataset.skipped]
    if run.loader is not None:
        skipped += [{"file": file, "reason": "not decoded"} for file in run.loader.corrupt]
    return {"num_skipped": len(skipped), "skipped": skipped}


def step_report(run: Run, state: ss.TrainState) -> MemoryReport | None:
    """What the training needs on each device, said before its first step; `None` on a CPU alone."""
    if model.on_cpu() and run.program.model.mesh is None:
        return None
    report = memory_report(steps.compiled_call(run, state), state)
    if report is not None and not report.fits:
        raise UserError(report.sentence())
    if report is not None and hosts.is_first():
        print(report.sentence(), file=sys.stderr)
    return report


def _with_bar(states, run, step, history) -> Iterator:
    """States of training, with a progress bar that shows the time left."""
    total = run.program.num_steps
    with progress.Bar("train", hosts.is_first(), total=total, initial=step, unit="step") as bar:
        for latest in states:
            bar.update(history.num_steps - bar.n)
            for last in history.epochs[-1:]:
                loss, accuracy = f"{last['loss']:.3f}", f"{100 * last['accuracy']:.1f} %"
                bar.set_postfix(epoch=last["epoch"], loss=loss, accuracy=accuracy, refresh=False)
            yield latest
        bar.update(history.num_steps - bar.n)


def restore(checkpoints, run: Run, state, history: History, look: Oracle) -> ss.TrainState:
    """The state of the last checkpoint, or the one that is given without any."""
    if restored := checkpoints.restore(state):
        state, record = placement.place(run.program.model.mesh, restored[0]), restored[1]
        history.restore(record["history"])
        look.found = record.get("oracle", [])
    return state


def save(checkpoints, run: Run, state, history: History, look: Oracle) -> None:
    """Starts to write a checkpoint from which `restore` goes on."""
    if run.loader is not None:
        run.loader.corrupt[:] = hosts.names_of_all(run.loader.corrupt)
    check_finite(run, state)
    record = {"history": history.to_json(), "oracle": list(look.found)}
    checkpoints.save(int(state.step), state, record)


def interruptible(stop: Callable[[], bool], bars: bool, folder: Path) -> predict.Wrap:
    """Passes batches of the evaluation through, and raises `Interrupted` when it is to stop."""

    def wrap(batches: Iterable, what: str) -> Iterator:
        agreement = hosts.Agreement()
        for batch in progress.batches(batches, what, bars and hosts.is_first()):
            if agreement.any(stop())[0]:
                raise Interrupted(
                    f"Stopped during the evaluation; what is trained is saved in {folder}: run the "
                    "same command again to evaluate it."
                )
            yield batch

    return wrap


def command(module: str, description: str, config: str, argv: list[str] | None, **given) -> int:
    """Runs a command that trains one run, whose `log` may be given; returns its exit code."""

    def define(values):
        hosts.define(values)
        text = "A first look: few images and epochs, a small network; its record says so."
        flags.DEFINE_bool("quick", False, text, flag_values=values)

    run = functools.partial(
        cli.run,
        functools.partial(main, module=module, **given),
        argv=argv,
        description=f"{description}\n\n{hosts.DESCRIPTION}",
        default_config=f"experiments/configs/{config}.py:line",
        define=define,
        said=check.said,
        removed=check.REMOVED,
    )
    return hosts.finish(run)


def main(options: SimpleNamespace, **given) -> None:
    """Trains, evaluates and reports the run of the options that `cli.run` gives."""
    begin = time.perf_counter()
    if options.quick:
        known = {name.removeprefix("config.") for name, _ in flatten(options.config.to_dict())}
        values = {name: QUICK[name] for name in known & QUICK.keys() - options.given}
        with options.config.unlocked():
            options.config.update_from_flattened_dict(values)
            options.config.quick = True
    hosts.join(options)
    config, asked = options.config, (options.workdir, options.config, options.overwrite)
    with hosts.explained():
        check.check(config)
        folder = workdir.check(*asked)
        if _is_done(folder, options.overwrite):
            return
        with lock.hold(folder) if hosts.is_first() else contextlib.nullcontext():
            workdir.check(*asked)  # whoever held it may have made and finished this run, or another
            if not _is_done(folder, options.overwrite):
                _run(config, folder, overwrite=options.overwrite, begin=begin, **given)


def _is_done(folder: Path, overwrite: bool) -> bool:
    """Whether the run is finished and has its report; then it is shown."""
    metrics = None if overwrite else workdir.finished(folder)
    done = metrics is not None and (folder / workdir.REPORT).exists()
    if done and hosts.is_first():
        print(_headline(metrics))
        date = metrics["provenance"]["date"]
        print(f"{folder} holds this run, finished on {date}; nothing to do.")
        report = (folder / workdir.REPORT).absolute()
        print(f"Pass --overwrite to run it again. Report: {report}")
    return hosts.any_of(done)[0]


def _run(config, folder: Path, **given) -> None:
    inputs = Inputs()
    given |= {"data": inputs.dataset(config), "shifted": inputs.shifted(config)}
    check_shifted(config, given["shifted"])
    with progress.Stop(alone=jax.process_count() == 1) as stop:
        try:
            metrics = execute(folder, config, stop=lambda: bool(stop.requested), **given)
        except Interrupted as interruption:
            if hosts.is_first():
                print(interruption)
            raise
        if not hosts.is_first():
            return
        if log := given.get("log"):
            point = styles.deployed(metrics["points"])
            names = ("accuracy", "nll", "brier", "ece")
            log(metrics["history"][-1]["step"], {f"test/{name}": point[name] for name in names})
        publish(folder, metrics)  # a signal that comes now ends nothing: it is a matter of seconds
    print(_headline(metrics))
    print(f"Report: {(folder / workdir.REPORT).absolute()}")


def publish(folder: Path, metrics: dict) -> None:
    """Writes the figures of a finished run as PNG and PDF, and its report."""
    progress.say("drawing the figures and the report")
    workdir.publish(folder, *pages.of_run(metrics | {"landscape": workdir.landscape(folder)}))


def _headline(metrics: dict) -> str:
    point = styles.deployed(metrics["points"])
    where = "at the midpoint" if len(metrics["points"]) > 1 else "of the network"
    how = "1 seed; --quick, so no result" if metrics["config"].get("quick") else "1 seed"
    return (
        f"{metrics['config']['kind']}: test accuracy {100 * point['accuracy']:.2f} %, NLL "
        f"{point['nll']:.4f}, ECE {100 * point['ece']:.2f} % {where} ({how})."
    )
