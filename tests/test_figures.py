"""Figures of runs, figures as files, triangles as maps, and those of landscapes from the digits' own."""

import io
import json

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from records import RESULTS, committed
from synthetic_metrics import LINE, landscape_of, run_metrics

import subspace_jax as ss
from experiments.evaluation import points as layout
from experiments.report import landscape_figures, run_figures, suite_figures
from experiments.results.styles import METRICS, QUANTITIES, style_of


@pytest.mark.parametrize(
    ("kind", "slice_of", "names"),
    [
        ("standard", "standard", ["plane", "reliability", "history"]),
        ("line", "line", ["path", "plane", "reliability", "history"]),
        ("simplex", "simplex_3", ["triangle", "plane", "reliability", "history"]),
        ("simplex_4", None, ["reliability", "history"]),
    ],
)
def test_a_run_has_the_figures_it_has_data_for_and_nothing_is_cut_off(kind, slice_of, names):
    seen = {"landscape": landscape_of(slice_of)} if slice_of else {}
    drawn = run_figures.run_figures(run_metrics(kind) | seen)
    assert list(drawn) == names
    for name, figure in drawn.items():
        data = run_figures.png(figure)
        assert data == run_figures.png(figure), name  # the same bytes each time
        pixels = matplotlib.image.imread(io.BytesIO(data))[..., :3]
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((edge == 1).all() for edge in edges), name
    assert len(drawn["history"].axes[0].get_lines()) == (2 if kind == "line" else 1)  # the penalty


def test_a_path_has_all_its_points_and_the_ensembles_of_opposite_ones():
    points = [p | ({"nll": None} if i == 1 else {}) for i, p in enumerate(LINE["points"])]
    axes = run_figures.run_figures(LINE | {"points": points})["path"].axes
    pairs = [e for e in LINE["ensembles"] if e["average"] == "probability"]
    for ax, name in zip(axes, METRICS, strict=True):
        path, *_, ensembles = ax.get_lines()
        scale = QUANTITIES[name].scale
        values = scale * np.array([p[name] for p in points], float)
        np.testing.assert_allclose(path.get_xdata(), [p["coords"] for p in points])
        np.testing.assert_allclose(path.get_ydata(), values)
        assert path.get_color() == style_of("line").color
        expected = {a: scale * pair[name] for pair in pairs for a in pair["members"]}
        assert dict(ensembles.get_xydata()) == pytest.approx(expected)


def test_a_triangle_lies_where_its_plane_has_it_and_may_have_no_values():
    metrics, seen = run_metrics("simplex"), landscape_of("simplex_3")
    figure = run_figures.run_figures(metrics | {"landscape": seen})["triangle"]
    points = figure.axes[0].get_lines()[0].get_xydata()
    np.testing.assert_allclose(points[:3], seen["slice"]["corners"], atol=1e-9)
    blank = [p | dict.fromkeys(METRICS) for p in metrics["points"]]
    assert run_figures.png(run_figures.run_figures({"points": blank})["triangle"])
    assert run_figures.run_figures({}) == {}


def test_files_have_the_colours_of_products_and_are_the_same_each_time():
    figure = suite_figures.draw(committed("digits"), ("fig3",))["fig3"][0]
    pixels = np.asarray(Image.open(io.BytesIO(run_figures.png(figure))).convert("RGB"))
    colours = np.unique(pixels.reshape(-1, 3), axis=0).astype(int)
    for method in ("line", "layerwise_line", "curve", "ema", "standard"):
        colour = np.round(255 * np.array(to_rgb(style_of(method).color)))
        assert np.abs(colours - colour).max(axis=1).min() <= 2
    made = [run_figures.pdf(run_figures.run_figures(LINE)["path"]) for _ in range(2)]
    assert made[0].startswith(b"%PDF")
    assert made[0] == made[1]


@pytest.mark.parametrize(("steps", "count"), [(6, 36), (0, 6)])
def test_a_triangle_is_cut_into_triangles_that_cover_it(steps, count):
    points = layout.points_of(ss.simplex(3), 11, steps)
    coords = np.array([layout.short(point.coords) for point in points])
    meshes = run_figures.meshes_of(coords)
    areas = np.abs(np.linalg.det(coords[meshes]))  # shares of the whole
    assert areas.sum() == pytest.approx(1)
    assert len(meshes) == count
    assert set(meshes.ravel()) == set(range(len(coords)))


# Landscapes


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


def test_fig1_has_a_panel_for_every_kind_in_one_range_of_colours(drawn):
    panels = [ax for ax in drawn["fig1"][0].axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == ["One network", "Line", "Curve", "Triangle"]
    assert len({ax.collections[0].norm.vmax for ax in panels}) == 1
    for ax, method in zip(panels[1:], ("line", "curve", "simplex_3"), strict=True):
        path = runs_of(method, "slice")[0]["landscape"]["slice"]["path"]
        assert path in [line.get_xydata().tolist() for line in ax.get_lines()]


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
