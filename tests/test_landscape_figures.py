import json

import numpy as np
import pytest

from experiments.report import landscape_figures, run_figures
from experiments.results.styles import METHODS

SIZE = 9
CORNERS = [[0.0, 0.0], [10.0, 0.0], [4.0, 8.0]]


def run(method, seed=0, label_noise=0.0, **landscape):
    name = f"landscape/{method}/seed{seed}"
    kept = {"id": name, "method": method, "seed": seed, "label_noise": label_noise}
    return kept | {"landscape": landscape, "setting": "landscape"}


def picture(seed=0):
    x, y = np.linspace(-4, 14, SIZE), np.linspace(-5, 13, SIZE)
    bowl = np.hypot(*np.meshgrid(x - 5, y - 3)) / 10
    return {
        "x": x.tolist(),
        "y": y.tolist(),
        "accuracy": (0.95 - 0.3 * bowl).tolist(),
        "nll": (0.2 + bowl**2 + 0.01 * seed).tolist(),
        "num_images": 500,
        "recalibration_images": 1000,
        "recalibration_batch_size": 50,
    }


def slice_of(kind, seed=0):
    shown = {
        "point": ([[0.0, 0.0]], [0.0, 0.0]),
        "line": ([[0.0, 0.0], [10.0, 0.0]], [5.0, 0.0]),
        "curve": ([[0.0, 0.0], [6.0, 2.0], [4.0, 8.0]], [6.0, 2.0]),
        "simplex": ([*CORNERS, CORNERS[0]], [4.7, 2.7]),
    }
    path, midpoint = shown[kind]
    record = picture(seed) | {"kind": kind, "path": path, "midpoint": midpoint}
    record["other"] = CORNERS[2] if kind == "line" else None
    if kind != "point":
        record["corners"] = CORNERS
        record["inside"] = {"accuracy": 0.9 + 0.02 * seed, "nll": 0.3, "num_points": 10}
        record["outside"] = {"accuracy": 0.7, "nll": 0.9, "num_points": 50, "beyond": 1.0}
    return record


def path_of(alphas, top, relative=True):
    tops = [top] if alphas is None else [top + alpha for alpha in alphas]
    fine = None if alphas is None else np.linspace(0, 1, 11).tolist()
    errors = [0.1 * top] * (1 if alphas is None else 11)
    return {
        "barrier": None,
        "alphas": alphas,
        "test": {"alphas": fine, "nll": errors, "error": errors},
        "curvature": {
            "eigenvalue": tops,
            "relative_eigenvalue": [2 * t for t in tops] if relative else None,
            "kernel_norm": [1.0] * len(tops),
            "statistics": "batch",
            "num_images": 1000,
            "batch_size": 250,
            "num_iterations": 20,
        },
    }


ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.fixture
def runs():
    """In no order."""
    slices = {"simplex_3": "simplex", "curve": "curve", "line": "line", "standard": "point"}
    sliced = [
        run(method, seed, slice=slice_of(kind, seed))
        for method, kind in slices.items()
        for seed in (1, 0)
    ]
    methods = ("curve", "layerwise_line", "standard", "line")
    tops = dict(zip(methods, (4.0, 3.0, 1.0, 2.0), strict=True))
    paths = [
        run(m, seed, path=path_of(None if m == "standard" else ALPHAS, top + seed))
        for m, top in tops.items()
        for seed in (1, 0)
    ]
    return sliced + paths


def lines(ax):
    return {line.get_label(): line for line in ax.get_lines()}


def test_draw_gives_what_is_asked_for_and_what_it_was_drawn_from(runs):
    names = ("curvature", "fig3", "fig2", "fig1")
    drawn = landscape_figures.draw({"landscapes": runs}, names)
    assert list(drawn) == ["curvature", "fig2", "fig1"]
    for name, (figure, data) in drawn.items():
        again = getattr(landscape_figures, name)(json.loads(json.dumps(data))["runs"])
        assert run_figures.png(figure) == run_figures.png(again)


@pytest.mark.parametrize("metrics", [{}, {"landscapes": []}, {"landscapes": [run("line")]}])
def test_nothing_is_drawn_from_nothing(metrics):
    assert landscape_figures.draw(metrics, ("fig1", "fig2", "curvature")) == {}


def test_fig1_has_a_panel_for_every_kind(runs):
    figure = landscape_figures.fig1(runs)
    titles = [ax.get_title() for ax in figure.axes if ax.get_title()]
    assert titles == ["One network", "Line", "Curve", "Triangle"]
    limits = {ax.collections[0].norm.vmax for ax in figure.axes if ax.get_title()}
    assert len(limits) == 1
    assert "500 test images; statistics recalibrated" in figure.get_supxlabel()
    names = [text.get_text() for text in figure.axes[1].texts]
    assert names == ["independent network", "midpoint"]


def test_fig1_draws_the_subspace_where_it_lies(runs):
    line, curve, simplex = landscape_figures.fig1(runs).axes[1:4]
    for ax, kind, method in ((line, "line", "line"), (curve, "curve", "curve")):
        path = slice_of(kind)["path"]
        drawn = [x for x in ax.get_lines() if x.get_xydata().tolist() == path]
        found = next(x for x in drawn if x.get_linestyle() == "-")
        assert found.get_color() == METHODS[method].color
    (triangle,) = simplex.patches
    np.testing.assert_allclose(triangle.get_xy()[:3], CORNERS)


def test_fig1_of_one_kind_alone(runs):
    only = [r for r in runs if r["method"] == "curve"]
    assert [ax.get_title() for ax in landscape_figures.fig1(only).axes] == ["Curve"]


def test_fig2_shows_the_first_seed_and_means_of_all(runs):
    figure = landscape_figures.fig2(runs)
    accuracy, nll = figure.axes
    assert accuracy.get_title() == "Mean inside 91.0 ± 1.0 %,\noutside 70.0 ± 0.0 %"
    assert nll.get_title() == "Mean inside 0.30 ± 0.00 nats,\noutside 0.90 ± 0.00 nats"
    for ax in (accuracy, nll):
        np.testing.assert_allclose(ax.get_lines()[0].get_xydata()[:3], CORNERS)
        assert ax.get_xlabel() == "Weight distance (L2)"
    note = figure.get_supxlabel()
    assert note.startswith(
        "500 test images; statistics recalibrated at every point of 9 x 9 on 1,000"
    )
    assert "the plane of seed 0, the means of 2 seeds" in note


def test_fig2_of_one_seed_and_noisy_labels():
    figure = landscape_figures.fig2([run("simplex", 3, 0.2, slice=slice_of("simplex"))])
    assert figure.axes[0].get_title() == "Mean inside 90.0 %,\noutside 70.0 %"
    assert figure.get_supxlabel().endswith("1,000 images; 20 % wrong training labels")


@pytest.mark.parametrize("value", [None, 0.0, 0.5, 1.0])
def test_planes_without_shape_are_drawn(value):
    record = slice_of("simplex") | {"accuracy": [[value] * SIZE] * SIZE}
    record["nll"] = record["accuracy"]
    runs = [run("simplex", slice=record)]
    run_figures.png(landscape_figures.fig1(runs))
    run_figures.png(landscape_figures.fig2(runs))


def test_missing_values_are_drawn_around():
    record = slice_of("simplex")
    record["nll"][0][0] = None
    record["outside"] = {"accuracy": None, "nll": None}
    run_figures.png(landscape_figures.fig2([run("simplex", slice=record)]))


def test_curvature_shows_means_over_seeds(runs):
    raw, relative, error = landscape_figures.curvature(runs).axes
    labels = [METHODS[m].label for m in ("standard", "line", "layerwise_line", "curve")]
    for ax in (raw, relative, error):
        assert list(lines(ax)) == labels
    top = 2.5 + np.array(ALPHAS)
    np.testing.assert_allclose(lines(raw)["Line"].get_ydata(), top)
    np.testing.assert_allclose(lines(relative)["Line"].get_ydata(), 2 * top)
    np.testing.assert_allclose(lines(error)["Line"].get_ydata(), 25)
    np.testing.assert_allclose(lines(raw)["Standard"].get_ydata(), 1.5)
    for ax in (raw, relative):
        low, high = ax.get_ylim()
        assert low == 0
        assert high > max(line.get_ydata()[-1] for line in ax.get_lines())


def test_curvature_may_lack_the_relative_one_and_standard_training():
    figure = landscape_figures.curvature([run("line", path=path_of(ALPHAS, 1.0, False))])
    assert len(figure.axes) == 2
    note = figure.legends[0].get_title().get_text()
    assert "of 1,000 images, with the statistics of batches of 250" in note


def test_curvature_without_a_path_is_not_drawn():
    assert landscape_figures.curvature([run("standard", path=path_of(None, 1.0))]) is None


@pytest.mark.parametrize("values", [[0.01, 0.02, 0.5], [0.3, 5.0], [3.0, 3.01], [1e-3, 900.0]])
def test_levels_are_few_and_cover_the_values(values):
    values = np.linspace(*np.array(values)[[0, -1]], 100)
    levels = landscape_figures.levels_of(values)
    assert 5 <= len(levels) <= 14
    assert (np.diff(levels) > 0).all()
    assert levels[0] <= max(values[0], np.quantile(values, 0.98) / 100)
    assert levels[-1] >= np.quantile(values, 0.98)
