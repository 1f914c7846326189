import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from reference_metrics import random_batch

from subspace_jax import metrics, plotting

ALPHAS = np.linspace(0, 1, 21)
BINS = metrics.Reliability(
    confidence=[np.nan, 0.4, 0.6, 0.9],
    accuracy=[np.nan, 0.5, 0.6, 0.7],
    weight=[0.0, 0.2, 0.3, 0.5],
    edges=[0.0, 0.25, 0.5, 0.75, 1.0],
)


@pytest.fixture
def ax():
    return Figure().subplots()


X, Y = np.meshgrid(np.linspace(-1, 5, 13), np.linspace(-2, 4, 11))
CORNERS = [[0.0, 0.0], [4.0, 0.0], [1.0, 2.0]]


def texts(drawn):
    return [text.get_text() for text in drawn]


def test_path_draws_the_data_with_a_band_and_marks_the_midpoint(ax):
    mean = 90 + ALPHAS
    band = {"stderr": jnp.asarray(0.1 + 0 * ALPHAS), "label": "Line"}
    assert plotting.path(jnp.asarray(ALPHAS), mean, ax, **band) is ax
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_xydata(), np.stack([ALPHAS, mean], axis=1), rtol=1e-6)
    assert line.get_markevery() == [10]
    (band,) = ax.collections
    extents = band.get_paths()[0].get_extents()
    np.testing.assert_allclose([extents.y0, extents.y1], [89.9, 91.1], rtol=1e-6)


def test_reliability_diagram_draws_bins_that_are_not_empty(ax):
    plotting.reliability_diagram(BINS, ax)
    bars, gaps = ax.containers
    assert [bar.get_height() for bar in bars] == [0.5, 0.6, 0.7]
    np.testing.assert_allclose([gap.get_height() for gap in gaps], [-0.1, 0.0, 0.2])
    (strip,) = ax.child_axes
    assert [bar.get_height() for bar in strip.containers[0]] == [0.2, 0.3, 0.5]


@pytest.mark.parametrize("seed", range(3))
def test_reliability_diagram_writes_the_ece_of_the_same_bins(ax, seed):
    probs, labels, _ = random_batch(seed)
    plotting.reliability_diagram(metrics.reliability(probs, labels, num_bins=10), ax)
    ece = float(metrics.ece(probs, labels, num_bins=10))
    assert texts(ax.texts) == [f"ECE {100 * ece:.1f} %"]


def test_dots_has_one_row_per_method_from_the_top_and_writes_what_it_cannot_place(ax):
    mean, stderr = [1.0, 2.0, np.nan, np.inf], [0.1, np.nan, 0.0, 0.0]
    assert plotting.dots(mean, ax, labels="abcd", stderr=stderr) is ax
    assert texts(ax.get_yticklabels()) == list("abcd")
    assert [container.has_xerr for container in ax.containers] == [True, False]
    assert texts(ax.texts) == ["nan", "inf"]
    bottom, top = ax.get_ylim()
    assert bottom > top


def contour(ax, values, **changes):
    arguments = {"endpoints_xy": CORNERS, "label": "Loss"} | changes
    return plotting.contour(X, Y, values, ax, **arguments)


def test_contour_marks_the_triangle_in_units_of_weight_distance(ax):
    assert contour(ax, jnp.asarray(X**2 + Y), names="abc") is ax
    (triangle,) = ax.get_lines()
    np.testing.assert_allclose(triangle.get_xydata(), [*CORNERS, CORNERS[0]])
    assert [text.xy for text in ax.texts] == [tuple(corner) for corner in CORNERS]
    assert texts(ax.texts) == list("abc")
    assert ax.get_aspect() == 1
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 5), (-2, 4))
    ticks = np.concatenate([np.diff(ax.get_xticks()), np.diff(ax.get_yticks())])
    np.testing.assert_allclose(ticks, ticks[0])


@pytest.mark.parametrize("scale", [1e-3, 1e4])
@pytest.mark.parametrize("shape", [X**2 + Y, np.full_like(X, -3)], ids=["hill", "flat"])
def test_contour_has_a_colour_bar_over_all_values_that_are_finite(ax, shape, scale):
    values = scale * shape
    values[0, 0], values[3, 4], values[5, 5] = np.nan, np.inf, -np.inf
    contour(ax, values)
    (bar,) = ax.child_axes
    low, high = bar.get_ylim()
    assert low <= np.nanmin(scale * shape[1:3]) <= np.nanmax(scale * shape[1:3]) <= high
    assert (low < high, bar.get_ylabel()) == (True, "Loss")
