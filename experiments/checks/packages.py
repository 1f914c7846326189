"""Python's and the packages' versions against the ranges of setup.cfg."""

import configparser
import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from experiments.checks.findings import LOOK, OK, PROBLEM, Finding

SETUP = Path(__file__).resolve().parents[2] / "setup.cfg"
INSTALL = "python -m pip install -e '.[experiments]'"
# Packages without which some commands work; of all others every command needs some.
NEEDED_BY = {
    "array_record": "CIFAR from TFDS's folders, and ImageNet's array records",
    "grain": "ImageNet",
    "importlib_resources": "preparing CIFAR",
    "pillow": "Tiny-ImageNet, ImageNet and preparing CIFAR",
    "requests": "preparing CIFAR",
    "scikit-learn": "the digits",
    "tensorflow-datasets": "CIFAR without an .npz file",
    "torch": "PyTorch's part in python -m benchmarks.run",
}
_BESIDE = ("torch",)  # not of the extra `experiments`


def requirements(setup: Path = SETUP) -> dict[str, str]:
    """Package -> range, of the library and of its extra `experiments`; Python's under "python"."""
    parser = configparser.ConfigParser()
    parser.read_string(setup.read_text())
    lines = parser["options"]["install_requires"].splitlines()
    extras = parser["options.extras_require"]
    lines += extras["experiments"].splitlines()
    lines += [line for line in extras["benchmarks"].splitlines() if line.startswith(_BESIDE)]
    found = {"python": parser["options"]["python_requires"]}
    for line in filter(None, map(str.strip, lines)):
        name, wanted = re.fullmatch(r"([\w.-]+)(?:\[.*?\])?(.*)", line).groups()
        found[name] = wanted.strip()
    return found


def fits(version: str, wanted: str) -> bool:
    """Whether a version is in a range.

    Example:
      >>> fits("0.10.2", ">=0.10,<0.13"), fits("0.13.0", ">=0.10,<0.13"), fits("0.9", ">=0.10")
      (True, False, False)
    """
    have = _release(version)
    for part in filter(None, wanted.split(",")):
        sign, bound = re.fullmatch(r"\s*(>=|<)\s*(.+)", part).groups()
        if (have >= _release(bound)) != (sign == ">="):
            return False
    return True


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, zeros at the end left out: 2.0 is 2."""
    numbers = [int(n) for n in re.match(r"\d+(?:\.\d+)*", version.strip())[0].split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def installed(name: str) -> str | None:
    """A package's version, or `None` if it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_python(version: str, wanted: str) -> Iterator[Finding]:
    """Python's version."""
    if fits(version, wanted):
        yield Finding(OK, f"Python {version}.")
    else:
        fix = "make a virtual environment with Python 3.11 to 3.13: python3.12 -m venv .venv"
        yield Finding(PROBLEM, f"Python is {version}, not {wanted}.", fix)


def check_packages(
    wanted: dict[str, str], version_of: Callable[[str], str | None] = installed
) -> Iterator[Finding]:
    """Packages that are missing or out of their ranges, and a line for those that are neither."""
    good = []
    for name, bounds in wanted.items():
        if name == "python":
            continue
        version = version_of(name)
        fix = f"python -m pip install '{name}{bounds}'"
        if version is None and name in NEEDED_BY:
            level = OK if name in _BESIDE else LOOK
            yield Finding(level, f"{name} is not installed; it is for {NEEDED_BY[name]}.", fix)
        elif version is None:
            yield Finding(PROBLEM, f"{name} is not installed.", INSTALL)
        elif not fits(version, bounds):
            yield Finding(PROBLEM, f"{name} is {version}, not {bounds}.", fix)
        else:
            good.append(f"{name} {version}")
    if good:
        yield Finding(OK, f"In their ranges: {', '.join(good)}.")


def check_versions() -> Iterator[Finding]:
    """Of this process."""
    wanted = requirements()
    yield from check_python(sys.version.split()[0], wanted["python"])
    yield from check_packages(wanted)
