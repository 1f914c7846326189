"""The page of a run in a real browser: what moves, and that its numbers are those of the metrics."""

import os
import shutil

import numpy as np
import pytest
from synthetic_metrics import LINE, landscape_of, run_metrics

from experiments.report import pages as report
from experiments.results.styles import METRICS, QUANTITIES

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason=f"none of {', '.join(NAMES)} is installed, and CHROMIUM is not set"
)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")

RUNS = {
    "line": LINE | {"landscape": landscape_of("line")},
    "triangle": run_metrics("simplex", 6) | {"landscape": landscape_of("simplex_3")},
    "triangle without a plane": run_metrics("simplex", 6),
    "network": run_metrics("standard"),
    "nothing": {},
}
SECTIONS = {
    "line": ["path", "plane", "history"],
    "triangle": ["triangle", "history"],
    "triangle without a plane": ["triangle", "history"],
    "network": ["reliability", "history"],
    "nothing": [],
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
    for name, metrics in RUNS.items():
        (folder / f"{name}.html").write_text(report.of_run(metrics)[1])
    return folder


@pytest.fixture
def show(browser, pages):
    """Opens the page of a run; whatever the browser complains of fails the test."""
    complaints, contexts = [], []

    def opened(name, **options):
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}, **options))
        page = contexts[-1].new_page()
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


def numbers(page, part):
    """What the page says of accuracy, NLL and ECE."""
    cells = page.locator(f"#{part} .readout tbody tr:nth-child(1) td")
    return [cell.strip() for cell in cells.all_inner_texts()]


def said_of(entry):
    return [f"{QUANTITIES[m].scale * entry[m]:.{QUANTITIES[m].decimals}f}" for m in METRICS]


def test_the_slider_goes_through_all_evaluated_points_by_keyboard(show):
    page, points = show("line"), LINE["points"]
    slider, where = page.get_by_role("slider", name="Position α"), page.locator("#path .where")
    assert numbers(page, "path") == said_of(points[2])  # the midpoint, which is deployed
    slider.press("Home")
    for point in points:
        assert numbers(page, "path") == said_of(point)
        said = where.inner_text()
        assert said.startswith(f"α = {point['coords']:.3f}, evaluated")
        assert point["name"] in said
        assert slider.get_attribute("aria-valuetext").startswith(said)
        slider.press("PageUp")
    slider.press("PageDown")
    assert numbers(page, "path") == said_of(points[-2])
    slider.press("Home")
    slider.press("ArrowRight")
    assert where.inner_text() == "α = 0.063, interpolated"
    assert_numbers(page, "path", {m: 0.75 * points[0][m] + 0.25 * points[1][m] for m in METRICS})


def assert_numbers(page, part, wanted):
    found = [float(number) for number in numbers(page, part)]
    for value, m in zip(found, METRICS, strict=True):
        scale, decimals = QUANTITIES[m].scale, QUANTITIES[m].decimals
        assert value == pytest.approx(scale * wanted[m], abs=0.51 * 10**-decimals)


def test_the_diagram_follows_the_slider_and_a_touch_of_a_panel_moves_it(show):
    page, points = show("line"), LINE["points"]
    for i, name in ((0, "Endpoint 0"), (2, "Midpoint")):
        page.get_by_role("button", name=name).click()
        bins = {key: np.array(values, float) for key, values in points[i]["reliability"].items()}
        filled = int((bins["weight"] > 0).sum())
        ece = 100 * np.nansum(bins["weight"] * np.abs(bins["accuracy"] - bins["confidence"]))
        words = page.locator("#path .reliability").get_attribute("aria-label")
        assert f"{filled} of {len(bins['weight'])} bins filled" in words
        assert f"expected calibration error {ece:.1f} %" in words
        assert page.locator("#path .reliability .bar").count() == filled
    panel = page.locator("#path .panel").first
    box = panel.bounding_box()
    panel.click(position={"x": box["width"] * (340 - 14) / 340 - 1, "y": box["height"] / 2})
    assert numbers(page, "path") == said_of(points[-1])


def test_the_pointer_at_an_evaluated_point_of_the_triangle_gives_its_numbers(show):
    page, points = show("triangle"), RUNS["triangle"]["points"]
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
    page, points = show("triangle without a plane"), RUNS["triangle without a plane"]["points"]
    triangle, where = page.get_by_role("application"), page.locator("#triangle .where")
    for _ in range(60):
        triangle.press("Shift+ArrowLeft")
    assert numbers(page, "triangle") == said_of(points[0])
    assert where.inner_text() == "Weights 1.00, 0.00, 0.00: evaluated, endpoint 0"
    heard = page.locator("#triangle-heard").inner_text()  # by a screen reader
    assert heard.startswith(where.inner_text())
    assert all(number in heard for number in said_of(points[0]))
    triangle.press("Home")
    assert where.inner_text().endswith("evaluated, midpoint")
    triangle.press("ArrowRight")  # along the row of the midpoint, from (2, 2, 2) to (1, 3, 2)
    assert where.inner_text().endswith("interpolated")
    at = {tuple(np.rint(6 * np.array(p["coords"])).astype(int)): p for p in points}
    step = 1.24 / 60 * 6
    wanted = {m: (1 - step) * at[2, 2, 2][m] + step * at[1, 3, 2][m] for m in METRICS}
    assert_numbers(page, "triangle", wanted)


@pytest.mark.parametrize("run", RUNS)
def test_every_section_is_drawn_where_there_are_data_and_fits_into_its_window(show, run):
    page = show(run, color_scheme="dark", reduced_motion="reduce")
    sections = page.locator(".interactive").all()
    assert [section.get_attribute("id") for section in sections] == SECTIONS[run]
    for section in sections:
        assert section.locator(".part > *").count() > 0
        assert section.is_visible()
    for width in (320, 700, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    lightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"
    assert int(page.evaluate(lightness)) < 128
    page.emulate_media(color_scheme="light")
    assert int(page.evaluate(lightness)) > 128
    if run == "line":  # without JavaScript the pictures are there
        plain = show(run, java_script_enabled=False)
        assert plain.locator("details.papers img").first.is_visible()
        assert plain.locator("#path").is_hidden()
