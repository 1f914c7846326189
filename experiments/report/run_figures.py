"""The metrics of a run as figures, figures as PNG and PDF files, and what those of suites share."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.spatial import Delaunay

from experiments.configs.recipes import Recipe
from experiments.report import landscape_figures
from experiments.results.styles import METRICS, QUANTITIES, deployed, style_of_run
from subspace_jax import plotting
from subspace_jax.metrics import Reliability

Metrics = Mapping[str, Any]

# Corners [3, 2] of a triangle of equal sides, the first two at the bottom.
EQUILATERAL = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
# Of three points in a row that rounding has put beside each other, as a share of the triangle's area.
_NO_AREA = 1e-4

# What is known of each epoch, its label, the factor to its unit, and its decimals.
CURVES = (
    ("loss", "Training loss [nats]", 1.0, 3),
    ("accuracy", "Training accuracy [%]", 100.0, 2),
    ("learning_rate", "Learning rate", 1.0, 4),
)


def run_figures(metrics: Metrics) -> dict[str, Figure]:
    """Figures of one run by name, where there are data, in the order in which they are best read."""
    config, points = metrics.get("config", {}), metrics.get("points", ())
    style, plane = style_of_run(config), metrics.get("landscape", {}).get("slice")
    figures = {
        "path": _path(points, metrics.get("ensembles", ()), style),
        "triangle": _triangle(points, plane),
        "plane": _plane(config, plane),
        "reliability": _reliability(points, style),
        "history": _history(metrics.get("history", ()), style),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of 256 colours, the same bytes each time (no date, no version inside)."""
    figure.set_dpi(150)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # a second layout would move things by a pixel
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    image = image.quantize(256, dither=Image.Dither.NONE)
    compact = io.BytesIO()
    image.save(compact, format="png", optimize=True)
    return compact.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as a PDF file, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Producer": None})
    return buffer.getvalue()


def legend_below(figure: Figure, ax: Axes) -> None:
    """At most three entries per row, read row by row (matplotlib fills column by column)."""
    entries = list(zip(*ax.get_legend_handles_labels(), strict=True))
    handles, labels = zip(*(e for column in range(3) for e in entries[column::3]), strict=True)
    look = {"loc": "outside lower center", "ncols": min(3, len(labels)), "frameon": False}
    figure.legend(handles, labels, **look)


def path_of(points: Sequence[Metrics]) -> dict[float, Metrics]:
    """The points of a path by their position, in order; empty without at least two of them."""
    scalar = {p["coords"]: p for p in points if isinstance(p["coords"], int | float)}
    return dict(sorted(scalar.items())) if len(scalar) > 1 else {}


def triangle_of(points: Sequence[Metrics]) -> list[Metrics]:
    """The points of a record that lie on a triangle, each place once; none without its corners."""
    found = {
        tuple(p["coords"]): p
        for p in points
        if isinstance(p["coords"], list | tuple) and len(p["coords"]) == 3
    }
    named = {point["name"] for point in found.values()}
    return list(found.values()) if {f"endpoint {i}" for i in range(3)} <= named else []


def meshes_of(coords: Sequence[Sequence[float]]) -> np.ndarray:
    """Delaunay's triangles `[T, 3]` between points at barycentric coordinates `[P, 3]`."""
    coords = np.asarray(coords, float)
    found = Delaunay(coords @ EQUILATERAL).simplices
    return found[np.abs(np.linalg.det(coords[found])) > _NO_AREA]


def mirror_pairs(ensembles: Sequence[Metrics]) -> dict[float, Metrics]:
    """The averaged predictions of the networks at `a` and `1 - a`, under both positions."""
    pairs = {}
    for ensemble in ensembles:
        members = [member for member in ensemble["members"] if isinstance(member, int | float)]
        mirror = len(members) == 2 and abs(sum(members) - 1) < 1e-4
        if mirror and ensemble["average"] == "probability":
            pairs |= dict.fromkeys(members, ensemble)
    return dict(sorted(pairs.items()))


def _values(entries: Sequence[Metrics], name: str) -> np.ndarray:
    """One metric of several points in its unit, `[N]`; null is NaN."""
    return QUANTITIES[name].scale * np.asarray([entry[name] for entry in entries], dtype=float)


def _path(points: Sequence[Metrics], ensembles: Sequence[Metrics], style: Recipe) -> Figure | None:
    path = path_of(points)
    if not path:
        return None
    pairs = mirror_pairs(ensembles)
    pair = r"$\alpha$ and $1 - \alpha$"
    if len(pairs) <= 2:
        pair = " and ".join(f"{alpha:.3g}" for alpha in pairs)
    one = {"color": style.color, "marker": style.marker, "label": f"{style.label} (one network)"}
    both = {"color": "black", "linestyle": "--", "linewidth": 1.3, "clip_on": False}
    both |= {"marker": "o", "markersize": 4, "markerfacecolor": "white"}
    both["label"] = f"Ensemble of the two networks at {pair}"
    figure = Figure(figsize=(10.0, 3.5), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        plotting.path(list(path), _values(list(path.values()), name), ax, **one)
        if pairs:
            ax.plot(list(pairs), _values(list(pairs.values()), name), **both)
        ax.set_ylabel(QUANTITIES[name].label)
    legend_below(figure, ax)
    return figure


def _triangle(points: Sequence[Metrics], plane: Metrics | None) -> Figure | None:
    """Colours over the triangle, interpolated linearly between evaluated points."""
    entries = triangle_of(points)
    if not entries:
        return None
    on_plane = plane and plane["kind"] == "simplex"
    corners = np.asarray(plane["corners"]) if on_plane else EQUILATERAL
    figure = Figure(figsize=(10.0, 3.9), layout="constrained")
    for ax, name in zip(figure.subplots(1, len(METRICS)), METRICS, strict=True):
        _triangle_map(entries, name, corners, ax)
    return figure


def _triangle_map(entries, name: str, corners: np.ndarray, ax: Axes) -> None:
    coords = np.array([entry["coords"] for entry in entries])
    x, y = (coords @ corners).T
    values, meshes = _values(entries, name), meshes_of(coords)
    known = meshes[np.isfinite(values[meshes]).all(axis=1)]
    if len(known):
        colours = "cividis" if name == "accuracy" else "cividis_r"  # brighter is better
        look = {"triangles": known, "shading": "gouraud", "cmap": colours}
        drawn = ax.tripcolor(x, y, np.nan_to_num(values), **look)
        drawn.set_clim(values[known].min(), values[known].max())
        place = {"location": "bottom", "shrink": 0.8, "label": QUANTITIES[name].label}
        ax.figure.colorbar(drawn, ax=ax, **place)
    look = {"linestyle": "none", "color": "white", "markeredgecolor": "black"}
    ax.plot(x, y, marker="o", markersize=3, markeredgewidth=0.5, **look)
    middle = [entry["name"] == "midpoint" for entry in entries]
    ax.plot(x[middle], y[middle], marker="*", markersize=14, **look)
    for i, corner in enumerate(corners):
        above = corner[1] > corners[:, 1].mean()
        place = {"ha": "center", "va": "bottom" if above else "top", "fontsize": 9}
        place |= {"xytext": (0, 6 if above else -6), "textcoords": "offset points"}
        ax.annotate(f"endpoint {i}", corner, **place)
    ax.set_aspect("equal")
    ax.margins(0.12)
    ax.set_axis_off()


def _plane(config: Metrics, plane: Metrics | None) -> Figure | None:
    """The plane of the loss, as a suite draws it: with the triangle, or with what was trained."""
    if not plane:
        return None
    run = {"method": config.get("recipe") or config.get("kind", "standard")}
    run |= {"label_noise": config.get("label_noise", {}).get("rate", 0.0)}
    run |= {"seed": config.get("seed", 0), "landscape": {"slice": plane}}
    draw = landscape_figures.fig2 if plane["kind"] == "simplex" else landscape_figures.fig1
    return draw([run])


def _reliability(points: Sequence[Metrics], style: Recipe) -> Figure | None:
    point = deployed(points)
    if point is None or "reliability" not in point:
        return None
    figure = Figure(figsize=(3.4, 3.9), layout="constrained")
    ax, bins = figure.subplots(), Reliability(**point["reliability"])
    plotting.reliability_diagram(bins, ax, color=style.color)
    ax.set_title(f"{style.label}, midpoint" if len(points) > 1 else style.label, fontsize=11)
    return figure


def _history(history: Sequence[Metrics], style: Recipe) -> Figure | None:
    if not history:
        return None
    epochs = [entry["epoch"] for entry in history]
    look = {"marker": "o" if len(history) < 20 else None, "markersize": 4, "linewidth": 1.6}
    figure = Figure(figsize=(10.0, 3.0), layout="constrained")
    for ax, (name, label, scale, _) in zip(figure.subplots(1, 3), CURVES, strict=True):
        values = scale * np.array([entry[name] for entry in history], float)
        ax.plot(epochs, values, color=style.color, label="Loss", **look)
        penalty = np.array([entry["penalty"] for entry in history], float)
        if name == "loss" and np.any(penalty > 0):
            ax.plot(epochs, penalty, color="black", ls="--", label="Cosine penalty", **look)
            ax.legend(frameon=False)
        if name == "learning_rate" and np.ptp(values) == 0:
            ax.set_ylim(0, 1.1 * values[0] or 1)
        ax.set(xlabel="Epoch", ylabel=label)
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure
