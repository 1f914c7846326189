"""Pictures of a subspace: accuracy along a path, calibration, loss landscape, comparisons.

Every function is `(arrays, Axes) -> Axes` and draws into the axes that it is given: none touches
`matplotlib.pyplot` or a file, so they work without a display and in any thread. Only this module
imports matplotlib.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from subspace_jax.metrics import Reliability

# Okabe and Ito (2008), "Color universal design", without the yellow that is too faint on white.
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky blue": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "purple": "#CC79A7",
}


def path(
    alphas: ArrayLike, mean: ArrayLike, ax: Axes, *, stderr: ArrayLike | None = None, **style: Any
) -> Axes:
    """Draws a quantity `mean [A]` along a line or curve `alphas [A]`, with its band of `mean ± stderr`.

    The marker stands at the midpoint `alpha = 1/2` alone, the point that is deployed. `style` are
    properties of `Axes.plot` as `color`, `marker`, `linestyle` and `label`. Raises ValueError: the
    arrays differ in shape.

    >>> from matplotlib.figure import Figure
    >>> ax = path([0.0, 0.5, 1.0], [90.0, 95.0, 91.0], Figure().subplots(), label="Line")
    >>> ax.get_lines()[0].get_label(), ax.get_xlabel()
    ('Line', 'Position on the path, $\\\\alpha$')
    """
    alphas, mean = _vectors(alphas=alphas, mean=mean)
    base = {"color": OKABE_ITO["blue"], "linewidth": 1.8, "marker": "o", "markersize": 8}
    look: Any = base | style
    midpoint = np.flatnonzero(np.isclose(alphas, 0.5)).tolist()
    ax.plot(alphas, mean, markeredgecolor="white", markevery=midpoint, zorder=3, **look)
    if stderr is not None:
        _, stderr = _vectors(mean=mean, stderr=stderr)
        band: Any = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
        ax.fill_between(alphas, mean - stderr, mean + stderr, **band)
    ax.set(xlim=(0.0, 1.0), xlabel=r"Position on the path, $\alpha$")
    return _plain(ax)


def level(mean: float, ax: Axes, *, stderr: float | None = None, **style: Any) -> Axes:
    """Draws a horizontal line with its band of `mean ± stderr`, for a method without a path.

    `style` is that of `path`.

    >>> from matplotlib.figure import Figure
    >>> ax = level(94.0, Figure().subplots(), stderr=0.3, label="Standard")
    >>> ax.get_lines()[0].get_ydata()
    [94.0, 94.0]
    """
    look: Any = {"color": OKABE_ITO["black"], "linestyle": "--", "linewidth": 1.5} | style
    ax.axhline(mean, zorder=2, **look)
    if stderr is not None:
        ax.axhspan(mean - stderr, mean + stderr, color=look["color"], alpha=0.12, linewidth=0)
    return _plain(ax)


def reliability_diagram(
    reliability: Reliability, ax: Axes, *, color: str = OKABE_ITO["blue"]
) -> Axes:
    """Draws accuracy against confidence by bin, the gap between them, and the ECE.

    The bars are the accuracy of each bin, the hatched boxes reach from there to its mean confidence,
    and the strip on top, a child of the axes, is the share of samples in each bin. `reliability` is
    what `metrics.reliability` returns; bins of weight 0 are not drawn, and the number is `metrics.ece`.
    Raises ValueError: the arrays do not agree on the number of bins, or all bins are empty. See Guo et
    al. (2017), "On calibration of modern neural networks".

    >>> from matplotlib.figure import Figure
    >>> bins = Reliability(confidence=[0.4, 0.9], accuracy=[0.5, 0.8], weight=[0.25, 0.75],
    ...                    edges=[0.0, 0.5, 1.0])
    >>> ax = reliability_diagram(bins, Figure().subplots())
    >>> ax.texts[0].get_text()
    'ECE 10.0 %'
    """
    confidence, accuracy, weight = _vectors(
        confidence=reliability.confidence, accuracy=reliability.accuracy, weight=reliability.weight
    )
    edges = np.asarray(reliability.edges, dtype=float)
    if edges.shape != (weight.size + 1,):
        raise ValueError(
            f"edges has shape {edges.shape} but there are {weight.size} bins; "
            f"give the {weight.size + 1} edges of these bins."
        )
    full = weight > 0
    if not full.any():
        raise ValueError(f"all {weight.size} bins have weight 0; give at least one sample.")
    ece = np.sum(weight[full] * np.abs(accuracy - confidence)[full])
    left, width = edges[:-1][full], np.diff(edges)[full]

    pale = tuple(0.25 * channel + 0.75 for channel in to_rgb(color))
    plain: Any = {"align": "edge", "edgecolor": "white", "linewidth": 0.5}
    ax.bar(left, accuracy[full], width, color=pale, **plain)
    hatched: Any = {"facecolor": "none", "edgecolor": "0.15", "hatch": "/////"}
    gap = (confidence - accuracy)[full]
    ax.bar(left, gap, width, bottom=accuracy[full], align="edge", linewidth=0.6, **hatched)
    ax.plot([0, 1], [0, 1], color="0.35", linestyle="--", linewidth=1)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2}
    said = f"ECE {100 * ece:.1f} %"
    ax.text(0.95, 0.05, said, transform=ax.transAxes, ha="right", fontsize=9, bbox=box)
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="Confidence", ylabel="Accuracy")
    ax.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    ax.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])

    strip = ax.inset_axes((0, 1.04, 1, 0.16))
    strip.bar(left, weight[full], width, color="0.7", **plain)
    strip.set(xlim=(0, 1), ylim=(0, 1.05 * weight.max()), xticks=[], yticks=[])
    strip.spines[["top", "right", "left"]].set_visible(False)
    return _plain(ax)


def contour(
    x: ArrayLike,
    y: ArrayLike,
    values: ArrayLike,
    ax: Axes,
    *,
    endpoints_xy: ArrayLike | None,
    label: str,
    names: Sequence[str] = (r"$\theta_0$", r"$\theta_1$", r"$\theta_2$"),
    levels: ArrayLike | None = None,
    cmap: str = "viridis",
) -> Axes:
    """Draws a quantity over the plane through three networks, with the triangle of the three.

    The colour bar is a child of the axes: `ax.collections[0]` is what it describes. Where a value is
    not finite the plane is left grey.

    Args:
      x, y, values: the grid in units of weight distance, and the quantity at its points, `[R, C]` each.
      endpoints_xy: `[3, 2]`, as `Plane.coordinates`; `None` draws no triangle.
      label: what the values are, beside the colour bar.
      names: of the three networks, written at their corners.
      levels: the increasing bounds of the colours, `[L]`, `L >= 2`, with arrows for values beyond; by
        default about twelve equal steps over all values.

    Returns `ax`, of equal scale in both directions. Raises ValueError: the grid and the values differ
    in shape, there are not three endpoints or names, no value is finite, or the levels do not increase.

    >>> from matplotlib.figure import Figure
    >>> x, y = np.meshgrid(np.linspace(-1, 5, 7), np.linspace(-1, 3, 5))
    >>> corners = [[0, 0], [4, 0], [0, 2]]
    >>> ax = contour(x, y, x**2 + y, Figure().subplots(), endpoints_xy=corners, label="Loss")
    >>> len(ax.texts), ax.child_axes[0].get_ylabel()
    (3, 'Loss')
    """
    x, y, values = (np.asarray(array, dtype=float) for array in (x, y, values))
    if values.ndim != 2 or not x.shape == y.shape == values.shape:
        raise ValueError(
            f"x, y and values have shapes {x.shape}, {y.shape} and {values.shape}; "
            "give three arrays of one shape (rows, columns)."
        )
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError(f"0 of the {values.size} values are finite; draw some that are.")
    low, high = values[finite].min(), values[finite].max()
    if levels is None:
        if low == high:  # a flat plane has one colour
            low, high = low - 0.5, high + 0.5
        ticks, look = MaxNLocator(nbins=12, min_n_ticks=5).tick_values(low, high), dict[str, Any]()
    else:
        ticks, look = _levels(levels, low, high)
    values = np.ma.masked_where(~finite, values)
    filled = ax.contourf(x, y, values, levels=ticks, cmap=cmap, **look)
    ax.set_facecolor("0.8")
    if endpoints_xy is not None:
        _triangle(endpoints_xy, names, ax)
    ax.set(aspect="equal", xlabel="Weight distance (L2)", ylabel="Weight distance (L2)")
    for axis in (ax.xaxis, ax.yaxis):  # the same steps on both
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    ax.figure.colorbar(filled, cax=ax.inset_axes((1.04, 0, 0.05, 1)), label=label)
    return ax


def _levels(levels: ArrayLike, low: float, high: float) -> tuple[np.ndarray, dict]:
    """Given levels, and a colour for each step between them and for what lies beyond."""
    (levels,) = _vectors(levels=levels)
    if levels.size < 2 or not (np.diff(levels) > 0).all():
        raise ValueError(f"levels is {levels.tolist()}; give at least 2 that increase.")
    extend: Any = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(
        (low < levels[0], high > levels[-1]), "neither"
    )
    return levels, {"norm": BoundaryNorm(levels, 256, extend=extend), "extend": extend}


def _triangle(corners: ArrayLike, names: Sequence[str], ax: Axes) -> None:
    corners = np.asarray(corners, dtype=float)
    if corners.shape != (3, 2) or len(names) != 3:
        raise ValueError(
            f"endpoints_xy has shape {corners.shape} and names has {len(names)} entries; "
            "give the (3, 2) coordinates of three networks and 3 names."
        )
    outline = [withStroke(linewidth=3, foreground="black", alpha=0.6)]
    white: Any = {"color": "white", "path_effects": outline}
    ax.plot(*corners[[0, 1, 2, 0]].T, linewidth=1.4, marker="o", markersize=6, zorder=3, **white)
    for name, corner in zip(names, corners, strict=True):
        shift, va = (7, "bottom") if corner[1] > corners[:, 1].mean() else (-7, "top")
        place: Any = {"xytext": (0, shift), "textcoords": "offset points", "va": va, "zorder": 4}
        ax.annotate(name, corner, ha="center", **place, **white)


def dots(
    mean: ArrayLike,
    ax: Axes,
    *,
    labels: Sequence[str],
    stderr: ArrayLike | None = None,
    colors: Sequence[str] | None = None,
    markers: Sequence[str] | None = None,
) -> Axes:
    """Draws one row per method, a dot at its `mean [R]` and a whisker of one standard error each side.

    The first row is at the top, with a vertical line as the baseline of the others. A mean that is not
    finite is written in its row. All else is `[R]` too. Raises ValueError: lengths differ.

    >>> from matplotlib.figure import Figure
    >>> ax = dots([97.1, 97.9], Figure().subplots(), labels=["Standard", "Line"])
    >>> [text.get_text() for text in ax.get_yticklabels()]
    ['Standard', 'Line']
    """
    (mean,) = _vectors(mean=mean)
    colors = [OKABE_ITO["blue"]] * mean.size if colors is None else colors
    markers = ["o"] * mean.size if markers is None else markers
    _, stderr = _vectors(mean=mean, stderr=np.zeros_like(mean) if stderr is None else stderr)
    for name, values in {"labels": labels, "colors": colors, "markers": markers}.items():
        if len(values) != mean.size:
            raise ValueError(
                f"{name} has {len(values)} entries but mean has {mean.size}; give one per method."
            )
    for row in range(mean.size):
        if np.isfinite(mean[row]):
            size = 10 if markers[row] == "*" else 7
            look: Any = {"color": colors[row], "marker": markers[row], "markersize": size}
            whisker = stderr[row] if stderr[row] > 0 else None  # False for NaN
            ax.errorbar(
                mean[row], row, xerr=whisker, markeredgewidth=0, linewidth=1.5, zorder=3, **look
            )
        else:
            ax.text(0.02, row, str(mean[row]), transform=ax.get_yaxis_transform(), va="center")
    if mean.size and np.isfinite(mean[0]):
        ax.axvline(mean[0], color="0.6", linewidth=0.8, zorder=1)
    ax.set(yticks=range(mean.size), yticklabels=labels, ylim=(mean.size - 0.4, -0.6))
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.tick_params(axis="y", length=0)
    ax.set(axisbelow=True, xmargin=0.08)
    return _plain(ax)


def _vectors(**arrays: ArrayLike) -> list[np.ndarray]:
    """Arrays as float vectors of one length; `None` among the entries is NaN."""
    vectors = {name: np.asarray(array, dtype=float) for name, array in arrays.items()}
    first = next(iter(vectors))
    for name, vector in vectors.items():
        if vector.ndim != 1:
            raise ValueError(f"{name} has shape {vector.shape} but must be a vector; ravel it.")
        if vector.size != vectors[first].size:
            raise ValueError(
                f"{name} has {vector.size} entries but {first} has {vectors[first].size}; "
                "give one for each."
            )
    return list(vectors.values())


def _plain(ax: Axes) -> Axes:
    ax.spines[["top", "right"]].set_visible(False)
    return ax
