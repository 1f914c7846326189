"""The loss around trained networks as figures, from the records of runs alone.

Every function takes runs, of which those with a `landscape` count: its `slice` is what
`landscape.slice_record` returns and its `path` what `path_record` does. Without the runs
that a figure needs there is none. Nothing here uses `matplotlib.pyplot`.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.results.significance import standard_error
from experiments.results.styles import order_of, style_of
from subspace_jax import plotting

Run = Mapping[str, Any]

# Bounds of colours within a power of ten: about 20, 10 and 6 round numbers in nearly equal ratios.
_ROUND = (
    (1, 1.1, 1.2, 1.4, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8, 9),
    (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
    (1, 1.5, 2, 3, 5, 7),
)
_FEWEST, _MOST = 5, 14
# The panels of the first figure, by the kind of slice, in the article's order.
_PANELS = {
    "point": "One network",
    "line": "Line",
    "curve": "Curve",
    "simplex": "Triangle",
}
# Of a run, beside its landscape.
_KEPT = ("id", "method", "label_noise", "seed")


def draw(metrics: Mapping[str, Any], names: Iterable[str]) -> dict[str, tuple[Figure, dict]]:
    """The figures `fig1`, `fig2` and `curvature` that are asked for and that there are data for.

    Args:
      metrics: with the runs as `landscapes`.
      names: what is asked for; other names are passed over.

    Returns:
      by name, a figure and `{"runs": ...}`, what is drawn in it: from those runs alone its function
      draws it again.
    """
    runs = list(metrics.get("landscapes", ()))
    drawn = {}
    for name in names:
        if name not in _FIGURES:
            continue
        choose, function, part = _FIGURES[name]
        chosen = [
            {key: run[key] for key in _KEPT} | {"landscape": {part: run["landscape"][part]}}
            for run in choose(runs)
        ]
        if chosen:
            drawn[name] = function(chosen), {"runs": chosen}
    return drawn


def fig1(runs: Iterable[Run]) -> Figure | None:
    """Real slices of the test loss, and in each the subspace that was trained.

    The panels are those of one point, line, curve and triangle that there are, each of the first
    label noise and seed, and share their colours: the article's schematic, measured.
    """
    chosen = _one_of_each_kind(runs)
    if not chosen:
        return None
    slices = [run["landscape"]["slice"] for run in chosen]
    levels = levels_of(np.concatenate([_array(record["nll"]).ravel() for record in slices]))
    figure = Figure(figsize=(2.7 * len(chosen) + 0.9, 3.3), layout="constrained")
    axes = figure.subplots(1, len(chosen), squeeze=False)[0]
    for ax, run, record in zip(axes, chosen, slices, strict=True):
        _contour(record, "nll", ax, levels=levels, cmap="Greys", label="Test loss")
        if ax is not axes[-1] and ax.child_axes:
            ax.child_axes[0].remove()
        if ax is not axes[0]:
            ax.set_ylabel("")
        _subspace(record, style_of(run["method"]).color, ax)
        ax.set_title(_PANELS[record["kind"]], fontsize=13)
    _note(figure, slices[0], _labels_of(chosen))
    return figure


def fig2(runs: Iterable[Run]) -> Figure | None:
    """Accuracy and NLL on the plane through a trained triangle, of the first label noise and seed.

    Above each is its mean inside the triangle and outside of it, with the standard error over all
    seeds of this label noise.
    """
    group = _triangles(runs)
    if not group:
        return None
    records = [run["landscape"]["slice"] for run in group]
    first = records[0]
    figure = Figure(figsize=(10.4, 5.1), layout="constrained")
    accuracy, nll = figure.subplots(1, 2)
    errors = levels_of(100 * (1 - _array(first["accuracy"])))
    look = {"levels": 100 - errors[::-1], "label": "Test accuracy [%]"}
    _contour(first, "accuracy", accuracy, triangle=True, **look)
    look = {"levels": levels_of(_array(first["nll"])), "label": "Test NLL [nats]"}
    _contour(first, "nll", nll, triangle=True, cmap="viridis_r", **look)
    for ax, metric, scale, decimals, unit in (
        (accuracy, "accuracy", 100, 1, "%"),
        (nll, "nll", 1, 2, "nats"),
    ):
        inside, outside = (
            _mean_text(scale * _array([record[region][metric] for record in records]), decimals)
            for region in ("inside", "outside")
        )
        ax.set_title(f"Mean inside {inside} {unit},\noutside {outside} {unit}", fontsize=11)
    nll.set_ylabel("")
    several = f"the plane of seed {group[0]['seed']}, the means of {len(group)} seeds"
    _note(figure, first, [*([several] if len(group) > 1 else []), *_labels_of(group)])
    return figure


def curvature(runs: Iterable[Run]) -> Figure | None:
    """Top eigenvalues of the Hessian and test error along the paths, as means over the seeds.

    Runs of one label noise, the first. Standard training is a horizontal line.
    """
    runs = _paths(runs)
    if not runs:
        return None
    paths = [run["landscape"]["path"] for run in runs]
    names = {
        name: label
        for name, label in (
            ("eigenvalue", "Largest Hessian eigenvalue"),
            ("relative_eigenvalue", "Largest eigenvalue, filter-normalised"),
        )
        if all(path["curvature"][name] for path in paths)
    }
    figure = Figure(figsize=(3.6 * (len(names) + 1), 4.1), layout="constrained")
    *tops, error = figure.subplots(1, len(names) + 1, squeeze=False)[0]
    for method in dict.fromkeys(run["method"] for run in runs):
        group = [run["landscape"]["path"] for run in runs if run["method"] == method]
        for ax, name in zip(tops, names, strict=True):
            values = _array([path["curvature"][name] for path in group])
            _series(group[0]["alphas"], values, method, ax)
        errors = 100 * _array([path["test"]["error"] for path in group])
        _series(group[0]["test"]["alphas"], errors, method, error)
    for ax, label in zip(tops, names.values(), strict=True):
        ax.set(ylabel=label)
        ax.set_ylim(bottom=min(0, ax.get_ylim()[0]))
    error.set(ylabel="Test error [%]")
    found = paths[0]["curvature"]
    num_seeds = len({run["seed"] for run in runs})
    notes = [
        f"training loss of {found['num_images']:,} images, with the statistics of batches of "
        f"{found['batch_size']:,}; {found['num_iterations']} Lanczos iterations",
        *([f"means of {num_seeds} seeds, bands of one standard error"] if num_seeds > 1 else []),
        *_labels_of(runs),
    ]
    handles, labels = error.get_legend_handles_labels()
    look = {"ncols": len(labels), "frameon": False, "title_fontsize": 9}
    look |= {"loc": "outside lower center", "title": _sentence(notes)}
    figure.legend(handles, labels, **look).get_title().set_color("0.3")
    return figure


def _one_of_each_kind(runs: Iterable[Run]) -> list[Run]:
    chosen: dict[str, Run] = {}
    for run in _sorted(runs, "slice"):
        chosen.setdefault(run["landscape"]["slice"]["kind"], run)
    return [chosen[kind] for kind in _PANELS if kind in chosen]


def _triangles(runs: Iterable[Run]) -> list[Run]:
    """All seeds of the first triangle's method and label noise."""
    found = [r for r in _sorted(runs, "slice") if r["landscape"]["slice"]["kind"] == "simplex"]
    return [r for r in found if all(r[k] == found[0][k] for k in ("method", "label_noise"))]


def _paths(runs: Iterable[Run]) -> list[Run]:
    """All seeds of the first label noise, methods in their order; none if there is no path."""
    found = _sorted(runs, "path")
    found = [run for run in found if run["label_noise"] == found[0]["label_noise"]]
    if not any(run["landscape"]["path"]["alphas"] for run in found):
        return []
    return sorted(found, key=lambda run: order_of(run["method"]))


def _sorted(runs: Iterable[Run], part: str) -> list[Run]:
    """Those that have a part of the landscape, the first to be shown first."""
    found = [run for run in runs if run.get("landscape", {}).get(part)]
    return sorted(found, key=lambda run: (run["label_noise"], run["seed"], order_of(run["method"])))


# By name: which runs are drawn, by what, and from which part of their landscape.
_FIGURES = {
    "fig1": (_one_of_each_kind, fig1, "slice"),
    "fig2": (_triangles, fig2, "slice"),
    "curvature": (_paths, curvature, "path"),
}


def _array(values) -> np.ndarray:
    """Null is NaN."""
    return np.asarray(values, dtype=float)


def levels_of(values: np.ndarray) -> np.ndarray:
    """Round bounds of colours, growing geometrically, that cover all but the extreme values.

    Of three series the finest that has few enough of them; equal steps where all values are close.
    """
    values = values[np.isfinite(values)]
    if not values.size or values.max() <= 0:
        return np.linspace(0, 1, _FEWEST)
    high = np.quantile(values, 0.98) or values.max()
    low = max(values.min(), high / 100)
    decades = 10.0 ** np.arange(np.floor(np.log10(low)) - 1, np.ceil(np.log10(high)) + 2)
    for steps in _ROUND:
        series = np.outer(decades, steps).ravel().round(9)
        first = np.searchsorted(series, low, side="right") - 1
        series = series[first : np.searchsorted(series, high) + 1]
        if len(series) <= _MOST:
            break
    if len(series) >= _FEWEST:
        return series
    return np.linspace(low, low + max(high - low, 1e-3 * high), _FEWEST)


def _contour(record, metric, ax, *, levels, label, cmap="viridis", triangle=False) -> None:
    values = (100 if metric == "accuracy" else 1) * _array(record[metric])
    if not np.isfinite(values).any():  # all of it is grey
        ax.set(facecolor="0.8", xlabel="Weight distance (L2)", ylabel="Weight distance (L2)")
        return
    plotting.contour(
        *np.meshgrid(record["x"], record["y"]),
        values,
        ax,
        endpoints_xy=record["corners"] if triangle else None,
        label=label,
        levels=levels,
        cmap=cmap,
    )
    bar = ax.child_axes[0]
    bar.set_yticks(levels, [f"{level:.3g}" for level in levels])
    bar.tick_params(which="minor", length=0)


def _subspace(record, color, ax) -> None:
    """What was trained, on the slice that it lies in: its outline, its corners, its midpoint."""
    path, kind = _array(record["path"]), record["kind"]
    if kind == "simplex":
        ax.fill(*path.T, color=color, alpha=0.25, linewidth=0, zorder=2.5)
    if kind == "curve":
        corners = _array(record["corners"])
        ax.plot(*corners.T, color=color, linewidth=1.2, linestyle=":", zorder=2.8)
        look = {"color": "white", "markeredgecolor": color, "marker": "o", "markersize": 7}
        ax.plot(*corners[1], zorder=4, **look)
    if len(path) > 1:
        outline = [withStroke(linewidth=4.5, foreground="white")]
        ax.plot(*path.T, color=color, linewidth=2.4, path_effects=outline, zorder=3)
        ends = path[:-1] if kind == "simplex" else path[[0, -1]]
        look = {"color": color, "markeredgecolor": "white", "marker": "o", "markersize": 8}
        ax.plot(*ends.T, linestyle="none", zorder=4, **look)
    if record["other"] is not None:
        _named(record["other"], "independent network", "black", "o", 8, ax)
    name = "trained network" if kind == "point" else "midpoint"
    _named(record["midpoint"], name, color, "*", 17, ax)


def _named(xy, name, color, marker, size, ax) -> None:
    ax.plot(*xy, color=color, marker=marker, markersize=size, markeredgecolor="white", zorder=5)
    ax.annotate(
        name,
        xy,
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=9,
        path_effects=[withStroke(linewidth=2.5, foreground="white")],
        zorder=6,
    )


def _series(alphas, values: np.ndarray, method, ax: Axes) -> None:
    """The mean of seeds `[S, A]` along a path, or of one network `[S, 1]` as a level."""
    style = style_of(method)
    look = {"color": style.color, "linestyle": style.linestyle, "label": style.label}
    mean, stderr = values.mean(axis=0), standard_error(values)
    if alphas is None:
        plotting.level(mean[0], ax, stderr=None if stderr is None else stderr[0], **look)
    else:
        plotting.path(alphas, mean, ax, stderr=stderr, marker=style.marker, **look)


def _mean_text(values: np.ndarray, decimals: int) -> str:
    mean, stderr = f"{values.mean():.{decimals}f}", standard_error(values)
    return mean if stderr is None else f"{mean} ± {stderr:.{decimals}f}"


def _labels_of(runs: Iterable[Run]) -> list[str]:
    noises = sorted({run["label_noise"] for run in runs if run["label_noise"]})
    return [f"{100 * noise:.0f} % wrong training labels" for noise in noises]


def _note(figure: Figure, record: Mapping[str, Any], more: Sequence[str]) -> None:
    notes = [
        f"{record['num_images']:,} test images",
        f"statistics recalibrated at every point of {len(record['y'])} x {len(record['x'])} "
        f"on {record['recalibration_images']:,} images",
        *more,
    ]
    width = int(14 * figure.get_figwidth())  # characters of this size
    text = textwrap.fill(_sentence(notes), width)
    figure.supxlabel(text, fontsize=9, color="0.3")


def _sentence(notes: Sequence[str]) -> str:
    text = "; ".join(notes)
    return text[0].upper() + text[1:]
