"""From the records of a suite's runs to its table, and to the gains of its subspaces."""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import subspace_jax as ss
from experiments.configs.recipes import LARGEST, PRODUCTS, product_of
from experiments.results import styles
from experiments.results.significance import Effect, holm, paired

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
    return sorted(rows, key=rank)


def _cost(found: Mapping[Key, BySeed], key: Key, recipe: str) -> float | None:
    """Mean gradient passes of a recipe's runs; `None` of another recipe, or if they are unknown."""
    passes = [run.get("cost", {}).get("gradient_passes") for run in found[key].values()]
    return None if key[2] != recipe or None in passes else statistics.fmean(passes)


def rank(row: Record) -> tuple:
    """Where a row stands: by setting, label noise, method, place."""
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


# Gains


def gains(
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
      "stderr"}`, or `None` if the untuned one is not a significant gain.
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
                _signed(found.get((setting, noise, recipe), {}), metric)
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
    return entries


def _signed(seeds: BySeed, metric: str) -> dict[int, float | None]:
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
