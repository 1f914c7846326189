r"""The results of a suite as Markdown.

    python -m experiments.markdown results/digits/metrics.json [--only standard,line]
    python -m experiments.markdown results/digits/metrics.json --claims fig3,fig7
    python -m experiments.markdown results/digits-bfloat16/metrics.json \
        --against results/digits/metrics.json

prints the table of what predicts; or claims, each with its test; or what differs between two suites
with the same methods and seeds, such as precisions.
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
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only", default="", help="methods with commas between; default: all")
    which.add_argument("--against", type=Path, help="another metrics.json: what differs from it")
    which.add_argument("--claims", default="", help="figures with commas between: their claims")
    options = parser.parse_args(argv)

    def command() -> None:
        metrics = _read(options.metrics)
        if options.claims:
            print(tables.claims_of(metrics, options.claims.split(",")))
        elif options.against:
            print(tables.against(metrics, _read(options.against)))
        else:
            print(tables.results(metrics, filter(None, options.only.split(","))))

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
