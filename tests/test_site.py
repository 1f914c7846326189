"""The docs site and the README are whole: pages, links, names, numbers. `mkdocs build` is not run."""

import importlib
import inspect
import json
import pkgutil
import re

import pytest
from records import ROOT, midpoints

import subspace_jax
from experiments.results import wording

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAV = re.findall(r"[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
DOCUMENTED = set(re.findall(r"^::: ([\w.]+)$", "\n".join(p.read_text() for p in PAGES), re.M))
README = (ROOT / "README.md").read_text()
MODULES = [m.name for m in pkgutil.walk_packages(subspace_jax.__path__, "subspace_jax.")]


def public_names(module):
    """The functions and classes that a module defines, by their dotted names."""
    values = importlib.import_module(module)
    for name, value in vars(values).items():
        # A jitted function is no function, but wraps one.
        defined = inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value))
        if defined and not name.startswith("_") and value.__module__ == module:
            yield f"{module}.{name}"


def documented(name):
    """Whether a page has a directive for a name or for the module that defines it."""
    return name in DOCUMENTED or name.rpartition(".")[0] in DOCUMENTED


def test_every_public_name_is_in_the_reference():
    names = [name for module in MODULES for name in public_names(module)]
    assert "subspace_jax.metrics.ece" in names  # a jitted function
    assert [name for name in names if not documented(name)] == []


def test_every_page_is_in_the_navigation_once():
    assert sorted(NAV) == [str(page.relative_to(DOCS)) for page in PAGES]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.stem)
def test_relative_links_lead_to_files_and_headings(page):
    text = re.sub(r"^( *)```.*?^\1```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = page if not path else page.parent / path
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), target


def anchors(page):
    """Those of a page's headings, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


# The README


def test_it_is_short():
    assert len(README.split()) <= 900
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 20


def test_its_numbers_are_those_of_the_record():
    found = midpoints("cifar10-few")
    rows = [[c.strip() for c in r.split("|")[1:6]] for r in README.replace("*", "").splitlines()]
    cells = {tuple(row[:2]): row[2:] for row in rows if len(row) == 5}
    for noise, labels in ((0.2, "20 % wrong"), (0.0, "clean")):
        of = [found[noise, "article", name] for name in ("standard", "ema", "line_lr_m")]
        for label, metric in (("Accuracy", "accuracy"), ("Calibration error", "ece")):
            said = [f"{wording.mean_of(row[metric], metric)} %" for row in of]
            assert cells[labels, label] == said
        assert f"{of[0]['num_seeds']} seeds" in README
        assert len({row["num_seeds"] for row in of}) == 1


def test_what_setting_up_costs_is_on_record():
    """Sizes as they were measured; times are promised with room."""
    record = json.loads((ROOT / "results" / "setup" / "setup.json").read_text())
    first, second = record["first_command"], record["second_command"]
    gigabytes = (first["environment_megabytes"] + first["runs_megabytes"]) / 1000
    for said in (f"{first['download_megabytes']} MB", f"fill {gigabytes:.1f} GB"):
        assert said in README
    assert f"{second['more_download_megabytes']} MB more" in README
    for command, least in ((first, "a report, in"), (second, "the tests in")):
        (minutes,) = re.findall(rf"{least} (\d+) minutes", README)
        assert command["seconds"] <= 60 * int(minutes)
        assert all(part in README for part in command["command"].split(" && "))
