"""The loss around the networks of a finished run, drawn into its report.

    python -m experiments.plane runs/triangle [--resolution 21] [--beside runs/other]

writes WORKDIR/landscape.json, and the report and its figures anew. A triangle or curve has its own
plane; a line's goes through one more network, that of `--beside`; one network has random directions.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.system import launch


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    from experiments.runs import slices  # imports JAX
    from experiments.system import cli, xla

    parser = cli.parser("experiments.plane", __doc__)
    add = parser.add_argument
    add("workdir", metavar="WORKDIR", type=Path, help="the folder of a finished run")
    add("--resolution", type=int, default=21, help="points along each axis; default: 21")
    text = "for a line: the folder of a run whose network is in the plane too"
    add("--beside", metavar="WORKDIR", type=Path, help=text)
    text = "where the data are now, if they were moved"
    add("--data_dir", default="", metavar="DIR", help=text)
    options = vars(parser.parse_args(argv))

    def command() -> None:
        xla.configure()
        folder = options.pop("workdir")
        slices.draw(folder, **options)
        print(f"Report: {(folder / slices.workdir.REPORT).absolute()}")

    return cli.exit_code(command)


if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
