"""The metrics of a run or of the digits suite as figures, and figures as PNG files.

`run_figures` and `suite_figures` map a metrics dict to named figures; what the metrics do not hold
(a path, a history, one of the methods) is left out. Nothing here uses `matplotlib.pyplot`.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.styles import QUANTITIES, Style, deployed, order_of, style_of, style_of_run
from subspace_jax import plotting
from subspace_jax.metrics import Reliability

Metrics = Mapping[str, Any]


def suite_figures(metrics: Metrics) -> dict[str, Figure]:
    """Draws the digits suite: `path`, `reliability`, `noise` and `tuned`, where there are data.

    Args:
      metrics: with `"runs"` (one entry per method, setting, label noise and seed) and `"table"`.

    Returns:
      figures by name, in the order in which they are best read.
    """
    article = [run for run in metrics.get("runs", ()) if run["setting"] == "article"]
    table = metrics.get("table", ())
    figures = {
        "path": _suite_path(article),
        "reliability": _suite_reliability(article),
        "noise": _comparison([row for row in table if row["setting"] == "article"]),
        "tuned": _comparison([row for row in table if row["setting"] == "tuned"]),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def run_figures(metrics: Metrics) -> dict[str, Figure]:
    """Draws one run: `path`, `reliability` and `history`, where there are data.

    Args:
      metrics: with `"config"` (it gives the name and colour), `"points"`, `"ensembles"` and
        `"history"`.

    Returns:
      figures by name, in the order in which they are best read.
    """
    style = style_of_run(metrics.get("config", {}))
    points, ensembles = metrics.get("points", ()), metrics.get("ensembles", ())
    figures = {
        "path": _run_path(points, ensembles, style) or _run_simplex(points, ensembles, style),
        "reliability": _run_reliability(points, style),
        "history": _history(metrics.get("history", ()), style),
    }
    return {name: figure for name, figure in figures.items() if figure is not None}


def png(figure: Figure) -> bytes:
    """The figure as a PNG file, the same bytes each time (no date, no version inside)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    figure.set_layout_engine("none")  # a second layout would move things by a pixel
    return buffer.getvalue()


def _path_of(points: Sequence[Metrics]) -> dict[float, Metrics]:
    """The points of a path by their position, in order; empty without at least two of them."""
    scalar = {p["coords"]: p for p in points if isinstance(p["coords"], int | float)}
    return dict(sorted(scalar.items())) if len(scalar) > 1 else {}


def _values(entries: Sequence[Metrics], name: str) -> np.ndarray:
    """One metric of several points in its unit, `[N]`; null is NaN."""
    return QUANTITIES[name].scale * np.asarray([entry[name] for entry in entries], dtype=float)


def _stderr(values: np.ndarray) -> np.ndarray | None:
    """Standard error of the mean over the seeds, `[S, ...] -> [...]`; none from one seed."""
    if len(values) < 2:
        return None
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def _by_method(runs: Sequence[Metrics], noise: float) -> dict[str, list[Metrics]]:
    """The runs at one label noise by method, methods in their fixed order."""
    groups: dict[str, list[Metrics]] = {}
    for run in sorted(runs, key=lambda run: order_of(run["method"])):
        if run["label_noise"] == noise:
            groups.setdefault(run["method"], []).append(run)
    return groups


def _labels_title(noise: float) -> str:
    return f"{100 * noise:.0f} % wrong labels" if noise else "Clean labels"


def _suite_path(runs: Sequence[Metrics]) -> Figure | None:
    noises = sorted({run["label_noise"] for run in runs})
    if not any(_path_of(run["points"]) for run in runs):
        return None
    figure = Figure(figsize=(4.2 * len(noises), 3.9), layout="constrained")
    axes = figure.subplots(1, len(noises), squeeze=False)[0]
    legend = {}
    for ax, noise in zip(axes, noises, strict=True):
        for method, group in _by_method(runs, noise).items():
            style = style_of(method)
            look = {"color": style.color, "linestyle": style.linestyle, "label": style.label}
            paths = [_path_of(run["points"]) for run in group]
            if all(paths):
                values = np.stack([_values(list(path.values()), "accuracy") for path in paths])
                plotting.path(
                    list(paths[0]),
                    values.mean(axis=0),
                    ax,
                    stderr=_stderr(values),
                    marker=style.marker,
                    **look,
                )
            elif method in ("standard", "standard_matched", "ema"):
                values = _values([deployed(run["points"]) for run in group], "accuracy")
                plotting.level(values.mean(), ax, stderr=_stderr(values), **look)
        ax.set(title=_labels_title(noise), ylabel="Test accuracy [%]")
        handles, labels = ax.get_legend_handles_labels()
        legend |= dict(zip(labels, handles, strict=True))
    _legend_below(figure, legend)
    return figure


def _legend_below(figure: Figure, handles: Mapping[str, Artist]) -> None:
    """At most three entries per row, read row by row (matplotlib fills column by column)."""
    labels = [label for column in range(3) for label in list(handles)[column::3]]
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=min(3, len(labels)),
        frameon=False,
    )


def _pool(reliabilities: Sequence[Metrics]) -> Reliability:
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


def _suite_reliability(runs: Sequence[Metrics]) -> Figure | None:
    shown = ("standard", "ema", "label_smoothing", "line", "layerwise_line")
    groups = _by_method(runs, max((run["label_noise"] for run in runs), default=0.0))
    points = {
        method: [deployed(run["points"]) for run in groups[method]]
        for method in shown
        if method in groups
    }
    points = {m: group for m, group in points.items() if all("reliability" in p for p in group)}
    if not points:
        return None
    figure = Figure(figsize=(2.1 * len(points) + 0.4, 2.9), layout="constrained")
    axes = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for ax, (method, group) in zip(axes, points.items(), strict=True):
        pooled = _pool([point["reliability"] for point in group])
        plotting.reliability_diagram(pooled, ax, color=style_of(method).color)
        ax.set_title(style_of(method).label, fontsize=11)
        ax.label_outer()
    return figure


def _comparison(rows: Sequence[Metrics]) -> Figure | None:
    """A panel for every metric (down) and label noise (across), a dot for every method."""
    rows = [row for row in rows if row["place"] == "midpoint"]
    noises = sorted({row["label_noise"] for row in rows})
    if not rows:
        return None
    rows = sorted(rows, key=lambda row: order_of(row["method"]))
    num_methods = len({row["method"] for row in rows})
    figure = Figure(
        figsize=(1.6 + 3.0 * len(noises), 3 * (0.75 + 0.24 * num_methods)), layout="constrained"
    )
    axes = figure.subplots(len(QUANTITIES), len(noises), squeeze=False)
    for column, noise in enumerate(noises):
        here = [row for row in rows if row["label_noise"] == noise]
        styles = [style_of(row["method"]) for row in here]
        for ax, (name, quantity) in zip(axes[:, column], QUANTITIES.items(), strict=True):
            mean, stderr = (
                quantity.scale * np.asarray([row[name][key] for row in here], dtype=float)
                for key in ("mean", "stderr")
            )
            plotting.dots(
                mean,
                ax,
                labels=[style.label for style in styles],
                stderr=stderr,
                colors=[style.color for style in styles],
                markers=[style.marker for style in styles],
            )
            ax.set_xlabel(quantity.label)
            ax.xaxis.set_major_locator(MaxNLocator(5))
            if column:
                ax.tick_params(labelleft=False)
        axes[0, column].set_title(_labels_title(noise))
    return figure


def _run_path(
    points: Sequence[Metrics], ensembles: Sequence[Metrics], style: Style
) -> Figure | None:
    path = _path_of(points)
    if not path:
        return None
    pairs = _mirror_pairs(ensembles)
    pair = (
        r"$\alpha$ and $1 - \alpha$"
        if len(pairs) > 2
        else " and ".join(f"{alpha:.3g}" for alpha in pairs)
    )
    figure = Figure(figsize=(10.0, 3.5), layout="constrained")
    for ax, (name, quantity) in zip(figure.subplots(1, 3), QUANTITIES.items(), strict=True):
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
    _legend_below(figure, dict(zip(labels, handles, strict=True)))
    return figure


def _mirror_pairs(ensembles: Sequence[Metrics]) -> dict[float, Metrics]:
    """The averaged predictions of the networks at `a` and `1 - a`, under both positions."""
    pairs = {}
    for ensemble in ensembles:
        members = [member for member in ensemble["members"] if isinstance(member, int | float)]
        mirror = len(members) == 2 and abs(sum(members) - 1) < 1e-4
        if mirror and ensemble["average"] == "probability":
            pairs |= dict.fromkeys(members, ensemble)
    return dict(sorted(pairs.items()))


def _run_simplex(
    points: Sequence[Metrics], ensembles: Sequence[Metrics], style: Style
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
    for ax, (name, quantity) in zip(axes, QUANTITIES.items(), strict=True):
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


def _run_reliability(points: Sequence[Metrics], style: Style) -> Figure | None:
    point = deployed(points)
    if point is None or "reliability" not in point:
        return None
    figure = Figure(figsize=(3.4, 3.9), layout="constrained")
    ax = plotting.reliability_diagram(
        Reliability(**point["reliability"]), figure.subplots(), color=style.color
    )
    ax.set_title(f"{style.label}, midpoint" if len(points) > 1 else style.label, fontsize=11)
    return figure


def _history(history: Sequence[Metrics], style: Style) -> Figure | None:
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
        loss.plot(epochs, series["penalty"], color="black", ls="--", label="Penalty", **look)
        loss.legend(frameon=False)
    accuracy.plot(epochs, 100 * series["accuracy"], color=style.color, **look)
    rate.plot(epochs, series["learning_rate"], color=style.color, **look)
    labels = ("Training loss", "Training accuracy [%]", "Learning rate")
    for ax, label in zip((loss, accuracy, rate), labels, strict=True):
        ax.set(xlabel="Epoch", ylabel=label)
        ax.spines[["top", "right"]].set_visible(False)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    return figure
