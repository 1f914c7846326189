"""Figures of landscapes, from the committed slices and paths of the digits."""

import json

import numpy as np
import pytest
from records import RESULTS, committed

from experiments.report import landscape_figures, run_figures
from experiments.results.styles import style_of

RUNS = committed("digits")["landscapes"]
NAMES = ("curvature", "fig2", "fig1")


@pytest.fixture(scope="module")
def drawn():
    found = landscape_figures.draw(
        {"landscapes": RUNS[::-1]}, ("curvature", "fig3", "fig2", "fig1")
    )
    assert tuple(found) == NAMES
    return found


def runs_of(method, part):
    return [r for r in RUNS if r["method"] == method and r["landscape"].get(part)]


def changed(run, part, **values):
    return run | {"landscape": {part: run["landscape"][part] | values}}


def test_what_is_drawn_is_what_is_committed_and_draws_it_again(drawn):
    for name, (figure, data) in drawn.items():
        stored = json.loads((RESULTS / "digits" / "figures" / f"{name}.json").read_text())
        assert data == stored
        again = getattr(landscape_figures, name)(stored["runs"])
        assert run_figures.png(figure) == run_figures.png(again)


@pytest.mark.parametrize(
    "metrics",
    [{}, {"landscapes": [{"method": "line", "landscape": {}}]}]
    + [{"landscapes": [changed(runs_of("standard", "path")[0], "path")]}],  # of one network
)
def test_nothing_is_drawn_from_nothing(metrics):
    assert landscape_figures.draw(metrics, NAMES) == {}


def test_fig1_has_a_panel_for_every_kind_in_one_range_of_colours(drawn):
    panels = [ax for ax in drawn["fig1"][0].axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["One network", "Line", "Curve", "Triangle"]
    assert len({ax.collections[0].norm.vmax for ax in panels}) == 1
    for ax, method in zip(panels[1:3], ("line", "curve"), strict=True):
        path = runs_of(method, "slice")[0]["landscape"]["slice"]["path"]
        assert path in [line.get_xydata().tolist() for line in ax.get_lines()]
    corners = runs_of("simplex_3", "slice")[0]["landscape"]["slice"]["corners"]
    np.testing.assert_allclose(panels[3].patches[0].get_xy()[:3], corners)


def test_fig2_shows_the_first_seed_and_means_of_all(drawn):
    runs, figure = runs_of("simplex_3", "slice"), drawn["fig2"][0]
    values = [100 * run["landscape"]["slice"]["outside"]["accuracy"] for run in runs]
    title = f"outside {np.mean(values):.1f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.1f} %"
    assert figure.axes[0].get_title().endswith(title)
    corners = runs[0]["landscape"]["slice"]["corners"]
    for ax in figure.axes:
        np.testing.assert_allclose(ax.get_lines()[0].get_xydata()[:3], corners)


@pytest.mark.parametrize("value", [None, 0.0, 1.0])
def test_planes_without_shape_or_means_are_drawn(value):
    flat, side = [[value] * 9] * 9, list(range(9))
    outside = {"accuracy": None, "nll": None}
    run = runs_of("simplex_3", "slice")[0] | {"label_noise": 0.2}
    run = changed(run, "slice", accuracy=flat, nll=flat, x=side, y=side, outside=outside)
    for draw in (landscape_figures.fig1, landscape_figures.fig2):
        assert run_figures.png(draw([run]))


def test_curvature_shows_means_over_seeds(drawn):
    axes = drawn["curvature"][0].axes
    for method in ("standard", "line", "layerwise_line", "curve"):
        paths = [run["landscape"]["path"] for run in runs_of(method, "path")]
        for ax, values in zip(
            axes,
            (
                [path["curvature"]["eigenvalue"] for path in paths],
                [path["curvature"]["relative_eigenvalue"] for path in paths],
                [[100 * x for x in path["test"]["error"]] for path in paths],
            ),
            strict=True,
        ):
            (line,) = [x for x in ax.get_lines() if x.get_label() == style_of(method).label]
            mean = np.mean(values, axis=0)
            np.testing.assert_allclose(np.ravel(line.get_ydata())[: len(mean)], mean)


@pytest.mark.parametrize("values", [[0.01, 0.5], [0.3, 5.0], [3.0, 3.01], [1e-3, 900.0]])
def test_levels_are_few_and_cover_the_values(values):
    values = np.linspace(*values, 100)
    levels = landscape_figures.levels_of(values)
    assert 5 <= len(levels) <= 14
    assert (np.diff(levels) > 0).all()
    assert levels[0] <= max(values[0], np.quantile(values, 0.98) / 100)
    assert levels[-1] >= np.quantile(values, 0.98)
