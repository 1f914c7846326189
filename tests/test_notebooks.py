"""The notebooks run from top to bottom, and say the address that setup.cfg says."""

import importlib.util
import json
import os
import re

import nbclient
import nbformat
import pytest

from notebooks import repository
from tests.compilations import users_environment

BOOKS = {path.stem: path.read_text() for path in repository.NOTEBOOKS}
NAMES = list(BOOKS)


# What makes a run short; what a notebook claims of its numbers is left out of it.
SHORT = {
    NAMES[0]: {"num_steps=600": "num_steps=5", "for seed in range(3)": "for seed in range(2)"},
    NAMES[1]: {
        "num_steps=300": "num_steps=5",
        "grid(plane, 17,": "grid(plane, 5,",
        "widths=(8, 16, 32)": "widths=(4,)",
    },
    NAMES[2]: {
        "num_points = 3": "num_points = 3\n    config.num_epochs, config.train_size = 2, 200"
        "\n    config.model.widths = (4,)",
        "for seed in range(2)": "for seed in range(1)",
        '"line": "Line", ': "",
        '"line": "blue", ': "",
    },
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
def test_holds_no_outputs_and_says_the_address_of_setup_cfg(name):
    text, url = BOOKS[name], repository.address()
    for cell in json.loads(text)["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
    assert repository.addressed(text, url, f"{name}.ipynb") == text
    elsewhere = repository.addressed(text, "https://github.com/someone/project", f"{name}.ipynb")
    assert f"github/someone/project/blob/main/notebooks/{name}.ipynb)" in elsewhere
    assert 'REPOSITORY = "https://github.com/someone/project"' in first_cell(elsewhere)
    assert repository.addressed(elsewhere, url, f"{name}.ipynb") == text


def first_cell(text):
    return "".join(json.loads(text)["cells"][1]["source"])


def test_first_cell_says_what_is_missing_outside_of_a_clone(tmp_path, monkeypatch):
    (cell,) = set(map(first_cell, BOOKS.values()))  # they are alike
    # As in a fresh runtime: a folder with nothing in it, and no package installed.
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="Set REPOSITORY to the address"):
        exec(cell, {})
