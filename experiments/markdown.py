r"""The results of a suite as Markdown.

    python -m experiments.markdown results/digits/metrics.json
    python -m experiments.markdown results/digits-bfloat16/metrics.json \
        --against results/digits/metrics.json

prints the table of what predicts, or what differs between two suites with the same methods and seeds,
such as precisions.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.results import tables
from experiments.results.summary import Record
from experiments.system import cli
from experiments.system.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Prints what a metrics.json says as Markdown."""
    parser = cli.parser("experiments.markdown", __doc__)
    parser.add_argument("metrics", type=Path, help="the metrics.json of a suite")
    parser.add_argument("--against", type=Path, help="another metrics.json: what differs from it")
    options = parser.parse_args(argv)

    def command() -> None:
        metrics = _read(options.metrics)
        other = options.against and _read(options.against)
        print(tables.against(metrics, other) if other else tables.results(metrics))

    return cli.exit_code(command)


def _read(path: Path) -> Record:
    try:
        metrics = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is not JSON; give a metrics.json.") from error
    if not isinstance(metrics, dict) or "table" not in metrics:
        raise UserError(f"{path} has no table; give the metrics.json of a suite.")
    return metrics


if __name__ == "__main__":
    sys.exit(main())
