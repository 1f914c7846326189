"""The loss around the networks of a finished run, drawn into its report.

    python -m experiments.plane runs/triangle [--resolution 21] [--beside runs/other]

writes WORKDIR/landscape.json, and the report and its figures anew. A triangle or curve has its own
plane; a line's goes through one more network, that of `--beside`; one network has random directions.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

import subspace_jax as ss
from experiments.evaluation import predict
from experiments.runs import finished, job, slices, workdir
from experiments.runs.finished import FinishedRun
from experiments.system import cli, files, lock, xla
from experiments.system.errors import UserError


def draw(
    folder: Path, *, resolution: int = 21, beside: Path | None = None, data_dir: str = ""
) -> None:
    """Looks at the networks of a finished run, and publishes what it sees with the run's results.

    Args:
      folder: of the run.
      resolution: points along each axis of the plane.
      beside: of another run of the same model, whose first network a line's plane goes through.
      data_dir: where the run's data are now, if they were moved.

    Raises:
      UserError: a folder without a finished run, or networks that determine no plane.
    """
    finished.check_folder(folder)  # before a lock's file is put into any folder
    with lock.hold(folder):
        work = finished.reopen(folder, data_dir)
        other = None if beside is None else finished.reopen(beside, data_dir).stack
        found = _slice(folder, work, resolution, other)
        files.write_json(folder / workdir.LANDSCAPE, {"slice": found})
        job.publish(folder, work.metrics)


def _slice(folder: Path, work: FinishedRun, resolution: int, beside: ss.tree.PyTree | None) -> dict:
    """The record of the plane; see `slices.plane_of`."""
    subspace = work.run.program.method.subspace
    if subspace.num_endpoints == 2 and beside is None:
        raise UserError(
            f"{folder} has 2 endpoints, through which many planes go; give one more network with "
            "--beside WORKDIR of another run of this model."
        )
    if subspace.num_endpoints != 2 and beside is not None:
        raise UserError(
            f"--beside is given but {folder} has {subspace.num_endpoints} endpoints; give it for a line."
        )
    stacks = [work.stack]
    _check_size(folder, work.stack, subspace)
    if beside is not None:
        shapes = [
            {
                jax.tree_util.keystr(path): x.shape[1:]
                for path, x in jax.tree.leaves_with_path(stack)
            }
            for stack in (work.stack, beside)
        ]
        if shapes[0] != shapes[1]:
            name = next(
                n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n)
            )
            raise UserError(
                f"--beside is a run of another network than {folder} ({name} is "
                f"{shapes[1].get(name, 'missing')} there and {shapes[0].get(name, 'missing')} here); "
                "give a run of the same config.model."
            )
        stacks.append(jax.tree.map(lambda x: x[:1], beside))
    return slices.plane_of(
        work.run, work.settings, work.dataset, stacks, resolution, predict.with_bar
    )


def _check_size(folder: Path, stack: ss.tree.PyTree, subspace: ss.Subspace) -> None:
    """Averages such as SWAG and snapshots keep other networks than endpoints."""
    there = ss.tree.num_stacked(stack)
    if there != subspace.num_endpoints:
        raise UserError(
            f"{folder / workdir.WEIGHTS} holds {there} networks but the run's subspace has "
            f"{subspace.num_endpoints} endpoints; draw a run that trains a subspace or one network."
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.plane",
        description="Draw the loss around the networks of a finished run into its report.",
        epilog="A triangle or curve has its own plane, a single network random directions; that of a "
        "line goes through one more network.\n\nexample: python -m experiments.plane runs/line --beside "
        "runs/standard",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "workdir", metavar="WORKDIR", type=Path, help="the folder of a finished run"
    )
    parser.add_argument(
        "--resolution", type=int, default=21, help="points along each axis; default: 21"
    )
    parser.add_argument(
        "--beside",
        metavar="WORKDIR",
        type=Path,
        help="for a line: the folder of a run whose network is in the plane too",
    )
    parser.add_argument(
        "--data_dir", default="", metavar="DIR", help="where the data are now, if they were moved"
    )
    options = parser.parse_args(argv)

    def command() -> None:
        xla.configure()
        draw(
            options.workdir,
            resolution=options.resolution,
            beside=options.beside,
            data_dir=options.data_dir,
        )
        print(f"Report: {(options.workdir / workdir.REPORT).absolute()}")

    return cli.exit_code(command)


if __name__ == "__main__":
    sys.exit(main())
