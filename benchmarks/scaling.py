"""Memory and time of a training step on meshes of devices: what the endpoints cost each device."""

import argparse
import sys
import time

import jax
import jax.numpy as jnp

from benchmarks.command import Count, make_main
from benchmarks.contestants import images_and_labels
from benchmarks.rounds import spread
from benchmarks.table import mebibytes, table
from experiments.configs import cifar10
from experiments.data.sets import Dataset, Split
from experiments.system import launch
from experiments.system.errors import UserError
from experiments.training import steps
from experiments.training.history import History
from experiments.training.run import make_run

DESCRIPTION = """Memory and time of a training step of cResNet20 on meshes of devices.

    python -m benchmarks.scaling [--devices N] [--endpoints M] [--output FOLDER]

A simplex of M endpoints on one device, and on every mesh of N devices. On a CPU the devices are parts of
one processor (JAX's host devices): memory is then what it would be on N devices, and time is not."""


COUNTS = {
    "devices": Count(8),
    "endpoints": Count(8, least=2),
    "batch_size": Count(128),
    "steps": Count(5, help="that are timed, after one that is not"),
}


def measure(options: argparse.Namespace) -> dict:
    """All meshes; other devices than there are, and a batch that they do not divide, are refused."""
    if options.batch_size % options.devices:
        fitting = options.batch_size // options.devices * options.devices + options.devices
        raise UserError(
            f"--batch_size is {options.batch_size} but is to be split over {options.devices} devices; "
            f"use {fitting}."
        )
    jax.config.update("jax_num_cpu_devices", options.devices)  # nothing elsewhere than on a CPU
    if len(jax.devices()) != options.devices:
        raise UserError(
            f"--devices is {options.devices} but JAX has {len(jax.devices())}; use that number."
        )
    shares = [k for k in range(1, options.devices + 1) if options.devices % k == 0]
    layouts = [f"data={options.devices // k},endpoint={k}" for k in shares]
    layouts = [
        k for k, share in zip(layouts, shares, strict=True) if options.endpoints % share == 0
    ]
    found = {"one network, one device": _mesh(options, "standard", "")}
    found |= {
        layout or "one device": _mesh(options, "simplex_3", layout) for layout in ("", *layouts)
    }
    return {"settings": {name: getattr(options, name) for name in COUNTS}, "meshes": found}


def _mesh(options, recipe: str, layout: str) -> dict:
    images, labels = images_and_labels()
    split = Split(images[: 10 * options.batch_size], labels[: 10 * options.batch_size])
    config = cifar10.get_config(recipe)
    config.update(batch_size=options.batch_size, mesh=layout, steps_per_call=1)
    if recipe != "standard":
        config.subspace.num_endpoints = options.endpoints
    run = make_run(config, Dataset("random", split, split, split, 10))
    state = steps.init_state(run)
    analysis = steps.compiled_call(run, state).memory_analysis()
    history, times = History(run), []
    begin = time.perf_counter()
    for count, latest in enumerate(steps.fit(run, state, history)):
        jnp.asarray(latest.step).block_until_ready()
        times.append(time.perf_counter() - begin)
        if count == options.steps:
            break
        begin = time.perf_counter()
    return {
        # The state is donated, and all that is: of one device, as XLA plans it.
        "state_bytes": analysis.alias_size_in_bytes,
        "temporary_bytes": analysis.temp_size_in_bytes,
        "step_seconds": spread(times[1:]),
    }


def markdown(results: dict) -> str:
    """The meshes as a table."""
    one = results["meshes"]["one network, one device"]["state_bytes"]
    rows = [
        [
            name,
            mebibytes(found["state_bytes"]),
            f"{found['state_bytes'] / one:.2f}",
            mebibytes(found["temporary_bytes"]),
            "{median:.2f} ({min:.2f} to {max:.2f})".format(**found["step_seconds"]),
        ]
        for name, found in results["meshes"].items()
    ]
    header = ["mesh", "state per device, MiB", "of one network's", "temporaries per device, MiB"]
    return table([*header, "step, seconds (range)"], rows) + "\n"


main = make_main("scaling", DESCRIPTION, measure, markdown, COUNTS)

if __name__ == "__main__":
    launch.with_tuned_memory()
    sys.exit(main())
