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

from experiments.configs.suites import FIGURES
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
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
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


def data_of(metrics):
    """What the script of a page draws."""
    text = pages.run_page(metrics, {})
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


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


def test_a_suites_figures_come_first_each_with_a_headline_a_caption_and_a_link(suite):
    sections = re.findall(r'<section id="(\w+)">', suite.source)
    assert sections == re.findall(r'href="#(\w+)"', suite.source)
    figures = {*FIGURES, "reliability", "selection"}
    assert set(sections[: len(figures)]) == figures
    assert sections[len(figures) :] == ["claims", "tables", "terms"]
    before = suite.source.partition('id="claims"')[0]
    assert before.count('class="headline"') == len(figures) == len(suite.images)
    assert "<table" not in before


@pytest.mark.parametrize("name", SUITES)
def test_a_suites_page_has_every_row_claim_and_gain(name):
    metrics = committed(name)
    page = Page(pages.suite_page(metrics, {}))
    wanted = tables.of_claims(claims.from_json(metrics["claims"])).cells
    wanted = [*wanted, *tables.of_gains(metrics).cells, *tables.of_rows(metrics["table"]).cells]
    assert [cells for cells in wanted if cells not in page.rows] == []
    assert len(page.rows) >= len(wanted)
    assert metrics["counts"] in page.text
    assert "Runs that failed" not in page.text


@pytest.mark.parametrize(
    ("outcome", "difference", "words"),
    [
        ("agree", 0.03, "is more accurate than standard training, by 3.00 ± 0.40 points."),
        ("disagree", -0.03, "is less accurate than standard training, by 3.00 ± 0.40 points."),
        ("not significant", 0.03, "by 3.00 ± 0.40 points (not significant, n = 8)."),
    ],
)
def test_a_headline_is_made_from_the_record(outcome, difference, words):
    claim = claims.claim_of("fig7", "layerwise_line", "standard", "accuracy", 0.2)
    verdict = claims.Verdict(claim, difference, 0.004, 8, 0.01, outcome)
    failed = [{"id": "tuning/line/<x>", "error": "learning rate 1e+30 & more"}]
    config = {"run": {"evaluation": {"corruption_source": "CIFAR-10-C"}}}
    metrics = {"claims": claims.to_json([verdict]), "failed": failed, "config": config}
    page = Page(pages.suite_page(metrics, dict.fromkeys(("fig3", "fig6", "fig7"), b"png")))
    (said,) = re.findall(r'<p class="headline">(.*?)</p>', page.source)
    assert said.startswith("With wrong labels, the midpoint of the layerwise line")
    assert said.endswith(words)
    assert "tuning/line/<x>: learning rate 1e+30 & more" in page.text
    assert "by snow, of CIFAR-10-C;" in page.text


@pytest.mark.parametrize("part", ["config", "provenance", "runs", "table", "claims", "gains"])
def test_a_suite_without_a_part(part):
    metrics = {name: value for name, value in committed("cifar10-small").items() if name != part}
    page = Page(pages.suite_page(metrics, {}))
    assert ("Provenance" in page.text) == (part != "provenance")
    assert ("Every claim" in page.text) == (part != "claims")


# Runs


def test_a_runs_page_has_its_midpoint_its_places_and_its_provenance(run):
    metrics, _, page = run
    point = next(p for p in metrics["points"] if p["name"] == "midpoint")
    assert f"has accuracy {100 * point['accuracy']:.2f} %" in page.text
    for text in ("jax 0.10.2, jaxlib", "1 x cpu (cpu)", '"num_epochs": 5'):
        assert text in page.text
    assert ("Squared cosine" in page.text) == (metrics["config"]["kind"] != "standard")
    labels = [cells[0] for cells in page.rows]
    for place in metrics.get("places", {}):
        assert any(place in label or "best on validation, α" in label for label in labels), place


@pytest.mark.parametrize(
    "part", ["config", "provenance", "history", "points", "ensembles", "geometry", "places", ""]
)
def test_a_run_without_a_part_or_any(part):
    metrics = {name: value for name, value in LINE.items() if part and name != part}
    page = Page(pages.of_run(metrics)[1])
    for kind in ("point", "ensemble"):
        shown = f"All metrics of every {kind}" in page.text
        assert shown == (part not in (f"{kind}s", ""))


@pytest.mark.parametrize(("kind", "part"), [("line", "path"), ("simplex", "triangle")])
def test_the_script_is_given_every_point_in_the_units_that_are_shown(kind, part):
    metrics = json.loads(json.dumps(run_metrics(kind)))
    metrics["points"][1] |= {"nll": math.inf, "accuracy": None}
    found = data_of(metrics)[part]
    assert found["xs" if part == "path" else "coords"] == [p["coords"] for p in metrics["points"]]
    assert found["names"] == [p["name"] for p in metrics["points"]]
    values = found.get("values") or [panel["series"][0]["ys"] for panel in found["panels"]]
    for name, row in zip(METRICS, values, strict=True):
        expected = [QUANTITIES[name].scale * (p[name] or 0) for p in metrics["points"]]
        if name in ("nll", "accuracy"):
            assert row[1] is None
            row[1] = expected[1] = 0
        assert row == expected
    for bins, point in zip(found["bins"], metrics["points"], strict=True):
        for name, values in point["reliability"].items():
            assert bins[name] == [None if v is None else pytest.approx(v, rel=1e-4) for v in values]
