"""The figures of a suite: `(Figure, numbers drawn)` by name, from its metrics alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.configs.recipes import LARGEST, product_of
from experiments.configs.suites import FIGURES
from experiments.report.run_figures import legend_below, path_of, pooled_reliability
from experiments.results.significance import standard_error
from experiments.results.styles import METRICS, QUANTITIES, SUBSPACES, order_of, style_of
from experiments.results.wording import labels_said
from experiments.system.files import plain
from subspace_jax import plotting

Metrics = Mapping[str, Any]
Drawn = tuple[Figure, dict]

_PATHS = ("line", "layerwise_line", "curve")
_LEVELS = ("standard", "standard_matched", "ema", "ensemble")
# Methods whose confidences are shown; the records of others lack the curves.
_SHOWN = ("standard", "ema", "label_smoothing", "dropout", "line", "layerwise_line")


def draw(metrics: Metrics, names: Sequence[str]) -> dict[str, Drawn]:
    """The figures that are asked for and have data; with any, what is known of the confidences.

    Each shows its own products, whatever else there are runs of; of a sweep, what it chose.
    """
    rows = [row for row in metrics["table"] if row["setting"] == "article"]
    runs = _chosen(metrics)
    noise = max((row["label_noise"] for row in metrics["table"]), default=0.0)
    rates = (0.0, noise) if noise else (0.0,)
    tuned = [row for row in metrics["table"] if row["setting"] == "tuned"]

    def paths(name, rate):
        return _paths(_at(runs, rate), _at(_of_figure(name, rows), rate), rate)

    def dots(rows, metrics):
        return _dots({rate: _at(rows, rate) for rate in rates}, metrics)

    makers = {
        "fig3": lambda: paths("fig3", 0.0),
        "fig4": lambda: _by_size(_at(rows, 0.0)),
        "fig5": lambda: dots(_of_figure("fig5", rows), ("ece", "scaled.ece", "nll")),
        "fig6": lambda: _severities(_at(runs, 0.0)),
        "fig7": lambda: paths("fig7", noise) if noise else None,
        "rivals": lambda: dots(_of_figure("rivals", rows), METRICS),
        "tuned": lambda: dots(tuned, METRICS),
    }
    drawn = {name: makers[name]() for name in names if name in makers}
    drawn["reliability"] = _reliability(_at(runs, noise), noise)
    drawn["selection"] = _selection(_at(runs, noise), noise)
    return {name: made for name, made in drawn.items() if made is not None}


def _chosen(metrics: Metrics) -> list[Metrics]:
    """The runs by the article's recipe; of a sweep, those with the values that it chose."""
    swept = {
        (found["label_noise"], found["method"]): found["values"]
        for found in metrics["chosen"]
        if found["setting"] == "article"
    }
    return [
        run
        for run in metrics["runs"]
        if run["setting"] == "article"
        and run["values"] == swept.get((run["label_noise"], run["method"]), {})
    ]


def _at(entries: Sequence[Metrics], noise: float) -> list[Metrics]:
    return [entry for entry in entries if entry["label_noise"] == noise]


def _of_figure(name: str, rows: Sequence[Metrics]) -> list[Metrics]:
    """Rows of the figure's own products, whatever their names in the table."""
    wanted = {product_of(product) for product in FIGURES[name][0]}
    return [row for row in rows if _side(row) in wanted]


def _side(row: Metrics) -> tuple[str, str]:
    """The recipe and the place of a row."""
    return product_of(row["method"])[0], row["place"]


def _title(noise: float) -> str:
    """`Clean labels` or `20 % wrong labels`."""
    said = labels_said(noise)
    return said[0].upper() + said[1:]


def _deployed(rows: Sequence[Metrics]) -> list[Metrics]:
    """What is deployed: all but the ends."""
    return sorted(
        (row for row in rows if row["place"] != "endpoints"), key=lambda r: order_of(r["method"])
    )


def _row(rows: Sequence[Metrics], product: str) -> Metrics | None:
    return next((row for row in rows if _side(row) == product_of(product)), None)


def _value(row: Metrics, metric: str) -> tuple[float, float]:
    """Mean and standard error in the unit of the metric; NaN for null."""
    scale, found = QUANTITIES[metric].scale, row[metric]
    mean, stderr = (np.nan if found[key] is None else found[key] for key in ("mean", "stderr"))
    return scale * mean, scale * stderr


def _paths(runs: Sequence[Metrics], rows: Sequence[Metrics], noise: float) -> Drawn | None:
    """Accuracy along each path, levels of methods without one, and two-member ensembles."""
    curves = {}
    for method in _PATHS:
        paths = [path_of(run["points"]) for run in runs if run["method"] == method]
        if paths and all(paths):
            values = 100 * np.array([[p["accuracy"] for p in path.values()] for path in paths])
            curves[method] = (list(paths[0]), values)
    if not curves:
        return None
    shown = [row for row in _deployed(rows) if "accuracy" in row]
    figure = Figure(figsize=(9.4, max(4.4, 1.6 + 0.34 * len(shown))), layout="constrained")
    ax, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    data = {"paths": {}, "levels": {}}
    for method, (alphas, values) in curves.items():
        style = style_of(method)
        mean, stderr = values.mean(0), standard_error(values)
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
            "accuracy": mean,
            "stderr": stderr,
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
    ax.set(title=_title(noise), ylabel="Test accuracy [%]")
    _draw_dots(shown, "accuracy", right)
    labels = [text.get_text().replace(" (2 x", "\n(2 x") for text in right.get_yticklabels()]
    right.set_yticks(range(len(shown)), labels)
    right.set_title("Deployed networks")
    data["dots"] = [_numbers(row, ("accuracy",)) for row in shown]
    _legend_below(figure, ax)
    return figure, plain(data)


def _legend_below(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    legend_below(figure, dict(zip(labels, handles, strict=True)))


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
    """The method, and what it costs more than standard training and one network."""
    label = style_of(row["method"]).label
    if row["method"] in SUBSPACES and row["place"] != "midpoint":
        label += f", {row['place']}"
    training, passes = row.get("training_cost") or 1, row.get("inference_passes", 1)
    costs = [f"{training:.2g} x training"] if training > 1.05 else []
    costs += [f"{passes} passes"] if passes > 1 else []
    return label + (f" ({', '.join(costs)})" if costs else "")


def _dots(groups: Mapping[float, Sequence[Metrics]], metrics: Sequence[str]) -> Drawn | None:
    """A panel for every metric (across) and label noise (down), a dot for every method."""
    kept = [
        (
            _title(noise),
            [row for row in _deployed(rows) if all(metric in row for metric in metrics)],
        )
        for noise, rows in groups.items()
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
    return figure, plain(data)


def _numbers(row: Metrics, metrics: Sequence[str]) -> dict:
    names = ("method", "place", "num_seeds", "training_cost", "inference_passes")
    return {name: row[name] for name in names} | {metric: row[metric] for metric in metrics}


def _by_size(rows: Sequence[Metrics]) -> Drawn | None:
    """Accuracy against the number of endpoints, or of averaged models."""
    families = {
        "simplex": ("standard", "line", "simplex_{m}"),
        "layerwise_simplex": ("standard", "layerwise_line", "layerwise_simplex_{m}"),
        "swa_constant": ("standard", "swa_constant_2", "swa_constant_{m}"),
        "swa_cyclic": ("standard", "swa_cyclic_2", "swa_cyclic_{m}"),
        "standard_matched": ("standard", "standard_matched", "standard_matched_{m}"),
    }
    figure = Figure(figsize=(7.4, 4.8), layout="constrained")
    ax, data = figure.subplots(), {}
    for family, (one, two, more) in families.items():
        names = [one, two, *(more.format(m=m) for m in range(3, LARGEST + 1))]
        found = [(m, _row(rows, name)) for m, name in enumerate(names, 1)]
        found = [(m, *_value(row, "accuracy")) for m, row in found if row]
        if len(found) < 2:
            continue
        m, mean, stderr = map(np.array, zip(*found, strict=True))
        data[family] = {"m": m, "accuracy": mean, "stderr": stderr}
    most = max((max(drawn["m"]) for drawn in data.values()), default=1)
    for number, (family, drawn) in enumerate(data.items()):
        style = style_of(f"{family}_3")
        at = np.arange(1, most + 1)
        # Values that are missing break the line.
        mean, stderr = (
            np.array([dict(zip(drawn["m"], drawn[name], strict=True)).get(m, np.nan) for m in at])
            for name in ("accuracy", "stderr")
        )
        ax.errorbar(
            at + 0.012 * (most - 1) * (number - (len(data) - 1) / 2),
            mean,
            yerr=stderr,
            color=style.color,
            marker=style.marker,
            # Both simplexes have one colour.
            markerfacecolor="white" if family == "layerwise_simplex" else style.color,
            markersize=11 if style.marker == "*" else 7,
            linestyle=style.linestyle,
            capsize=2,
            label=_FAMILIES[family],
        )
    if not data:
        return None
    ax.set(xlabel="Endpoints, or averaged models, $m$", ylabel="Test accuracy [%]")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, ax)
    return figure, plain(data)


_FAMILIES = {
    "simplex": "Simplex",
    "layerwise_simplex": "Layerwise simplex",
    "swa_constant": "SWA, constant learning rate",
    "swa_cyclic": "SWA, cyclic learning rate",
    "standard_matched": "Standard (matched to $m$)",
}


def _severities(runs: Sequence[Metrics]) -> Drawn | None:
    """Accuracy under snow against its severity, 0 being clean."""
    wanted = (*_PATHS, "standard", "standard_matched", "ema", "swa_constant_5", "dropout")
    methods: dict[str, list] = {}
    for run in runs:
        place = run["places"]["midpoint"]
        if run["method"] in wanted and (snow := place.get("corruptions", {}).get("snow")):
            severities = sorted(map(int, snow))
            line = [place["accuracy"], *(snow[str(s)]["accuracy"] for s in severities)]
            methods.setdefault(run["method"], []).append(line)
    if not methods:
        return None
    figure = Figure(figsize=(7.4, 4.8), layout="constrained")
    ax, data = figure.subplots(), {"severities": [0, *severities], "methods": {}}
    for method in sorted(methods, key=order_of):
        values, style = 100 * np.array(methods[method]), style_of(method)
        mean, stderr = values.mean(0), standard_error(values)
        ax.errorbar(
            data["severities"],
            mean,
            yerr=stderr,
            color=style.color,
            marker=style.marker,
            linestyle=style.linestyle,
            capsize=2,
            label=style.label,
        )
        data["methods"][method] = {
            "accuracy": mean,
            "stderr": stderr,
            "num_seeds": len(values),
        }
    ax.set(xlabel="Severity of snow (0: clean images)", ylabel="Test accuracy [%]")
    ax.spines[["top", "right"]].set_visible(False)
    _legend_below(figure, ax)
    return figure, plain(data)


def _reliability(runs: Sequence[Metrics], noise: float) -> Drawn | None:
    """Reliability diagrams, all seeds pooled."""
    found: dict[str, list] = {}
    for run in runs:
        place = run["places"]["midpoint"]
        if run["method"] in _SHOWN and "reliability" in place:
            found.setdefault(run["method"], []).append(place["reliability"])
    if not found:
        return None
    figure = Figure(figsize=(2.0 * len(found) + 0.4, 3.2), layout="constrained")
    figure.suptitle(f"{_title(noise)}, all seeds pooled", fontsize=12)
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    data = {}
    for ax, method in zip(axes, sorted(found, key=order_of), strict=True):
        pooled = pooled_reliability(found[method])
        plotting.reliability_diagram(pooled, ax, color=style_of(method).color)
        ax.set_title(style_of(method).label, fontsize=10)
        ax.label_outer()
        data[method] = pooled._asdict()
    return figure, plain(data)


def _selection(runs: Sequence[Metrics], noise: float) -> Drawn | None:
    """The risk of keeping the surest predictions, and how well confidence tells foreign images."""
    found: dict[str, list] = {}
    for run in sorted(runs, key=lambda run: order_of(run["method"])):
        place = run["places"]["midpoint"]
        if run["method"] in _SHOWN and "risk_coverage" in place:
            found.setdefault(run["method"], []).append(place)
    if not found:
        return None
    foreign = list(dict.fromkeys(s for places in found.values() for s in places[0].get("ood", ())))
    figure = Figure(figsize=(5.2 + 2.9 * len(foreign), 4.2), layout="constrained")
    ratios = (1.6, *(1.0 for _ in foreign))
    first, *axes = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    figure.suptitle(_title(noise), fontsize=12)
    data: dict[str, dict] = {"risk_coverage": {}, "auroc": {}}
    for method, places in found.items():
        style = style_of(method)
        coverage = 100 * np.array(places[0]["risk_coverage"]["coverage"])
        risks = 100 * np.array([place["risk_coverage"]["risk"] for place in places])
        mean, stderr = risks.mean(0), standard_error(risks)
        first.plot(coverage, mean, color=style.color, linestyle=style.linestyle, label=style.label)
        if stderr is not None:
            band = {"color": style.color, "alpha": 0.15, "linewidth": 0}
            first.fill_between(coverage, mean - stderr, mean + stderr, **band)
        data["risk_coverage"][method] = {
            "coverage": coverage,
            "risk": mean,
            "stderr": stderr,
            "num_seeds": len(places),
        }
    first.set(xlabel="Coverage: predictions kept [%]", ylabel="Risk: errors among them [%]")
    first.set_title("Errors among the surest predictions", fontsize=11)
    first.spines[["top", "right"]].set_visible(False)
    for ax, name in zip(axes, foreign, strict=True):
        values = [
            100 * np.array([p["ood"][name]["auroc"] for p in places]) for places in found.values()
        ]
        errors = [standard_error(seeds) for seeds in values]
        styles = [style_of(method) for method in found]
        plotting.dots(
            [seeds.mean() for seeds in values],
            ax,
            labels=[style.label for style in styles],
            stderr=[np.nan if error is None else error for error in errors],
            colors=[style.color for style in styles],
            markers=[style.marker for style in styles],
        )
        ax.tick_params(labelleft=ax is axes[0])
        ax.set(xlabel="AUROC [%]")
        ax.set_title(f"Test images against\n{_NAMES_OF_FOREIGN.get(name, name)}", fontsize=11)
        left, right = ax.get_xlim()
        if left < 50 < right:
            ax.axvline(50, color="0.6", linewidth=1, linestyle=":", zorder=1)
        data["auroc"][name] = {
            method: {"mean": seeds.mean(), "stderr": error}
            for method, seeds, error in zip(found, values, errors, strict=True)
        }
    _legend_below(figure, first)
    return figure, plain(data)


_NAMES_OF_FOREIGN = {"noise": "uniform noise", "shuffled": "shuffled pixels"}
