"""What the README and the pages of docs/ show works as it stands there."""

import json
import re
from pathlib import Path

import jax
import pytest

from experiments import markdown

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = (ROOT / "docs" / "results.md").read_text()
TABLES = re.findall(r"-m experiments.markdown (\S+)\s+--only (\S+) -->", README)
CLAIMS = re.findall(r"-m experiments.markdown (\S+)\s+--claims (\S+) -->", RESULTS)

COMPARED = re.findall(r"-m experiments.markdown (\S+)\s+--against (\S+) -->", RESULTS)


def test_there_is_something_to_test():
    assert all(_code(ROOT / page) for page in ("README.md", "docs/scaling.md"))
    assert len(TABLES) == README.count("The next tables are the output of") == 2
    assert len(CLAIMS) == RESULTS.count("The next tables are the output of") == 2
    assert len(COMPARED) == RESULTS.count("The next table is the output of") == 1


def _code(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if _code(page)], ids=lambda page: page.stem
)
def test_python_examples_run(page, tmp_path, monkeypatch, capsys):
    """Those of a page are one program, in an empty folder; text right below is what they print."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": page.stem}
    # What users have; optax.adam needs it.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for code in _code(page):
            exec(compile(code, str(page), "exec"), names)
    printed = capsys.readouterr().out
    for shown in re.findall(r"```\n\n```text\n(.*?)```", page.read_text(), re.DOTALL):
        assert shown in printed


@pytest.mark.parametrize(("path", "methods"), TABLES)
def test_tables_are_those_of_the_results(path, methods):
    metrics = json.loads((ROOT / path).read_text())
    assert markdown.results(metrics, methods.split(",")) in README


@pytest.mark.parametrize(("path", "figures"), CLAIMS)
def test_claims_are_those_of_the_results(path, figures):
    metrics = json.loads((ROOT / path).read_text())
    assert markdown.claims_of(metrics, figures.split(",")) in RESULTS


@pytest.mark.parametrize(("path", "other"), COMPARED)
def test_comparisons_are_those_of_the_results(path, other):
    ours, theirs = (json.loads((ROOT / name).read_text()) for name in (path, other))
    assert markdown.against(ours, theirs) in RESULTS


def test_files_that_are_linked_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_names_in_the_table_of_the_api_exist():
    import subspace_jax

    table = README.split("| | |\n|---|---|\n")[1].split("\n\n")[0]
    for cell in re.findall(r"^\| (.*?) \|", table, re.MULTILINE):
        for name in re.findall(r"`([\w.]+)", cell):
            value = subspace_jax
            for part in name.split("."):
                value = getattr(value, part)
