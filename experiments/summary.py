"""From the records of a suite's runs to its table, and what is left of each gain under control.

    python -m experiments.summary results/digits/metrics.json [--only standard,line]

prints the table of what predicts and the sentences as Markdown, for the README.
"""

import argparse
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.stats

import subspace_jax as ss
from experiments import styles
from experiments.errors import UserError
from experiments.recipes import LARGEST, PRODUCTS, product_of

SIGNIFICANCE = 0.05
MIN_SEEDS = 3  # fewer are not tested
# What is reported. Runs of "tuning" chose the values of "tuned"; others start from those of "partner".
SETTINGS = ("article", "tuned")

# A subspace, and ordinary training whose steps are those of its midpoint. Each of a curve's three points
# has mean weight 1/3, so that its midpoint moves at a third of the learning rate.
MATCHED = {
    "line": "standard_matched",
    "layerwise_line": "standard_matched",
    "curve": "standard_matched_3",
    **{
        f"{kind}_{m}": f"standard_matched_{m}"
        for kind in ("simplex", "layerwise_simplex")
        for m in range(3, LARGEST + 1)
    },
}

# Of a subspace these places have rows too.
_FURTHER_PLACES = ("endpoints", "ensemble")
# In a place, but no result on test images.
_NO_RESULTS = ("inference_passes", "num_bins", "reliability", "risk_coverage", "validation")
_NO_RESULTS += ("coords", "weights", "oracle", "epoch")

Record = Mapping[str, Any]
Key = tuple[str, float, str]  # setting, label noise, recipe
BySeed = dict[int, Record]


# Which runs count


def choose_values(runs: Sequence[Record]) -> dict[Key, Record]:
    """What each sweep chose: the values with the best validation accuracy of the midpoint.

    The lower NLL decides between equals. Nothing but `places.midpoint.validation` is read of the
    results, and that only where there is a choice. Means over seeds are compared. Values that lack a
    seed of the sweep, since its run diverged or failed, never win.

    Args:
      runs: records of runs; those of a sweep differ in `values`.

    Returns:
      `values` by `(setting, label_noise, recipe)`, without the sweeps in which nothing can win.
    """
    sweeps: dict[Key, dict[str, list[Record]]] = {}
    for run in runs:
        sweeps.setdefault(_key(run), {}).setdefault(_frozen(run["values"]), []).append(run)
    chosen = {}
    for key, cells in sorted(sweeps.items()):
        best = next(iter(cells))
        if len(cells) > 1:
            seeds = {run["seed"] for group in cells.values() for run in group}
            losses = {cell: _losses(group, seeds) for cell, group in sorted(cells.items())}
            best = min(losses, key=losses.__getitem__)
            if losses[best][0] == math.inf:
                continue
        chosen[key] = cells[best][0]["values"]
    return chosen


def _key(run: Record) -> Key:
    return run["setting"], run["label_noise"], run["method"]


def _frozen(values: Record) -> str:
    """The same of tuples and of the lists that JSON makes of them."""
    return json.dumps(values, sort_keys=True)


def _losses(runs: Sequence[Record], seeds: set[int]) -> tuple[float, float]:
    """Mean error and NLL on validation data; infinite where a seed has none."""
    midpoints = [run["places"]["midpoint"] for run in runs if run.get("places")]
    found = [metrics for midpoint in midpoints if (metrics := midpoint.get("validation"))]

    whole = [m for m in found if m["accuracy"] is not None and m["nll"] is not None]
    if len(whole) < len(seeds):
        return math.inf, math.inf
    accuracy, nll = (statistics.fmean(m[name] for m in whole) for name in ("accuracy", "nll"))
    return round(1 - accuracy, 9), nll  # sums of the same accuracies may differ in their last bits


def chosen_runs(
    runs: Sequence[Record], chosen: Mapping[Key, Record] | None = None
) -> dict[Key, BySeed]:
    """The runs that count, by `(setting, label_noise, recipe)` and seed, both in order.

    Args:
      runs: records of runs; those that diverged have no places and are left out.
      chosen: what `choose_values` returns; made here if it is not given.
    """
    chosen = choose_values(runs) if chosen is None else chosen
    found: dict[Key, BySeed] = {}
    for run in sorted(runs, key=lambda run: (_key(run), run["seed"])):
        key = _key(run)
        is_chosen = key in chosen and _frozen(run["values"]) == _frozen(chosen[key])
        if is_chosen and run.get("places"):
            found.setdefault(key, {})[run["seed"]] = run
    return found


def column(seeds: BySeed, place: str, metric: str) -> dict[int, float | None]:
    """One metric, by its dotted path within a place, of the seeds that have it.

    Example:
      >>> column({3: {"places": {"midpoint": {"scaled": {"ece": 0.01}}}}}, "midpoint", "scaled.ece")
      {3: 0.01}
    """
    found = {seed: dict(_metrics(run["places"].get(place, {}))) for seed, run in seeds.items()}
    return {seed: metrics[metric] for seed, metrics in found.items() if metric in metrics}


def _metrics(place: Record, prefix: str = "") -> Iterator[tuple[str, float | None]]:
    """All numbers of a place that are results, by their dotted paths."""
    for name, value in place.items():
        if not prefix and name in _NO_RESULTS:
            continue
        if isinstance(value, Mapping):
            yield from _metrics(value, f"{prefix}{name}.")
        elif value is None or isinstance(value, int | float):
            yield f"{prefix}{name}", value


# Tests


class Effect(NamedTuple):
    """A difference that is paired by seed.

    Attributes:
      difference, stderr: mean over seeds of ours minus theirs, and its standard error; `None` where
        a value is not finite, and for the standard error of one seed.
      num_seeds: how many seeds both have.
      p_value: of a two-sided paired t-test; `None` where nothing can be tested: too few seeds, or the
        same difference in all of them, as counts of few images can have it by chance.
    """

    difference: float | None
    stderr: float | None
    num_seeds: int
    p_value: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the p-value is below `SIGNIFICANCE`."""
        return self.p_value is not None and self.p_value < SIGNIFICANCE


def paired(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> Effect:
    """The difference of two columns over the seeds that both have.

    Example:
      >>> paired({0: 2.0, 1: 3.0, 2: 4.0}, {2: 1.0, 1: 1.0, 0: 1.0, 3: 9.0})
      Effect(difference=2.0, stderr=0.577, num_seeds=3, p_value=0.074)
    """
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    n, numbers = len(pairs), [value for pair in pairs for value in pair]
    if not n or None in numbers or not all(map(math.isfinite, numbers)):
        return Effect(None, None, n, None)
    differences = [ours - theirs for ours, theirs in pairs]
    mean = statistics.fmean(differences)
    stderr = statistics.stdev(differences) / n**0.5 if n > 1 else None
    if n < MIN_SEEDS:
        return Effect(mean, stderr, n, None)
    rounding = 1e-14 * max(map(abs, numbers))
    if stderr <= rounding:
        return Effect(mean, stderr, n, 1.0 if abs(mean) <= rounding else None)
    return Effect(mean, stderr, n, float(2 * scipy.stats.t.sf(abs(mean / stderr), n - 1)))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm 1979: the i-th smallest of k p-values times k - i, made monotone; `None` was not tested.

    Example:
      >>> holm([0.5, None, 0.25])
      [0.5, None, 0.5]
    """
    tested = sorted((p_value, i) for i, p_value in enumerate(p_values) if p_value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p_value, i) in enumerate(tested):
        largest = max(largest, min(1.0, p_value * (len(tested) - rank)))
        corrected[i] = largest
    return corrected


# Table


def with_mce(runs: Sequence[Record]) -> list[dict]:
    """Runs with their mean corruption errors, raw and relative to standard training of their seed.

    Every place with `corruptions` gets `corruptions_mce.raw`, and `corruptions_mce.standard` whose
    normaliser is the network of standard training with the same label noise; it is 1 for that
    network itself (see `subspace_jax.metrics.mean_corruption_error`).
    """
    standard = {
        (run["label_noise"], run["seed"]): run["places"]["midpoint"]["corruptions"]
        for run in runs
        if (run["method"], run["setting"]) == ("standard", "article")
        and "corruptions" in run["places"].get("midpoint", {})
    }
    found = []
    for run in runs:
        baseline = standard.get((run["label_noise"], run["seed"]))
        places = {
            name: place | {"corruptions_mce": _mce(place["corruptions"], baseline)}
            if "corruptions" in place
            else place
            for name, place in run.get("places", {}).items()
        }
        found.append(run | {"places": places} if "places" in run else run)
    return found


def _mce(corruptions: Record, baseline: Record | None) -> dict[str, float]:
    """A corruption without an error in the baseline leaves the ratio undefined, which is no number."""
    errors, others = np.array(_errors(corruptions)), np.array(_errors(baseline or {}))
    mce = {"raw": float(ss.metrics.mean_corruption_error(errors))}
    if others.size and others.sum(1).all():
        mce["standard"] = float(ss.metrics.mean_corruption_error(errors, others))
    return mce


def _errors(corruptions: Record) -> list[list[float]]:
    return [[1 - found["accuracy"] for found in by.values()] for by in corruptions.values()]


def table(
    runs: Sequence[Record],
    products: Iterable[str] = tuple(PRODUCTS),
    chosen: Mapping[Key, Record] | None = None,
) -> list[dict]:
    """Means and standard errors over seeds: a row for every product, and for the ends of subspaces.

    Args:
      runs: records of runs; of a sweep, only what it chose counts.
      products: names of `recipes.PRODUCTS`; of several names for one thing the first is used.
      chosen: what `choose_values` returns; made here if it is not given.

    Returns:
      Rows with `setting`, `label_noise`, `method` (the product, or the recipe of a further place),
      `place`, `num_seeds`, `values`, `training_cost` (gradient passes over those of standard training;
      `None` where either is unknown), `inference_passes` and, for every metric of all seeds,
      `{"mean", "stderr"}`: `None` where a value is not finite, and for the standard error of one seed.
    """
    names: dict[tuple[str, str], str] = {}
    for product in products:
        names.setdefault(product_of(product), product)
    trained = {recipe for recipe, _ in names} & styles.SUBSPACES
    for recipe, place in itertools.product(trained, _FURTHER_PLACES):
        names.setdefault((recipe, place), recipe)
    found = chosen_runs(runs, chosen)
    standard = next((cost for key in found if (cost := _cost(found, key, "standard"))), None)
    rows = []
    for (key, seeds), ((recipe, place), product) in itertools.product(found.items(), names.items()):
        setting, noise, owner = key
        places = [run["places"][place] for run in seeds.values() if place in run["places"]]
        if owner != recipe or setting not in SETTINGS or not places:
            continue
        cost = _cost(found, key, recipe)
        rows.append(
            {"setting": setting, "label_noise": noise, "method": product, "place": place}
            | {"num_seeds": len(places), "values": next(iter(seeds.values()))["values"]}
            | {"training_cost": cost / standard if cost and standard else None}
            | {"inference_passes": places[0].get("inference_passes", 1)}
            | _means(places)
        )
    return sorted(rows, key=_rank)


def _cost(found: Mapping[Key, BySeed], key: Key, recipe: str) -> float | None:
    """Mean gradient passes of a recipe's runs; `None` of another recipe, or if they are unknown."""
    passes = [run.get("cost", {}).get("gradient_passes") for run in found[key].values()]
    return None if key[2] != recipe or None in passes else statistics.fmean(passes)


def _rank(row: Record) -> tuple:
    place = _FURTHER_PLACES.index(row["place"]) + 1 if row["place"] in _FURTHER_PLACES else 0
    setting = SETTINGS.index(row["setting"])
    return setting, row["label_noise"], styles.order_of(row["method"]), row["method"], place


def _means(places: Sequence[Record]) -> dict[str, dict]:
    columns = [dict(_metrics(place)) for place in places]
    common = [name for name in columns[0] if all(name in metrics for metrics in columns)]
    return {name: _mean([metrics[name] for metrics in columns]) for name in common}


def _mean(values: Sequence[float | None]) -> dict:
    if None in values:
        return {"mean": None, "stderr": None}
    stderr = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "stderr": stderr}


# What is left of a gain


def survival(
    runs: Sequence[Record], chosen: Mapping[Key, Record] | None = None
) -> list[dict[str, Any]]:
    """How much every subspace's midpoint gains: untuned, over its control, and tuned against tuned.

    A gain is positive where the midpoint is the better one. The p-values are corrected by Holm's
    method for all tests made here.

    Args:
      runs: records of runs.
      chosen: what `choose_values` returns; made here if it is not given.

    Returns:
      An entry for every subspace, label noise and metric of `styles.METRICS` with `method`,
      `label_noise`, `metric`; `untuned`, `matched` and `tuned`, each `{"gain", "stderr", "num_seeds",
      "p_value"}`, or `None` without runs; `share`, the tuned gain over the untuned one as `{"mean",
      "stderr"}`, or `None` if the untuned one is not a significant gain; and `sentence`.
    """
    found = chosen_runs(runs, chosen)
    noises = sorted({noise for _, noise, _ in found})
    entries, sides = [], []
    for method, noise, metric in itertools.product(MATCHED, noises, styles.METRICS):
        rivals = {
            "untuned": ("article", "standard"),
            "matched": ("article", MATCHED[method]),
            "tuned": ("tuned", "standard"),
        }
        compared = {
            name: [
                _gains(found.get((setting, noise, recipe), {}), metric)
                for recipe in (method, rival)
            ]
            for name, (setting, rival) in rivals.items()
        }
        if any(ours.keys() & theirs.keys() for ours, theirs in compared.values()):
            entries.append({"method": method, "label_noise": noise, "metric": metric})
            sides.append(compared)
    effects = [{name: paired(*both) for name, both in compared.items()} for compared in sides]
    p_values = iter(holm([e.p_value for group in effects for e in group.values()]))
    for entry, compared, group in zip(entries, sides, effects, strict=True):
        group = {name: e._replace(p_value=next(p_values)) for name, e in group.items()}
        entry |= {name: _gain(e) for name, e in group.items()}
        entry["share"] = _share(compared, group)
        entry["sentence"] = _survival_sentence(entry, group)
    return entries


def _gains(seeds: BySeed, metric: str) -> dict[int, float | None]:
    """The midpoint's metric, with the sign that makes more better."""
    sign = 1 if metric == "accuracy" else -1
    values = column(seeds, "midpoint", metric)
    return {seed: None if value is None else sign * value for seed, value in values.items()}


def _gain(found: Effect) -> dict | None:
    values = found._asdict()
    return {"gain": values.pop("difference")} | values if found.num_seeds else None


def _share(compared: Record, effects: Mapping[str, Effect]) -> dict | None:
    """The ratio of the mean gains and, to first order, its standard error over common seeds."""
    untuned, tuned = effects["untuned"], effects["tuned"]
    if not untuned.is_significant or untuned.difference <= 0 or tuned.difference is None:
        return None
    ratio = tuned.difference / untuned.difference

    def by_seed(name):
        ours, theirs = compared[name]
        return {seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()}

    before, after = by_seed("untuned"), by_seed("tuned")
    rest = [after[seed] - ratio * before[seed] for seed in sorted(before.keys() & after.keys())]
    stderr = None
    if len(rest) > 1:
        stderr = statistics.stdev(rest) / len(rest) ** 0.5 / untuned.difference
    return {"mean": ratio, "stderr": stderr}


_RIVALS = {
    "untuned": "standard training by the article's recipe",
    "matched": "its matched control",
    "tuned": "standard training with both tuned",
}


def _survival_sentence(entry: Record, effects: Mapping[str, Effect]) -> str:
    """`Line, clean labels, accuracy: better by 2.78 ± 0.55 points than ...`"""
    metric = entry["metric"]
    said = "; ".join(
        f"{_better(metric, e)} than {_RIVALS[name]}" for name, e in effects.items() if e.num_seeds
    )
    label = styles.style_of(entry["method"]).label
    start = f"{label}, {labels_said(entry['label_noise'])}, {metric_said(metric)}: {said}"
    untuned, tuned = effects["untuned"], effects["tuned"]
    if not tuned.num_seeds:
        return f"{start}."
    if share := entry["share"]:
        start += f"; {percent(share['mean'], share['stderr'])} of the gain survives tuning"
    elif untuned.num_seeds:
        start += "; no significant untuned gain that could survive tuning"
    if tuned.is_significant and tuned.difference > 0:
        return f"{start}."
    few = "; there are too few seeds to test it" if tuned.num_seeds < MIN_SEEDS else ""
    shown = (
        "not better" if tuned.difference is None or tuned.difference <= 0 else "not shown better"
    )
    return f"{start}. The tuned midpoint is {shown} than tuned standard training{few}."


def _better(metric: str, found: Effect) -> str:
    if found.difference is None:
        return "not comparable (a value is not finite)"
    stderr = found.stderr
    word = "better" if found.difference >= 0 else "worse"
    if found.num_seeds < MIN_SEEDS:
        note = " (too few seeds to test)"
    else:
        note = "" if found.is_significant else " (not significant)"
    return f"{word} by {amount(metric, abs(found.difference), stderr, sign='')}{note}"


# How numbers are said


def labels_said(noise: float) -> str:
    """`clean labels` or `20 % wrong labels`."""
    return f"{100 * noise:.0f} % wrong labels" if noise else "clean labels"


def metric_said(metric: str) -> str:
    """A metric in the middle of a sentence.

    Example:
      >>> metric_said("corruptions.snow.3.accuracy"), metric_said("scaled.nll")
      ('accuracy under snow of severity 3', 'scaled NLL')
    """
    *parents, name = metric.split(".")
    name = name if name in ("accuracy", "brier") else name.upper()
    if parents[:1] == ["corruptions"]:
        return f"{name} under {parents[1].replace('_', ' ')} of severity {parents[2]}"
    return " ".join([*parents, name])


def amount(metric: str, value: float | None, stderr: float | None = None, sign: str = "+") -> str:
    """A difference in the unit of its metric.

    Example:
      >>> amount("accuracy", 0.0278, 0.0055), amount("nll", -0.1)
      ('+2.78 ± 0.55 points', '-0.100 nats')
    """
    if value is None:
        return "not finite"
    _, scale, decimals = styles.quantity_of(metric)
    unit = " points" if scale == 100 else " nats" if metric.endswith("nll") else ""
    return f"{_spread(scale * value, stderr and scale * stderr, decimals, sign)}{unit}"


def percent(value: float, stderr: float | None) -> str:
    """A share.

    Example:
      >>> percent(0.25, 0.1), percent(0.25, None)
      ('25 ± 10 %', '25 %')
    """
    return f"{_spread(100 * value, stderr and 100 * stderr, 0, '')} %"


def _spread(value: float, stderr: float | None, decimals: int, sign: str = "") -> str:
    mean = f"{value:{sign}.{decimals}f}"
    return mean if stderr is None else f"{mean} ± {stderr:.{decimals}f}"


def markdown(metrics: Record, products: Iterable[str] = ()) -> str:
    """The results as Markdown: what predicts, by what its training costs; what holds.

    Under a heading for every training budget, rows are sorted by setting, label noise and what a
    prediction costs.

    Args:
      metrics: of a suite.
      products: the rows that are wanted, with the number of claims that hold in place of all
        sentences; empty for all.

    Raises:
      UserError: one that the suite does not have.
    """
    rows = [row for row in metrics["table"] if row["place"] != "endpoints"]
    if products := tuple(products):
        names = dict.fromkeys(row["method"] for row in rows)
        for product in products:
            if product not in names:
                raise UserError(f"--only has {product!r}; choose among {', '.join(names)}.")
        wanted = {(product, product_of(product)[1]) for product in products}
        rows = [row for row in rows if (row["method"], row["place"]) in wanted]
    budgets: dict[float, list[Record]] = {}
    for row in rows:
        cost = row.get("training_cost")
        budgets.setdefault(math.inf if cost is None else round(cost, 1), []).append(row)
    parts = []
    for budget, group in sorted(budgets.items()):
        heading = f"{budget:g} x that of standard training" if math.isfinite(budget) else "unknown"
        parts.append(f"#### Training budget: {heading}\n\n{_markdown_table(group)}")
    said = [metrics["counts"]] if products else [*metrics["verdict"], *chosen_said(metrics)]
    sentences = "\n".join(f"- {sentence}" for sentence in said)
    return "\n\n".join(filter(None, [*parts, sentences]))


def chosen_said(metrics: Record) -> list[str]:
    """What sweeps and the tuning chose, and from which grids, a sentence for each label noise."""
    config, groups = metrics.get("config", {}), {}
    for entry in metrics.get("chosen", ()):
        if entry["setting"] in SETTINGS:
            groups.setdefault((entry["setting"], entry["label_noise"]), []).append(entry)
    said = []
    for (setting, noise), entries in groups.items():
        grid = {}
        for entry in entries:
            if setting == "tuned":
                tuning = config.get("tuning", {})
                grid |= {name: tuning.get(name.split(".")[-1], ()) for name in entry["values"]}
            else:
                sweep = config.get("sweeps", {}).get(entry["method"], {})
                grid |= {name: sweep.get("values", ()) for name in entry["values"]}
        values = "; ".join(
            f"{styles.style_of(entry['method']).label}: {_values_said(entry['values'])}"
            for entry in entries
        )
        others = "; ".join(
            f"{_name_said(name)} {', '.join(f'{value:g}' for value in tried)}"
            for name, tried in grid.items()
        )
        start = f"Chosen by validation accuracy, {setting} setting, {labels_said(noise)}"
        said.append(f"{start}: {values}. Tried: {others}.")
    return said


def _values_said(values: Record) -> str:
    return ", ".join(f"{_name_said(name)} {value:g}" for name, value in values.items())


def _name_said(name: str) -> str:
    return name.split(".")[-1].replace("_", " ")


def _markdown_table(rows: Sequence[Record]) -> str:
    header = ["Setting", "Noise", "Method", "Place", "Passes"]
    metrics = styles.shown(rows)
    rule = [":--"] * 4 + ["--:"] * (2 + len(metrics))
    header += [styles.QUANTITIES[name].label for name in metrics] + ["Seeds"]

    def rank(row):
        return *_rank(row)[:2], row.get("inference_passes", 1), *_rank(row)[2:]

    cells = [
        [row["setting"], f"{100 * row['label_noise']:.0f} %", styles.style_of(row["method"]).label]
        + [_place_said(row), str(row.get("inference_passes", 1))]
        + [_cell(row, name) for name in metrics]
        + [str(row["num_seeds"])]
        for row in sorted(rows, key=rank)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *cells])


def _place_said(row: Record) -> str:
    subspace = row["method"] in styles.SUBSPACES
    return "network" if row["place"] == "midpoint" and not subspace else row["place"]


def _cell(row: Record, metric: str) -> str:
    mean = row.get(metric, {}).get("mean")
    if mean is None:
        return "not finite" if metric in row else ""
    _, scale, decimals = styles.QUANTITIES[metric]
    stderr = row[metric]["stderr"]
    return _spread(scale * mean, stderr and scale * stderr, decimals)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the rows of what predicts and the sentences of a metrics.json as Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.summary",
        description="Print the results of a suite as Markdown.",
    )
    parser.add_argument("metrics", type=Path, help="the metrics.json of a suite")
    parser.add_argument("--only", default="", help="methods with commas between; default: all")
    options = parser.parse_args(argv)
    try:
        metrics = json.loads(options.metrics.read_text())
        if not isinstance(metrics, dict) or "table" not in metrics:
            raise UserError(f"{options.metrics} has no table; give the metrics.json of a suite.")
        print(markdown(metrics, filter(None, options.only.split(","))))
    except OSError as error:
        print(f"error: {options.metrics} can't be read ({error.strerror}).", file=sys.stderr)
        return 2
    except json.JSONDecodeError:
        print(f"error: {options.metrics} is not JSON; give a metrics.json.", file=sys.stderr)
        return 2
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
