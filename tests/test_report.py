import copy
import math
import re
from html.parser import HTMLParser

import pytest
import synthetic_metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import figures, report
from experiments.styles import QUANTITIES, style_of

VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects what a page holds and fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.rows, self.text = [], [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("src", "href", "srcset", "action") if name in attrs]
        assert tag != "script"
        if tag == "img":
            self.images.append(attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def _page(metrics, draw=lambda metrics: {}):
    pictures = {name: figures.png(figure) for name, figure in draw(metrics).items()}
    return Page(report.page(metrics, pictures))


@pytest.fixture(scope="module")
def suite():
    return synthetic_metrics.suite_metrics(num_seeds=2)


@pytest.fixture(scope="module")
def suite_page(suite):
    return _page(suite, figures.suite_figures)


@pytest.fixture(scope="module", params=["standard", "line", "simplex"])
def run_page(request):
    metrics = synthetic_metrics.run_metrics(request.param)
    return metrics, _page(metrics, figures.run_figures)


def test_suite_page_has_the_verdict_and_every_row(suite, suite_page):
    for sentence in suite["verdict"]:
        assert sentence in suite_page.text
    for row in suite["table"]:
        numbers = [f"{100 * row['accuracy']['mean']:.2f} ± {100 * row['accuracy']['stderr']:.2f}"]
        numbers.append(f"{row['nll']['mean']:.3f} ± {row['nll']['stderr']:.3f}")
        numbers.append(f"{100 * row['ece']['mean']:.2f} ± {100 * row['ece']['stderr']:.2f}")
        (found,) = [cells for cells in suite_page.rows if cells[2:5] == numbers]
        assert found[0] == style_of(row["method"]).label
        assert found[-1] == str(row["num_seeds"])


def test_pages_refer_to_nothing_outside(suite_page, run_page):
    for page in (suite_page, run_page[1]):
        assert page.links
        assert all(link.startswith("data:") for link in page.links)


def test_pages_import_no_style(suite):
    assert not re.search(r"@import|url\(|https?://", report.page(suite, {}))


def test_every_picture_has_words(suite_page, run_page):
    metrics, page = run_page
    assert len(suite_page.images) == 4
    assert len(page.images) == (2 if metrics["config"]["kind"] == "standard" else 3)
    assert all(len(image["alt"]) > 20 for image in suite_page.images + page.images)
    assert "overconfident" in page.text


def test_run_page_has_its_midpoint_and_provenance(run_page):
    metrics, page = run_page
    point = next(p for p in metrics["points"] if p["name"] == "midpoint")
    assert f"has accuracy {100 * point['accuracy']:.2f} %" in page.text
    for text in ("jax 0.10.2, numpy 2.3.1", "cpu <AMD & co>", "4,521.7", '"note": "a<b"'):
        assert text in page.text
    assert ("Squared cosine" in page.text) == (metrics["config"]["kind"] != "standard")


def test_text_is_escaped():
    attack = "<script>alert('&')</script>"
    metrics = synthetic_metrics.run_metrics("line")
    metrics["config"] |= {"kind": attack, attack: attack}
    metrics["provenance"] = {attack: attack, "seeds": [3, 4], "xla_flags": ""}
    metrics["points"][0]["name"] = f"endpoint {attack}"
    page = _page(metrics)
    assert page.text.count(attack) >= 5
    assert "3, 4" in page.text
    assert "xla flags" not in page.text


@pytest.mark.parametrize("part", ["config", "provenance", "runs", "table"])
def test_suite_without_a_part(suite, part):
    metrics = {name: value for name, value in suite.items() if name != part}
    page = _page(metrics)
    assert "handwritten digits" in page.text
    assert ("Provenance" in page.text) == (part != "provenance")


@pytest.mark.parametrize(
    "part", ["config", "provenance", "history", "points", "ensembles", "geometry"]
)
def test_run_without_a_part(part):
    metrics = synthetic_metrics.run_metrics("line")
    del metrics[part]
    page = _page(metrics, figures.run_figures)
    assert ("Points and ensembles" in page.text) == (part != "points")
    assert ("All metrics of every ensemble" in page.text) == (part != "ensembles")


def test_empty_metrics():
    assert "One run" in _page({}, figures.run_figures).text


def test_text_table_is_aligned(suite):
    header, rule, *lines = report.text_table(suite["table"]).splitlines()
    assert len(lines) == len(suite["table"])
    assert {len(line) for line in (header, rule, *lines)} == {len(rule)}
    assert len(rule) <= 100
    gaps = [i for i in range(len(rule)) if rule[i] == " "]
    assert all(line[i] == " " for line in (header, *lines) for i in gaps)


def test_rows_are_in_the_order_of_methods(suite):
    shuffled = sorted(suite["table"], key=lambda row: row["method"])
    assert report.text_table(shuffled) == report.text_table(suite["table"])


def test_networks_without_a_subspace_have_no_midpoint(suite):
    lines = report.text_table(suite["table"]).splitlines()[2:]
    for line, row in zip(lines, suite["table"], strict=True):
        single = row["method"] in ("standard", "standard_matched", "ema", "label_smoothing")
        assert ("network" in line) == single
        assert single or row["place"] in line


NUMBERS = st.none() | st.floats(-1e6, 1e6) | st.sampled_from([math.inf, -math.inf, math.nan])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[NUMBERS] * 6), min_size=1, max_size=4))
def test_markdown_keeps_the_numbers(values):
    rows = [
        {
            "method": "a|b",
            "num_seeds": 3,
            **{
                name: {"mean": v[2 * i], "stderr": v[2 * i + 1]}
                for i, name in enumerate(QUANTITIES)
            },
        }
        for v in values
    ]
    lines = report.markdown_table(rows).splitlines()
    assert len(lines) == len(rows) + 2
    for line, row in zip(lines[2:], rows, strict=True):
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        assert cells[0] == r"a\|b"
        assert cells[-1] == "3"
        for cell, (name, (_, scale, decimals)) in zip(cells[1:], QUANTITIES.items(), strict=False):
            mean, stderr = row[name]["mean"], row[name]["stderr"]
            expected = [math.nan if mean is None else mean] + [stderr] * (stderr is not None)
            expected = [
                pytest.approx(scale * x, abs=10.0**-decimals, nan_ok=True) for x in expected
            ]
            assert [float(number) for number in cell.split(" ± ")] == expected


def test_numbers_that_are_not_finite_are_shown(suite):
    metrics = copy.deepcopy(suite)
    metrics["table"][0]["nll"] = {"mean": math.inf, "stderr": math.nan}
    metrics["table"][1]["nll"] = {"mean": None, "stderr": None}
    assert "inf ± nan" in report.text_table(metrics["table"])
    rows = _page(metrics, figures.suite_figures).rows
    assert [cells[3] for cells in rows[1:3]] == ["inf ± nan", "nan"]


def test_run_rows_are_named_points_and_ensembles_of_endpoints():
    rows = report.run_rows(synthetic_metrics.run_metrics("line"))
    assert [row["place"] for row in rows] == [
        "endpoint 0",
        "midpoint",
        "endpoint 1",
        "ensemble of endpoints 0, 1",
    ]
    assert [row["place"] for row in report.run_rows(synthetic_metrics.run_metrics("standard"))] == [
        "network"
    ]
    simplex = report.run_rows(synthetic_metrics.run_metrics("simplex"))
    assert [row["place"] for row in simplex if "ensemble" in row["place"]] == [
        "ensemble of endpoints 0, 1, 2",
        "ensemble of endpoints 0, 1",
        "ensemble of endpoints 0, 2",
        "ensemble of endpoints 1, 2",
    ]
    assert report.text_table(simplex).count("\n") == len(simplex) + 1
