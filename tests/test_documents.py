"""What the README and the pages of docs/ show works as it stands there."""

import re

import jax
import numpy as np
import pytest
from records import ROOT, committed, midpoints

from experiments import markdown
from experiments.results import claims, styles, tables, wording

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGE = (ROOT / "docs" / "results.md").read_text()
ERRORS = re.compile(r"\d+\.\d+ ± \d+\.\d+")
NOISE = {"wrong": 0.2, "clean": 0.0}


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


METHODS = {
    "Standard training": "standard",
    "Matched control": "standard_matched",
    "EMA of standard training": "ema",
    "Line, midpoint": "line",
    "Line, midpoint, 2 x rate": "line_lr_m",
    "Layerwise line, midpoint": "layerwise_line",
}


@pytest.mark.parametrize(("suite", "seeds"), [("digits", 8), ("cifar10-few", 5)])
def test_the_rows_of_a_table_are_those_of_its_suite(suite, seeds):
    (table,) = re.findall(rf"<!-- Rows of results/{suite} -->\n\n((?:\|.*\n)+)", PAGE)
    names, _, *rows = ([c.strip() for c in row.split("|")[1:-1]] for row in table.splitlines())
    assert 0 < len(rows) <= 10
    for row in (dict(zip(names, row, strict=True)) for row in rows):
        labels, setting = row["Labels, settings"].split(", ")
        key = NOISE[labels], setting, METHODS[row["Method"]]
        stored = midpoints(suite)[key]
        assert stored["num_seeds"] == seeds
        for metric in styles.METRICS:
            label = styles.QUANTITIES[metric].label
            assert row[label] == wording.mean_of(stored[metric], metric), row
        if "On training labels [%]" in row:
            names_of = "label_noise", "setting", "method"
            runs = [r for r in committed(suite)["runs"] if tuple(map(r.get, names_of)) == key]
            mean = np.mean([run["last_epoch"]["accuracy"] for run in runs])
            assert row["On training labels [%]"] == f"{100 * mean:.0f}"


def test_the_summary_is_that_of_the_digits():
    for tuned in ("", " and with both tuned"):
        text = f"With 20 % wrong labels{tuned}, the midpoint of the layerwise line is more accurate"
        claims = [c for c in committed("digits")["claims"] if c["text"].startswith(text)]
        (gain,) = (
            c["difference"] for c in claims if c["text"].endswith(" than standard training.")
        )
        assert f" {100 * gain:.1f} points" in PAGE


def test_what_is_said_of_few_images_is_of_the_record():
    record, rows = committed("cifar10-few"), midpoints("cifar10-few")
    errors = {key: row["scaled.ece"]["mean"] for key, row in rows.items()}
    assert f"{100 * min(errors.values()):.1f} to {100 * max(errors.values()):.1f} %" in PAGE
    shown = [e for key, e in errors.items() if key[2] in ("standard", "ema", "line_lr_m")]
    assert 0.01 <= min(shown) <= max(shown) < 0.02
    clean = {key[2]: row["scaled.nll"]["mean"] for key, row in rows.items() if key[0] == 0}
    assert min(clean, key=clean.get) == "ema"
    assert f"these are {len(record['runs'])}" in PAGE
    runs, kinds = record["runs"], ("training", "evaluation")
    seconds = [run["cost"][f"{kind}_seconds"] for run in runs for kind in kinds]
    assert f"about {sum(seconds) // 3600:.0f} hours of one core" in PAGE
    for noise in (0.0, 0.2):
        best = dict.fromkeys(("standard", "ema", "line", "layerwise_line"), 0.0)
        for r in (r for r in runs if (r["setting"], r["label_noise"]) == ("tuning", noise)):
            accuracy = 100 * r["places"]["midpoint"]["validation"]["accuracy"]
            best[r["method"]] = max(best[r["method"]], accuracy)
        assert "{:.1f}, {:.1f}, {:.1f} and {:.1f} %".format(*best.values()) in PAGE
    sides = ["line_lr_m", "midpoint"], ["standard", "midpoint"], "accuracy", 0.2, "agree"
    names = "ours", "theirs", "metric", "label_noise", "outcome"
    (gain,) = (c["difference"] for c in record["claims"] if tuple(c[n] for n in names) == sides)
    assert f"{100 * gain:.1f} points more" in PAGE.replace("\n", " ")


def test_every_number_with_an_error_is_in_a_record(monkeypatch, capsys):
    """In its table or its claims; but for shorter trainings, whose records are gone."""
    monkeypatch.chdir(ROOT)
    for suite in ("digits", "cifar10-small", "cifar10-few"):
        assert markdown.main([f"results/{suite}/metrics.json"]) == 0
        print(tables.of_claims(claims.from_json(committed(suite)["claims"])).markdown())
    known = ERRORS.findall(capsys.readouterr().out)
    text = re.sub(r"^\| clean, (15|30) .*", "", PAGE, flags=re.MULTILINE)
    assert len(ERRORS.findall(text)) > 40
    assert [said for said in ERRORS.findall(text) if said not in known] == []


def test_bfloat16_changes_as_little_as_the_page_says(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    files = [f"results/{name}/metrics.json" for name in ("digits-bfloat16", "digits")]
    assert markdown.main([files[0], "--against", files[1]]) == 0
    p_values = [float(p) for p in re.findall(r"p (?:< )?([\d.]+)", capsys.readouterr().out)]
    assert f"none of {len(p_values)} differences" in PAGE
    assert min(p_values) > 0.05
