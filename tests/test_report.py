"""The pages of runs and suites: what they hold, and that they need nothing else."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest
from records import RESULTS, SUITES, committed
from synthetic_metrics import LINE, run_metrics

from experiments.report import document, pages
from experiments.results import claims, tables
from experiments.results.styles import METRICS, QUANTITIES

VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects what a page holds and fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.rows, self.text = [], [], [], [], ""
        self.source, self.scripts = text, 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[name] for name in ("src", "href", "srcset", "action") if name in attrs]
        self.scripts += tag == "script"
        if tag == "img":
            self.images.append(attrs)
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def suite():
    """The page of the digits, with the committed pictures."""
    figures = sorted((RESULTS / "digits" / "figures").glob("*.png"))
    pictures = {path.stem: path.read_bytes() for path in figures}
    return Page(pages.suite_page(committed("digits"), pictures))


@pytest.fixture(scope="module", params=("standard", "line", "simplex"))
def run(request):
    metrics = run_metrics(request.param)
    files, page = pages.of_run(metrics)
    return metrics, files, Page(page)


def test_pages_refer_to_nothing_outside_and_run_no_script_but_their_own(suite, run):
    _, files, page = run
    for found in (suite, page):
        assert all(link.startswith(("data:", "#")) for link in found.links)
        assert set(re.findall(r"@import|url\((?!#)|https?://[^\s\"']+", found.source)) <= {
            "http://www.w3.org/2000/svg"  # a name
        }
        assert all(len(image["alt"]) > 10 for image in found.images)
    assert len(page.images) == sum(name.endswith(".png") for name in files)
    assert (suite.scripts, page.scripts) == (0, 2)  # the data, and what draws them
    assert "script-src" not in suite.source
    script = re.search(r"<script>(.*?)</script>", page.source, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.source


def test_text_is_escaped():
    attack = "<script>alert('&')</script>"
    metrics = LINE | {"config": {"kind": attack, attack: attack}}
    metrics |= {"provenance": {attack: attack, "seeds": [3, 4], "xla_flags": ""}}
    metrics["points"] = [LINE["points"][0] | {"name": f"endpoint {attack}"}, *LINE["points"][1:]]
    page = Page(pages.run_page(metrics, {}))
    assert page.text.count(attack) >= 5
    assert page.scripts == 2
    assert "3, 4" in page.text
    assert "xla flags" not in page.text
    made = [{"cpu": "<one>", "versions": {"jax": "0.10.2"}, "num_runs": 10}, {"cpu": "two"}]
    text = document.provenance({"made": made, "commit": ""}, {})
    assert "cpu &lt;one&gt;, versions jax 0.10.2, num runs 10<br>cpu two</td>" in text


# Suites


@pytest.mark.parametrize("name", SUITES)
def test_a_suites_page_has_every_row_claim_gain_and_failure(name):
    failed = [{"id": "tuning/line/<x>", "error": "learning rate 1e+30 & more"}]
    metrics = committed(name) | {"failed": failed}
    page = Page(pages.suite_page(metrics, {}))
    wanted = tables.of_claims(claims.from_json(metrics["claims"])).cells
    wanted = [*wanted, *tables.of_gains(metrics).cells, *tables.of_rows(metrics["table"]).cells]
    assert [cells for cells in wanted if cells not in page.rows] == []
    assert metrics["counts"] in page.text
    assert "tuning/line/<x>: learning rate 1e+30 & more" in page.text


@pytest.mark.parametrize("part", ["config", "provenance", "runs", "table", "claims", "gains"])
def test_a_suite_without_a_part(part):
    metrics = {name: value for name, value in committed("cifar10-small").items() if name != part}
    page = Page(pages.suite_page(metrics, dict.fromkeys(("fig3", "fig6", "fig7"), b"png")))
    assert ("Provenance" in page.text) == (part != "provenance")
    assert page.source.count('class="headline"') == (0 if part == "claims" else 3)
    assert len(page.images) == 3


# Runs


def test_a_runs_page_has_its_midpoint_its_places_and_its_provenance(run):
    metrics, _, page = run
    point = next(p for p in metrics["points"] if p["name"] == "midpoint")
    for text in (f"has accuracy {100 * point['accuracy']:.2f} %", "jax 0.10.2", '"num_epochs": 5'):
        assert text in page.text
    labels = [cells[0] for cells in page.rows]
    for place in metrics.get("places", {}):
        assert any(place in label or "best on validation, α" in label for label in labels), place


@pytest.mark.parametrize(("kind", "part"), [("line", "path"), ("simplex", "triangle")])
def test_the_script_is_given_every_point_in_the_units_that_are_shown(kind, part):
    metrics = json.loads(json.dumps(run_metrics(kind)))
    points = metrics["points"]
    points[1] |= {"nll": math.inf, "accuracy": None}
    data = re.search(r'id="data">(.*?)</script>', pages.run_page(metrics, {}), re.DOTALL)[1]
    found = json.loads(data)[part]
    assert found["xs" if part == "path" else "coords"] == [p["coords"] for p in points]
    assert found["names"] == [p["name"] for p in points]
    points[1] |= {"nll": None}
    rows = found.get("values") or [panel["series"][0]["ys"] for panel in found["panels"]]
    for name, row in zip(METRICS, rows, strict=True):
        scale = QUANTITIES[name].scale
        assert row == [None if p[name] is None else scale * p[name] for p in points]
    for bins, point in zip(found["bins"], points, strict=True):
        for name, values in point["reliability"].items():
            assert bins[name] == [None if v is None else pytest.approx(v, rel=1e-4) for v in values]
