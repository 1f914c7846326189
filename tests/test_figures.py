import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import matplotlib.image
import numpy as np
import pytest
import synthetic_metrics

from experiments import figures
from experiments.styles import METHODS, QUANTITIES

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
def suite():
    return synthetic_metrics.suite_metrics()


@pytest.fixture(scope="module")
def suite_figures(suite):
    return figures.suite_figures(suite)


def _lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_suite_has_its_figures_in_order(suite_figures):
    assert list(suite_figures) == ["path", "reliability", "noise", "tuned"]


def test_suite_path_shows_means_over_seeds(suite, suite_figures):
    clean, noisy = suite_figures["path"].axes
    assert (clean.get_title(), noisy.get_title()) == ("Clean labels", "20 % wrong labels")
    for ax, noise in ((clean, 0.0), (noisy, 0.2)):
        assert ax.get_ylabel() == "Test accuracy [%]"
        lines = _lines(ax)
        assert list(lines) == [
            METHODS[m].label
            for m in ("standard", "standard_matched", "ema", "line", "layerwise_line", "curve")
        ]
        runs = [
            run
            for run in suite["runs"]
            if (run["setting"], run["method"], run["label_noise"]) == ("article", "line", noise)
        ]
        values = [[point["accuracy"] for point in run["points"]] for run in runs]
        np.testing.assert_allclose(lines["Line"].get_ydata(), 100 * np.mean(values, axis=0))


def test_suite_reliability_pools_the_seeds(suite, suite_figures):
    axes = [ax for ax in suite_figures["reliability"].axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == [
        "Standard",
        "EMA",
        "Label smoothing",
        "Line",
        "Layerwise line",
    ]
    bins = [
        run["points"][0]["reliability"]
        for run in suite["runs"]
        if (run["setting"], run["method"], run["label_noise"]) == ("article", "standard", 0.2)
    ]
    weight, accuracy = (np.array([b[name] for b in bins]) for name in ("weight", "accuracy"))
    pooled = np.nansum(weight * accuracy, axis=0) / weight.sum(axis=0).clip(1e-12)
    heights = [bar.get_height() for bar in axes[0].containers[0]]
    np.testing.assert_allclose(heights, pooled[1:])  # the first bin is empty


@pytest.mark.parametrize(("name", "num_methods"), [("noise", 8), ("tuned", 2)])
def test_comparison_has_a_dot_per_method_in_every_panel(suite, suite_figures, name, num_methods):
    axes = suite_figures[name].axes
    assert [ax.get_xlabel() for ax in axes[::2]] == [q.label for q in QUANTITIES.values()]
    assert all(len(ax.containers) == num_methods for ax in axes)
    setting = {"noise": "article", "tuned": "tuned"}[name]
    rows = [
        row["ece"]["mean"]
        for row in suite["table"]
        if (row["setting"], row["label_noise"], row["place"]) == (setting, 0.2, "midpoint")
    ]
    drawn = [container.lines[0].get_xdata()[0] for container in axes[-1].containers]
    np.testing.assert_allclose(drawn, 100 * np.array(rows))


def test_suite_of_one_seed_has_no_bands():
    drawn = figures.suite_figures(synthetic_metrics.suite_metrics(num_seeds=1))
    assert not drawn["path"].axes[0].collections
    assert not any(c.has_xerr for c in drawn["noise"].axes[0].containers)


@pytest.mark.parametrize("kind", KINDS)
def test_run_has_the_figures_it_has_data_for(kind):
    drawn = figures.run_figures(synthetic_metrics.run_metrics(kind))
    path = [] if kind.startswith("standard") else ["path"]
    assert list(drawn) == [*path, "reliability", "history"]
    for figure in drawn.values():
        assert figures.png(figure).startswith(b"\x89PNG")


def test_run_path_shows_networks_and_ensembles():
    metrics = synthetic_metrics.run_metrics("line")
    figure = figures.run_figures(metrics)["path"]
    assert [ax.get_ylabel() for ax in figure.axes] == [q.label for q in QUANTITIES.values()]
    for ax, (name, quantity) in zip(figure.axes, QUANTITIES.items(), strict=True):
        network, ensemble = ax.get_lines()
        np.testing.assert_allclose(
            network.get_ydata(), [quantity.scale * p[name] for p in metrics["points"]]
        )
        assert len(ensemble.get_xdata()) == 20  # every position but the midpoint
        np.testing.assert_allclose(ensemble.get_ydata(), ensemble.get_ydata()[::-1])


def test_run_path_with_one_ensemble_says_of_which_networks():
    metrics = synthetic_metrics.run_metrics("line")
    metrics["ensembles"] = metrics["ensembles"][:2]
    ax = figures.run_figures(metrics)["path"].axes[0]
    assert ax.get_lines()[1].get_label() == "Ensemble of the two networks at 0 and 1"


def test_run_simplex_has_a_row_per_kind_of_point():
    figure = figures.run_figures(synthetic_metrics.run_metrics("simplex"))["path"]
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
        figure = figures.run_figures(synthetic_metrics.run_metrics(kind))["history"]
        assert [len(ax.get_lines()) for ax in figure.axes] == [num_lines, 1, 1]
        assert figure.axes[1].get_ylabel() == "Training accuracy [%]"
        assert all(len(ax.get_lines()[0].get_xdata()) == 30 for ax in figure.axes)


@pytest.mark.parametrize("missing", ["config", "history", "ensembles", "geometry", "provenance"])
def test_run_without_a_part_draws_the_others(missing):
    metrics = synthetic_metrics.run_metrics("line")
    del metrics[missing]
    expected = {"path", "reliability", "history"} - {missing}
    assert set(figures.run_figures(metrics)) == expected


def test_suite_without_bins_has_no_reliability():
    metrics = synthetic_metrics.suite_metrics(num_seeds=1)
    for run in metrics["runs"]:
        for point in run["points"]:
            del point["reliability"]
    assert list(figures.suite_figures(metrics)) == ["path", "noise", "tuned"]


def test_nothing_to_draw():
    assert figures.run_figures({}) == {}
    assert figures.suite_figures({}) == {}


def test_numbers_that_are_not_finite_are_drawn_around():
    metrics = synthetic_metrics.run_metrics("line")
    metrics["points"][3]["nll"] = None
    metrics["points"][4]["nll"] = float("inf")
    metrics["history"][2]["loss"] = float("nan")
    for figure in figures.run_figures(metrics).values():
        figures.png(figure)


def test_pictures_are_small_and_the_same_bytes_each_time(suite_figures):
    for figure in suite_figures.values():
        data = figures.png(figure)
        assert 10_000 < len(data) < 300_000
        assert data == figures.png(figure)


def test_nothing_is_cut_off_at_the_edges(suite_figures):
    drawn = suite_figures | {
        f"{kind} {name}": figure
        for kind in ("line", "simplex", "standard")
        for name, figure in figures.run_figures(synthetic_metrics.run_metrics(kind)).items()
    }
    for name, figure in drawn.items():
        pixels = matplotlib.image.imread(io.BytesIO(figures.png(figure)))[..., :3]
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((edge == 1).all() for edge in edges), name


def test_figures_can_be_drawn_in_threads():
    def draw(seed):
        drawn = figures.run_figures(synthetic_metrics.run_metrics("simplex", seed))
        return figures.png(drawn["path"])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(draw, [0, 0, 1, 1])) == [draw(0), draw(0), draw(1), draw(1)]


def test_pyplot_is_not_imported():
    code = "import sys, experiments.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
