"""Times training, evaluation and start-up of this project beside PyTorch's, in one run."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax

from benchmarks import costs, output, roofline, rounds, table
from benchmarks.contestants import ABLATIONS, ACCELERATED, CONTESTANTS, baseline
from experiments.system import launch, xla
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, provenance

DESCRIPTION = """Times this project beside PyTorch, in turns, and writes ratios.

    python -m benchmarks.run [--device cpu|gpu] [--quick] [--ablations | --overhead] [--output FOLDER]

Training steps of cResNet20 by contestants that work in turns; evaluation of the points of a line in
one pass, point by point, and in a process of its own for every point; the start of the program; the
memory of a step. PyTorch takes part if it is installed (`python -m pip install -e '.[benchmarks]'`)."""


class Ratio(NamedTuple):
    """The first's images per second over the second's, with what is required and hoped for by device."""

    name: str
    first: str
    second: str
    targets: dict[str, float] = {}
    goals: dict[str, float] = {}


_EVERYWHERE = ("cpu", "gpu")
RATIOS = (
    Ratio("line / standard", "line", "standard", dict.fromkeys(_EVERYWHERE, 1 / 1.03)),
    Ratio(
        "layerwise line / standard",
        "layerwise line",
        "standard",
        dict.fromkeys(_EVERYWHERE, 1 / 1.03),
    ),
    Ratio(
        "simplex of 6 / standard", "simplex of 6", "standard", dict.fromkeys(_EVERYWHERE, 1 / 1.08)
    ),
    Ratio("standard / PyTorch standard", "standard", "PyTorch standard", {"cpu": 0.75}),
    Ratio("line / PyTorch line", "line", "PyTorch line", {"cpu": 0.75}),
    Ratio("line / PyTorch line, loader", "line", "PyTorch line, loader"),
    Ratio(
        "standard / PyTorch, channels last",
        *("standard", "PyTorch standard, channels last"),
        *({"cpu": 0.75}, {"cpu": 1.0}),
    ),
    Ratio(
        "standard / PyTorch, channels last, bfloat16",
        *("standard, bfloat16", "PyTorch standard, channels last, bfloat16"),
        *({"cpu": 0.6}, {"cpu": 0.8}),
    ),
    Ratio("line / PyTorch line, tuned", "line", "PyTorch line, tuned"),
    Ratio("standard, bfloat16 / standard", "standard, bfloat16", "standard"),
    Ratio(
        "line / standard, bfloat16",
        *("line, bfloat16", "standard, bfloat16", {"gpu": 1 / 1.03}),
    ),
    Ratio(
        "simplex of 6 / standard, bfloat16",
        *("simplex of 6, bfloat16", "standard, bfloat16", {"gpu": 1 / 1.08}),
    ),
    Ratio("line, bfloat16 / line", "line, bfloat16", "line"),
    Ratio(
        "line, bfloat16 / PyTorch line, loader",
        *("line, bfloat16", "PyTorch line, loader", {"gpu": 10.0}),
    ),
    Ratio(
        "line, bfloat16 / PyTorch line, tuned",
        *("line, bfloat16", "PyTorch line, tuned", {"gpu": 1.3}),
    ),
    Ratio(
        "8 lines at once / one, bfloat16",
        *("8 lines at once, bfloat16", "line, bfloat16", {"gpu": 2.0}),
    ),
    *(Ratio(f"{baseline(name)} / {name}", baseline(name), name) for name in ABLATIONS),
)

# What `--overhead` compares.
OVERHEAD = ("standard", "line", "layerwise line", "simplex of 6")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="few rounds: does everything work?")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9, help="of training steps")
    parser.add_argument("--sessions", type=int, default=3, help="new processes so many times")
    parser.add_argument("--steps", type=int, default=0, help="of a round; default: 6, GPU 390")
    parser.add_argument(
        "--only", default="", help="contestants with semicolons between; default: all"
    )
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--ablations", action="store_true", help="ours without its parts, alone")
    alone.add_argument(
        "--overhead",
        action="store_true",
        help="ours beside each other, alone: for small differences",
    )
    parser.add_argument("--output", type=Path, default=Path("runs/performance"))
    options = parser.parse_args(argv)
    name = next((k for k in ("ablations", "overhead") if getattr(options, k)), "performance")
    return output.write(lambda: measure(options), table.markdown, options.output, name)


def measure(options: argparse.Namespace) -> dict:
    """All measurements of a run, as JSON values.

    Raises:
      UserError: a device that is not there, an unknown contestant, or counts below 1.
    """
    chosen = [name for name in options.only.split(";") if name]
    if options.overhead:
        chosen = chosen or list(OVERHEAD)
    if options.ablations:
        chosen = chosen or list(dict.fromkeys([*map(baseline, ABLATIONS), *ABLATIONS]))
    without = ABLATIONS | (ACCELERATED if options.device == "cpu" else {})
    chosen = chosen or [name for name in CONTESTANTS if name not in without]
    if unknown := [name for name in chosen if name not in CONTESTANTS]:
        raise UserError(
            f"Contestant {unknown[0]!r} is unknown; choose of {'; '.join(CONTESTANTS)}."
        )
    for name in ("rounds", "sessions", "batch_size"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; use at least 1.")
    if options.steps < 0:
        raise UserError(f"--steps is {options.steps}; use at least 1, or 0 for the default.")
    begin = time.perf_counter()
    # Every contestant is a process with memory of its own on the one device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    xla.configure()
    record = provenance("benchmarks.run")
    if options.device != ("cpu" if jax.default_backend() == "cpu" else "gpu"):
        raise UserError(
            f"--device is {options.device} but JAX runs on {jax.default_backend()}; install the "
            "jaxlib of that device, or set JAX_PLATFORMS."
        )
    if find_spec("torch") is None:
        if options.only and any(name.startswith("PyTorch") for name in chosen):
            raise UserError(
                "--only names contestants of PyTorch but it is not installed; "
                "run python -m pip install -e '.[benchmarks]'."
            )
        chosen = [name for name in chosen if not name.startswith("PyTorch")]
    counts = SimpleNamespace(
        device=options.device,
        threads=os.cpu_count(),
        batch_size=options.batch_size,
        steps=options.steps or {"cpu": 6, "gpu": 390}[options.device],
    )
    number, sessions = (2, 1) if options.quick else (options.rounds, options.sessions)
    answers = rounds.measure(chosen, counts, rounds=number, sessions=sessions)
    training = {
        name: {
            "images_per_second": rounds.spread(rounds.speeds(found)),
            "peak_bytes": found[-1]["peak_bytes"],
            "answers": found,
        }
        for name, found in answers.items()
    }
    ratios = {
        one.name: rounds.ratio(answers[one.first], answers[one.second])
        | {"target": one.targets.get(options.device), "goal": one.goals.get(options.device)}
        for one in RATIOS
        if one.first in answers and one.second in answers
    }
    results = {
        "settings": vars(counts) | {"rounds": number, "sessions": sessions, "quick": options.quick},
        "training": training,
        "ratios": ratios,
    }
    if not (options.ablations or options.overhead):
        results |= {
            "memory": costs.memory(options.batch_size),
            "roofline": roofline.measure(counts, training, options.quick),
            "start": costs.start(options.quick),
            "evaluation": costs.evaluation(counts, options.quick),
        }
    return results | {
        "provenance": record
        | finished_now()
        | {"wall_seconds": time.perf_counter() - begin, "torch": _torch_version()}
    }


def _torch_version() -> str | None:
    if find_spec("torch") is None:
        return None
    return version("torch")


if __name__ == "__main__":
    launch.with_huge_pages()
    sys.exit(main())
