"""Times training, evaluation and start-up of this project beside PyTorch's, in one run."""

import argparse
import os
import sys
from importlib.metadata import version
from importlib.util import find_spec
from types import SimpleNamespace
from typing import NamedTuple

import jax

from benchmarks import costs, roofline, rounds, table
from benchmarks.command import Count, make_main
from benchmarks.contestants import ABLATIONS, ACCELERATED, CONTESTANTS
from experiments.system import launch
from experiments.system.errors import UserError

DESCRIPTION = """Times this project beside PyTorch, in turns, and writes ratios.

    python -m benchmarks.run [--device cpu|gpu] [--quick] [--only NAMES]

Training steps of cResNet20 by contestants that work in turns; evaluation of the points of a line in
one pass and point by point; the start of the program; the memory of a step. PyTorch takes part if
it is installed (`python -m pip install -e '.[benchmarks]'`).
Contestants that are chosen are timed alone, without the other costs."""


class Ratio(NamedTuple):
    """The first's images per second over the second's; by device what is required, and hoped for."""

    first: str
    second: str
    cpu: tuple[float, ...] = ()
    gpu: tuple[float, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.first} / {self.second}"


_LINE, _SIX = (1 / 1.03,), (1 / 1.08,)
_CHANNELS_LAST = "PyTorch standard, channels last"
RATIOS = (
    Ratio("line", "standard", _LINE, _LINE),
    Ratio("layerwise line", "standard", _LINE, _LINE),
    Ratio("simplex of 6", "standard", _SIX, _SIX),
    Ratio("standard", "PyTorch standard", (0.75,)),
    Ratio("line", "PyTorch line", (0.75,)),
    Ratio("line", "PyTorch line, loader"),
    Ratio("line", "PyTorch line, compiled"),
    Ratio("standard", _CHANNELS_LAST, (0.75, 1.0)),
    Ratio("standard", f"{_CHANNELS_LAST}, glibc's memory"),
    Ratio("standard, bfloat16", f"{_CHANNELS_LAST}, bfloat16", (0.6, 0.8)),
    Ratio("standard, bfloat16", "PyTorch standard, compiled, bfloat16"),
    Ratio("standard, bfloat16", "standard"),
    Ratio("line, bfloat16", "standard, bfloat16", gpu=_LINE),
    Ratio("simplex of 6, bfloat16", "standard, bfloat16", gpu=_SIX),
    Ratio("line, bfloat16", "line"),
    Ratio("line, bfloat16", "PyTorch line, compiled, bfloat16", gpu=(1.3,)),
    Ratio("line, bfloat16", "PyTorch line, loader", gpu=(10.0,)),
    Ratio("8 lines at once", "line"),
    Ratio("8 lines at once, bfloat16", "line, bfloat16", gpu=(2.0,)),
    *(Ratio("standard", name) for name in ABLATIONS),
)
# Contestants by what chooses them, in place of their names.
CHOICES = {
    "overhead": ("standard", "line", "layerwise line", "simplex of 6"),
    "ablations": ("standard", *ABLATIONS),
}


COUNTS = {
    "batch_size": Count(128),
    "rounds": Count(9, help="of training steps"),
    "sessions": Count(3, help="new processes so many times"),
    "steps": Count(0, least=0, help="of a round; 0: 6, on a GPU 390"),
}
OTHERS = {
    "device": {"choices": ("cpu", "gpu"), "default": "cpu"},
    "quick": {"action": "store_true", "help": "few rounds: does everything work?"},
    "only": {
        "default": "",
        "help": f"contestants with semicolons between, or one of {', '.join(CHOICES)}",
    },
}


def measure(options: argparse.Namespace) -> dict:
    """All measurements; a device that is not there and unknown contestants are refused."""
    chosen = _chosen(options)
    # Every contestant is a process with memory of its own on the one device.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
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
    if options.only not in CHOICES:
        results["roofline"] = roofline.measure(counts, training, options.quick)
    if not options.only:
        results |= {
            "memory": costs.memory(options.batch_size),
            "start": costs.start(options.quick),
            "evaluation": costs.evaluation(counts, options.quick),
        }
    torch = version("torch") if find_spec("torch") else None
    return results | {"provenance": {"torch": torch}}


def _chosen(options: argparse.Namespace) -> list[str]:
    """The contestants that are asked for; of PyTorch's those that can take part."""
    named = CHOICES.get(options.only, [name for name in options.only.split(";") if name])
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
    chosen = named or [name for name in CONTESTANTS if name not in without]
    return [name for name in chosen if find_spec("torch") or not name.startswith("PyTorch")]


def _record(options: argparse.Namespace) -> str:
    return options.only if options.only in CHOICES else "performance"


main = make_main("run", DESCRIPTION, measure, table.markdown, COUNTS, OTHERS, _record)

if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
