"""The notebooks run from top to bottom, and say the address that setup.cfg says."""

import json
import os
import re
import shutil
import subprocess
import sys

import nbclient
import nbformat
import pytest

from notebooks import repository
from tests.compilations import users_environment

BOOKS = {path.stem: path.read_text() for path in repository.NOTEBOOKS}
NAMES = list(BOOKS)


# What makes a run short; what a notebook claims of its numbers is left out of it.
SHORT = {
    NAMES[0]: {
        "num_steps=800": "num_steps=5",
        "np.linspace(0, 1, 11": "np.linspace(0, 1, 3",
        "along[:, 5]": "along[:, 1]",
    },
    NAMES[1]: {
        "num_steps=300": "num_steps=5",
        "grid(plane, 17,": "grid(plane, 5,",
        "widths=(8, 16, 32)": "widths=(4,)",
    },
    NAMES[2]: {},  # it trains nothing
}


def shortened(name):
    book = nbformat.reads(BOOKS[name], as_version=4)
    missing = set(SHORT[name])
    for cell in book.cells[2:]:
        if cell.cell_type == "code":
            cell.source = re.sub(r"(?m)^assert .*$", "", cell.source)
            for old, new in SHORT[name].items():
                missing -= {old} if old in cell.source else set()
                cell.source = cell.source.replace(old, new)
    assert not missing
    return book


def execute(book, tmp_path, monkeypatch, environment=os.environ):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    resources = {"metadata": {"path": str(repository.FOLDER)}}
    client = nbclient.NotebookClient(book, timeout=600, resources=resources)
    client.execute(env=environment | {"PYTHONWARNINGS": "error::UserWarning"})
    outputs = [out for cell in book.cells if cell.cell_type == "code" for out in cell.outputs]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert not [out for out in outputs if out.get("name") == "stderr"]


@pytest.mark.parametrize("name", NAMES)
def test_runs(name, tmp_path, monkeypatch):
    execute(shortened(name), tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_runs_as_published(name, tmp_path, monkeypatch):
    # The third one trains for long enough that what is compiled must be fast.
    environment = users_environment() if name == NAMES[2] else os.environ
    execute(nbformat.reads(BOOKS[name], as_version=4), tmp_path, monkeypatch, environment)


@pytest.mark.parametrize("name", NAMES)
def test_can_be_read_without_running_and_says_the_address_of_setup_cfg(name):
    text, url = BOOKS[name], repository.address()
    assert len(text) < 300_000
    outputs = [out for cell in json.loads(text)["cells"] for out in cell.get("outputs", ())]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    assert not [
        out for out in outputs if out["output_type"] == "error" or out.get("name") == "stderr"
    ]
    assert repository.addressed(text, url, f"{name}.ipynb") == text
    elsewhere = repository.addressed(text, "https://github.com/someone/project", f"{name}.ipynb")
    assert f"github/someone/project/blob/main/notebooks/{name}.ipynb)" in elsewhere
    assert 'REPOSITORY = "https://github.com/someone/project"' in first_cell(elsewhere)
    assert repository.addressed(elsewhere, url, f"{name}.ipynb") == text


def first_cell(text):
    return "".join(json.loads(text)["cells"][1]["source"])


def test_the_first_cell_takes_an_uploaded_copy_or_says_how_to_give_one(tmp_path, monkeypatch):
    (cell,) = set(map(first_cell, BOOKS.values()))  # they are alike
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "runtime").mkdir()
    monkeypatch.chdir(tmp_path / "runtime")  # a fresh one, with nothing in it
    with pytest.raises(SystemExit, match="upload its folder as project.zip"):
        exec(cell.replace(repository.address() or "no address", ""), {})
    (tmp_path / "copy" / "main" / "experiments").mkdir(parents=True)
    shutil.make_archive("project", "zip", tmp_path / "copy")
    exec(cell, {})
    assert os.getcwd() == sys.path[0] == str(tmp_path / "runtime" / "project" / "main")
    assert commands == [[sys.executable, "-m", "pip", "install", "-q", ".[experiments]"]]
    exec(cell, {})  # once more: nothing is to be done
    assert len(commands) == 1
