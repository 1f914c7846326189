"""The most valuable part of the article that a GPU gives in some minutes, continued by the next call."""

import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.data.sets import load_arrays
from experiments.system import cli, launch
from experiments.system.errors import UserError

DESCRIPTION = """Gets the most out of a quarter of an hour of a GPU, and goes on next time.

    python -m benchmarks.accelerator --data_dir cifar10.npz [--minutes 15] [--output FOLDER]

First steps are timed beside PyTorch's (benchmarks.run --quick). Then the article's protocol is trained
at full scale: standard, line, layerwise line and the matched control, all seeds of a method in one
program, with clean labels and then with 20 % wrong ones. Every result is written when it is there; when
the minutes are over the work is saved, and the same command goes on where it stopped. What else is
given, as --config.seeds=0,1, is for experiments.reproduce.

Without a network it needs jax with its GPU plugin, flax, optax, numpy and torch, and these, got where
there is one by `python -m pip download -d wheels NAMES` and installed by `python -m pip install
--no-index --find-links wheels NAMES`: ml-collections matplotlib tensorboardX tqdm"""

PRODUCTS = ("standard", "line", "layerwise_line", "standard_matched")
CONTESTANTS = (
    *("standard", "line", "standard, bfloat16", "line, bfloat16"),
    *("8 lines at once", "8 lines at once, bfloat16"),
    *("PyTorch standard, channels last", "PyTorch standard, channels last, bfloat16"),
    *("PyTorch line, compiled", "PyTorch line, compiled, bfloat16"),
)
_SEEDS = 3
# Wrong labels -> the folder of their runs.
NOISE = {0.0: "clean", 0.2: "wrong_labels"}
_TIMED_MINUTES = 4.0
_SAVING_SECONDS = 30.0  # that a command has to save its work when it is told to stop


class Part(NamedTuple):
    """A command, the file that it leaves when it is done, and the minutes that it may take."""

    name: str
    arguments: tuple[str, ...]
    result: Path
    needs: tuple[Path, ...] = ()
    minutes: float = math.inf


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 1 if a part failed."""
    parser = cli.parser("benchmarks.accelerator", DESCRIPTION)
    parser.add_argument("--minutes", type=float, default=15.0, help="that all may take")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--data_dir", default="", help="CIFAR-10: an .npz file or a TFDS folder")
    parser.add_argument("--output", type=Path, default=Path("runs/accelerator"))
    options, rest = parser.parse_known_args(argv)
    failed = []

    def command() -> None:
        if not options.minutes > 0:
            raise UserError(f"--minutes is {options.minutes:g}; use a number above 0.")
        if other := [name for name in rest if not name.startswith("--config.")]:
            raise UserError(f"Unexpected argument {other[0]!r}; --help lists the flags.")
        load_arrays("cifar10", options.data_dir)  # refuses what can't be read, before all else
        wanted = parts(options.device, options.data_dir, options.output, rest)
        failed.extend(run_parts(wanted, options.output, options.minutes))

    return cli.exit_code(command) or int(bool(failed))


def parts(device: str, data_dir: str, output: Path, rest: Sequence[str] = ()) -> list[Part]:
    """The commands in the order of their value."""
    timed, result = output / "performance", "metrics.json"
    quick = ("--device", device, "--quick", "--only", ";".join(CONTESTANTS))
    suite = (
        *("experiments.reproduce", "cifar10", "--scale", "full", "--only", "fig5"),
        f"--config.products={PRODUCTS}",
        f"--config.run.data_dir={data_dir}",
        f"--config.runs_at_once={_SEEDS}",
        "--config.run.evaluation.corruptions=('snow',)",
        "--config.recipes.standard.evaluation__oracle_epochs=0",
        *rest,
    )
    found = [
        Part(
            "steps beside PyTorch's",
            ("benchmarks.run", *quick, "--output", str(timed)),
            timed / "performance.json",
            minutes=_TIMED_MINUTES,
        )
    ]
    for rate, name in NOISE.items():
        own = (f"--config.noise_rates=({rate},)", "--workdir", str(output / name))
        found.append(Part(f"article, {name}", (*suite, *own), output / name / result))
    known = tuple(output / name / result for name in NOISE.values())
    own = (f"--config.noise_rates={tuple(NOISE)}", "--known_runs", ",".join(map(str, known)))
    own += ("--draw_only", "--workdir", str(output / "cifar10"))
    return [*found, Part("both together", (*suite, *own), output / "cifar10" / result, known)]


def run_parts(wanted: Sequence[Part], output: Path, minutes: float) -> list[str]:
    """Runs what is not done yet, one after another, until the minutes are over.

    Returns the names of parts that failed, which does not keep the others from their turn.
    """
    end, failed = time.monotonic() + 60 * minutes, []
    output.mkdir(parents=True, exist_ok=True)
    # Compiled programs are kept with the results, since a lent machine has none of the last time.
    environment = {**os.environ, "XDG_CACHE_HOME": str((output / "cache").absolute())}
    for part in wanted:
        left = end - time.monotonic() - _SAVING_SECONDS
        if not part.result.exists() and all(need.exists() for need in part.needs) and left > 0:
            print(f"{part.name}: python -m {shlex.join(part.arguments)}", flush=True)
            code = _run(part, environment, min(left, 60 * part.minutes))
            if code not in (0, None):
                failed.append(part.name)
                print(f"{part.name} failed with exit code {code}.", file=sys.stderr)
        if part.result.exists():
            print(f"{part.name}: done, in {part.result.parent}.", flush=True)
    missing = [part.name for part in wanted if not part.result.exists()]
    if missing:
        print(f"Not done yet: {'; '.join(missing)}. Run the same command again to go on.")
    return failed


def _run(part: Part, environment: dict[str, str], seconds: float) -> int | None:
    """The exit code of a command, or None if its time was over; a training then saves what it has."""
    with subprocess.Popen([sys.executable, "-m", *part.arguments], env=environment) as process:
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
        try:
            process.wait(_SAVING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
    return None


if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
