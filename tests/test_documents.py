"""What the README and the pages of docs/ show works as it stands there."""

import json
import re
from pathlib import Path

import jax
import pytest

from experiments.results import styles, tables, wording

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = (ROOT / "docs" / "results.md").read_text()
TABLES = re.findall(r"-m experiments.markdown (\S+)\s+--only (\S+) -->", RESULTS)
CLAIMS = re.findall(r"-m experiments.markdown (\S+)\s+--claims (\S+) -->", RESULTS)

COMPARED = re.findall(r"-m experiments.markdown (\S+)\s+--against (\S+) -->", RESULTS)


def test_there_is_something_to_test():
    assert all(_code(ROOT / page) for page in ("README.md", "docs/scaling.md"))
    assert len(TABLES) == len(CLAIMS) == 2
    assert len(TABLES + CLAIMS) == RESULTS.count("The next tables are the output of")
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
    assert tables.results(metrics, methods.split(",")) in RESULTS


@pytest.mark.parametrize(("path", "figures"), CLAIMS)
def test_claims_are_those_of_the_results(path, figures):
    metrics = json.loads((ROOT / path).read_text())
    assert tables.claims_of(metrics, figures.split(",")) in RESULTS


@pytest.mark.parametrize(("path", "other"), COMPARED)
def test_comparisons_are_those_of_the_results(path, other):
    ours, theirs = (json.loads((ROOT / name).read_text()) for name in (path, other))
    assert tables.against(ours, theirs) in RESULTS


SUMMARY_METHODS = {
    "Standard training": "standard",
    "EMA of standard training": "ema",
    "Layerwise line, midpoint": "layerwise_line",
}
SUMMARY_METRICS = {"Accuracy [%]": "accuracy", "NLL [nats]": "nll", "ECE [%]": "ece"}


def test_the_summary_is_that_of_the_digits():
    table = re.search(r"(?:^\|.*\n)+", RESULTS, re.MULTILINE)[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in row.split("|")[1:-1]] for row in table)
    assert 0 < len(rows) <= 10
    record = json.loads((ROOT / "results" / "digits" / "metrics.json").read_text())
    found = {
        (row["label_noise"], row["setting"], row["method"]): row
        for row in record["table"]
        if row["place"] == "midpoint"
    }
    for row in rows:
        said = dict(zip(header, row, strict=True))
        labels, settings = said["Labels, settings"].split(", ")
        noise = {"wrong": 0.2, "clean": 0.0}[labels]
        of_the_record = found[noise, settings, SUMMARY_METHODS[said["Method"]]]
        assert of_the_record["num_seeds"] == 8
        for name, metric in SUMMARY_METRICS.items():
            _, scale, decimals = styles.QUANTITIES[metric]
            mean, stderr = (scale * of_the_record[metric][part] for part in ("mean", "stderr"))
            assert said[name] == wording.spread(mean, stderr, decimals), row


def test_folded_sections_render_on_github_and_on_the_site():
    """GitHub reads Markdown after a blank line, MkDocs in elements with the attribute `markdown`."""
    opened = len(re.findall(r"^<details", RESULTS, re.MULTILINE))
    whole = re.findall(
        r'^<details markdown="1">\n<summary>[^\n]+</summary>\n\n.*?\n\n</details>$',
        RESULTS,
        re.MULTILINE | re.DOTALL,
    )
    assert len(whole) == opened > 0
    assert "- md_in_html\n" in (ROOT / "mkdocs.yml").read_text()


def test_what_was_not_run_is_said_once():
    said = re.compile(
        r"not run|never run|not been run|no accelerator|nothing was (run|measured)"
        r"|(was|were) not measured|not measured yet",
        re.IGNORECASE,
    )
    for page in PAGES[1:]:
        # A link to the section says it there, and the section itself stands last.
        text = re.sub(r"\[[^\]]*\]\([^)]*#what-was-not-run\)", "", page.read_text())
        text = text.split("## What was not run\n")[0]
        assert said.search(text) is None, (page, said.search(text))
