"""Is all in order? Versions, devices, memory, data and a run's folder, with what mends each."""

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from experiments.checks import images, machine, packages, runs
from experiments.checks.findings import LOOK, OK, PROBLEM, Finding, guarded

DESCRIPTION = """Says what is in order and what is not, a line for each, and what to do about it.

    python -m experiments.doctor
    python -m experiments.doctor --dataset cifar10 --data_dir DIR
    python -m experiments.doctor --config experiments/configs/cifar10.py:line --data_dir DIR
    python -m experiments.doctor --workdir runs/line

Versions, devices, JAX's settings, memory and disks; whether the data are the published ones, pixel
by pixel; of a run's folder, whether its checkpoints are intact and its numbers are those of its
weights. Nothing is downloaded or changed. The exit code is 1 if something is a problem."""

_USE = {OK: "\033[32m", LOOK: "\033[33m", PROBLEM: "\033[31m"}

Check = Callable[[], Iterable[Finding]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options; argparse alone, since the doctor has to run where packages are missing."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.doctor",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", metavar="FILE:KIND", help="a run that you are about to start")
    parser.add_argument("--dataset", help="default: that of the config, else digits")
    parser.add_argument("--data_dir", help="folder or .npz file; default: that of the config")
    parser.add_argument("--workdir", help="the folder of a run, or of one to come")
    parser.add_argument(
        "--quick", action="store_true", help="leave out what reads pixels or computes"
    )
    return parser.parse_args(argv)


def load_config(given: str) -> SimpleNamespace | object:
    """The config of FILE:KIND.

    Raises:
      UserError: there is none.
    """
    from experiments.errors import UserError

    file, _, kind = given.partition(":")
    if not Path(file).is_file():
        raise UserError(
            f"There is no config {file}; give --config experiments/configs/cifar10.py:line"
        )
    spec = importlib.util.spec_from_file_location("doctors_config", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(*([kind] if kind else []))
    return config.run if "suite" in config else config


def findings(options: argparse.Namespace) -> Iterator[tuple[str, list[Finding]]]:
    """What is found, by a title for each group of checks, as it is found."""
    yield "Versions", guarded(packages.check_versions)
    for title, check in (
        ("Devices", machine.devices),
        ("JAX's settings", machine.settings),
        ("Compiled programs", machine.cache),
        ("Processor", machine.cores),
        ("Memory", machine.memory),
    ):
        yield title, guarded(check)
    here = options.workdir or "."
    yield "Disk", guarded(functools.partial(machine.check_folder, here))
    yield from _of_work(options)


def _of_work(options) -> Iterator[tuple[str, list[Finding]]]:
    """Of the data, the config and the workdir."""
    config, is_run, found = None, False, []

    def read() -> Iterator[Finding]:
        nonlocal config, is_run
        if options.workdir:
            config, problems = runs.read_config(options.workdir)
            is_run = config is not None and "suite" not in config
            if config is not None and not is_run:
                config = config.run
            yield from problems
        if options.config and not is_run:
            config = load_config(options.config)
            yield Finding(OK, f"{options.config} is a config.")

    found = guarded(read)
    if is_run:
        found += guarded(functools.partial(runs.check_state, Path(options.workdir).expanduser()))
    if found:
        yield "Config and workdir", found
    name = options.dataset or (config.dataset if config is not None else "digits")
    data_dir = options.data_dir
    if data_dir is None:
        data_dir = config.data_dir if config is not None else ""
    there = guarded(functools.partial(images.check_place, name, data_dir))
    yield f"Data: {name}", there
    if options.quick or any(finding.level == PROBLEM for finding in there):
        return
    yield f"Images: {name}", guarded(functools.partial(_check_images, config, name, data_dir))
    if config is not None:
        folder = Path(options.workdir).expanduser() if is_run else None
        yield "Run", guarded(functools.partial(_check_run, config, name, data_dir, folder))


def _check_images(config, name, data_dir) -> Iterator[Finding]:
    from experiments import data

    image_size = (
        config.get("image_size", 0) if config is not None else 224 * (name == data.IMAGENET)
    )
    yield from images.check_loaded(name, *data.load_arrays(name, data_dir, image_size))


def _check_run(config, name, data_dir, folder) -> Iterator[Finding]:
    """A run as its config describes it: its data's parts, its memory, its numbers."""
    from experiments import compiler, finished_run, job, train, workdir

    compiler.configure()
    if folder is not None and "recipe" in config:  # what it needed only to be trained may be gone
        config = finished_run.alone(finished_run.config_of(folder), folder / workdir.WEIGHTS)
    else:
        config = config.copy_and_resolve_references()
    config.dataset, config.data_dir = name, data_dir
    dataset = job.load_data(config)
    sizes = ", ".join(
        f"{len(part.labels):,} {what}"
        for part, what in (
            (dataset.train, "training"),
            (dataset.validation, "validation"),
            (dataset.test, "test"),
        )
    )
    yield Finding(OK, f"A run of this config has {sizes} images.")
    run = train.make_run(config, dataset)
    if folder is not None:
        yield from runs.check_checkpoints(folder, run)
        yield from runs.check_reproduced(folder, run, config, dataset.test)
    elif train.on_cpu():
        needed = train.step_memory(run, train.init_state(run))
        if needed is not None:
            free = machine.available_memory()
            yield from machine.check_memory(free, needed, "a training step")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    options = parse(argv)
    levels = []
    for title, found in findings(options):
        print(title)
        for finding in found:
            levels.append(finding.level)
            print(f"  {_coloured(finding)}", flush=True)
    problems, looks = levels.count(PROBLEM), levels.count(LOOK)
    said = "1 problem" if problems == 1 else f"{problems} problems"
    print(f"\n{said}, {looks} to look at, {levels.count(OK)} in order.")
    return int(problems > 0)


def _coloured(finding: Finding) -> str:
    line = finding.line()
    if not sys.stdout.isatty():
        return line
    return line.replace(finding.level, f"{_USE[finding.level]}{finding.level}\033[0m", 1)


if __name__ == "__main__":
    sys.exit(main())
