"""The loss around the networks of a finished run, drawn into its report.

    python -m experiments.plane runs/triangle [--resolution 21] [--beside runs/other]

writes WORKDIR/landscape.json, and the report and its figures anew. A triangle or curve has its own
plane; a line's goes through one more network, that of `--beside`; one network has random directions.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import tqdm
from ml_collections import ConfigDict

import subspace_jax as ss
from experiments import cli, compiler, files, job, landscape, lock, predict, train, weights, workdir
from experiments.configs.base import base_config
from experiments.errors import UserError
from experiments.scenes import STREAM


def draw(folder: Path, *, resolution: int = 21, beside: Path | None = None) -> None:
    """Looks at the networks of a finished run, and publishes what it sees with the run's results.

    Args:
      folder: of the run.
      resolution: points along each axis of the plane.
      beside: of another run of the same model, whose first network a line's plane goes through.

    Raises:
      UserError: a folder without a finished run, or networks that determine no plane.
    """
    _finished(folder)  # before a lock's file is put into any folder
    with lock.hold(folder):
        config, metrics = _finished(folder)
        found = _slice(folder, config, resolution, beside)
        files.write_json(folder / workdir.LANDSCAPE, {"slice": found})
        job.publish(folder, metrics)


def _slice(folder: Path, config: ConfigDict, resolution: int, beside: Path | None) -> dict:
    """The record of the plane; see `landscape.slice_record`."""
    dataset = job.load_data(config)
    run = train.make_run(config, dataset)
    subspace = run.program.method.subspace
    if subspace.num_endpoints == 2 and beside is None:
        raise UserError(
            f"{folder} has 2 endpoints, through which many planes go; give one more network with "
            "--beside WORKDIR of another run of this model."
        )
    if subspace.num_endpoints != 2 and beside is not None:
        raise UserError(
            f"--beside is given but {folder} has {subspace.num_endpoints} endpoints; give it for a line."
        )
    like = train.one_network(run)
    stacks = [weights.load(folder / workdir.WEIGHTS, like)]
    _check_size(folder, stacks[0], subspace)
    if beside is not None:
        _finished(beside)
        other = weights.load(beside / workdir.WEIGHTS, like)
        stacks.append(jax.tree.map(lambda x: x[:1], other))
    settings = predict.make_settings(config, run)
    single = predict.Single(run.program.model, settings.recalibration_augment)
    return landscape.slice_record(
        subspace,
        weights.concatenate(stacks),
        single.moments,
        single.logits,
        predict.recalibration_batches(run, settings),
        dataset.test,
        key=jax.random.fold_in(jax.random.key(config.seed), STREAM),
        resolution=resolution,
        wrap=_with_bar,
        batch_size=settings.batch_size,
    )


def _finished(folder: Path) -> tuple[ConfigDict, dict]:
    """The config and the metrics of a finished run."""
    if not (folder / workdir.CONFIG).is_file():
        raise UserError(f"{folder} has no {workdir.CONFIG}; give the --workdir of a finished run.")
    stored, metrics = workdir.stored_config(folder), workdir.finished(folder, overwrite=False)
    if metrics is None or "points" not in metrics:
        raise UserError(f"{folder} holds no finished run; finish it, or give that of a single run.")
    if not (folder / workdir.WEIGHTS).is_file():
        raise UserError(f"{folder} has no {workdir.WEIGHTS}; train the run again.")
    config = base_config(stored["recipe"])  # an older run's config lacks what came later
    config.update(stored)
    config.mesh = ""
    return config, metrics


def _check_size(folder: Path, stack: ss.tree.PyTree, subspace: ss.Subspace) -> None:
    """Averages such as SWAG and snapshots keep other networks than endpoints."""
    there = ss.tree.num_stacked(stack)
    if there != subspace.num_endpoints:
        raise UserError(
            f"{folder / workdir.WEIGHTS} holds {there} networks but the run's subspace has "
            f"{subspace.num_endpoints} endpoints; draw a run that trains a subspace or one network."
        )


def _with_bar(batches: Iterable, what: str) -> Iterator:
    return tqdm.tqdm(batches, unit="batch", desc=what, mininterval=0.5)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.plane",
        description="Draw the loss around the networks of a finished run into its report.",
    )
    parser.add_argument("workdir", type=Path, help="the folder of a finished run")
    parser.add_argument(
        "--resolution", type=int, default=21, help="points along each axis; default: 21"
    )
    parser.add_argument(
        "--beside",
        type=Path,
        help="for a line: the folder of a run whose network is in the plane too",
    )
    options = parser.parse_args(argv)
    try:
        compiler.configure()
        draw(options.workdir, resolution=options.resolution, beside=options.beside)
    except UserError as error:
        return cli.fail(error)
    except KeyboardInterrupt:
        print("\nInterrupted; nothing was changed.", file=sys.stderr)
        return 130
    print(f"Report: {(options.workdir / workdir.REPORT).absolute()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
