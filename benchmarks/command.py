"""What commands share: arguments, and a record with its table, or one sentence and exit code 2."""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import rounds
from experiments.system import cli, files, xla
from experiments.system.errors import UserError
from experiments.system.provenance import commit, finished_now, provenance


class Count(NamedTuple):
    """An argument that is a number of something, at least `least`."""

    default: int
    least: int = 1
    help: str | None = None


def make_main(
    name: str,
    description: str,
    measure: Callable[[argparse.Namespace], dict],
    markdown: Callable[[dict], str],
    counts: Mapping[str, Count],
    others: Mapping[str, Mapping[str, Any]] | None = None,
    record: Callable[[argparse.Namespace], str] | None = None,
) -> Callable[[Sequence[str] | None], int]:
    """`main` of a command, which measures, writes RECORD.json and RECORD.md, and prints the table.

    `others` are the arguments that are no counts, as argparse takes them. What `measure` returns as
    `provenance` is joined to what is known of every record, which is named as the command by default.
    """

    def run(options: argparse.Namespace) -> dict:
        for key, count in counts.items():
            if (value := getattr(options, key)) < count.least:
                raise UserError(f"--{key} is {value}; use at least {count.least}.")
        commit()  # that of the code that runs, whatever is checked out meanwhile
        xla.configure()
        begin = time.perf_counter()
        results = measure(options)
        own = finished_now() | {"wall_seconds": time.perf_counter() - begin}
        own |= results.pop("provenance", {})
        return results | {"provenance": provenance(f"benchmarks.{name}") | own}

    def main(argv: Sequence[str] | None = None) -> int:
        parser = cli.parser(f"benchmarks.{name}", description)
        for key, count in counts.items():
            parser.add_argument(f"--{key}", type=int, default=count.default, help=count.help)
        for key, given in (others or {}).items():
            parser.add_argument(f"--{key}", **given)
        parser.add_argument("--output", type=Path, help="folder; runs/RECORD by default")
        options = parser.parse_args(argv)
        stem = record(options) if record else name
        folder = options.output or Path("runs") / stem
        try:
            results = run(options)
            folder.mkdir(parents=True, exist_ok=True)
            text = markdown(results)
            files.write_atomically(folder / f"{stem}.json", json.dumps(results, indent=1))
            files.write_atomically(folder / f"{stem}.md", text)
        except (UserError, rounds.Failed) as error:
            return cli.fail(error)
        except OSError as error:
            return cli.fail(f"{error.filename or folder} can't be written: {error.strerror}.")
        print(text)
        return 0

    return main
