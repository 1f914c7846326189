"""A run's folder: is it whole, and does its network still give the numbers that it recorded?"""

import json
from collections.abc import Iterator
from pathlib import Path

from experiments.doctor import machine
from experiments.doctor.findings import LOOK, NOTE, OK, PROBLEM, Finding

AGAIN = "run the same command again"
# Of 10,000 images 5: what rounding on another machine changes.
TOLERANCE = 5e-4


def is_run(folder: Path) -> bool:
    """Whether there is a run of a suite or of a single config in a folder."""
    return (folder / "config.json").exists()


def state(folder: Path) -> Iterator[Finding]:
    """What a folder is to a command: new, of a run that is finished, or of one that goes on."""
    if not is_run(folder):
        yield _without_run(folder)
        return
    from experiments.runs import finished, workdir

    stored = workdir.stored_config(folder)
    damaged = sorted(entry.name for entry in folder.glob(f"{workdir.DAMAGED}*"))
    if damaged:
        what = f"{folder} has {len(damaged)} damaged checkpoints that were put aside."
        yield Finding(LOOK, what, f"look after the disk, then delete {', '.join(damaged)}")
    if (folder / ".lock").exists():
        what = f"{folder} is in use, or the process that used it was killed."
        yield Finding(LOOK, what, f"wait for it; if nothing runs, {AGAIN}")
    if "recipe" not in stored:
        yield Finding(NOTE, f"{folder} is of a suite: name one of its runs to have it verified.")
        return
    path = folder / workdir.METRICS
    if not path.exists():
        steps = [int(entry.name) for entry in folder.glob("checkpoints/*") if entry.name.isdigit()]
        at = f"has a checkpoint at step {max(steps)}" if steps else "has no checkpoint yet"
        fix = finished.command_of(folder)
        if reason := workdir.diverged(folder):
            yield Finding(LOOK, f"The run in {folder} diverged: {reason}", "use --overwrite")
            return
        yield Finding(LOOK, f"The run in {folder} is not finished and {at}.", fix)
        return
    metrics = _metrics(folder)
    if metrics is None:
        fix = f"delete it and {AGAIN}: only it is lost"
        yield Finding(PROBLEM, f"{path} is damaged.", fix)
        return
    date = metrics.get("provenance", {}).get("date", "an unknown date")
    yield Finding(OK, f"The run in {folder} is finished, on {date}.")
    found = metrics.get("recalibration")
    if found is not None and not found["num_examples"]:
        yield Finding(NOTE, "Its network has no batch norm: no statistics can be stale.")
    elif found is not None:
        of = f"{found['num_examples']:,} {'augmented' if found['augmented'] else 'plain'} images"
        yield Finding(OK, f"Batch-norm statistics of every point are of {of}.")


def _without_run(folder: Path) -> Finding:
    if not folder.exists():
        return Finding(OK, f"{folder} is not there: a run would make it.")
    if not folder.is_dir():
        return Finding(PROBLEM, f"{folder} is a file.", "name a folder with --workdir")
    if any(folder.iterdir()):
        fix = "name the folder of a run, or a new one for a new run"
        return Finding(LOOK, f"{folder} holds files but no config.json.", fix)
    return Finding(OK, f"{folder} is empty.")


def _metrics(folder: Path) -> dict | None:
    """What a run recorded; `None` if it has not, or if that can't be read."""
    try:
        return json.loads((folder / "metrics.json").read_text())
    except (OSError, ValueError):
        return None


def to_come(config) -> Iterator[Finding]:
    """A run of a config: its data's parts, and its memory."""
    from experiments.system import xla
    from experiments.training import model, steps

    xla.configure()
    config = config.copy_and_resolve_references()
    run, found = _made(config)
    yield found
    if model.on_cpu():
        needed = steps.step_memory(run, steps.init_state(run))
        if needed is not None:
            yield from machine.memory(needed, "a training step")


def there(folder: Path, data_dir: str) -> Iterator[Finding]:
    """A run in its folder: checkpoints by SHA-256, and of a finished one its numbers, anew."""
    from experiments.runs import finished, workdir
    from experiments.runs.checkpoint import Checkpoints
    from experiments.system import xla
    from experiments.training.steps import init_state

    xla.configure()
    config = finished.alone(finished.config_of(folder), folder / workdir.WEIGHTS)
    config.data_dir = data_dir
    run, found = _made(config)
    yield found
    steps = {}
    if any(entry.name.isdigit() for entry in folder.glob("checkpoints/*")):
        checkpoints = Checkpoints(folder / "checkpoints")
        try:
            steps = checkpoints.examine(init_state(run))
        finally:
            checkpoints.close()
    intact = sorted(step for step, reason in steps.items() if not reason)
    if intact:
        what = f"Checkpoints of the steps {', '.join(map(str, intact))} are intact (SHA-256)."
        yield Finding(OK, what)
    fix = f"{AGAIN}: it takes the intact one" if intact else "get a copy, or use --overwrite"
    for step, reason in steps.items():
        if reason:
            yield Finding(PROBLEM, f"Checkpoint {step} can't be read: {reason}", fix)
    if "points" in (_metrics(folder) or {}):
        yield from reproduced(finished.reopen(folder, data_dir))


def _made(config):
    """The run of a config, and what its data are."""
    from experiments.data import sets
    from experiments.training.run import make_run

    dataset = sets.of(config)
    sizes = ", ".join(
        f"{len(getattr(dataset, part).labels):,} {what}"
        for part, what in (("train", "training"), ("validation", "validation"), ("test", "test"))
    )
    run = make_run(config, dataset)
    return run, Finding(OK, f"A run of this config has {sizes} images.")


def reproduced(finished) -> Iterator[Finding]:
    """Whether the recorded accuracy is that of the stored weights, and what statistics decide."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.evaluation import predict
    from experiments.evaluation.points import layout
    from experiments.results import styles

    run, settings, test = finished.run, finished.settings, finished.dataset.test
    plan = layout(run, settings)
    names = [point.name for point in plan.points]
    weights = np.asarray(plan.weights[names.index("midpoint") if len(names) > 1 else 0])[None]
    ends = np.eye(weights.shape[1], dtype=weights.dtype)[np.abs(weights[0]) > 0]
    mixed = predict.mixtures(finished.stack, jnp.asarray(np.concatenate([weights, ends])))
    networks, recalibration = predict.recalibrated(run, mixed, settings)

    def accuracy(network):
        logits = predict.predict(run.program.model, network, test.images, settings)
        return float(np.mean(np.argmax(np.asarray(logits[0]), -1) == test.labels))

    recorded = styles.deployed(finished.metrics["points"])["accuracy"]
    now = accuracy(networks.take([0]))
    said = f"test accuracy {100 * recorded:.2f} % there, {100 * now:.2f} % now"
    if abs(now - recorded) <= TOLERANCE:
        yield Finding(OK, f"metrics.json is reproduced: {said}.")
    else:
        fix = 'see whether the data, the weights or JAX changed since its "provenance"'
        yield Finding(PROBLEM, f"metrics.json is not reproduced: {said}.", fix)
    if len(ends) > 1 and recalibration.num_examples and jax.tree.leaves(networks.stats):
        mean = jax.tree.map(lambda x: x[1:].mean(axis=0, keepdims=True), networks.stats)
        stale = 100 * accuracy(networks.take([0])._replace(stats=mean))
        yield Finding(
            NOTE,
            f"With the mean of the endpoints' batch-norm statistics the deployed network has "
            f"{stale:.2f} %, with its own {100 * now:.2f} %.",
        )
