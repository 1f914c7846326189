"""What is published: the package, its address, and what SECURITY.md promises."""

import re
import subprocess
import sys
import venv
import zipfile

import pytest

import subspace_jax
from notebooks import repository
from tests.records import ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout
READ = re.compile(r"(\.(py|md|cfg|toml|cff|ya?ml|ipynb|sbatch)|Dockerfile|run)$")
TEXTS = {name: (ROOT / name).read_text() for name in TRACKED.split() if READ.search(name)}

# Without what only POSIX has, as on Windows; JAX's own extension for Linux asks for register_at_fork.
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


def test_address_and_version_of_the_project_are_said_in_one_place():
    url, other = repository.address(), "https://example.org/it"
    for path in repository.FILES:
        text = path.read_text()
        elsewhere = repository.addressed(text, other, path.name)
        assert other in elsewhere
        assert text == repository.addressed(text, url, path.name)
        assert text == repository.addressed(elsewhere, url, path.name)
    assert f"\nversion: {subspace_jax.__version__}\n" in TEXTS["CITATION.cff"]
    for name, text in TEXTS.items():
        found = re.findall(r"(?:https?://|git@|ssh://)[\w.:/@-]*subspace[_-]jax[\w./-]*", text)
        assert [one for one in found if not (url and one.startswith(url))] == [], name


def test_pickles_are_not_loaded_and_archives_not_unpacked():
    forbidden = r"allow_pickle=True|pickle\.loads?\(|\.extract(?:all)?\(|unpack_archive"
    forbidden += r"|= torch\.load\((?!.*weights_only=True)"
    for name, text in TEXTS.items():
        if not name.startswith(("tests/", "notebooks/")):
            assert re.findall(forbidden, text) == [], name


@pytest.mark.slow
def test_the_wheel_holds_the_library_alone_and_works_in_an_empty_environment(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"

    def run(environment, *command):
        subprocess.run([environment / "bin" / "python", "-m", *command], check=True)

    for environment in (here, there):
        venv.create(environment, with_pip=True)
    subprocess.run(
        ["git", "clone", "-q", ROOT, tmp_path / "clone"], check=True
    )  # building leaves files
    run(here, "pip", "install", "--quiet", "build")
    run(here, "build", "--outdir", tmp_path / "dist", tmp_path / "clone")
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    run(there, "pip", "install", "--quiet", wheel)
    names = zipfile.ZipFile(wheel).namelist()
    assert {re.split("[-/]", name)[0] for name in names} == {"subspace_jax"}
    assert "subspace_jax/py.typed" in names
    # Plain JAX, as the library needs no other.
    example = re.search(r"```python\n(.*?)```", TEXTS["docs/your_own_model.md"], re.DOTALL)[1]
    command = [there / "bin" / "python", "-I", "-c", f"{example}\nprint(loss_fn(deployed))"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert float(done.stdout) < 0.2, done.stderr
