import base64
import copy
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest
import synthetic_metrics

from experiments.configs.suites import FIGURES
from experiments.report import document, headlines, pages, run_figures, suite_figures, tables
from experiments.results import claims
from experiments.results.styles import MCE, METRICS, QUANTITIES, SUBSPACES, style_of

VOID = {"meta", "link", "img", "br", "hr"}


class Page(HTMLParser):
    """Collects what a page holds and fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.images, self.rows, self.text = [], [], [], [], ""
        self.scripts = 0
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


def _page(metrics, draw=lambda metrics: {}):
    pictures = {name: run_figures.png(figure) for name, figure in draw(metrics).items()}
    return Page(pages.page(metrics, pictures))


def draw_suite(metrics):
    return {name: figure for name, (figure, _) in suite_figures.draw(metrics, FIGURES).items()}


@pytest.fixture(scope="module")
def suite():
    return synthetic_metrics.suite_metrics(num_seeds=3)


@pytest.fixture(scope="module")
def suite_page(suite):
    return _page(suite, draw_suite)


@pytest.fixture(scope="module", params=["standard", "line", "simplex"])
def run_page(request):
    metrics = synthetic_metrics.run_metrics(request.param)
    return metrics, _page(metrics, run_figures.run_figures)


def cells_of(row):
    """What a table writes of a row, apart from where it is from."""
    cells = []
    for name in (*METRICS, *MCE):
        if name in row:
            scale, decimals = QUANTITIES[name].scale, QUANTITIES[name].decimals
            mean, stderr = (scale * row[name][key] for key in ("mean", "stderr"))
            cells.append(f"{mean:.{decimals}f} ± {stderr:.{decimals}f}")
        else:
            cells.append("")
    return cells


def test_suite_page_has_the_verdict_and_every_row(suite, suite_page):
    for sentence in [*suite["verdict"], *suite["survival"], suite["counts"]]:
        assert sentence in suite_page.text
    tables = [[]]  # rows of each table with means
    for cells in suite_page.rows:
        if cells[:2] == ["Method", "Place"]:
            tables.append([])
        tables[-1].append(cells)
    groups = {}
    for row in suite["table"]:
        groups.setdefault((row["setting"], row["label_noise"]), []).append(row)
    assert len(tables[1:]) == len(groups) == 4
    for (header, *found), rows in zip(tables[1:], groups.values(), strict=True):
        assert len(found) >= len(rows)
        assert header[4:] == [*(QUANTITIES[name].label for name in (*METRICS, *MCE)), "Seeds"]
        for cells, row in zip(found, rows, strict=False):  # provenance follows the last one
            network = row["place"] == "midpoint" and row["method"] not in SUBSPACES
            assert cells[:2] == [
                style_of(row["method"]).label,
                "network" if network else row["place"],
            ]
            assert cells[2] == f"{row['training_cost']:.3g} x"
            assert cells[3] == f"{row['inference_passes']} x"
            assert cells[4:] == [*cells_of(row), "3"]


def test_suite_page_has_every_claim_that_has_runs(suite, suite_page):
    verdicts = [v for v in claims.from_json(suite["claims"]) if v.outcome != claims.NOT_RUN]
    assert len(verdicts) > 50
    start = suite_page.rows.index(list(claims.HEADER)) + 1
    rows = suite_page.rows[start : start + len(verdicts)]
    for cells, verdict in zip(rows, verdicts, strict=True):
        assert cells == list(claims.cells(verdict))
        assert cells[1] == verdict.claim.text
        assert verdict.outcome in cells


def test_suite_page_names_what_failed(suite):
    failed = [{"id": "tuning/line/<x>", "error": "learning rate 1e+30 & more"}]
    page = _page(suite | {"failed": failed})
    assert "tuning/line/<x>: learning rate 1e+30 & more" in page.text
    assert "Runs that failed" not in _page(suite).text


@pytest.mark.parametrize(
    ("name", "scale", "words"),
    [
        ("digits", "digits", "scikit-learn's digits"),
        ("cifar10", "small", "small-scale version"),
        ("cifar10", "full", "cResNet20 on CIFAR-10 by the article's protocol"),
        ("tiny_imagenet", "full", "ResNet18 on Tiny-ImageNet by the article's protocol"),
    ],
)
def test_suite_page_says_what_it_is(suite, name, scale, words):
    page = _page(suite | {"config": suite["config"] | {"suite": name, "scale": scale}})
    assert words in page.text
    assert "paired t-tests" in page.text


@pytest.mark.parametrize(
    ("source", "words"),
    [("generated", "and not the official files"), ("CIFAR-10-C", "by snow, of CIFAR-10-C;")],
)
def test_the_caption_of_snow_says_where_it_comes_from(suite, source, words):
    run = {"evaluation": {"corruption_source": source}}
    page = pages.page(suite | {"config": suite["config"] | {"run": run}}, {"fig6": b"png"})
    assert words in page
    assert "{snow}" not in page


def test_pages_refer_to_nothing_outside(suite_page, run_page):
    for page in (suite_page, run_page[1]):
        assert page.links
        assert all(link.startswith(("data:", "#")) for link in page.links)


def test_pages_import_no_style(suite):
    assert not re.search(r"@import|url\((?!#)|https?://", pages.page(suite, {}))


def test_pages_run_no_script_but_their_own(suite, suite_page, run_page):
    assert suite_page.scripts == 0
    assert "script-src" not in pages.page(suite, {})
    metrics, page = run_page
    assert page.scripts == 2  # the data, and what draws them
    text = pages.page(metrics, {})
    script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text
    assert set(re.findall(r"https?://[^\s\"']+", text)) == {"http://www.w3.org/2000/svg"}  # a name


def test_every_picture_has_words(suite_page, run_page):
    metrics, page = run_page
    names = {"fig3", "fig4", "fig5", "fig6", "fig7", "rivals", "tuned"} | {
        "reliability",
        "selection",
    }
    assert len(suite_page.images) == len(names)
    assert len(page.images) == {"standard": 2, "line": 3, "simplex": 4}[metrics["config"]["kind"]]
    assert all(len(image["alt"]) > 10 for image in suite_page.images + page.images)
    assert "overconfident" in page.text
    for number in (3, 4, 5, 6, 7):
        assert f"Figure {number}: " in suite_page.text
    assert "accuracy against the number of endpoints" in suite_page.text


def test_every_figure_of_a_suite_has_a_caption(suite):
    picture = run_figures.png(draw_suite(suite)["reliability"])
    for name in (*FIGURES, "reliability"):
        (image,) = Page(pages.page(suite, {name: picture})).images
        assert image["alt"] != name


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


def test_machines_of_a_suite_are_said_line_by_line():
    made = [{"cpu": "<one>", "versions": {"jax": "0.10.2"}, "num_runs": 10}, {"cpu": "two"}]
    text = document.provenance({"made": made, "commit": ""}, {})
    assert "cpu &lt;one&gt;, versions jax 0.10.2, num runs 10<br>cpu two</td>" in text
    assert "commit" not in text


def data_of(metrics):
    """What the script of a page draws."""
    text = pages.page(metrics, {})
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize(("kind", "part"), [("line", "path"), ("simplex", "triangle")])
def test_the_script_is_given_every_point_in_the_units_that_are_shown(kind, part):
    metrics = synthetic_metrics.run_metrics(kind)
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
            assert bins[name] == pytest.approx(values, rel=1e-4)


def test_the_script_is_given_what_there_is_and_nothing_else():
    shown = {"quantities", "colours"}
    standard = data_of(synthetic_metrics.run_metrics("standard"))
    assert standard.keys() == shown | {"point", "history"}
    landscape = {"landscape": synthetic_metrics.landscape_of("simplex")}
    triangle = data_of(synthetic_metrics.run_metrics("simplex") | landscape)
    assert triangle.keys() == shown | {"triangle", "point", "history", "plane"}
    assert triangle["plane"]["nll"][0][0] is None
    levels = triangle["plane"]["levels"]
    assert levels == sorted(set(levels))
    assert data_of({}).keys() == shown


def test_run_page_has_its_places_and_corruptions():
    metrics = synthetic_metrics.run_metrics("line")
    point = {name: metrics["points"][5][name] for name in METRICS}
    point |= {"inference_passes": 1, "temperature": 0.5}
    point |= {"scaled": {"nll": 0.25, "ece": 0.0125}}
    corrupted = {
        "corruptions": {"gaussian_noise": {"1": {"accuracy": 0.8}, "5": {"accuracy": 0.4}}}
    }
    metrics["places"] = {
        "chosen point": point | {"coords": 0.4},
        "endpoints": {"inference_passes": 1, "accuracy": 0.9, "nll": 0.3, "ece": 0.1},
        "midpoint": point | corrupted,
    }
    metrics["provenance"]["gradient_passes"] = 20_000
    rows = _page(metrics).rows
    start = next(i for i, cells in enumerate(rows) if "Temperature" in cells)
    assert [cells[0] for cells in rows[start + 1 : start + 4]] == [
        *("midpoint", "endpoints, their mean", "best on validation, α = 0.4")
    ]
    assert rows[start + 1][5:] == ["0.250", "1.25", "0.5"]
    assert rows[start + 2][1:] == ["1", "90.00", "0.300", "10.00", "", "", ""]
    assert ["Place", "Corruption", "Severity 1", "Severity 5"] in rows
    assert ["midpoint", "gaussian noise", "80.00", "40.00"] in rows
    assert ["Training, passes forward and backward of an image", "20,000"] in rows


@pytest.mark.parametrize("part", ["config", "provenance", "runs", "table"])
def test_suite_without_a_part(suite, part):
    metrics = {name: value for name, value in suite.items() if name != part}
    page = _page(metrics)
    assert "Subspaces of networks and their rivals" in page.text
    assert ("scikit-learn's digits" in page.text) == (part != "config")
    assert ("Provenance" in page.text) == (part != "provenance")
    assert ("Article setting, clean labels" in page.text) == (part != "table")


@pytest.mark.parametrize(
    "part", ["config", "provenance", "history", "points", "ensembles", "geometry"]
)
def test_run_without_a_part(part):
    metrics = synthetic_metrics.run_metrics("line")
    del metrics[part]
    page = _page(metrics, run_figures.run_figures)
    assert ("Points and ensembles" in page.text) == (part != "points")
    assert ("All metrics of every ensemble" in page.text) == (part != "ensembles")


def test_empty_metrics():
    assert "One run" in _page({}, run_figures.run_figures).text


def test_text_table_is_aligned(suite):
    header, rule, *lines = tables.text_table(suite["table"]).splitlines()
    assert len(lines) == len(suite["table"])
    assert {len(line) for line in (header, rule, *lines)} == {len(rule)}
    gaps = [i for i in range(len(rule)) if rule[i] == " "]
    assert all(line[i] == " " for line in (header, *lines) for i in gaps)
    for line, row in zip(lines, suite["table"], strict=True):
        assert re.split(r"  +", line)[2] == style_of(row["method"]).label
        assert all(cell in line for cell in cells_of(row))


def test_rows_are_in_the_order_of_methods(suite):
    ends_last = sorted(suite["table"], key=lambda row: row["place"] != "midpoint")
    shuffled = sorted(ends_last, key=lambda row: (row["setting"], row["method"]))
    assert [row["method"] for row in shuffled] != [row["method"] for row in suite["table"]]
    lines = [tables.text_table(rows).splitlines() for rows in (shuffled, suite["table"])]
    labels = [[re.split(r"  +", line)[:3] for line in table] for table in lines]
    assert labels[0] == labels[1]


def test_networks_without_a_subspace_have_no_midpoint(suite):
    lines = tables.text_table(suite["table"]).splitlines()[2:]
    for line, row in zip(lines, suite["table"], strict=True):
        place = re.split(r"  +", line)[3]
        network = row["place"] == "midpoint" and row["method"] not in SUBSPACES
        assert place == ("network" if network else row["place"])
    assert any("midpoint" in line for line in lines)


def test_numbers_that_are_not_finite_are_shown(suite):
    metrics = copy.deepcopy(suite)
    metrics["table"][0]["nll"] = {"mean": math.inf, "stderr": math.nan}
    metrics["table"][1]["nll"] = {"mean": None, "stderr": None}
    assert "inf ± nan" in tables.text_table(metrics["table"])
    rows = _page(metrics, draw_suite).rows
    start = next(i for i, cells in enumerate(rows) if cells[:2] == ["Method", "Place"])
    column = rows[start].index(QUANTITIES["nll"].label)
    assert [cells[column] for cells in rows[start + 1 : start + 3]] == ["inf ± nan", "nan"]


def test_run_rows_are_named_points_and_ensembles_of_endpoints():
    rows = tables.run_rows(synthetic_metrics.run_metrics("line"))
    assert [row["place"] for row in rows] == [
        "endpoint 0",
        "midpoint",
        "endpoint 1",
        "ensemble of endpoints 0, 1",
    ]
    assert [row["place"] for row in tables.run_rows(synthetic_metrics.run_metrics("standard"))] == [
        "network"
    ]
    simplex = tables.run_rows(synthetic_metrics.run_metrics("simplex"))
    assert [row["place"] for row in simplex if "ensemble" in row["place"]] == [
        "ensemble of endpoints 0, 1, 2",
        "ensemble of endpoints 0, 1",
        "ensemble of endpoints 0, 2",
        "ensemble of endpoints 1, 2",
    ]
    assert tables.text_table(simplex).count("\n") == len(simplex) + 1


def test_a_suites_figures_come_first_each_with_a_headline_and_a_link(suite):
    picture = run_figures.png(draw_suite(suite)["reliability"])
    names = ("rivals", "selection", "fig3", "fig7", "fig2", "fig1")
    text = pages.page(suite, dict.fromkeys(names, picture))
    sections = re.findall(r'<section id="(\w+)">', text)
    assert sections[:6] == ["fig1", "fig2", "fig7", "fig3", "rivals", "selection"]
    assert sections[6:] == re.findall(r'href="#(\w+)"', text)[6:] == ["claims", "tables", "terms"]
    before_claims = text.partition('id="claims"')[0]
    assert before_claims.count('class="headline"') == 5  # of the triangle's plane there is no run
    assert "<table" not in before_claims


@pytest.mark.parametrize(
    ("difference", "p_value", "words"),
    [
        (0.03, 0.01, "is more accurate than standard training, by 3.00 ± 0.40 points."),
        (-0.03, 0.01, "is less accurate than standard training, by 3.00 ± 0.40 points."),
        (0.03, 0.2, "do not differ significantly in accuracy, over 8 seeds."),
    ],
)
def test_a_headline_is_made_from_the_record(difference, p_value, words):
    claim = claims.claim_of("fig7", "layerwise_line", "standard", noise=0.2)
    significant = claims.AGREE if difference > 0 else claims.DISAGREE
    outcome = significant if p_value < 0.05 else claims.NOT_SIGNIFICANT
    verdict = claims.Verdict(claim, difference, 0.004, 8, p_value, outcome)
    said = headlines.of({"claims": claims.to_json([verdict])})
    assert said["fig7"].startswith("With wrong labels, the midpoint of the layerwise line")
    assert said["fig7"].endswith(words)
    assert "fig3" not in said
