"""The docs site is whole: pages, links and names. `mkdocs build --strict` itself is not run here."""

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest

import subspace_jax

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
NAV = re.findall(r"[\w/]+\.md$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
DOCUMENTED = set(re.findall(r"^::: ([\w.]+)$", "\n".join(p.read_text() for p in PAGES), re.M))
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
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
