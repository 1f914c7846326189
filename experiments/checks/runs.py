"""A run's folder: is it whole, and does its network still give the numbers that it recorded?"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments.checks.findings import LOOK, OK, PROBLEM, Finding

AGAIN = "run the same command again"
# Of 10,000 images 5: what rounding on another machine changes.
TOLERANCE = 5e-4
# More than this is lost by foreign statistics: they decide the number.
STALE = 0.01


def read_config(folder: str) -> tuple[Any | None, list[Finding]]:
    """The config of a run's folder, if it is the folder of one, and what was found there."""
    path = Path(folder).expanduser()
    if not path.exists():
        return None, [Finding(OK, f"{folder} is not there: a run would make it.")]
    if not path.is_dir():
        return None, [Finding(PROBLEM, f"{folder} is a file.", "name a folder with --workdir")]
    if not (path / "config.json").exists():
        what = "is empty" if not any(path.iterdir()) else "holds files but no config.json"
        level = OK if "empty" in what else LOOK
        fix = "" if level == OK else "name the folder of a run, or a new one for a new run"
        return None, [Finding(level, f"{folder} {what}.", fix)]
    try:
        values = json.loads((path / "config.json").read_text())
        if not isinstance(values, dict):
            raise ValueError("it is no object")
    except ValueError as error:
        return None, [
            Finding(
                PROBLEM,
                f"{path / 'config.json'} is damaged ({error}).",
                "get it from a copy, or start anew with --overwrite",
            )
        ]
    import ml_collections

    values.pop("data_sha256", None)
    return ml_collections.ConfigDict(_tuples(values)), []


def _tuples(value):
    """Lists of JSON as the tuples that a config has."""
    if isinstance(value, dict):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def check_state(folder: Path) -> Iterator[Finding]:
    """Whether a run is finished, goes on, or can be resumed; nothing is written."""
    from experiments import workdir

    path = folder / workdir.METRICS
    damaged = sorted(entry.name for entry in folder.glob(f"{workdir.DAMAGED}*"))
    if damaged:
        yield Finding(
            LOOK,
            f"{folder} has {len(damaged)} damaged checkpoints that were put aside.",
            f"look after the disk, then delete {', '.join(damaged)}",
        )
    if (folder / ".lock").exists():
        yield Finding(
            LOOK,
            f"{folder} is in use, or the process that used it was killed.",
            f"wait for it; if nothing runs, {AGAIN}",
        )
    if not path.exists():
        steps = [entry.name for entry in folder.glob("checkpoints/*") if entry.name.isdigit()]
        at = (
            f"has a checkpoint at step {max(map(int, steps))}" if steps else "has no checkpoint yet"
        )
        yield Finding(LOOK, f"The run in {folder} is not finished and {at}.", AGAIN)
        return
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        yield Finding(
            PROBLEM, f"{path} is damaged ({error}).", f"delete it and {AGAIN}: only it is lost"
        )
        return
    date = metrics.get("provenance", {}).get("date", "an unknown date")
    yield Finding(OK, f"The run in {folder} is finished, on {date}.")
    found = metrics.get("recalibration")
    if found is not None and not found["num_examples"]:
        yield Finding(OK, "Its network has no batch norm: no statistics can be stale.")
    elif found is not None:
        augmented = "augmented" if found["augmented"] else "plain"
        yield Finding(
            OK,
            f"Batch-norm statistics of every point are of {found['num_examples']:,} {augmented} images.",
        )


def check_checkpoints(folder: Path, run: Any) -> Iterator[Finding]:
    """Every checkpoint against the SHA-256 that was written with it."""
    from experiments import train
    from experiments.checkpoint import Checkpoints

    if not any(entry.name.isdigit() for entry in folder.glob("checkpoints/*")):
        return
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        found = checkpoints.examine(train.init_state(run))
    finally:
        checkpoints.close()
    intact = [step for step, reason in found.items() if not reason]
    if intact:
        steps = ", ".join(map(str, sorted(intact)))
        yield Finding(OK, f"Checkpoints of the steps {steps} are intact (SHA-256).")
    for step, reason in found.items():
        if reason:
            fix = (
                f"{AGAIN}: it takes the intact one" if intact else "get a copy, or use --overwrite"
            )
            yield Finding(PROBLEM, f"Checkpoint {step} can't be read: {reason}", fix)


class Accuracies(NamedTuple):
    """Test accuracy of the deployed network.

    Attributes:
      recorded: what metrics.json says.
      recalibrated: computed now, with statistics that are measured now.
      stale: computed now, with the mean of the endpoints' statistics; `None` with one endpoint or
        without batch norm.
    """

    recorded: float
    recalibrated: float
    stale: float | None


def measure(run: Any, stack: Any, config: Any, test: Any, metrics: dict) -> Accuracies:
    """Predicts the test images anew, from the stored weights `[n, ...]`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments import layout, predict, styles

    settings = predict.make_settings(config, run)
    plan = layout.layout(run, settings)
    deployed = styles.deployed(metrics["points"])
    index = [point.name for point in plan.points].index("midpoint") if len(plan.points) > 1 else 0
    weights = plan.weights[index][None]
    rows = np.eye(weights.shape[1], dtype=weights.dtype)
    ends = rows[np.abs(weights[0]) > 0]  # the networks that the point is mixed from
    mixed = predict.mixtures(stack, jnp.asarray(np.concatenate([weights, ends])))
    networks, recalibration = predict.recalibrated(run, mixed, settings, _with_bar)

    def accuracy(chosen):
        logits = predict.predict(run.program.model, chosen, test.images, settings, _with_bar)
        return float(np.mean(np.argmax(np.asarray(logits[0]), -1) == test.labels))

    one = networks.take([0])
    stale = None
    if len(ends) > 1 and recalibration.num_examples and jax.tree.leaves(networks.stats):
        mean = jax.tree.map(lambda x: x[1:].mean(axis=0, keepdims=True), networks.stats)
        stale = accuracy(one._replace(stats=mean))
    return Accuracies(deployed["accuracy"], accuracy(one), stale)


def _with_bar(batches, what):
    import tqdm

    return tqdm.tqdm(batches, unit="batch", desc=what, leave=False, delay=1)


def check_accuracies(found: Accuracies) -> Iterator[Finding]:
    """Whether recorded numbers are those of the stored weights, and what statistics decide."""
    now, then = 100 * found.recalibrated, 100 * found.recorded
    if abs(found.recalibrated - found.recorded) <= TOLERANCE:
        yield Finding(
            OK, f"metrics.json is reproduced: test accuracy {then:.2f} % there, {now:.2f} % now."
        )
    else:
        yield Finding(
            PROBLEM,
            f"metrics.json is not reproduced: test accuracy {then:.2f} % there, {now:.2f} % now.",
            "see whether the data, the weights or JAX changed since; versions are under "
            '"provenance" there',
        )
    if found.stale is None:
        return
    lost = found.recalibrated - found.stale
    text = (
        "with the mean of the endpoints' batch-norm statistics the deployed network has "
        f"{100 * found.stale:.2f} %, with its own {now:.2f} %"
    )
    if lost > STALE:
        yield Finding(
            OK,
            f"Stale statistics would matter here: {text}.",
            "recalibrate every point that you use (subspace_jax.recalibrate)",
        )
    else:
        yield Finding(OK, f"Statistics matter little here: {text}.")


def check_reproduced(folder: Path, run: Any, config: Any, test: Any) -> Iterator[Finding]:
    """Of a finished run; of others nothing can be said."""
    from experiments import train, weights

    if not (folder / "metrics.json").exists():
        return
    if not (folder / "weights.npz").exists():
        yield Finding(LOOK, f"{folder} has no weights.npz.", f"delete its metrics.json and {AGAIN}")
        return
    metrics = json.loads((folder / "metrics.json").read_text())
    if "points" not in metrics:
        yield Finding(OK, f"{folder} is of a suite: name one run's folder to have it verified.")
        return
    stack = weights.load(folder / "weights.npz", train.one_network(run))
    yield from check_accuracies(measure(run, stack, config, test, metrics))
