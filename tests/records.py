"""Records of runs: the committed ones, and made-up ones whose differences are known."""

import functools
import json
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
SUITES = ("digits", "digits-bfloat16", "cifar10-small", "cifar10-few")


@functools.cache
def committed(name):
    """The metrics.json of a folder of results/; to be read, not changed."""
    return json.loads((RESULTS / name / "metrics.json").read_text())


def midpoints(name):
    """The rows of a suite's table that are of midpoints, by label noise, setting and method."""
    rows = [row for row in committed(name)["table"] if row["place"] == "midpoint"]
    return {(row["label_noise"], row["setting"], row["method"]): row for row in rows}


def flat(value, prefix=""):
    """What nested dictionaries and lists hold, by dotted paths."""
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for name, entry in items for k, v in flat(entry, f"{prefix}.{name}").items()}
    return {prefix.removeprefix("."): value}


def values(mean, count=8, spread=0.002, seed=0):
    """Numbers whose mean is `mean`, one a seed."""
    deviations = np.random.default_rng(seed).normal(0, spread, count)
    return mean + deviations - deviations.mean()


def record(recipe, seed, places, *, setting="article", noise=0.0, values=None, passes=1000.0):
    """A run's record."""
    run = {"method": recipe, "seed": seed, "setting": setting, "label_noise": noise}
    run |= {"id": f"{setting}/{recipe}/{noise}/{seed}", "values": values or {}}
    run |= {"cost": {"gradient_passes": passes, "training_images": 10}}
    return run if places is None else run | {"places": places}


def place(accuracy=0.9, nll=0.5, ece=0.05, passes=1, **others):
    """A place with metrics."""
    metrics = {"accuracy": float(accuracy), "nll": float(nll), "ece": float(ece)}
    return {"inference_passes": passes} | metrics | others


def runs_of(recipe, accuracy, *, nll=None, ece=None, **where):
    """One run for each entry of `accuracy`."""
    nll = np.full(len(accuracy), 0.5) if nll is None else nll
    ece = np.full(len(accuracy), 0.05) if ece is None else ece
    return [
        record(recipe, i, {"midpoint": place(accuracy[i], nll[i], ece[i])}, **where)
        for i in range(len(accuracy))
    ]


def shuffled(items, seed=0):
    return [items[i] for i in np.random.default_rng(seed).permutation(len(items))]
