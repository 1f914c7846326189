"""The figures of a suite: `(Figure, numbers drawn)` by name, from its metrics alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures import legend_below, path_of, pooled_reliability
from experiments.recipes import LARGEST
from experiments.styles import METRICS, QUANTITIES, order_of, style_of
from subspace_jax import plotting

Metrics = Mapping[str, Any]
Drawn = tuple[Figure, dict]

_PATHS = ("line", "layerwise_line", "curve")
_LEVELS = ("standard", "standard_matched", "ema", "ensemble")
_SHOWN = ("standard", "ema", "label_smoothing", "dropout", "line", "layerwise_line")


def draw(metrics: Metrics, names: Sequence[str]) -> dict[str, Drawn]:
    """The figures that are asked for and have data, and with any the reliability diagrams."""
    rows = [row for row in metrics["table"] if row["setting"] == "article"]
    runs = [run for run in metrics["runs"] if run["setting"] == "article"]
    noise = max((row["label_noise"] for row in rows), default=0.0)
    clean = [row for row in rows if not row["label_noise"]]
    noisy = [row for row in rows if noise and row["label_noise"] == noise]
    tuned = [row for row in metrics["table"] if row["setting"] == "tuned"]
    makers = {
        "fig3": lambda: _paths([r for r in runs if not r["label_noise"]], clean, "Clean labels"),
        "fig4": lambda: _by_size(clean),
        "fig5": lambda: _dots([clean, noisy], ("ece", "scaled.ece", "nll")),
        "fig6": lambda: _severities(runs),
        "fig7": lambda: _paths(
            [r for r in runs if noise and r["label_noise"] == noise],
            noisy,
            f"{100 * noise:.0f} % wrong labels",
        ),
        "rivals": lambda: _dots([clean, noisy], METRICS),
        "tuned": lambda: _dots(
            [[r for r in tuned if r["label_noise"] == rate] for rate in (0.0, noise)], METRICS
        ),
    }
    drawn = {name: makers[name]() for name in names if name in makers}
    drawn["reliability"] = _reliability(runs, noise)
    return {name: made for name, made in drawn.items() if made is not None}


def _midpoints(rows: Sequence[Metrics]) -> list[Metrics]:
    """What is deployed: all but the ends."""
    return sorted(
        (row for row in rows if row["place"] != "endpoints"), key=lambda r: order_of(r["method"])
    )


def _row(rows: Sequence[Metrics], method: str) -> Metrics | None:
    return next((row for row in _midpoints(rows) if row["method"] == method), None)


def _value(row: Metrics, metric: str) -> tuple[float, float]:
    """Mean and standard error in the unit of the metric; NaN for null."""
    scale, found = QUANTITIES[metric].scale, row[metric]
    mean, stderr = (np.nan if found[key] is None else found[key] for key in ("mean", "stderr"))
    return scale * mean, scale * stderr


def _paths(runs: Sequence[Metrics], rows: Sequence[Metrics], title: str) -> Drawn | None:
    """Accuracy along each path, levels of methods without one, and two-member ensembles."""
    curves = {}
    for method in _PATHS:
        paths = [path_of(run["points"]) for run in runs if run["method"] == method]
        if paths and all(paths):
            values = 100 * np.array([[p["accuracy"] for p in path.values()] for path in paths])
            curves[method] = (list(paths[0]), values)
    if not curves:
        return None
    figure = Figure(figsize=(9.4, 4.4), layout="constrained")
    ax, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    data, legend = {"paths": {}, "levels": {}}, {}
    for method, (alphas, values) in curves.items():
        style = style_of(method)
        mean, stderr = values.mean(0), _stderr(values)
        plotting.path(
            alphas,
            mean,
            ax,
            stderr=stderr,
            color=style.color,
            marker=style.marker,
            linestyle=style.linestyle,
            label=style.label,
        )
        data["paths"][method] = {
            "alphas": alphas,
            "accuracy": mean.tolist(),
            "stderr": None if stderr is None else stderr.tolist(),
            "num_seeds": len(values),
        }
    for method in _LEVELS:
        if row := _row(rows, method):
            style, (mean, stderr) = style_of(method), _value(row, "accuracy")
            plotting.level(
                mean,
                ax,
                stderr=stderr if np.isfinite(stderr) else None,
                color=style.color,
                linestyle=style.linestyle,
                label=style.label,
            )
            data["levels"][method] = {"accuracy": mean, "stderr": stderr}
    ax.set(title=title, ylabel="Test accuracy [%]")
    handles, labels = ax.get_legend_handles_labels()
    legend |= dict(zip(labels, handles, strict=True))
    shown = [row for row in _midpoints(rows) if "accuracy" in row][:24]
    _draw_dots(shown, "accuracy", right)
    data["dots"] = [_numbers(row, ("accuracy",)) for row in shown]
    legend_below(figure, legend)
    return figure, _finite(data)


def _stderr(values: np.ndarray) -> np.ndarray | None:
    return None if len(values) < 2 else values.std(0, ddof=1) / np.sqrt(len(values))


def _draw_dots(rows: Sequence[Metrics], metric: str, ax: Axes) -> None:
    styles = [style_of(row["method"]) for row in rows]
    values = np.array([_value(row, metric) for row in rows]).reshape(-1, 2)
    plotting.dots(
        values[:, 0],
        ax,
        labels=[_label(row) for row in rows],
        stderr=values[:, 1],
        colors=[style.color for style in styles],
        markers=[style.marker for style in styles],
    )
    ax.set_xlabel(QUANTITIES[metric].label)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _label(row: Metrics) -> str:
    passes = row.get("inference_passes", 1)
    return style_of(row["method"]).label + (f" ({passes} passes)" if passes > 1 else "")


def _dots(groups: Sequence[Sequence[Metrics]], metrics: Sequence[str]) -> Drawn | None:
    """A panel for every metric (across) and group of rows (down), a dot for every method."""
    titles = ["Clean labels", "Wrong labels"]
    kept = [
        (title, [row for row in _midpoints(rows) if all(metric in row for metric in metrics)])
        for title, rows in zip(titles, groups, strict=True)
    ]
    kept = [(title, rows) for title, rows in kept if rows]
    if not kept:
        return None
    heights = [0.9 + 0.24 * len(rows) for _, rows in kept]
    figure = Figure(figsize=(10.5, sum(heights)), layout="constrained")
    axes = figure.subplots(len(kept), len(metrics), squeeze=False, height_ratios=heights)
    for line, (title, rows) in zip(axes, kept, strict=True):
        for ax, metric in zip(line, metrics, strict=True):
            _draw_dots(rows, metric, ax)
            if ax is not line[0]:
                ax.tick_params(labelleft=False)
        line[0].set_title(title, loc="left")
    data = {title: [_numbers(row, metrics) for row in rows] for title, rows in kept}
    return figure, _finite(data)


def _numbers(row: Metrics, metrics: Sequence[str]) -> dict:
    names = ("method", "place", "num_seeds", "training_cost", "inference_passes")
    return {name: row[name] for name in names} | {metric: row[metric] for metric in metrics}


def _by_size(rows: Sequence[Metrics]) -> Drawn | None:
    """Midpoint accuracy against the number of endpoints, or of averaged models."""
    families = {
        "simplex": ("standard", "line", "simplex_{m}"),
        "layerwise_simplex": ("standard", "layerwise_line", "layerwise_simplex_{m}"),
        "swa_constant": ("standard", "swa_constant_2", "swa_constant_{m}"),
        "swa_cyclic": ("standard", "swa_cyclic_2", "swa_cyclic_{m}"),
        "standard_matched": ("standard", "standard_matched", "standard_matched_{m}"),
    }
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax, data = figure.subplots(), {}
    for shift, (family, (one, two, more)) in enumerate(families.items()):
        names = [one, two, *(more.format(m=m) for m in range(3, LARGEST + 1))]
        found = [(m, _row(rows, name)) for m, name in enumerate(names, 1)]
        found = [(m, *_value(row, "accuracy")) for m, row in found if row]
        if len(found) < 2:
            continue
        m, mean, stderr = map(np.array, zip(*found, strict=True))
        style = style_of(f"{family}_3")
        ax.errorbar(
            m + 0.06 * (shift - 2),
            mean,
            yerr=stderr,
            color=style.color,
            marker=style.marker,
            linestyle=style.linestyle,
            capsize=2,
            label=_FAMILIES[family],
        )
        data[family] = {"m": m.tolist(), "accuracy": mean.tolist(), "stderr": stderr.tolist()}
    if not data:
        return None
    ax.set(xlabel="Endpoints, or averaged models, $m$", ylabel="Midpoint test accuracy [%]")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    return figure, _finite(data)


_FAMILIES = {
    "simplex": "Simplex",
    "layerwise_simplex": "Layerwise simplex",
    "swa_constant": "SWA, constant learning rate",
    "swa_cyclic": "SWA, cyclic learning rate",
    "standard_matched": "Standard (matched to m)",
}


def _severities(runs: Sequence[Metrics]) -> Drawn | None:
    """Accuracy under snow against its severity, 0 being clean; clean training labels."""
    methods: dict[str, list] = {}
    for run in runs:
        place = run["places"]["midpoint"]
        if run["label_noise"] or not place.get("corruptions", {}).get("snow"):
            continue
        snow = place["corruptions"]["snow"]
        line = [place["accuracy"], *(snow[s]["accuracy"] for s in sorted(snow))]
        methods.setdefault(run["method"], []).append(line)
    wanted = (*_PATHS, "standard", "standard_matched", "ema", "swa_constant_5", "dropout")
    methods = {m: values for m, values in methods.items() if m in wanted}
    if not methods:
        return None
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    ax, data = figure.subplots(), {}
    for method in sorted(methods, key=order_of):
        values, style = 100 * np.array(methods[method]), style_of(method)
        mean, stderr = values.mean(0), _stderr(values)
        ax.errorbar(
            range(values.shape[1]),
            mean,
            yerr=stderr,
            color=style.color,
            marker=style.marker,
            linestyle=style.linestyle,
            capsize=2,
            label=style.label,
        )
        data[method] = {"accuracy": mean.tolist(), "num_seeds": len(values)}
        data[method]["stderr"] = None if stderr is None else stderr.tolist()
    ax.set(xlabel="Severity of snow (0: clean images)", ylabel="Test accuracy [%]")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, fontsize=9)
    return figure, _finite(data)


def _reliability(runs: Sequence[Metrics], noise: float) -> Drawn | None:
    """Reliability diagrams, all seeds pooled, at the largest label noise."""
    found: dict[str, list] = {}
    for run in runs:
        place = run["places"]["midpoint"]
        if run["method"] in _SHOWN and run["label_noise"] == noise and "reliability" in place:
            found.setdefault(run["method"], []).append(place["reliability"])
    if not found:
        return None
    figure = Figure(figsize=(2.0 * len(found) + 0.4, 2.9), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    data = {}
    for ax, method in zip(axes, sorted(found, key=order_of), strict=True):
        pooled = pooled_reliability(found[method])
        plotting.reliability_diagram(pooled, ax, color=style_of(method).color)
        ax.set_title(style_of(method).label, fontsize=10)
        ax.label_outer()
        data[method] = {name: np.asarray(v).tolist() for name, v in pooled._asdict().items()}
    return figure, _finite(data)


def _finite(value: Any) -> Any:
    """JSON values: `None` for what is not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
