"""A run's folder: is it whole, and does its network still give the numbers that it recorded?"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from experiments.doctor.findings import LOOK, NOTE, OK, PROBLEM, Finding, first

# Of 10,000 images 5: what rounding on another machine changes.
TOLERANCE = 5e-4


def is_run(folder: Path) -> bool:
    """Whether there is a run of a suite or of a single config in a folder."""
    return (folder / "config.json").exists()


def state(folder: Path) -> Iterator[Finding]:
    """What a folder is to a command: new, of a run that is finished, or of one that goes on."""
    if not is_run(folder):
        empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
        other = f"{folder} is a file, or holds files but no config.json."
        fix = "name the folder of a run, or a new one for a new run"
        yield first((empty, OK, f"{folder} is free for a run."), (True, PROBLEM, other, fix))
        return
    from experiments.runs import finished, workdir

    stored = workdir.stored_config(folder)
    if (folder / ".lock").exists():
        what = f"{folder} is in use, or the process that used it was killed."
        yield Finding(LOOK, what, "wait for it; if nothing runs, run the same command again")
    if damaged := sorted(entry.name for entry in folder.glob(f"{workdir.DAMAGED}*")):
        what = f"{folder} has {len(damaged)} damaged checkpoints that were put aside."
        yield Finding(LOOK, what, f"look after the disk, then delete {', '.join(damaged)}")
    if "recipe" not in stored:
        yield Finding(NOTE, f"{folder} is of a suite: name one of its runs to have it verified.")
    elif reason := workdir.diverged(folder):
        yield Finding(LOOK, f"The run in {folder} diverged: {reason}", "use --overwrite")
    elif metrics := workdir.finished(folder):
        date = metrics.get("provenance", {}).get("date", "an unknown date")
        yield Finding(OK, f"The run in {folder} is finished, on {date}.")
    else:
        fix = finished.command_of(folder)
        yield Finding(LOOK, f"The run in {folder} is not finished.", fix)


def run(config, folder: Path) -> Iterator[Finding]:
    """The run of a folder, made anew: its data's parts, its checkpoints, its numbers."""
    from experiments.data import sets
    from experiments.runs import finished, workdir
    from experiments.system import xla
    from experiments.training import steps
    from experiments.training.run import make_run

    xla.configure()
    config = finished.alone(config, folder / workdir.WEIGHTS)
    data = sets.of(config)
    parts = {"training": data.train, "validation": data.validation, "test": data.test}
    sizes = ", ".join(f"{len(split.labels):,} {name}" for name, split in parts.items())
    made = make_run(config, data)
    yield Finding(OK, f"A run of this config has {sizes} images.")
    yield from _checkpoints(folder / workdir.CHECKPOINTS, steps.init_state(made))
    if "points" in (workdir.finished(folder) or {}):
        yield from reproduced(finished.reopen(folder, config.data_dir))


def _checkpoints(folder: Path, state) -> Iterator[Finding]:
    from experiments.runs.checkpoint import Checkpoints

    if not any(folder.glob("[0-9]*")):
        return
    with contextlib.closing(Checkpoints(folder)) as checkpoints:
        found = checkpoints.examine(state)
    fix = "run the same command again: it takes the intact one"
    fix = "get a copy, or use --overwrite" if all(found.values()) else fix
    for step, reason in found.items():
        broken = f"Checkpoint {step} can't be read: {reason}"
        whole = f"Checkpoint {step} is intact (SHA-256)."
        yield first((not reason, OK, whole), (True, PROBLEM, broken, fix))


def reproduced(finished) -> Iterator[Finding]:
    """Whether the recorded accuracy is that of the stored weights."""
    import jax.numpy as jnp
    import numpy as np

    from experiments.evaluation import predict
    from experiments.evaluation.points import layout
    from experiments.results import styles

    run, settings, test = finished.run, finished.settings, finished.dataset.test
    plan = layout(run, settings)
    weights = jnp.asarray(plan.weights[[plan.index("midpoint")]])
    network, _ = predict.recalibrated(run, predict.mixtures(finished.stack, weights), settings)
    logits = predict.predict(run.program.model, network, test.images, settings)
    now = float(np.mean(np.argmax(np.asarray(logits[0]), -1) == test.labels))
    recorded = styles.deployed(finished.metrics["points"])["accuracy"]
    said = f"test accuracy {100 * recorded:.2f} % there, {100 * now:.2f} % now"
    fix = 'see whether the data, the weights or JAX changed since its "provenance"'
    yield first(
        (abs(now - recorded) <= TOLERANCE, OK, f"metrics.json is reproduced: {said}."),
        (True, PROBLEM, f"metrics.json is not reproduced: {said}.", fix),
    )
