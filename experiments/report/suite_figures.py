"""The figures of a suite: `(Figure, numbers drawn)` by name, from its metrics alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.configs.recipes import COLOURS, LARGEST, METHODS, PRODUCTS, SHOWN, TIMES_M
from experiments.configs.suites import FIGURES
from experiments.report.run_figures import legend_below, path_of
from experiments.results.significance import standard_error
from experiments.results.styles import MCE, METRICS, QUANTITIES, SUBSPACES, look, order_of, style_of
from experiments.results.summary import SETTINGS, chosen_runs
from experiments.results.wording import labels_said
from experiments.system.files import plain
from subspace_jax import plotting
from subspace_jax.metrics import Reliability

Metrics = Mapping[str, Any]
Runs = Mapping[str, Sequence[Metrics]]  # by recipe
Drawn = tuple[Figure, dict]

# What a family is with two networks, where that has a name of its own.
_OF_TWO = {"simplex": "line", "layerwise_simplex": "layerwise_line"}
_OF_TWO |= {f"{name}_lr_m": f"{two}_lr_m" for name, two in _OF_TWO.items()}
_OF_TWO["standard_matched"] = "standard_matched"
_FOREIGN = {"noise": "uniform noise", "shuffled": "shuffled pixels"}


def draw(metrics: Metrics, names: Sequence[str]) -> dict[str, Drawn]:
    """The figures of some names that have data, each of its own products, and those of confidences."""
    counted, table = chosen_runs(metrics["runs"]), metrics["table"]
    noise = max((row["label_noise"] for row in table), default=0.0)
    article, tuned, corrupted = ([row for row in table if row["setting"] == s] for s in SETTINGS)
    clean, noisy = (_runs(counted, rate) for rate in (0.0, noise))
    makers = {
        "fig3": lambda rows: _paths(clean, _at(rows, 0.0), 0.0),
        "fig4": lambda rows: _by_size(_at(rows, 0.0)),
        "fig5": lambda rows: _dots(rows, ("ece", "scaled.ece", "nll")),
        "fig6": lambda rows: _severities(clean),
        "fig7": lambda rows: _paths(noisy, _at(rows, noise), noise) if noise else None,
        "learning_rate": lambda rows: (
            _dots(rows, METRICS) if any(row["method"] in TIMES_M for row in rows) else None
        ),
        "corruptions": lambda rows: _dots(corrupted, MCE),
        "rivals": lambda rows: _dots(rows, METRICS),
        "tuned": lambda rows: _dots(tuned, METRICS),
    }
    drawn = {}
    for name in filter(makers.__contains__, names):
        own = {PRODUCTS[product] for product in FIGURES[name][0]}  # whatever names rows have
        drawn[name] = makers[name]([row for row in article if _side(row) in own])
    drawn |= {"reliability": _reliability(noisy, noise), "selection": _selection(noisy, noise)}
    return {name: (made[0], plain(made[1])) for name, made in drawn.items() if made is not None}


def _runs(counted: Mapping[tuple, Mapping[int, Metrics]], noise: float) -> Runs:
    """The runs by the article's recipe, methods in their order."""
    found = {
        key[2]: [*runs.values()] for key, runs in counted.items() if key[:2] == ("article", noise)
    }
    return {method: found[method] for method in sorted(found, key=order_of)}


def _at(rows: Sequence[Metrics], noise: float) -> list[Metrics]:
    return [row for row in rows if row["label_noise"] == noise]


def _side(row: Metrics) -> tuple[str, str]:
    """The recipe and the place of a row."""
    return PRODUCTS[row["method"]][0], row["place"]


def _title(noise: float) -> str:
    """`Clean labels` or `20 % wrong labels`."""
    said = labels_said(noise)
    return said[0].upper() + said[1:]


def _row(rows: Sequence[Metrics], product: str) -> Metrics | None:
    return next((row for row in rows if _side(row) == PRODUCTS[product]), None)


def _value(row: Metrics, metric: str) -> tuple[float, float]:
    """Mean and standard error in the unit of the metric; NaN for null."""
    scale, found = QUANTITIES[metric].scale, row[metric]
    mean, stderr = (np.nan if found[key] is None else found[key] for key in ("mean", "stderr"))
    return scale * mean, scale * stderr


def _over_seeds(name: str, fractions: Sequence) -> dict[str, Any]:
    """The mean over seeds in per cent, and its standard error."""
    values = 100 * np.array(fractions)
    return {name: values.mean(0), "stderr": standard_error(values), "num_seeds": len(values)}


def _paths(runs: Runs, rows: Sequence[Metrics], noise: float) -> Drawn | None:
    """Accuracy along each path, levels of methods without one, and two-member ensembles."""
    data: dict[str, Any] = {"paths": {}, "levels": {}}
    for method in SHOWN["path"]:
        paths = [path_of(run["points"]) for run in runs.get(method, ())]
        if paths and all(paths):
            values = [[point["accuracy"] for point in path.values()] for path in paths]
            data["paths"][method] = {"alphas": list(paths[0])} | _over_seeds("accuracy", values)
    if not data["paths"]:
        return None
    shown = [row for row in _deployed(rows) if "accuracy" in row]
    figure = Figure(figsize=(9.4, max(4.4, 1.6 + 0.34 * len(shown))), layout="constrained")
    ax, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    for method, drawn in data["paths"].items():
        band = {"stderr": drawn["stderr"]}
        plotting.path(drawn["alphas"], drawn["accuracy"], ax, **band, **look(method, "marker"))
    for method in SHOWN["level"]:
        if row := _row(rows, method):
            mean, stderr = _value(row, "accuracy")
            band = {"stderr": stderr if np.isfinite(stderr) else None}
            plotting.level(mean, ax, **band, **look(method))
            data["levels"][method] = {"accuracy": mean, "stderr": stderr}
    ax.set(title=_title(noise), ylabel="Test accuracy [%]")
    _draw_dots(shown, "accuracy", right)
    labels = [text.get_text().replace(" (2 x", "\n(2 x") for text in right.get_yticklabels()]
    right.set_yticks(range(len(shown)), labels)
    right.set_title("Deployed networks")
    data["dots"] = [_numbers(row, ("accuracy",)) for row in shown]
    legend_below(figure, ax)
    return figure, data


def _deployed(rows: Sequence[Metrics]) -> list[Metrics]:
    """What is deployed: all but the ends."""
    kept = [row for row in rows if row["place"] != "endpoints"]
    return sorted(kept, key=lambda row: order_of(row["method"]))


def _draw_dots(rows: Sequence[Metrics], metric: str, ax: Axes) -> None:
    values = [_value(row, metric) for row in rows]
    _mark(values, [row["method"] for row in rows], [_label(row) for row in rows], ax)
    ax.set_xlabel(QUANTITIES[metric].label)
    ax.xaxis.set_major_locator(MaxNLocator(4))


def _mark(values: Sequence, methods: Sequence[str], labels: Sequence[str], ax: Axes) -> None:
    """A dot with its whisker for every method, of its mean and standard error."""
    mean, stderr = np.reshape(values, (-1, 2)).T
    colors, markers = zip(*((s.color, s.marker) for s in map(style_of, methods)), strict=True)
    plotting.dots(mean, ax, labels=labels, stderr=stderr, colors=colors, markers=markers)


def _label(row: Metrics) -> str:
    """The method, and what it costs more than standard training and one network."""
    label = style_of(row["method"]).label
    if row["method"] in SUBSPACES and row["place"] != "midpoint":
        label += f", {row['place']}"
    training, passes = row["training_cost"] or 1, row["inference_passes"]
    costs = [f"{training:.2g} x training"] if training > 1.05 else []
    costs += [f"{passes} passes"] if passes > 1 else []
    return label + (f" ({', '.join(costs)})" if costs else "")


def _dots(rows: Sequence[Metrics], metrics: Sequence[str]) -> Drawn | None:
    """A panel for every metric (across) and label noise (down), a dot for every method."""
    whole = [row for row in _deployed(rows) if all(metric in row for metric in metrics)]
    noises = sorted({row["label_noise"] for row in whole})
    if not noises:
        return None
    groups = {_title(noise): _at(whole, noise) for noise in noises}
    heights = [0.9 + 0.24 * len(group) for group in groups.values()]
    figure = Figure(figsize=(10.5, sum(heights)), layout="constrained")
    axes = figure.subplots(len(groups), len(metrics), squeeze=False, height_ratios=heights)
    for line, (title, group) in zip(axes, groups.items(), strict=True):
        for ax, metric in zip(line, metrics, strict=True):
            _draw_dots(group, metric, ax)
            if ax is not line[0]:
                ax.tick_params(labelleft=False)
        line[0].set_title(title, loc="left")
    data = {title: [_numbers(row, metrics) for row in group] for title, group in groups.items()}
    return figure, data


def _numbers(row: Metrics, metrics: Sequence[str]) -> dict:
    names = ("method", "place", "num_seeds", "training_cost", "inference_passes")
    return {name: row[name] for name in (*names, *metrics)}


def _by_size(rows: Sequence[Metrics]) -> Drawn | None:
    """Accuracy against the number of endpoints, or of averaged models."""
    data: dict[str, Any] = {}
    sized = [name for name, row in METHODS.items() if row.sizes]
    # Subspaces first, and the matched control last.
    for family in sorted(sized, key=lambda name: -list(COLOURS).index(METHODS[name].family)):
        two = _OF_TWO.get(family, f"{family}_2")
        names = ["standard", two, *(f"{family}_{m}" for m in range(3, LARGEST + 1))]
        found = [(m, _row(rows, name)) for m, name in enumerate(names, 1)]
        found = [(m, *_value(row, "accuracy")) for m, row in found if row]
        if len(found) > 1:
            data[family] = dict(
                zip(("m", "accuracy", "stderr"), zip(*found, strict=True), strict=True)
            )
    if not data:
        return None
    figure = Figure(figsize=(7.4, 4.8), layout="constrained")
    ax = figure.subplots()
    most = max(max(drawn["m"]) for drawn in data.values())
    for number, (family, drawn) in enumerate(data.items()):
        # Values that are missing break the line.
        values = np.full((2, most), np.nan)
        values[:, np.array(drawn["m"]) - 1] = drawn["accuracy"], drawn["stderr"]
        style = style_of(f"{family}_3")
        shift = 0.012 * (most - 1) * (number - (len(data) - 1) / 2)
        # Both simplexes have one colour.
        face = "white" if family == "layerwise_simplex" else style.color
        shape = {"markerfacecolor": face, "markersize": 11 if style.marker == "*" else 7}
        shape |= look(f"{family}_3", "marker") | {"label": METHODS[family].label}
        ax.errorbar(np.arange(1, most + 1) + shift, values[0], yerr=values[1], capsize=2, **shape)
    ax.set(xlabel="Endpoints, or averaged models, $m$", ylabel="Test accuracy [%]")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    legend_below(figure, ax)
    return figure, data


def _severities(runs: Runs) -> Drawn | None:
    """Accuracy under snow against its severity, 0 being clean."""
    methods: dict[str, list] = {}
    for method in filter(SHOWN["severity"].__contains__, runs):
        for place in (run["places"]["midpoint"] for run in runs[method]):
            if snow := place.get("corruptions", {}).get("snow"):
                at = [0, *sorted(map(int, snow))]
                line = [place["accuracy"], *(snow[str(s)]["accuracy"] for s in at[1:])]
                methods.setdefault(method, []).append(line)
    if not methods:
        return None
    figure = Figure(figsize=(7.4, 4.8), layout="constrained")
    ax = figure.subplots()
    drawn = {method: _over_seeds("accuracy", values) for method, values in methods.items()}
    for method, found in drawn.items():
        shape = {"capsize": 2} | look(method, "marker")
        ax.errorbar(at, found["accuracy"], yerr=found["stderr"], **shape)
    ax.set(xlabel="Severity of snow (0: clean images)", ylabel="Test accuracy [%]")
    ax.spines[["top", "right"]].set_visible(False)
    legend_below(figure, ax)
    return figure, {"severities": at, "methods": drawn}


def _confidences(runs: Runs, name: str) -> dict[str, list[Metrics]]:
    """The deployed places that have a curve of the confidences, of the methods whose are shown."""
    found = {
        method: [place for run in group if name in (place := run["places"]["midpoint"])]
        for method, group in runs.items()
        if method in SHOWN["curves"]  # the records of others lack them
    }
    return {method: places for method, places in found.items() if places}


def _reliability(runs: Runs, noise: float) -> Drawn | None:
    """Reliability diagrams, all seeds pooled."""
    found = _confidences(runs, "reliability")
    if not found:
        return None
    figure = Figure(figsize=(2.0 * len(found) + 0.4, 3.2), layout="constrained")
    figure.suptitle(f"{_title(noise)}: bins and ECE of all seeds together", fontsize=12)
    axes = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    data = {}
    for ax, (method, places) in zip(axes, found.items(), strict=True):
        pooled = _pooled([place["reliability"] for place in places])
        plotting.reliability_diagram(pooled, ax, color=style_of(method).color)
        ax.set_title(style_of(method).label, fontsize=10)
        ax.label_outer()
        data[method] = pooled._asdict()
    return figure, data


def _pooled(reliabilities: Sequence[Metrics]) -> Reliability:
    """One reliability of all seeds together: weights averaged, bin means weighted by them."""
    confidence, accuracy, weight, edges = (
        np.asarray([entry[name] for entry in reliabilities], dtype=float)
        for name in Reliability._fields
    )
    total = weight.sum(axis=0)
    means = (
        np.where(weight > 0, weight * values, 0.0).sum(axis=0) / np.where(total > 0, total, 1)
        for values in (confidence, accuracy)
    )
    return Reliability(*means, total / len(weight), edges[0])


def _selection(runs: Runs, noise: float) -> Drawn | None:
    """The risk of keeping the surest predictions, and how well confidence tells foreign images."""
    found = _confidences(runs, "risk_coverage")
    if not found:
        return None
    foreign = list(dict.fromkeys(s for places in found.values() for s in places[0].get("ood", ())))
    figure = Figure(figsize=(5.2 + 2.9 * len(foreign), 4.2), layout="constrained")
    ratios = (1.6, *(1.0 for _ in foreign))
    first, *axes = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    figure.suptitle(_title(noise), fontsize=12)
    data: dict[str, dict] = {"risk_coverage": {}, "auroc": {}}
    for method, places in found.items():
        coverage = 100 * np.array(places[0]["risk_coverage"]["coverage"])
        drawn = _over_seeds("risk", [place["risk_coverage"]["risk"] for place in places])
        mean, stderr = drawn["risk"], drawn["stderr"]
        first.plot(coverage, mean, **look(method))
        if stderr is not None:
            band = {"color": style_of(method).color, "alpha": 0.15, "linewidth": 0}
            first.fill_between(coverage, mean - stderr, mean + stderr, **band)
        data["risk_coverage"][method] = {"coverage": coverage} | drawn
    first.set(xlabel="Coverage: predictions kept [%]", ylabel="Risk: errors among them [%]")
    first.set_title("Errors among the surest predictions", fontsize=11)
    first.spines[["top", "right"]].set_visible(False)
    for ax, name in zip(axes, foreign, strict=True):
        drawn = {
            method: _over_seeds("mean", [place["ood"][name]["auroc"] for place in places])
            for method, places in found.items()
        }
        data["auroc"][name] = {m: {k: d[k] for k in ("mean", "stderr")} for m, d in drawn.items()}
        values = np.array([[d["mean"], d["stderr"]] for d in drawn.values()], float)
        _mark(values, list(drawn), [style_of(method).label for method in drawn], ax)
        ax.tick_params(labelleft=ax is axes[0])
        ax.set(xlabel="AUROC [%]")
        ax.set_title(f"Test images against\n{_FOREIGN.get(name, name)}", fontsize=11)
        left, right = ax.get_xlim()
        if left < 50 < right:
            ax.axvline(50, color="0.6", linewidth=1, linestyle=":", zorder=1)
    legend_below(figure, first)
    return figure, data
