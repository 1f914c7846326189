"""Is all in order? Versions, devices, memory, data and a run's folder, with what mends each."""

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.doctor import data, machine, runs
from experiments.doctor.findings import LOOK, OK, PROBLEM, Finding, guarded

DESCRIPTION = """Says what is in order and what is not, a line for each, and what to do about it.

    python -m experiments.doctor
    python -m experiments.doctor --dataset cifar10 --data_dir DIR
    python -m experiments.doctor --config experiments/configs/cifar10.py:line --data_dir DIR
    python -m experiments.doctor --workdir runs/line

Versions, devices, JAX's settings, memory and disks; whether the data are the published ones, pixel
by pixel; of a run's folder, whether its checkpoints are intact and its numbers are those of its
weights. Nothing is downloaded or changed. The exit code is 1 if something is a problem."""

_COLOURS = {OK: "\033[32m", LOOK: "\033[33m", PROBLEM: "\033[31m"}


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


def load_config(given: str):
    """The config of FILE:KIND; of a suite that of its runs.

    Raises:
      UserError: there is none.
    """
    from experiments.system.errors import UserError

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
    yield "Versions", guarded(machine.versions)
    yield "Devices", guarded(machine.devices)
    yield "JAX's settings", guarded(machine.settings)
    yield "Compiled programs", guarded(machine.cache)
    yield "Processor", guarded(machine.cores)
    yield "Memory", guarded(machine.memory)
    yield "Disk", guarded(machine.disk, options.workdir or ".")
    folder = Path(options.workdir).expanduser() if options.workdir else None
    config, values = None, {}

    def read() -> Iterator[Finding]:
        nonlocal config, values
        if folder is not None:
            yield from runs.state(folder)
        if folder is not None and runs.is_run(folder):
            from experiments.runs import workdir

            values = workdir.stored_config(folder)
            values = values.get("run", values)
        if options.config and "recipe" not in values:
            config = load_config(options.config)
            values = config.to_dict()
            yield Finding(OK, f"{options.config} is a config.")

    found = guarded(read)
    if found:
        yield "Config and workdir", found
    name = options.dataset or values.get("dataset", "digits")
    data_dir = options.data_dir
    if data_dir is None:
        data_dir = values.get("data_dir", "")
    found = guarded(data.place, name, data_dir)
    yield f"Data: {name}", found
    if options.quick or any(finding.level == PROBLEM for finding in found):
        return
    image_size = values.get("image_size", 224 * (name == "imagenet"))
    yield f"Images: {name}", guarded(data.images, name, data_dir, image_size)
    if config is not None:
        config.dataset, config.data_dir = name, data_dir
        yield "Run", guarded(runs.to_come, config)
    elif "recipe" in values:
        yield "Run", guarded(runs.there, folder, data_dir)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    levels = []
    for title, found in findings(parse(argv)):
        print(title)
        for finding in found:
            levels.append(finding.level)
            line = str(finding)
            if sys.stdout.isatty() and finding.level in _COLOURS:
                coloured = f"{_COLOURS[finding.level]}{finding.level}\033[0m"
                line = line.replace(finding.level, coloured, 1)
            print(f"  {line}", flush=True)
    problems, looks = levels.count(PROBLEM), levels.count(LOOK)
    said = "1 problem" if problems == 1 else f"{problems} problems"
    print(f"\n{said}, {looks} to look at, {levels.count(OK)} in order.")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
