"""The metrics of a run as figures, figures as PNG and PDF files, and what those of suites share.

`run_figures` maps a metrics dict to named figures; what the metrics do not hold (a path, a history)
is left out. Nothing here uses `matplotlib.pyplot`.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from experiments.configs.recipes import Recipe
from experiments.report import landscape_figures, triangle
from experiments.results.styles import METRICS, QUANTITIES, deployed, style_of_run
from subspace_jax import plotting
from subspace_jax.metrics import Reliability

Metrics = Mapping[str, Any]

# The metrics that pictures of one run show.
_SHOWN = {name: QUANTITIES[name] for name in METRICS}


def run_figures(metrics: Metrics) -> dict[str, Figure]:
    """Draws one run: `path`, `triangle`, `plane`, `reliability` and `history`, where there are data.

    Args:
      metrics: with `"config"` (it gives the name and colour), `"points"`, `"ensembles"`,
        `"history"`, and the `"landscape"` if there is one.

    Returns:
      figures by name, in the order in which they are best read.
    """
    config = metrics.get("config", {})
    style, plane = style_of_run(config), metrics.get("landscape", {}).get("slice")
    points, ensembles = metrics.get("points", ()), metrics.get("ensembles", ())
    figures = {
        "path": _run_path(points, ensembles, style) or _run_simplex(points, ensembles, style),
        "triangle": _run_triangle(points, plane),
        "plane": _run_plane(config, plane),
        "reliability": _run_reliability(points, style),
        "history": _history(metrics.get("history", ()), style),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file of 256 colours, the same bytes each time (no date, no version inside)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    figure.set_layout_engine("none")  # a second layout would move things by a pixel
    image = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    compact = io.BytesIO()
    image.save(compact, format="png", optimize=True)
    return compact.getvalue()


def pdf(figure: Figure) -> bytes:
    """The figure as a PDF file, the same bytes each time."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="pdf", metadata={"CreationDate": None, "Producer": None})
    return buffer.getvalue()


def path_of(points: Sequence[Metrics]) -> dict[float, Metrics]:
    """The points of a path by their position, in order; empty without at least two of them."""
    scalar = {p["coords"]: p for p in points if isinstance(p["coords"], int | float)}
    return dict(sorted(scalar.items())) if len(scalar) > 1 else {}


def _values(entries: Sequence[Metrics], name: str) -> np.ndarray:
    """One metric of several points in its unit, `[N]`; null is NaN."""
    return QUANTITIES[name].scale * np.asarray([entry[name] for entry in entries], dtype=float)


def legend_below(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """At most three entries per row, read row by row (matplotlib fills column by column)."""
    labels = [label for column in range(3) for label in list(handles)[column::3]]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=min(3, len(labels)),
        frameon=False,
    )


def pooled_reliability(reliabilities: Sequence[Metrics]) -> Reliability:
    """One reliability of all seeds together: weights averaged, bin means weighted by them."""
    confidence, accuracy, weight, edges = (
        np.asarray([entry[name] for entry in reliabilities], dtype=float)
        for name in Reliability._fields
    )
    total = weight.sum(axis=0)

    def mean(values):
        return np.where(weight > 0, weight * values, 0.0).sum(axis=0) / np.where(
            total > 0, total, 1
        )

    return Reliability(mean(confidence), mean(accuracy), total / len(weight), edges[0])


def _run_path(
    points: Sequence[Metrics], ensembles: Sequence[Metrics], style: Recipe
) -> Figure | None:
    path = path_of(points)
    if not path:
        return None
    pairs = mirror_pairs(ensembles)
    pair = (
        r"$\alpha$ and $1 - \alpha$"
        if len(pairs) > 2
        else " and ".join(f"{alpha:.3g}" for alpha in pairs)
    )
    figure = Figure(figsize=(10.0, 3.5), layout="constrained")
    for ax, (name, quantity) in zip(figure.subplots(1, 3), _SHOWN.items(), strict=True):
        plotting.path(
            list(path),
            _values(list(path.values()), name),
            ax,
            color=style.color,
            marker=style.marker,
            label=f"{style.label} (one network)",
        )
        if pairs:
            ax.plot(
                list(pairs),
                _values(list(pairs.values()), name),
                color="black",
                linestyle="--",
                linewidth=1.3,
                marker="o",
                markersize=4,
                markerfacecolor="white",
                label=f"Ensemble of the two networks at {pair}",
                clip_on=False,
            )
        ax.set_ylabel(quantity.label)
    handles, labels = ax.get_legend_handles_labels()
    legend_below(figure, dict(zip(labels, handles, strict=True)))
    return figure


def mirror_pairs(ensembles: Sequence[Metrics]) -> dict[float, Metrics]:
    """The averaged predictions of the networks at `a` and `1 - a`, under both positions."""
    pairs = {}
    for ensemble in ensembles:
        members = [member for member in ensemble["members"] if isinstance(member, int | float)]
        mirror = len(members) == 2 and abs(sum(members) - 1) < 1e-4
        if mirror and ensemble["average"] == "probability":
            pairs |= dict.fromkeys(members, ensemble)
    return dict(sorted(pairs.items()))


def _run_simplex(
    points: Sequence[Metrics], ensembles: Sequence[Metrics], style: Recipe
) -> Figure | None:
    """One dot per point, one row per kind of point."""
    rows = {
        "Corners": [p for p in points if p["name"].startswith("endpoint")],
        "Edges": [p for p in points if p["name"].startswith("edge")],
        "Other points": [p for p in points if not p["name"]],
        "Centre": [p for p in points if p["name"] == "midpoint"],
    }
    for ensemble in ensembles:
        if ensemble["average"] == "probability":
            rows.setdefault(f"Ensembles of {len(ensemble['members'])}", []).append(ensemble)
    rows = {name: entries for name, entries in rows.items() if entries}
    if "Corners" not in rows:
        return None
    figure = Figure(figsize=(10.0, 1.2 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for ax, (name, quantity) in zip(axes, _SHOWN.items(), strict=True):
        for row, (kind, entries) in enumerate(rows.items()):
            ensemble = kind.startswith("Ensemble")
            ax.plot(
                _values(entries, name),
                np.full(len(entries), row),
                linestyle="none",
                color="black" if ensemble else style.color,
                marker="o" if ensemble else style.marker,
                markersize=12 if kind == "Centre" else 8,
                markerfacecolor="none" if ensemble else style.color,
                markeredgewidth=1.0 if ensemble else 0.0,
                alpha=1.0 if kind == "Centre" else 0.65,
            )
        ax.set(xlabel=quantity.label, ylim=(len(rows) - 0.4, -0.6))
        ax.set_yticks(range(len(rows)), rows)
        ax.grid(axis="y", color="0.9")
        ax.set_axisbelow(True)
        ax.tick_params(axis="y", length=0)
        ax.margins(x=0.08)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _run_triangle(points: Sequence[Metrics], plane: Metrics | None) -> Figure | None:
    """Colours over the triangle, interpolated linearly between evaluated points."""
    entries = triangle.points_of(points)
    if not entries:
        return None
    corners = triangle.EQUILATERAL
    if plane and plane["kind"] == "simplex":
        corners = np.asarray(plane["corners"])
    figure = Figure(figsize=(10.0, 3.9), layout="constrained")
    for ax, (name, quantity) in zip(figure.subplots(1, 3), _SHOWN.items(), strict=True):
        _triangle_map(entries, name, corners, quantity.label, ax)
    return figure


def _triangle_map(entries, name: str, corners: np.ndarray, label: str, ax: Axes) -> None:
    coords = np.array([entry["coords"] for entry in entries])
    x, y = (coords @ corners).T
    values, meshes = _values(entries, name), triangle.triangles(coords)
    known = meshes[np.isfinite(values[meshes]).all(axis=1)]
    if len(known):
        colours = "cividis" if name == "accuracy" else "cividis_r"  # brighter is better
        look = {"triangles": known, "shading": "gouraud", "cmap": colours}
        drawn = ax.tripcolor(x, y, np.nan_to_num(values), **look)
        drawn.set_clim(values[known].min(), values[known].max())
        ax.figure.colorbar(drawn, ax=ax, location="bottom", shrink=0.8, label=label)
    look = {"linestyle": "none", "color": "white", "markeredgecolor": "black"}
    ax.plot(x, y, marker="o", markersize=3, markeredgewidth=0.5, **look)
    middle = [entry["name"] == "midpoint" for entry in entries]
    ax.plot(x[middle], y[middle], marker="*", markersize=14, **look)
    for i, corner in enumerate(corners):
        above = corner[1] > corners[:, 1].mean()
        ax.annotate(
            f"endpoint {i}",
            corner,
            xytext=(0, 6 if above else -6),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=9,
        )
    ax.set_aspect("equal")
    ax.margins(0.12)
    ax.set_axis_off()


def _run_plane(config: Metrics, plane: Metrics | None) -> Figure | None:
    """The plane of the loss, as a suite draws it: with the triangle, or with what was trained."""
    if not plane:
        return None
    recipe = config.get("recipe") or config.get("kind", "standard")
    run = {"method": recipe, "label_noise": config.get("label_noise", {}).get("rate", 0.0)}
    run |= {"seed": config.get("seed", 0), "landscape": {"slice": plane}}
    simplex = plane["kind"] == "simplex"
    return (landscape_figures.fig2 if simplex else landscape_figures.fig1)([run])


def _run_reliability(points: Sequence[Metrics], style: Recipe) -> Figure | None:
    point = deployed(points)
    if point is None or "reliability" not in point:
        return None
    figure = Figure(figsize=(3.4, 3.9), layout="constrained")
    ax = plotting.reliability_diagram(
        Reliability(**point["reliability"]), figure.subplots(), color=style.color
    )
    ax.set_title(f"{style.label}, midpoint" if len(points) > 1 else style.label, fontsize=11)
    return figure


def _history(history: Sequence[Metrics], style: Recipe) -> Figure | None:
    if not history:
        return None
    epochs = [entry["epoch"] for entry in history]
    series = {
        name: np.asarray([entry[name] for entry in history], dtype=float)
        for name in ("loss", "penalty", "accuracy", "learning_rate")
    }
    look = {"marker": "o" if len(history) < 20 else None, "markersize": 4, "linewidth": 1.6}
    figure = Figure(figsize=(10.0, 3.0), layout="constrained")
    loss, accuracy, rate = figure.subplots(1, 3)
    loss.plot(epochs, series["loss"], color=style.color, label="Loss", **look)
    if np.any(series["penalty"] > 0):
        loss.plot(epochs, series["penalty"], color="black", ls="--", label="Cosine penalty", **look)
        loss.legend(frameon=False)
    accuracy.plot(epochs, 100 * series["accuracy"], color=style.color, **look)
    rate.plot(epochs, series["learning_rate"], color=style.color, **look)
    if np.ptp(series["learning_rate"]) == 0:
        rate.set_ylim(0, 1.1 * series["learning_rate"][0] or 1)
    labels = ("Training loss", "Training accuracy [%]", "Learning rate")
    for ax, label in zip((loss, accuracy, rate), labels, strict=True):
        ax.set(xlabel="Epoch", ylabel=label)
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure
