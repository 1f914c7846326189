"""Training steps of ImageNet's networks: images a second, what a line adds, hours of a training."""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from benchmarks import output
from benchmarks.rounds import spread
from benchmarks.table import table
from experiments.configs import imagenet
from experiments.data.sets import Dataset, Split
from experiments.system import launch, xla
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, provenance
from experiments.training import model, models, steps
from experiments.training.memory import memory_report
from experiments.training.run import make_run

DESCRIPTION = """Training steps of ResNet50 and WideResNet50-2, standard and as a line, in turns.

    python -m benchmarks.imagenet_steps [--batch_size 256] [--dtype bfloat16] [--mesh data=8]
        [--peak_tflops 989] [--output FOLDER]

Images are random and on the device already: loading them is what benchmarks.input_pipeline measures.
--peak_tflops is what all devices together could do in that dtype, for the share that is reached."""

NETWORKS = ("resnet50", "wide_resnet50_2")
RECIPES = ("standard", "line")
NUM_CLASSES = 1000
# Of 1,281,167 training images, 10,000 are held out.
EPOCHS, TRAINING_IMAGES = 200, 1_271_167


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imagenet_steps",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--dtype", choices=tuple(models.DTYPES), default="bfloat16")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--width", type=int, default=64, help="channels of the stem")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--mesh", default="")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of a round")
    parser.add_argument("--peak_tflops", type=float, default=0.0, help="0: not known")
    parser.add_argument("--output", type=Path, default=Path("runs/imagenet_steps"))
    options = parser.parse_args(argv)
    return output.write(lambda: measure(options), markdown, options.output, "imagenet_steps")


def measure(options: argparse.Namespace) -> dict:
    """All networks, as JSON values.

    Raises:
      UserError: a count below 1, a peak below 0, or a mesh that does not fit.
    """
    for name in ("batch_size", "image_size", "width", "rounds", "steps"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; use at least 1.")
    if options.peak_tflops < 0:
        raise UserError(f"--peak_tflops is {options.peak_tflops}; use 0 if it is not known.")
    xla.configure()
    begin, record = time.perf_counter(), provenance("benchmarks.imagenet_steps")
    shown = tqdm.tqdm(options.networks, unit="network", desc="networks")
    networks = {name: _network(options, name) for name in shown}
    names = ("batch_size", "dtype", "image_size", "width", "mesh", "rounds", "steps", "peak_tflops")
    return {
        "settings": {name: getattr(options, name) for name in names},
        "networks": networks,
        "provenance": record
        | {"precision": options.dtype}
        | finished_now()
        | {"wall_seconds": time.perf_counter() - begin},
    }


def _network(options, name: str) -> dict:
    """Both recipes of a network, in turns."""
    found, rounds = {}, {}
    for recipe in RECIPES:
        found[recipe], rounds[recipe] = _contestant(options, name, recipe)
    seconds = {recipe: [] for recipe in RECIPES}
    for _ in range(options.rounds):
        for recipe in RECIPES:
            seconds[recipe].append(rounds[recipe]())
    for recipe, record in found.items():
        speeds = [options.batch_size / each for each in seconds[recipe]]
        record["images_per_second"] = spread(speeds)
        middle = statistics.median(speeds)
        record["hours"] = EPOCHS * TRAINING_IMAGES / middle / 3600
        if options.peak_tflops and record["flop_per_image"] is not None:
            reached = middle * record["flop_per_image"]
            record["share_of_peak"] = reached / (1e12 * options.peak_tflops)
    ratios = [a / b for a, b in zip(seconds["standard"], seconds["line"], strict=True)]
    return found | {"line_to_standard": spread(ratios)}


def _contestant(options, name: str, recipe: str) -> tuple[dict, Callable[[], float]]:
    """What is known of a step before it is run, and a round: seconds that a step takes in it."""
    config = imagenet.get_config(recipe)
    config.update(batch_size=options.batch_size, mesh=options.mesh, steps_per_call=1)
    config.model.update(name=name, dtype=options.dtype, width=options.width)
    config.augmentation = "none"
    rng, shape = np.random.default_rng(0), (options.batch_size, *2 * [options.image_size], 3)
    images = rng.integers(0, 256, shape, np.uint8)
    split = Split(images, rng.integers(0, NUM_CLASSES, options.batch_size).astype(np.int32))
    run = make_run(config, Dataset("random", split, split, split, NUM_CLASSES))
    state = steps.init_state(run)
    key, indices = jax.random.key(0), jnp.arange(options.batch_size)[None]
    static = {"program": run.program, "unroll": model.on_cpu()}

    def step(state):
        given = (run.hyper, key, run.images, run.labels, indices)
        return steps.train_call(state, *given, **static)[0]

    latest = jax.block_until_ready(step(state))  # the first one compiles and is not timed
    lowered = steps.lowered_call(run, latest)
    memory = memory_report(lowered.compile(), latest)
    # Before optimisation, which on a GPU hides convolutions in calls of a library; of all devices.
    flop = (lowered.cost_analysis() or {}).get("flops")
    record = {
        "flop_per_image": None if flop is None else flop / options.batch_size,
        "memory": None if memory is None else memory._asdict() | {"total": memory.total},
    }

    waiting = [latest]

    def once() -> float:
        begin = time.perf_counter()
        for _ in range(options.steps):
            waiting.append(step(waiting.pop()))
        jax.block_until_ready(waiting)
        return (time.perf_counter() - begin) / options.steps

    return record, once


def markdown(results: dict) -> str:
    """The networks as a table."""
    header = ["network", "images/s (range)", "line / standard (range)", "GFLOP per image"]
    header += ["TFLOP/s", "share of peak", "memory of a step, GiB", f"hours for {EPOCHS} epochs"]
    rows = []
    for name, found in results["networks"].items():
        for recipe in RECIPES:
            one, ratio = found[recipe], found["line_to_standard"]
            speed = one["images_per_second"]
            known = one["flop_per_image"] is not None
            rows.append(
                [
                    f"{name}, {recipe}",
                    "{median:.3g} ({min:.3g} to {max:.3g})".format(**speed),
                    "{median:.2f} ({min:.2f} to {max:.2f})".format(**ratio)
                    if recipe == "line"
                    else "",
                    f"{one['flop_per_image'] / 1e9:.3g}" if known else "",
                    f"{one['flop_per_image'] * speed['median'] / 1e12:.3g}" if known else "",
                    f"{one['share_of_peak']:.2f}" if "share_of_peak" in one else "",
                    f"{one['memory']['total'] / 2**30:.2f}" if one["memory"] else "",
                    f"{one['hours']:,.0f}",
                ]
            )
    return table(header, rows) + "\n"


if __name__ == "__main__":
    launch.with_huge_pages()
    sys.exit(main())
