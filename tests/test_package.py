"""What is published: the package, its address, and what SECURITY.md promises."""

import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

import subspace_jax
from notebooks import repository
from tests.records import ROOT

TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True
).stdout.split()
TEXTS = {
    name: (ROOT / name).read_text()
    for name in TRACKED
    if re.search(r"(\.(py|md|cfg|toml|cff|yml|yaml|ipynb|sbatch)|Dockerfile|run)$", name)
    and (ROOT / name).is_file()
}

# Without what only POSIX has, as on Windows.
ELSEWHERE = """
import importlib, os, pkgutil, sys
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "getuid", "setsid", "killpg", "sched_getaffinity"):
    delattr(os, name)
import subspace_jax
for module in pkgutil.walk_packages(subspace_jax.__path__, "subspace_jax."):
    importlib.import_module(module.name)
from experiments.configs import digits
from experiments.runs import job
assert digits.get_config("line").dataset == "digits"
"""


def test_library_and_digits_import_without_what_posix_alone_has():
    subprocess.run([sys.executable, "-c", ELSEWHERE], cwd=ROOT, check=True)


def test_the_address_of_the_project_is_that_of_setup_cfg():
    url = repository.address()
    for path in repository.FILES:
        text = path.read_text()
        assert repository.addressed(text, url, path.name) == text
        elsewhere = repository.addressed(text, "https://example.org/it", path.name)
        assert "https://example.org/it" in elsewhere
        assert repository.addressed(elsewhere, url, path.name) == text
    for name, text in TEXTS.items():
        found = re.findall(r"(?:https?://|git@|ssh://)[\w.:/@-]*subspace[_-]jax[\w./-]*", text)
        assert [one for one in found if not (url and one.startswith(url))] == [], name


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == subspace_jax.__version__
    assert {"message", "title", "abstract", "keywords", "license", "authors"} <= citation.keys()


def test_pickles_are_not_loaded_and_archives_not_unpacked():
    """A file of pickles is refused by NumPy, which the readers' tests try, and by `weights_only`."""
    forbidden = r"allow_pickle=True|pickle\.loads?\(|\.extractall\(|\.extract\(|unpack_archive"
    for name, text in TEXTS.items():
        if name.startswith(("subspace_jax/", "experiments/", "benchmarks/", "examples/")):
            assert re.findall(forbidden, text) == [], name
            loads = re.findall(r"torch\.load\((?!FILE)[^)]*\)", text)
            assert all("weights_only=True" in load for load in loads), name


def python_of(folder: Path) -> str:
    venv.create(folder, with_pip=True)
    return str(folder / "bin" / "python")


@pytest.mark.slow
def test_the_wheel_holds_the_library_alone_and_works_in_an_empty_environment(tmp_path):
    """With a network, or pip's cache."""
    here, there = python_of(tmp_path / "here"), python_of(tmp_path / "there")
    pip = ["-m", "pip", "install", "--quiet"]
    subprocess.run([here, *pip, "build"], check=True)
    clone = tmp_path / "clone"  # so that nothing is left in this one
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    subprocess.run([here, "-m", "build", "--outdir", tmp_path / "dist", clone], check=True)
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"subspace_jax"}
    assert "subspace_jax/py.typed" in names
    subprocess.run([there, *pip, wheel], check=True)
    (example, *_) = re.findall(r"```python\n(.*?)```", TEXTS["README.md"], re.DOTALL)
    done = subprocess.run(
        [there, "-I", "-c", example], cwd=tmp_path, capture_output=True, text=True
    )
    assert float(done.stdout) < 0.1, done.stderr
    assert tomllib.loads(TEXTS["pyproject.toml"])["build-system"]["requires"] == ["setuptools>=77"]
