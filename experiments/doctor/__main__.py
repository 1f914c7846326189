"""Says what is in order and what is not, a line for each, and what to do about it.

    python -m experiments.doctor
    python -m experiments.doctor --dataset cifar10 --data_dir DIR
    python -m experiments.doctor --workdir runs/line

Versions, devices, JAX's settings, memory and disks; whether the data are the published ones, pixel
by pixel; of a run's folder, whether its checkpoints are intact and its numbers are those of its
weights. Nothing is downloaded or changed. The exit code is 1 if something is a problem.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experiments.doctor import data, machine, runs
from experiments.doctor.findings import LOOK, OK, PROBLEM, Finding, guarded


def findings(options: argparse.Namespace) -> Iterator[tuple[str, list[Finding]]]:
    """What is found, by a title for each group of checks, as it is found."""
    for check in (machine.versions, machine.devices, machine.settings, machine.memory):
        yield check.__name__.capitalize(), guarded(check)
    yield "Disk", guarded(machine.disk, options.workdir or ".")
    folder = Path(options.workdir).expanduser() if options.workdir else None
    if folder is not None:
        yield "Workdir", guarded(runs.state, folder)
    found: list = []
    if folder is not None and runs.is_run(folder) and (read := guarded(_config, folder, found)):
        yield "Config", read
    config = found[0] if found else None
    name = options.dataset or (config.dataset if config else "digits")
    data_dir = options.data_dir
    data_dir = data_dir if data_dir is not None else config.data_dir if config else ""
    read = guarded(data.place, name, data_dir)
    yield f"Data: {name}", read
    if options.quick or any(finding.level == PROBLEM for finding in read):
        return
    image_size = config.get("image_size", 0) if config else 224 * (name == "imagenet")
    yield f"Images: {name}", guarded(data.content, name, data_dir, image_size)
    if config and "recipe" in config:
        config.dataset, config.data_dir = name, data_dir
        yield "Run", guarded(runs.run, config, folder)


def _config(folder: Path, found: list) -> Iterable[Finding]:
    """Puts the config of a run's folder, or of a suite's runs, into a list."""
    from ml_collections import ConfigDict

    from experiments.runs import finished, workdir

    suite = workdir.stored_config(folder).get("run")
    found.append(finished.config_of(folder) if suite is None else ConfigDict(suite))
    return ()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(  # alone, since packages may be missing
        prog="python -m experiments.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--dataset", help="default: that of the workdir, else digits")
    add("--data_dir", help="folder or .npz file; default: that of the workdir")
    add("--workdir", help="the folder of a run, or of one to come")
    add("--quick", action="store_true", help="leave out what reads pixels or computes")
    levels = []
    for title, found in findings(parser.parse_args(argv)):
        print(title)
        for finding in found:
            levels.append(finding.level)
            print(f"  {finding}", flush=True)
    problems = levels.count(PROBLEM)
    said = "1 problem" if problems == 1 else f"{problems} problems"
    print(f"\n{said}, {levels.count(LOOK)} to look at, {levels.count(OK)} in order.")
    return int(problems > 0)


if __name__ == "__main__":
    sys.exit(main())
