"""From the records of a suite's runs to its table, and to the gains of its subspaces."""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import subspace_jax as ss
from experiments.configs.recipes import PRODUCTS, RECIPES
from experiments.results import styles
from experiments.results.significance import Effect, corrected, paired

# What is reported. Runs of "tuning" chose the values of "tuned"; those of "corrupted" are of
# "article", and see more corruptions; others start from those of "partner".
SETTINGS = ("article", "tuned", "corrupted")

# A subspace, and ordinary training whose steps are those of its midpoint.
MATCHED = {name: row.matched for name, row in RECIPES.items() if row.matched}

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
    """What each sweep chose: the `values` with the best validation accuracy of the midpoint.

    Means over seeds are compared, and the lower NLL decides between equals. Values that lack a seed of
    the sweep, since its run diverged or failed, never win.
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


def chosen_runs(runs: Sequence[Record]) -> dict[Key, BySeed]:
    """The runs that count, in order: those with the values that were chosen, and not diverged."""
    chosen = choose_values(runs)
    found: dict[Key, BySeed] = {}
    for run in sorted(runs, key=lambda run: (_key(run), run["seed"])):
        key = _key(run)
        is_chosen = key in chosen and _frozen(run["values"]) == _frozen(chosen[key])
        if is_chosen and run.get("places"):
            found.setdefault(key, {})[run["seed"]] = run
    return found


def column(seeds: BySeed, place: str, metric: str) -> dict[int, float | None]:
    """One metric, by its dotted path within a place, of the seeds that have it."""
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
    """Runs with their mean corruption errors, raw and relative to standard training of their seed."""
    of = lambda run: (run["setting"] == "corrupted", run["label_noise"], run["seed"])
    standard = {
        of(run): run["places"]["midpoint"].get("corruptions", {})
        for run in runs
        if run["method"] == "standard"
        and run["setting"] in ("article", "corrupted")
        and "midpoint" in run.get("places", {})
    }
    found = []
    for run in runs:
        baseline, places = standard.get(of(run), {}), run.get("places", {})
        mce = {
            name: place | {"corruptions_mce": _mce(place["corruptions"], baseline)}
            for name, place in places.items()
            if "corruptions" in place
        }
        found.append(run | {"places": places | mce} if mce else run)
    return found


def _mce(corruptions: Record, baseline: Record) -> dict[str, float]:
    """A corruption without an error in the baseline leaves the ratio undefined, which is no number."""
    errors, others = (
        np.array([[1 - found["accuracy"] for found in by.values()] for by in record.values()])
        for record in (corruptions, baseline)
    )
    mce = {"raw": float(ss.metrics.mean_corruption_error(errors))}
    if others.size and others.sum(1).all():
        mce["standard"] = float(ss.metrics.mean_corruption_error(errors, others))
    return mce


def table(runs: Sequence[Record], products: Iterable[str] = tuple(PRODUCTS)) -> list[dict]:
    """Means and standard errors over seeds: a row for every product, and for the ends of subspaces.

    A row's `method` is the product, or the recipe of a further place; of several names for one thing
    the first is used. `training_cost` is in units of standard training.
    """
    names: dict[tuple[str, str], str] = {}
    for product in products:
        names.setdefault(PRODUCTS[product], product)
    trained = {recipe for recipe, _ in names} & styles.SUBSPACES
    for recipe, place in itertools.product(trained, _FURTHER_PLACES):
        names.setdefault((recipe, place), recipe)
    found = chosen_runs(runs)
    costs = {key: _cost(seeds) for key, seeds in found.items()}
    standard = next((costs[key] for key in found if key[2] == "standard" and costs[key]), None)
    rows = []
    for (key, seeds), ((recipe, place), product) in itertools.product(found.items(), names.items()):
        setting, noise, owner = key
        places = [run["places"][place] for run in seeds.values() if place in run["places"]]
        if owner != recipe or setting not in SETTINGS or not places:
            continue
        rows.append(
            {"setting": setting, "label_noise": noise, "method": product, "place": place}
            | {"num_seeds": len(places), "values": next(iter(seeds.values()))["values"]}
            | {"training_cost": costs[key] / standard if costs[key] and standard else None}
            | {"inference_passes": places[0].get("inference_passes", 1)}
            | _means(places)
        )
    return sorted(rows, key=_rank)


def _cost(seeds: BySeed) -> float | None:
    """Mean gradient passes of a recipe's runs; `None` if they are unknown."""
    passes = [run.get("cost", {}).get("gradient_passes") for run in seeds.values()]
    return None if None in passes else statistics.fmean(passes)


def _rank(row: Record) -> tuple:
    place = _FURTHER_PLACES.index(row["place"]) + 1 if row["place"] in _FURTHER_PLACES else 0
    setting = SETTINGS.index(row["setting"])
    return setting, row["label_noise"], styles.order_of(row["method"]), row["method"], place


def _means(places: Sequence[Record]) -> dict[str, dict]:
    columns = [dict(_metrics(place)) for place in places]
    found = {}
    for name in (name for name in columns[0] if all(name in metrics for metrics in columns)):
        values, mean, stderr = [metrics[name] for metrics in columns], None, None
        if None not in values:
            mean = statistics.fmean(values)
            stderr = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
        found[name] = {"mean": mean, "stderr": stderr}
    return found


# Gains


def gains(runs: Sequence[Record]) -> list[dict[str, Any]]:
    """How much every subspace's midpoint gains: untuned, over its control, and tuned against tuned.

    The p-values are corrected by Holm's method for all tests made here. `share` is the tuned gain over
    the untuned one, if that is a significant gain.
    """
    found = chosen_runs(runs)
    noises = sorted({noise for _, noise, _ in found})
    sides = {}
    for case in itertools.product(MATCHED, noises, styles.METRICS):
        method, noise, metric = case
        rivals = [("untuned", "article", "standard"), ("matched", "article", MATCHED[method])]
        for name, setting, rival in (*rivals, ("tuned", "tuned", "standard")):
            both = [found.get((setting, noise, recipe), {}) for recipe in (method, rival)]
            sides[case, name] = [_signed(seeds, metric) for seeds in both]
    effects = corrected([paired(*both) for both in sides.values()])
    groups: dict[tuple, dict[str, tuple]] = {}
    fields = ("gain", *Effect._fields[1:])
    for ((case, name), both), effect in zip(sides.items(), effects, strict=True):
        groups.setdefault(case, {})[name] = effect, both
    return [
        dict(zip(("method", "label_noise", "metric"), case, strict=True))
        | {
            name: dict(zip(fields, effect, strict=True)) if effect.num_seeds else None
            for name, (effect, _) in group.items()
        }
        | {"share": _share(*group["untuned"], *group["tuned"])}
        for case, group in groups.items()
        if any(effect.num_seeds for effect, _ in group.values())
    ]


def _signed(seeds: BySeed, metric: str) -> dict[int, float | None]:
    """The midpoint's metric, with the sign that makes more better."""
    sign = 1 if metric == "accuracy" else -1
    values = column(seeds, "midpoint", metric)
    return {seed: None if value is None else sign * value for seed, value in values.items()}


def _share(untuned: Effect, before: Sequence, tuned: Effect, after: Sequence) -> dict | None:
    """The ratio of the mean gains and, to first order, its standard error over common seeds."""
    if not untuned.is_significant or untuned.difference <= 0 or tuned.difference is None:
        return None
    ratio = tuned.difference / untuned.difference
    before, after = (
        {seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()}
        for ours, theirs in (before, after)
    )
    rest = [after[seed] - ratio * before[seed] for seed in sorted(before.keys() & after.keys())]
    stderr = None
    if len(rest) > 1:
        stderr = statistics.stdev(rest) / len(rest) ** 0.5 / untuned.difference
    return {"mean": ratio, "stderr": stderr}
