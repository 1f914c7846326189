"""One training run from config to report: resumable at any moment, evaluated at the end."""

import contextlib
import functools
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import tqdm
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

import subspace_jax as ss
from experiments.configs import recipes
from experiments.data import corrupted, ood, sets
from experiments.evaluation import evaluate, predict, predictors
from experiments.report import pages
from experiments.results import styles
from experiments.runs import workdir
from experiments.runs.checkpoint import Checkpoints, full_disk
from experiments.system import cli, files, hosts, lock
from experiments.system.cli import Stop
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, provenance
from experiments.training import model, placement, steps, weights
from experiments.training.history import History, NonFiniteLoss, check_finite
from experiments.training.memory import MemoryReport, memory_report
from experiments.training.methods import make_method
from experiments.training.run import Run, make_run


class Interrupted(Exception):
    """A signal came; what was done is saved."""


def command(
    module: str, description: str, default_config: str, argv: list[str] | None = None
) -> int:
    """Runs a command that trains one run, in one process or several; returns its exit code.

    Args:
      module: of the command.
      description: the first part of its help text.
      default_config: file of the config, with the recipe after a colon.
      argv: without the program's name; `sys.argv[1:]` by default.
    """
    run = functools.partial(
        cli.run,
        functools.partial(main, module=module),
        argv=argv,
        description=f"{description}\n\n{hosts.DESCRIPTION}",
        default_config=default_config,
        define=hosts.define,
    )
    return hosts.finish(run)


def main(options: SimpleNamespace, module: str) -> None:
    """Trains, evaluates and reports one run.

    Args:
      options: `config`, `workdir`, `overwrite` and those of `hosts.define`, as `cli.run` gives
        them.
      module: the command's module, for the record.

    Raises:
      UserError: a config, data or workdir that a run can't have, divergence, a full disk, another
        run's process in the workdir, or processes of this one that are lost.
    """
    begin = time.perf_counter()
    hosts.join(options)
    try:
        _main(options, module, begin)
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if sentence := hosts.lost_another(error):
            raise sentence from error
        raise


def _main(options, module, begin) -> None:
    config = options.config
    make_method(config)  # refuses a bad config before any data is read
    folder = workdir.check(options.workdir, config, options.overwrite)
    done = _show_if_done(folder, options.overwrite)
    if hosts.any_of(done)[0]:
        return
    with lock.hold(folder) if hosts.is_first() else contextlib.nullcontext():
        # Whoever held it may have made and finished this run, or another.
        workdir.check(options.workdir, config, options.overwrite)
        if not hosts.any_of(_show_if_done(folder, options.overwrite))[0]:
            _run(config, folder, options.overwrite, module, begin)


def _show_if_done(folder: Path, overwrite: bool) -> bool:
    """Whether the run is finished; then it is shown."""
    metrics = workdir.finished(folder, overwrite)
    if metrics is None or not hosts.is_first():
        return False
    print(_headline(metrics))
    print(f"{folder} holds this run, finished on {metrics['provenance']['date']}; nothing to do.")
    print(f"Pass --overwrite to run it again. Report: {(folder / workdir.REPORT).absolute()}")
    return True


def _run(config, folder: Path, overwrite: bool, module: str, begin: float) -> None:
    dataset = load_data(config)
    run = make_run(config, dataset)
    settings = predict.make_settings(config, run)
    shifted = shifted_images(config, dataset)
    check_shifted(config, shifted)
    with Stop() as stop:
        if hosts.is_first():
            workdir.prepare(folder, config, overwrite)
        hosts.any_of(False)  # not before the folder is there
        try:
            metrics = _train_and_evaluate(
                config, dataset, run, settings, shifted, folder, stop, module
            )
            metrics["provenance"] |= finished_now() | {"wall_seconds": time.perf_counter() - begin}
        except Interrupted as interruption:
            if hosts.is_first():
                print(interruption)
            return
        if not hosts.is_first():
            return
        publish(folder, metrics)  # a signal that comes now waits: it is a matter of seconds
    print(_headline(metrics))
    print(f"Report: {(folder / workdir.REPORT).absolute()}")


def publish(folder: Path, metrics: dict) -> None:
    """Writes the results of a run, its figures as PNG and PDF, and its report."""
    made, page = pages.of_run(metrics | {"landscape": workdir.landscape(folder)})
    workdir.publish(folder, metrics, made, page)


def load_data(config) -> sets.Dataset:
    """The data set of a config."""
    noise = config.label_noise
    return sets.load(
        config.dataset,
        config.data_dir,
        validation_size=config.validation_size,
        split_seed=config.split_seed,
        train_size=config.train_size,
        image_size=config.image_size,
        num_classes=config.num_classes,
        noise_rate=noise.rate,
        noise_mode=noise.mode,
        noise_seed=noise.seed,
        noise_file=noise.file,
        max_corrupt=config.max_corrupt,
    )


def data_record(dataset: sets.Dataset, run: Run) -> dict:
    """What a record says of a data set: the training files that were left out, and why."""
    skipped = [{"file": file, "reason": reason} for file, reason in dataset.skipped]
    if run.loader is not None:
        skipped += [{"file": file, "reason": "not decoded"} for file in run.loader.corrupt]
    return {"num_skipped": len(skipped), "skipped": skipped}


def shifted_images(config, dataset: sets.Dataset) -> predictors.Shifted:
    """The corrupted and the foreign images that a config asks for, made when they are needed.

    Raises:
      UserError: a corruption or severity that does not exist.
    """
    evaluation = config.evaluation
    corrupted.check_names(evaluation.corruptions, evaluation.severities)
    where = (config.dataset, config.data_dir, config.image_size)
    return predictors.Shifted(
        {
            name: {
                severity: functools.partial(
                    _corrupted, *where, evaluation.corruption_source, name, severity
                )
                for severity in evaluation.severities
            }
            for name in evaluation.corruptions
        },
        {name: functools.partial(_outside, *where, name) for name in evaluation.outside},
    )


def check_shifted(config, shifted: predictors.Shifted) -> None:
    """Loads the foreign images and a severity of each published corruption, before any training.

    Raises:
      UserError: they do not exist, can't be read, or do not fit the model.
    """
    if config.evaluation.corruption_source != corrupted.GENERATED:
        for severities in shifted.corrupted.values():
            next(iter(severities.values()))()
    for load in shifted.outside.values():
        load()


@functools.lru_cache(maxsize=len(corrupted.NAMES) * len(corrupted.SEVERITIES))
def _corrupted(dataset, data_dir, image_size, source, name, severity) -> corrupted.Corrupted:
    """Runs of a suite share them."""
    _, test, num_classes = sets.load_arrays(dataset, data_dir, image_size)
    return corrupted.load_corrupted(
        source,
        name,
        severity,
        test,
        num_classes,
        class_names=sets.class_names(dataset, data_dir) if source != corrupted.GENERATED else (),
        data_dir=_tfds_folder(data_dir),
    )


def _tfds_folder(data_dir: str) -> str:
    """Where TFDS has other data sets: with the first one, unless that is a file."""
    return "" if data_dir.endswith(".npz") else data_dir


@functools.lru_cache(maxsize=4)
def _outside(dataset, data_dir, image_size, name):
    _, test, _ = sets.load_arrays(dataset, data_dir, image_size)
    return ood.load_outside(name, test, _tfds_folder(data_dir))


def _train_and_evaluate(config, dataset, run, settings, shifted, folder, stop, module) -> dict:
    record = provenance(module, config.model.dtype) | {"seed": config.seed}
    state, history, start, memory = _train(config, run, folder, stop)
    splits = {"test": dataset.test}
    if len(dataset.validation.labels):
        splits["validation"] = dataset.validation
    begin = time.perf_counter()
    stack = hosts.local(run.program.method.trained(state, jax.random.key(config.seed)))
    if hosts.is_first():
        weights.save(folder / workdir.WEIGHTS, stack)
    results = evaluate.evaluate(
        run,
        stack,
        splits,
        settings,
        _watched(folder, stop),
        shifted,
        recipes.places_of(config.recipe),
    )
    if memory is not None:
        record["memory"] = memory._asdict()
    seconds = [epoch["seconds"] for epoch in history.epochs]
    speeds = [epoch["images_per_second"] for epoch in history.epochs]
    record |= {
        "training_seconds": sum(seconds),
        "gradient_passes": run.program.num_steps
        * run.batch_size
        * run.program.method.gradients_per_step,
        "evaluation_seconds": time.perf_counter() - begin,
        # The first epoch compiles.
        "images_per_second": statistics.median(speeds[1:] or speeds),
        "resumed_at_step": start,
        "num_training_images": len(run.labels),
    }
    config = json.loads(config.to_json_best_effort())
    return {
        "config": config,
        "provenance": record,
        "data": data_record(dataset, run),
        "history": history.epochs,
    } | results


def _train(config, run, folder, stop) -> tuple:
    checkpoints = Checkpoints(folder / workdir.CHECKPOINTS)
    state = steps.init_state(run)
    # Logs are closed last, and what can't be written may be seen only then.
    with (
        full_disk(f"the logs of the training could not be written to {folder}"),
        Logs(folder) as logs,
    ):
        history = History(run, on_epoch=logs.write if hosts.is_first() else _unwritten)
        if restored := checkpoints.restore(state):
            state, record = placement.place(run.program.model.mesh, restored[0]), restored[1]
            history.restore(record["history"])
        if hosts.is_first():
            logs.start_from(history.epochs)
        start = int(state.step)
        waits = jax.process_count() == 1  # for what is written, and so for the other processes
        try:
            memory = step_report(run, state) if start < run.program.num_steps else None
            agreement = hosts.Agreement()
            for latest in _with_bar(run, state, history):
                state = latest
                due = time.monotonic() - checkpoints.last >= config.checkpoint_seconds
                due, stopping = agreement.any(due, stop.requested)
                if due or stopping:
                    _save(checkpoints, run, state, history)
                    agreement = hosts.Agreement()  # what was due before is done
                if stopping:
                    waits = True
                    raise Interrupted(_stopped_sentence(folder, history.num_steps, run))
            _save(checkpoints, run, state, history)
            waits = True
        except NonFiniteLoss:  # which all of them see
            waits = True
            raise
        finally:
            if waits:
                checkpoints.close()
    return state, history, start, memory


def step_report(run: Run, state: ss.TrainState) -> MemoryReport | None:
    """What the training needs on each device, said before its first step; `None` on a CPU alone.

    Raises:
      UserError: the device has less.
    """
    if model.on_cpu() and run.program.model.mesh is None:
        return None
    report = memory_report(steps.compiled_call(run, state), state)
    if report is None:
        return None
    if not report.fits:
        raise UserError(report.sentence())
    if hosts.is_first():
        print(report.sentence(), file=sys.stderr)
    return report


def _with_bar(run, state, history) -> Iterator:
    """The states of `train.fit`, with a progress bar that shows the time left."""
    step, total = int(state.step), run.program.num_steps
    shown = {"disable": not hosts.is_first(), "mininterval": 0.5}
    with tqdm.tqdm(total=total, initial=step, unit="step", desc="train", **shown) as bar:
        for latest in steps.fit(run, state, history):
            bar.update(history.num_steps - bar.n)
            if history.epochs:
                last = history.epochs[-1]
                bar.set_postfix(
                    epoch=last["epoch"],
                    loss=f"{last['loss']:.3f}",
                    accuracy=f"{last['accuracy']:.3f}",
                    refresh=False,
                )
            yield latest
        bar.update(history.num_steps - bar.n)


def _unwritten(record: dict) -> None:
    """What processes but the first do with an epoch's record."""
    del record


def _save(checkpoints, run, state, history) -> None:
    if run.loader is not None:
        run.loader.corrupt[:] = hosts.names_of_all(run.loader.corrupt)
    record = {"history": history.to_json()}
    check_finite(run, state)
    checkpoints.save(int(state.step), state, record)


def _stopped_sentence(folder, step, run) -> str:
    return (
        f"Stopped at step {step} of {run.program.num_steps}; everything is saved in {folder}: run "
        "the same command again to go on."
    )


def _watched(folder, stop) -> predict.Wrap:
    """Shows progress over batches of the evaluation, and stops it when a signal comes."""

    shown = {"disable": not hosts.is_first(), "mininterval": 0.5}

    def wrap(batches: Iterable, what: str) -> Iterator:
        agreement = hosts.Agreement()
        for batch in tqdm.tqdm(batches, unit="batch", desc=what, **shown):
            if agreement.any(stop.requested)[0]:
                raise Interrupted(
                    f"Stopped during the evaluation; the trained endpoints are saved in {folder}: "
                    "run the same command again to evaluate them."
                )
            yield batch

    return wrap


class Logs:
    """The records of epochs as lines of JSON and as TensorBoard events."""

    def __init__(self, folder: Path):
        self._path, self._events = folder / workdir.HISTORY, folder / workdir.TENSORBOARD

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *exc) -> None:
        if hasattr(self, "_file"):
            self._file.close()
            self._writer.close()

    def start_from(self, records: list[dict]) -> None:
        """Drops what was logged after the checkpoint that a run resumes from."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        files.write_atomically(self._path, lines)
        self._file = self._path.open("a", buffering=1)
        self._events.mkdir(exist_ok=True)
        # Not in a thread: one that fails on a full disk would leave this one waiting for ever.
        self._writer = EventsWriter(str(self._events / "events"))
        if records:  # TensorBoard hides what was logged from this step on
            step, status = records[-1]["step"] + 1, SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=status))

    def write(self, record: dict) -> None:
        """Appends the record of an epoch."""
        self._file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            scalar = summary.scalar(f"train/{name}", value)
            event = Event(wall_time=time.time(), step=record["step"], summary=scalar)
            self._writer.write_event(event)
        self._writer.flush()


def _headline(metrics: dict) -> str:
    point = styles.deployed(metrics["points"])
    where = "at the midpoint" if len(metrics["points"]) > 1 else "of the network"
    return (
        f"{metrics['config']['kind']}: test accuracy {100 * point['accuracy']:.2f} %, NLL "
        f"{point['nll']:.4f}, ECE {point['ece']:.4f} {where} (1 seed)."
    )
