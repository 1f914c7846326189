import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib.image
import numpy as np
import pytest
import synthetic_metrics
from matplotlib.colors import to_rgb
from PIL import Image

from experiments.configs.recipes import PRODUCTS
from experiments.configs.suites import FIGURES
from experiments.report import run_figures, suite_figures
from experiments.results.styles import METRICS, QUANTITIES, style_of

KINDS = (
    "standard",
    "standard_matched",
    "line",
    "layerwise_line",
    "curve",
    "simplex",
    "layerwise_simplex",
)


@pytest.fixture(scope="module")
def drawn():
    """The figures of a suite."""
    found = suite_figures.draw(synthetic_metrics.suite_metrics(), tuple(FIGURES))
    return {name: figure for name, (figure, _) in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_run_has_the_figures_it_has_data_for(kind):
    drawn = run_figures.run_figures(synthetic_metrics.run_metrics(kind))
    path = [] if kind.startswith("standard") else ["path"]
    path += ["triangle"] if kind.endswith("simplex") else []
    assert list(drawn) == [*path, "reliability", "history"]
    for figure in drawn.values():
        assert run_figures.png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize(("kind", "plane"), [("line", "line"), ("simplex", "simplex")])
def test_run_with_a_landscape_has_its_plane(kind, plane):
    metrics = synthetic_metrics.run_metrics(kind)
    drawn = run_figures.run_figures(metrics | {"landscape": synthetic_metrics.landscape_of(plane)})
    assert "plane" in drawn
    assert run_figures.png(drawn["plane"]).startswith(b"\x89PNG")


def test_triangle_is_as_wide_as_its_plane():
    metrics = synthetic_metrics.run_metrics("simplex")
    found = synthetic_metrics.landscape_of("simplex")
    figure = run_figures.run_figures(metrics | {"landscape": found})["triangle"]
    points = figure.axes[0].get_lines()[0].get_xydata()
    np.testing.assert_allclose(points[:3], found["slice"]["corners"], atol=1e-9)


def test_triangle_without_some_values_is_drawn_around_them():
    metrics = synthetic_metrics.run_metrics("simplex")
    for point in metrics["points"]:
        point["nll"] = None
    metrics["points"][0]["accuracy"] = float("nan")
    run_figures.png(run_figures.run_figures(metrics)["triangle"])


def test_run_path_shows_networks_and_ensembles():
    metrics = synthetic_metrics.run_metrics("line")
    figure = run_figures.run_figures(metrics)["path"]
    assert [ax.get_ylabel() for ax in figure.axes] == [QUANTITIES[name].label for name in METRICS]
    pairs = [e for e in metrics["ensembles"] if e["average"] == "probability"]
    for ax, name in zip(figure.axes, METRICS, strict=True):
        scale = QUANTITIES[name].scale
        network, ensemble = ax.get_lines()
        np.testing.assert_allclose(
            network.get_ydata(), [scale * p[name] for p in metrics["points"]]
        )
        # At every position but the midpoint is the pair of its network and the mirrored one.
        alphas = [p["coords"] for p in metrics["points"] if p["name"] != "midpoint"]
        expected = [next(e[name] for e in pairs if alpha in e["members"]) for alpha in alphas]
        np.testing.assert_allclose(ensemble.get_xdata(), alphas)
        np.testing.assert_allclose(ensemble.get_ydata(), scale * np.array(expected))


def test_run_path_with_one_ensemble_says_of_which_networks():
    metrics = synthetic_metrics.run_metrics("line")
    metrics["ensembles"] = metrics["ensembles"][:2]
    ax = run_figures.run_figures(metrics)["path"].axes[0]
    assert ax.get_lines()[1].get_label() == "Ensemble of the two networks at 0 and 1"


def test_run_simplex_has_a_row_per_kind_of_point():
    figure = run_figures.run_figures(synthetic_metrics.run_metrics("simplex"))["path"]
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "Corners",
        "Edges",
        "Centre",
        "Ensembles of 3",
        "Ensembles of 2",
    ]
    assert [len(line.get_xdata()) for line in ax.get_lines()] == [3, 3, 1, 1, 3]


def test_history_has_the_penalty_only_where_there_is_one():
    for kind, num_lines in (("standard", 1), ("line", 2)):
        figure = run_figures.run_figures(synthetic_metrics.run_metrics(kind))["history"]
        assert [len(ax.get_lines()) for ax in figure.axes] == [num_lines, 1, 1]
        assert figure.axes[1].get_ylabel() == "Training accuracy [%]"
        assert all(len(ax.get_lines()[0].get_xdata()) == 30 for ax in figure.axes)


@pytest.mark.parametrize("missing", ["config", "history", "ensembles", "geometry", "provenance"])
def test_run_without_a_part_draws_the_others(missing):
    metrics = synthetic_metrics.run_metrics("line")
    del metrics[missing]
    expected = {"path", "reliability", "history"} - {missing}
    assert set(run_figures.run_figures(metrics)) == expected


def test_nothing_to_draw():
    assert run_figures.run_figures({}) == {}


def test_numbers_that_are_not_finite_are_drawn_around():
    metrics = synthetic_metrics.run_metrics("line")
    metrics["points"][3]["nll"] = None
    metrics["points"][4]["nll"] = float("inf")
    metrics["history"][2]["loss"] = float("nan")
    for figure in run_figures.run_figures(metrics).values():
        run_figures.png(figure)


def test_pictures_are_small_and_the_same_bytes_each_time(drawn):
    for figure in drawn.values():
        data = run_figures.png(figure)
        assert 5_000 < len(data) < 100_000
        assert data == run_figures.png(figure)


def test_pictures_have_the_colours_of_their_products(drawn):
    picture = Image.open(io.BytesIO(run_figures.png(drawn["fig7"]))).convert("RGB")
    colours = np.unique(np.asarray(picture).reshape(-1, 3), axis=0).astype(int)
    for method in ("line", "layerwise_line", "curve", "ema", "standard"):
        colour = np.round(255 * np.array(to_rgb(style_of(method).color)))
        assert np.abs(colours - colour).max(axis=1).min() <= 2


def test_pdfs_are_the_same_bytes_each_time():
    made = [
        run_figures.pdf(run_figures.run_figures(synthetic_metrics.run_metrics("line"))["path"])
        for _ in range(2)
    ]
    assert made[0].startswith(b"%PDF")
    assert made[0] == made[1]


def test_nothing_is_cut_off_at_the_edges(drawn):
    large = synthetic_metrics.suite_metrics(products=tuple(PRODUCTS), num_seeds=2)
    large = suite_figures.draw(large, ("fig3", "fig4", "rivals"))
    runs = {
        f"{kind} {name}": figure
        for kind in ("line", "simplex", "standard")
        for name, figure in run_figures.run_figures(synthetic_metrics.run_metrics(kind)).items()
    }
    for name, figure in [*drawn.items(), *runs.items(), *((n, f) for n, (f, _) in large.items())]:
        pixels = matplotlib.image.imread(io.BytesIO(run_figures.png(figure)))[..., :3]
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((edge == 1).all() for edge in edges), name


def test_figures_can_be_drawn_in_threads():
    def draw(seed):
        drawn = run_figures.run_figures(synthetic_metrics.run_metrics("simplex", seed))
        return run_figures.png(drawn["path"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, [0, 0, 1, 1])) == [draw(0), draw(0), draw(1), draw(1)]


def test_pyplot_is_not_imported():
    code = "import sys, experiments.report.pages; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
