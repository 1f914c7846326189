"""Figures of runs, figures as files, and triangles as maps."""

import io

import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from records import committed
from synthetic_metrics import LINE, landscape_of, run_metrics

import subspace_jax as ss
from experiments.evaluation import points as layout
from experiments.report import run_figures, suite_figures
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


def test_points_lie_on_a_triangle_only_with_its_corners():
    points = run_metrics("simplex")["points"]
    assert run_figures.triangle_of(points + points[:2]) == points
    for kind in ("standard", "line", "simplex_4"):
        assert run_figures.triangle_of(run_metrics(kind)["points"]) == []
    names = ("midpoint", "sample 0", "sample 1")  # draws of a Gaussian
    rows = zip(names, np.eye(3).tolist(), strict=True)
    assert run_figures.triangle_of([{"name": name, "coords": row} for name, row in rows]) == []
