"""What the README and the pages of docs/ show works as it stands there."""

import re

import jax
import pytest
from records import ROOT, midpoints

from experiments import markdown
from experiments.results import styles, wording

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE = (ROOT / "docs" / "results.md").read_text()
COMMANDS = re.findall(r"-m experiments.markdown (\S+)\s+(--\w+) (\S+) -->", PAGE)


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


@pytest.mark.parametrize("name", ["nnx", "linen", "equinox"])
def test_a_line_takes_a_program_of_yours_at_most_five_lines(name):
    """The recipe's program without them, by its own diff, is plain and runs."""
    page = ROOT / "docs" / "recipes" / f"{name}.md"
    (diff,) = re.findall(r"```diff\n(.*?)```", page.read_text(), re.DOTALL)
    code = "\n".join(_code(page)[:2])
    plain, added = code.split("\n"), [line for line in diff.splitlines() if line[0] == "+"]
    for old, new in re.findall(r"(?:^-(.*)\n)?^\+(.*)\n", diff, re.MULTILINE):
        assert plain.count(new) == 1, new
        plain[plain.index(new)] = old
    assert 0 < len(added) <= 5
    assert not re.search(r"\bss\.|subspace", "\n".join(plain))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile("\n".join(plain), str(page), "exec"), {"__name__": name})


def test_what_is_checked_is_checked_within_the_bounds_that_the_page_gives():
    """A row leads to one test, whose bounds (or those of the assertions of its file) are the row's."""
    page, numbers = (ROOT / "docs" / "checked.md").read_text(), r"[\d.]+e-\d+|0\.\d+"
    rows = re.findall(r"^\| (?!Number).* \| (.*) \| \[`(\w+)`\]\(\.\./(.*)\) \|$", page, re.M)
    assert len(rows) == page.count("\n| ") - page.count("\n| Number") > 0
    for bound, name, file in rows:
        text = (ROOT / file).read_text()
        tests = re.findall(rf"^def test_\w*{name}\w*\(.*?(?=\n\n\n|\Z)", text, re.M | re.S)
        assert len(tests) == 1, (file, name)
        helpers = re.findall(r"^(?:def )?assert_.*?(?=\n\n|\Z)", text, re.M | re.S)
        assert set(re.findall(numbers, bound)) <= set(
            re.findall(numbers, tests[0] + str(helpers))
        ), name


def test_every_table_has_its_command():
    assert len(COMMANDS) == len(re.findall(r"The next tables? (?:is|are) the output of", PAGE)) == 5


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_tables_are_the_output_of_their_commands(command, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert markdown.main(command) == 0
    assert capsys.readouterr().out in PAGE


def test_the_summary_is_that_of_the_digits():
    methods = {
        "Standard training": "standard",
        "EMA of standard training": "ema",
        "Layerwise line, midpoint": "layerwise_line",
    }
    table = re.search(r"(?:^\|.*\n)+", PAGE, re.MULTILINE)[0].splitlines()
    header, _, *rows = ([cell.strip() for cell in row.split("|")[1:-1]] for row in table)
    assert 0 < len(rows) <= 10
    found = midpoints("digits")
    for row in rows:
        said = dict(zip(header, row, strict=True))
        labels, setting = said["Labels, settings"].split(", ")
        stored = found[{"wrong": 0.2, "clean": 0.0}[labels], setting, methods[said["Method"]]]
        assert stored["num_seeds"] == 8
        for metric in styles.METRICS:
            label = styles.QUANTITIES[metric].label
            assert said[label] == wording.mean_of(stored[metric], metric), row
