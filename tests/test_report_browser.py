"""The page of a run in a real browser: what moves, and that its numbers are those of the metrics."""

import os
import shutil

import numpy as np
import pytest
import synthetic_metrics

from experiments import report
from experiments.evaluation import layout
from experiments.report import run_figures
from experiments.results.styles import METRICS, QUANTITIES
from subspace_jax import simplex

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason=f"none of {', '.join(NAMES)} is installed, and CHROMIUM is not set"
)
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def triangle_metrics():
    """A run whose triangle is evaluated on a grid."""
    metrics, rng = synthetic_metrics.run_metrics("simplex"), np.random.default_rng(0)
    known = len(metrics["points"])
    for point in layout.points_of(simplex(3), 11, 6)[known:]:
        value = synthetic_metrics.metrics_of(
            rng, rng.uniform(0.96, 0.98), rng.uniform(0.1, 0.2), 0.01
        )
        coords = layout.short(point.coords).tolist()
        metrics["points"].append({"name": "", "coords": coords} | value)
    return metrics


RUNS = {
    "line": synthetic_metrics.run_metrics("line"),
    "line with a plane": synthetic_metrics.run_metrics("line")
    | {"landscape": synthetic_metrics.landscape_of("line")},
    "triangle": triangle_metrics(),
    "triangle with a plane": triangle_metrics()
    | {"landscape": synthetic_metrics.landscape_of("simplex")},
    "triangle without a grid": synthetic_metrics.run_metrics("simplex"),
    "network": synthetic_metrics.run_metrics("standard"),
    "tetrahedron": synthetic_metrics.run_metrics("simplex_4"),
    "nothing": {},
}


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The file of a page, by the name of its run."""
    folder = tmp_path_factory.mktemp("pages")
    picture = run_figures.png(run_figures.run_figures(RUNS["network"])["reliability"])
    for name, metrics in RUNS.items():
        (folder / f"{name}.html").write_text(report.page(metrics, {"reliability": picture}))
    return folder


@pytest.fixture
def show(browser, pages):
    """Opens the page of a run; whatever the browser complains of fails the test."""
    complaints, contexts = [], []

    def opened(name, width=1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda r: r.url.startswith(("file:", "data:")) or complaints.append(r.url)
        )
        page.goto((pages / f"{name}.html").as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def numbers(page, part, row=1):
    """What the page says of accuracy, NLL and ECE."""
    cells = page.locator(f"#{part} .readout tbody tr:nth-child({row}) td")
    return [cell.strip() for cell in cells.all_inner_texts()]


def said_of(entry):
    return [f"{QUANTITIES[m].scale * entry[m]:.{QUANTITIES[m].decimals}f}" for m in METRICS]


def test_the_slider_goes_through_all_evaluated_points_by_keyboard(show):
    page, points = show("line"), RUNS["line"]["points"]
    slider = page.get_by_role("slider", name="Position α")
    assert numbers(page, "path") == said_of(points[5])  # the midpoint, which is deployed
    slider.press("Home")
    for i, point in enumerate(points):
        assert numbers(page, "path") == said_of(point)
        where = page.locator("#path .where").inner_text()
        assert where.startswith(f"α = {point['coords']:.3f}, evaluated")
        assert (point["name"] in where) or not point["name"]
        assert slider.get_attribute("aria-valuetext").startswith(where)
        if i + 1 < len(points):
            slider.press("PageUp")
    slider.press("PageDown")
    assert numbers(page, "path") == said_of(points[-2])


def test_between_evaluated_points_numbers_are_interpolated_and_said_to_be(show):
    page, points = show("line"), RUNS["line"]["points"]
    slider = page.get_by_role("slider", name="Position α")
    slider.press("Home")
    slider.press("ArrowRight")
    assert page.locator("#path .where").inner_text() == "α = 0.025, interpolated"
    between = {m: 0.75 * points[0][m] + 0.25 * points[1][m] for m in METRICS}
    found = [float(number) for number in numbers(page, "path")]
    expected = [QUANTITIES[m].scale * between[m] for m in METRICS]
    decimals = [QUANTITIES[m].decimals for m in METRICS]
    for value, wanted, digits in zip(found, expected, decimals, strict=True):
        assert value == pytest.approx(wanted, abs=0.51 * 10**-digits)


def test_the_second_row_is_the_ensemble_of_opposite_points(show):
    page, metrics = show("line"), RUNS["line"]
    pair = next(e for e in metrics["ensembles"] if e["average"] == "probability")
    assert pair["members"] == [0, 1]
    for name in ("Endpoint 0", "Endpoint 1"):
        page.get_by_role("button", name=name).click()
        assert numbers(page, "path", 2) == said_of(pair)
    page.get_by_role("button", name="Midpoint").click()
    assert numbers(page, "path", 2) == ["–"] * 3  # of one network there is no ensemble


def test_the_diagram_follows_the_slider(show):
    page, points = show("line"), RUNS["line"]["points"]
    for i, name in ((0, "Endpoint 0"), (5, "Midpoint")):
        page.get_by_role("button", name=name).click()
        bins = points[i]["reliability"]
        gaps = np.abs(np.subtract(bins["accuracy"], bins["confidence"]))
        ece = 100 * np.sum(np.multiply(bins["weight"], gaps))
        words = page.locator("#path .reliability").get_attribute("aria-label")
        assert f"α = {points[i]['coords']:.3f}" in words
        assert "9 of 10 bins filled" in words  # the lowest is empty
        assert f"expected calibration error {ece:.1f} %" in words
    assert page.locator("#path .reliability .bar").count() == 9


def test_a_touch_of_a_panel_moves_the_slider(show):
    page, points = show("line"), RUNS["line"]["points"]
    panel = page.locator("#path .panel").first
    box = panel.bounding_box()
    panel.click(position={"x": box["width"] * (340 - 14) / 340 - 1, "y": box["height"] / 2})
    assert numbers(page, "path") == said_of(points[-1])


@pytest.mark.parametrize("run", ["triangle", "triangle with a plane", "triangle without a grid"])
def test_the_pointer_at_an_evaluated_point_of_the_triangle_gives_its_numbers(show, run):
    page, points = show(run), RUNS[run]["points"]
    dots = page.locator("#triangle .evaluated")
    others = [point for point in points if point["name"] != "midpoint"]
    assert dots.count() == len(others)
    assert numbers(page, "triangle") == said_of(next(p for p in points if p["name"] == "midpoint"))
    for i in (0, 1, 2, 3, len(others) - 1):
        box = dots.nth(i).bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        assert numbers(page, "triangle") == said_of(others[i])
        assert "evaluated" in page.locator("#triangle .where").inner_text()


def test_keys_move_the_point_of_the_triangle_and_never_out_of_it(show):
    page, points = show("triangle"), RUNS["triangle"]["points"]
    triangle = page.get_by_role("application")
    where = page.locator("#triangle .where")
    triangle.press("ArrowUp")
    assert where.inner_text().endswith("interpolated")
    for _ in range(60):
        triangle.press("Shift+ArrowLeft")
    assert numbers(page, "triangle") == said_of(points[0])
    assert where.inner_text() == "Weights 1.00, 0.00, 0.00: evaluated, endpoint 0"
    heard = page.locator("#triangle-heard").inner_text()  # by a screen reader
    assert heard.startswith(where.inner_text())
    assert all(number in heard for number in said_of(points[0]))
    triangle.press("Home")
    assert where.inner_text().endswith("evaluated, midpoint")


def test_between_evaluated_points_of_the_triangle_numbers_are_barycentric(show):
    page, metrics = show("triangle"), RUNS["triangle"]
    triangle, where = page.get_by_role("application"), page.locator("#triangle .where")
    at = {tuple(np.rint(6 * np.array(p["coords"])).astype(int)): p for p in metrics["points"]}
    triangle.press("Home")
    triangle.press("ArrowRight")  # along the row of the midpoint, from (2, 2, 2) to (1, 3, 2)
    step = 1.24 / 60 * 6
    assert where.inner_text().endswith("interpolated")
    found = [float(number) for number in numbers(page, "triangle")]
    for value, m in zip(found, METRICS, strict=True):
        wanted = (1 - step) * at[2, 2, 2][m] + step * at[1, 3, 2][m]
        scale, decimals = QUANTITIES[m].scale, QUANTITIES[m].decimals
        assert value == pytest.approx(scale * wanted, abs=0.51 * 10**-decimals)


def test_the_colours_of_the_triangle_are_chosen(show):
    page = show("triangle with a plane")
    read = "document.querySelector('#triangle canvas').toDataURL()"
    seen = {page.evaluate(read)}
    for label in ("NLL [nats]", "ECE [%]"):
        page.get_by_label(label).check()
        seen.add(page.evaluate(read))
        assert (
            page.locator("#triangle .bar-of-colours")
            .first.get_attribute("aria-label")
            .startswith(label)
        )
    assert len(seen) == 3


@pytest.mark.parametrize("run", RUNS)
def test_no_page_is_wider_than_its_window(show, run):
    page = show(run, 320, color_scheme="dark", reduced_motion="reduce")
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"
    assert int(page.evaluate(lightness)) < 128
    for width in (320, 360, 700, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(color_scheme="light")
    assert int(page.evaluate(lightness)) > 128


@pytest.mark.parametrize("run", RUNS)
def test_every_section_is_drawn_and_only_where_there_are_data(show, run):
    page = show(run)
    plane = {"line with a plane": ["plane"]}
    expected = {
        "line": ["path", *plane.get(run, ())],
        "triangle": ["triangle"],
        "network": ["point"],
        "tetrahedron": ["point"],
        "nothing": [],
    }[run.split(" with")[0]]
    history = ["history"] if run != "nothing" else []
    sections = page.locator(".interactive")
    ids = [sections.nth(i).get_attribute("id") for i in range(sections.count())]
    assert ids == expected + history
    for section in ids:
        assert page.locator(f"#{section} .part > *").count() > 0
        assert page.locator(f"#{section}").is_visible()


def test_without_javascript_the_pictures_are_there(show):
    page = show("line", java_script_enabled=False)
    assert page.locator("details.papers img").is_visible()
    assert page.locator("#path").is_hidden()
    assert show("line").locator("details.papers img").is_hidden()
