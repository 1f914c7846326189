import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

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


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray, list], ids=["numpy", "jax", "list"])
def test_path_draws_the_data_with_a_band(ax, array):
    mean = 90 + ALPHAS
    returned = plotting.path(
        array(ALPHAS), array(mean), ax, stderr=array(0.1 + 0 * ALPHAS), label="Line"
    )
    assert returned is ax
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_xydata(), np.stack([ALPHAS, mean], axis=1), rtol=1e-6)
    (band,) = ax.collections
    extents = band.get_paths()[0].get_extents()
    np.testing.assert_allclose([extents.y0, extents.y1], [89.9, 91.1], rtol=1e-6)


def test_path_marks_the_midpoint_alone(ax):
    plotting.path(ALPHAS, ALPHAS, ax)
    assert ax.get_lines()[0].get_markevery() == [10]


def test_reliability_diagram_draws_bins_that_are_not_empty(ax):
    plotting.reliability_diagram(BINS, ax)
    bars, gaps = ax.containers
    assert [bar.get_height() for bar in bars] == [0.5, 0.6, 0.7]
    np.testing.assert_allclose([gap.get_height() for gap in gaps], [-0.1, 0.0, 0.2])
    (strip,) = ax.child_axes
    assert [bar.get_height() for bar in strip.containers[0]] == [0.2, 0.3, 0.5]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=12))
def test_reliability_diagram_writes_the_ece(bins):
    confidence, accuracy, mass = np.asarray(bins).T
    if mass.sum() < 1e-3:
        mass = np.ones_like(mass)
    weight = mass / mass.sum()
    edges = np.linspace(0, 1, len(bins) + 1)
    reliability = metrics.Reliability(confidence, accuracy, weight, edges)
    ax = plotting.reliability_diagram(reliability, Figure().subplots())
    written = float(ax.texts[0].get_text().split()[1]) / 100
    assert written == pytest.approx(np.sum(weight * abs(accuracy - confidence)), abs=6e-4)


def test_reliability_diagram_takes_what_metrics_returns(ax):
    probs = np.array([[0.9, 0.1], [0.3, 0.7], [0.45, 0.55]], dtype=np.float32)
    labels = np.array([0, 0, 1])
    plotting.reliability_diagram(metrics.reliability(probs, labels, num_bins=10), ax)
    ece = float(metrics.ece(probs, labels, num_bins=10))
    assert ax.texts[0].get_text() == f"ECE {100 * ece:.1f} %"


def test_dots_has_one_row_per_method_from_the_top(ax):
    assert plotting.dots([1.0, 2.0, 3.0], ax, labels="abc", stderr=[0.1, np.nan, 0.0]) is ax
    assert [text.get_text() for text in ax.get_yticklabels()] == ["a", "b", "c"]
    assert len(ax.containers) == 3
    assert [container.has_xerr for container in ax.containers] == [True, False, False]
    bottom, top = ax.get_ylim()
    assert bottom > top


def test_dots_writes_what_it_cannot_place(ax):
    plotting.dots([1.0, np.nan, np.inf], ax, labels="abc")
    assert len(ax.containers) == 1
    assert [text.get_text() for text in ax.texts] == ["nan", "inf"]


X, Y = np.meshgrid(np.linspace(-1, 5, 13), np.linspace(-2, 4, 11))
CORNERS = [[0.0, 0.0], [4.0, 0.0], [1.0, 2.0]]


def contour(ax, values, **changes):
    arguments = {"endpoints_xy": CORNERS, "label": "Loss"} | changes
    return plotting.contour(X, Y, values, ax, **arguments)


@pytest.mark.parametrize("array", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_contour_marks_the_triangle(ax, array):
    assert contour(ax, array(X**2 + Y), endpoints_xy=array(CORNERS)) is ax
    (triangle,) = ax.get_lines()
    np.testing.assert_allclose(triangle.get_xydata(), [*CORNERS, CORNERS[0]])
    assert [text.xy for text in ax.texts] == [tuple(corner) for corner in CORNERS]
    assert contour(ax, X, names="abc") is ax
    assert [text.get_text() for text in ax.texts[3:]] == ["a", "b", "c"]


def test_contour_has_equal_axes_in_units_of_weight_distance(ax):
    contour(ax, X)
    assert ax.get_aspect() == 1
    assert ax.get_xlabel() == ax.get_ylabel() == "Weight distance (L2)"
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1, 5), (-2, 4))
    steps = np.concatenate([np.diff(ax.get_xticks()), np.diff(ax.get_yticks())])
    np.testing.assert_allclose(steps, steps[0])


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_contour_has_a_colour_bar_over_all_values(ax, scale):
    contour(ax, scale * (X**2 + Y))
    (bar,) = ax.child_axes
    assert bar.get_ylabel() == "Loss"
    low, high = bar.get_ylim()
    assert low <= scale * (X**2 + Y).min() < scale * (X**2 + Y).max() <= high


@pytest.mark.parametrize("value", [0.0, -3.0, 1e6])
def test_contour_of_a_flat_plane(ax, value):
    contour(ax, np.full_like(X, value))
    low, high = ax.child_axes[0].get_ylim()
    assert low < value < high


def test_contour_leaves_out_what_is_not_finite(ax):
    values = X**2 + Y
    values[0, 0], values[3, 4], values[5, 5] = np.nan, np.inf, -np.inf
    contour(ax, values)
    assert np.isfinite(ax.child_axes[0].get_ylim()).all()


@pytest.mark.parametrize(
    ("levels", "extend"),
    [((-9, 0, 40), "neither"), ((0, 1, 40), "min"), ((-9, 0, 1), "max"), ((0, 1, 10), "both")],
)
def test_contour_with_levels_shows_what_lies_beyond(ax, levels, extend):
    contour(ax, X**2 + Y, levels=levels)
    filled = ax.collections[0]
    assert filled.get_array() is not None
    np.testing.assert_allclose(ax.child_axes[0].get_ylim(), (levels[0], levels[-1]))
    assert filled.extend == extend


def test_steps_between_levels_are_as_far_apart_in_colour(ax):
    contour(ax, X**2 + Y, levels=(-2, 0, 1, 30))
    filled = ax.collections[0]
    colors = filled.norm(np.array([-1.0, 0.5, 20.0]))
    np.testing.assert_allclose(np.diff(colors.astype(float)), 127.5, atol=1)


def test_contour_needs_no_triangle(ax):
    contour(ax, X, endpoints_xy=None, cmap="Greys")
    assert not ax.get_lines()
    assert not ax.texts
    assert ax.collections[0].get_cmap().name == "Greys"
