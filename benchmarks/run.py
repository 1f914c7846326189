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
from benchmarks.contestants import ABLATIONS, ACCELERATED, CONTESTANTS
from experiments.system import cli, launch, xla
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, provenance

DESCRIPTION = """Times this project beside PyTorch, in turns, and writes ratios.

    python -m benchmarks.run [--device cpu|gpu] [--quick] [--only NAMES | --ablations | --overhead]

Training steps of cResNet20 by contestants that work in turns; evaluation of the points of a line in
one pass, point by point, and in a process of its own for every point; the start of the program; the
memory of a step. PyTorch takes part if it is installed (`python -m pip install -e '.[benchmarks]'`).
Contestants that are chosen are timed alone, without the other costs."""


class Ratio(NamedTuple):
    """The first's images per second over the second's; by device what is required, and hoped for."""

    name: str
    first: str
    second: str
    cpu: tuple[float, ...] = ()
    gpu: tuple[float, ...] = ()


_LINE, _SIX = (1 / 1.03,), (1 / 1.08,)
RATIOS = (
    Ratio("line / standard", "line", "standard", _LINE, _LINE),
    Ratio("layerwise line / standard", "layerwise line", "standard", _LINE, _LINE),
    Ratio("simplex of 6 / standard", "simplex of 6", "standard", _SIX, _SIX),
    Ratio("standard / PyTorch standard", "standard", "PyTorch standard", (0.75,)),
    Ratio("line / PyTorch line", "line", "PyTorch line", (0.75,)),
    Ratio("line / PyTorch line, loader", "line", "PyTorch line, loader"),
    Ratio(
        "standard / PyTorch, channels last",
        *("standard", "PyTorch standard, channels last", (0.75, 1.0)),
    ),
    Ratio(
        "standard / PyTorch, channels last, bfloat16",
        *("standard, bfloat16", "PyTorch standard, channels last, bfloat16", (0.6, 0.8)),
    ),
    Ratio("line / PyTorch line, compiled", "line", "PyTorch line, compiled"),
    Ratio("standard, bfloat16 / standard", "standard, bfloat16", "standard"),
    Ratio("line / standard, bfloat16", "line, bfloat16", "standard, bfloat16", gpu=_LINE),
    Ratio(
        "simplex of 6 / standard, bfloat16",
        *("simplex of 6, bfloat16", "standard, bfloat16", (), _SIX),
    ),
    Ratio("line, bfloat16 / line", "line, bfloat16", "line"),
    Ratio(
        "standard / PyTorch standard, compiled, bfloat16",
        *("standard, bfloat16", "PyTorch standard, compiled, bfloat16"),
    ),
    Ratio(
        "line / PyTorch line, compiled, bfloat16",
        *("line, bfloat16", "PyTorch line, compiled, bfloat16", (), (1.3,)),
    ),
    Ratio(
        "line, bfloat16 / PyTorch line, loader",
        *("line, bfloat16", "PyTorch line, loader", (), (10.0,)),
    ),
    Ratio("8 lines at once / one", "8 lines at once", "line"),
    Ratio(
        "8 lines at once / one, bfloat16",
        *("8 lines at once, bfloat16", "line, bfloat16", (), (2.0,)),
    ),
    *(Ratio(f"standard / {name}", "standard", name) for name in ABLATIONS),
)
# Contestants by the option that chooses them.
CHOICES = {
    "overhead": ("standard", "line", "layerwise line", "simplex of 6"),
    "ablations": ("standard", *ABLATIONS),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = cli.parser("benchmarks.run", DESCRIPTION)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="few rounds: does everything work?")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9, help="of training steps")
    parser.add_argument("--sessions", type=int, default=3, help="new processes so many times")
    parser.add_argument("--steps", type=int, default=0, help="of a round; default: 6, GPU 390")
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument("--only", default="", help="contestants with semicolons between")
    alone.add_argument("--ablations", action="store_true", help="ours without its parts")
    alone.add_argument("--overhead", action="store_true", help="ours: for small differences")
    parser.add_argument("--output", type=Path, default=Path("runs/performance"))
    options = parser.parse_args(argv)
    name = next((k for k in CHOICES if getattr(options, k)), "performance")
    return output.write(lambda: measure(options), table.markdown, options.output, name)


def measure(options: argparse.Namespace) -> dict:
    """All measurements of a run, as JSON values.

    Raises:
      UserError: a device that is not there, an unknown contestant, or counts below 1.
    """
    chosen = _chosen(options)
    output.at_least(options, rounds=1, sessions=1, batch_size=1, steps=0)
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
    results = {
        "settings": vars(counts) | {"rounds": number, "sessions": sessions, "quick": options.quick},
        "training": training,
        "ratios": {
            one.name: rounds.ratio(answers[one.first], answers[one.second])
            | dict(zip(("target", "goal"), getattr(one, options.device), strict=False))
            for one in RATIOS
            if one.first in answers and one.second in answers
        },
    }
    if not (options.ablations or options.overhead):
        results["roofline"] = roofline.measure(counts, training, options.quick)
    if not (options.ablations or options.overhead or options.only):
        results |= {
            "memory": costs.memory(options.batch_size),
            "start": costs.start(options.quick),
            "evaluation": costs.evaluation(counts, options.quick),
        }
    return results | {
        "provenance": record
        | finished_now()
        | {
            "wall_seconds": time.perf_counter() - begin,
            "torch": version("torch") if find_spec("torch") else None,
        }
    }


def _chosen(options: argparse.Namespace) -> list[str]:
    """The contestants that are asked for; of PyTorch's those that can take part."""
    named = [name for name in options.only.split(";") if name]
    if unknown := [name for name in named if name not in CONTESTANTS]:
        raise UserError(
            f"Contestant {unknown[0]!r} is unknown; choose of {'; '.join(CONTESTANTS)}."
        )
    if any(name.startswith("PyTorch") for name in named) and not find_spec("torch"):
        raise UserError(
            "--only names contestants of PyTorch but it is not installed; "
            "run python -m pip install -e '.[benchmarks]'."
        )
    without = ABLATIONS | (ACCELERATED if options.device == "cpu" else {})
    chosen = next((names for k, names in CHOICES.items() if getattr(options, k)), named)
    chosen = chosen or [name for name in CONTESTANTS if name not in without]
    return [name for name in chosen if find_spec("torch") or not name.startswith("PyTorch")]


if __name__ == "__main__":
    launch.with_huge_pages()
    sys.exit(main())
