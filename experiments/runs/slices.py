"""The plane of the loss through a run's networks."""

from collections.abc import Sequence
from pathlib import Path

import jax

import subspace_jax as ss
from experiments.data.sets import Dataset
from experiments.evaluation import landscape, predict
from experiments.runs import finished, job, workdir
from experiments.runs.finished import FinishedRun
from experiments.system import files, lock, progress
from experiments.system.errors import UserError
from experiments.training import weights
from experiments.training.run import Run, one_network

# The stream of a run's randomness that landscapes take.
STREAM = 5


def plane_of(
    run: Run,
    settings: predict.Settings,
    data: Dataset,
    stacks: Sequence[ss.tree.PyTree],
    resolution: int,
    wrap: predict.Wrap,
) -> dict:
    """`landscape.slice_record` of the networks of a run and, for a line, one more."""
    return landscape.slice_record(
        run.program.method.subspace,
        weights.concatenate(stacks),
        predict.moments_fn(run.program.model, settings.recalibration_augment),
        predict.logits_fn(run.program.model),
        predict.recalibration_batches(run, settings),
        data.test,
        key=jax.random.fold_in(jax.random.key(run.seed), STREAM),
        resolution=resolution,
        wrap=wrap,
        batch_size=settings.batch_size,
    )


def draw(
    folder: Path, *, resolution: int = 21, beside: Path | None = None, data_dir: str = ""
) -> None:
    """Draws the plane of a finished run's networks, and of `beside`'s first, into its report."""
    finished.check_folder(folder)  # before a lock's file is put into any folder
    with lock.hold(folder):
        work = finished.reopen(folder, data_dir)
        _check(folder, work, beside)
        stacks = [work.stack]
        if beside is not None:
            other = weights.load(beside / workdir.WEIGHTS, one_network(work.run))
            stacks.append(jax.tree.map(lambda x: x[:1], other))
        given = work.run, work.settings, work.dataset, stacks, resolution, progress.batches
        files.write_json(folder / workdir.LANDSCAPE, {"slice": plane_of(*given)})
        job.publish(folder, work.metrics)


def _check(folder: Path, work: FinishedRun, beside: Path | None) -> None:
    n, there = work.run.program.method.subspace.num_endpoints, ss.tree.num_stacked(work.stack)
    if n == 2 and beside is None:
        raise UserError(
            f"{folder} has 2 endpoints, through which many planes go; give one more network with "
            "--beside WORKDIR of another run of this model."
        )
    if n != 2 and beside is not None:
        raise UserError(f"--beside is given but {folder} has {n} endpoints; give it for a line.")
    if there != n:  # of averages such as SWAG
        raise UserError(
            f"{folder / workdir.WEIGHTS} holds {there} networks but the run's subspace has {n} "
            "endpoints; draw a run that trains a subspace or one network."
        )
