"""The loss around trained networks as figures, from what `evaluation.landscape` records."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from experiments.results.significance import standard_error
from experiments.results.styles import look, order_of, style_of
from experiments.results.wording import percent, spread
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
_PANELS = {"point": "One network", "line": "Line", "curve": "Curve", "simplex": "Triangle"}


def draw(metrics: Mapping[str, Any], names: Iterable[str]) -> dict[str, tuple[Figure, dict]]:
    """Those of `_FIGURES` that are asked for and have data, each with the runs that are drawn in it."""
    drawn = {}
    for name in filter(_FIGURES.__contains__, names):
        choose, function, part = _FIGURES[name]
        found = [run for run in metrics.get("landscapes", ()) if run.get("landscape", {}).get(part)]
        # The first of each is the one to be shown.
        found.sort(key=lambda run: (run["label_noise"], run["seed"], order_of(run["method"])))
        chosen = [
            {key: run[key] for key in ("id", "method", "label_noise", "seed")}
            | {"landscape": {part: run["landscape"][part]}}
            for run in choose(found)
        ]
        if chosen:
            drawn[name] = function(chosen), {"runs": chosen}
    return drawn


def _one_of_each_kind(runs: Sequence[Run]) -> list[Run]:
    """In the order of the article's first figure."""
    chosen = {run["landscape"]["slice"]["kind"]: run for run in reversed(runs)}
    return [chosen[kind] for kind in _PANELS if kind in chosen]


def _triangles(runs: Sequence[Run]) -> list[Run]:
    """All seeds of the first triangle's method and label noise."""
    found = [run for run in runs if run["landscape"]["slice"]["kind"] == "simplex"]
    return [r for r in found if all(r[k] == found[0][k] for k in ("method", "label_noise"))]


def _paths(runs: Sequence[Run]) -> list[Run]:
    """All seeds of the first label noise, methods in their order; none if there is no path."""
    found = [run for run in runs if run["label_noise"] == runs[0]["label_noise"]]
    if not any(run["landscape"]["path"]["alphas"] for run in found):
        return []
    return sorted(found, key=lambda run: order_of(run["method"]))


def fig1(runs: Sequence[Run]) -> Figure:
    """Real slices of the test loss, with shared colours, and in each the subspace that was trained."""
    slices = [run["landscape"]["slice"] for run in runs]
    levels = levels_of(np.concatenate([_array(record["nll"]).ravel() for record in slices]))
    figure = Figure(figsize=(2.7 * len(runs) + 0.9, 3.3), layout="constrained")
    axes = figure.subplots(1, len(runs), squeeze=False)[0]
    for ax, run, record in zip(axes, runs, slices, strict=True):
        _contour(record, "nll", ax, levels=levels, cmap="Greys", label="Test loss")
        if ax is not axes[-1] and ax.child_axes:
            ax.child_axes[0].remove()
        if ax is not axes[0]:
            ax.set_ylabel("")
        _subspace(record, style_of(run["method"]).color, ax)
        ax.set_title(_PANELS[record["kind"]], fontsize=13)
    _note(figure, slices[0], _labels_of(runs))
    return figure


def fig2(runs: Sequence[Run]) -> Figure:
    """Accuracy and NLL on the plane of the first seed's triangle, and their means over all seeds."""
    records = [run["landscape"]["slice"] for run in runs]
    first = records[0]
    figure = Figure(figsize=(10.4, 5.1), layout="constrained")
    accuracy, nll = figure.subplots(1, 2)
    errors = levels_of(100 * (1 - _array(first["accuracy"])))
    look = {"levels": 100 - errors[::-1], "label": "Test accuracy [%]"}
    _contour(first, "accuracy", accuracy, triangle=True, **look)
    look = {"levels": levels_of(_array(first["nll"])), "label": "Test NLL [nats]"}
    _contour(first, "nll", nll, triangle=True, cmap="viridis_r", **look)
    panels = ((accuracy, "accuracy", 100, 1, "%"), (nll, "nll", 1, 2, "nats"))
    for ax, metric, scale, decimals, unit in panels:
        said = []
        for region in ("inside", "outside"):
            values = scale * _array([record[region][metric] for record in records])
            said.append(spread(values.mean(), standard_error(values), decimals))
        ax.set_title(f"Mean inside {said[0]} {unit},\noutside {said[1]} {unit}", fontsize=11)
    nll.set_ylabel("")
    several = f"the plane of seed {runs[0]['seed']}, the means of {len(runs)} seeds"
    _note(figure, first, [*([several] if len(runs) > 1 else []), *_labels_of(runs)])
    return figure


def curvature(runs: Sequence[Run]) -> Figure:
    """Top eigenvalues of the Hessian and test error along the paths, as means over the seeds."""
    paths = [run["landscape"]["path"] for run in runs]
    names = {
        "eigenvalue": "Largest Hessian eigenvalue",
        "relative_eigenvalue": "Largest eigenvalue, filter-normalised",
    }
    names = {k: label for k, label in names.items() if all(p["curvature"][k] for p in paths)}
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
    """Round bounds of colours, growing geometrically, that cover all but the extreme values."""
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
    corners = record["corners"] if triangle else None
    shape = {"endpoints_xy": corners, "label": label, "levels": levels, "cmap": cmap}
    plotting.contour(*np.meshgrid(record["x"], record["y"]), values, ax, **shape)
    bar = ax.child_axes[0]
    bar.set_yticks(levels, [f"{level:.3g}" for level in levels])
    bar.tick_params(which="minor", length=0)


def _subspace(record, color, ax) -> None:
    """What was trained, on the slice that it lies in: its outline, its corners, its midpoint."""
    path, kind = _array(record["path"]), record["kind"]
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
    outline = [withStroke(linewidth=2.5, foreground="white")]
    place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "zorder": 6}
    ax.annotate(name, xy, fontsize=9, path_effects=outline, **place)


def _series(alphas, values: np.ndarray, method, ax: Axes) -> None:
    """The mean of seeds `[S, A]` along a path, or of one network `[S, 1]` as a level."""
    mean, stderr = values.mean(axis=0), standard_error(values)
    if alphas is None:
        plotting.level(mean[0], ax, stderr=None if stderr is None else stderr[0], **look(method))
    else:
        plotting.path(alphas, mean, ax, stderr=stderr, **look(method, "marker"))


def _labels_of(runs: Iterable[Run]) -> list[str]:
    noises = sorted({run["label_noise"] for run in runs if run["label_noise"]})
    return [f"{percent(noise)} wrong training labels" for noise in noises]


def _note(figure: Figure, record: Run, more: Sequence[str]) -> None:
    notes = [
        f"{record['num_images']:,} test images",
        f"statistics recalibrated at every point of {len(record['y'])} x {len(record['x'])} "
        f"on {record['recalibration_images']:,} images",
        *more,
    ]
    # So many characters of this size fit into its width.
    text = textwrap.fill(_sentence(notes), int(14 * figure.get_figwidth()))
    figure.supxlabel(text, fontsize=9, color="0.3")


def _sentence(notes: Sequence[str]) -> str:
    text = "; ".join(notes)
    return text[0].upper() + text[1:]
