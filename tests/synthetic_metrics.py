"""What no committed record has: a run of every kind of subspace, and the runs of a suite's plan."""

import itertools
import json

import numpy as np
from records import committed, place

import subspace_jax as ss
from experiments.configs import recipes, suites
from experiments.evaluation import layout
from experiments.reproduce import metrics, plan
from experiments.results import summary
from experiments.results.styles import METRICS

LINE = committed("tiny-imagenet-20")  # a run of a line, with five points
_SUBSPACES = {"standard": ss.simplex(1), "simplex": ss.simplex(3), "simplex_4": ss.simplex(4)}


def run_metrics(kind="line", grid_steps=0):
    """The committed run of a line, or its metrics at the points of another subspace, all different."""
    if kind not in _SUBSPACES:
        return LINE | {"config": LINE["config"] | {"kind": kind, "recipe": ""}}
    points = [
        LINE["points"][i % 5]
        | {name: LINE["points"][i % 5][name] * (1 + i / 100) for name in METRICS}
        | {"name": point.name, "coords": layout.short(point.coords).tolist()}
        for i, point in enumerate(layout.points_of(_SUBSPACES[kind], 5, grid_steps))
    ]
    corners = [point["coords"] for point in points if point["name"].startswith("endpoint")]
    groups = [corners, *itertools.combinations(corners, 2)] if len(corners) > 1 else []
    ensembles = [LINE["ensembles"][0] | {"members": list(group)} for group in groups]
    history = [epoch | {"penalty": 0.0} for epoch in LINE["history"]]
    config = LINE["config"] | {"kind": kind, "recipe": ""}
    return {"config": config, "provenance": LINE["provenance"], "history": history} | {
        "points": points,
        "ensembles": ensembles,
        "geometry": LINE["geometry"] if groups else {},
    }


def landscape_of(method):
    """A slice that the digits have, of a line or a triangle."""
    runs = committed("digits")["landscapes"]
    found = next(run["landscape"]["slice"] for run in runs if run["method"] == method)
    return {"slice": found}


def config_of(num_seeds=4, products=("standard", "dropout", "line"), **changes):
    """The digits with fewer seeds and products and a small tuning; `a__b=1` sets `config.a.b`."""
    config = suites.get_config("digits")
    config.seeds = tuple(range(num_seeds))
    config.products = products
    config.landscape.seeds = ()
    config.tuning.recipes = ("standard", "ema", "layerwise_line")
    config.tuning.learning_rate = (0.1, 1.0)
    config.tuning.weight_decay = (1e-4,)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def records_of(config, figures=tuple(suites.FIGURES)):
    """A made-up record for every run that the suite's figures need."""
    entries = [*plan.article_entries(config, figures), *plan.tuning_entries(config, figures)]
    runs = [_record(entry) for entry in entries]
    chosen = summary.choose_values(runs)
    return runs + [_record(entry) for entry in plan.tuned_entries(config, chosen)]


def _record(entry):
    accuracy = np.random.default_rng([*entry.id.encode()]).uniform(0.8, 0.9)
    rate = dict(entry.values).get("optimizer.learning_rate", 0.0)  # the smallest is chosen
    found = place(accuracy, validation={"accuracy": 0.9 - rate / 10, "nll": 0.5})
    names = ("midpoint", *recipes.places_of(entry.method))
    run = {"id": entry.id, "method": entry.method, "setting": entry.setting, "seed": entry.seed}
    run |= {"label_noise": entry.label_noise, "values": dict(entry.values)}
    run |= {"places": dict.fromkeys(names, found), "config_sha256": 64 * "0", "wall_seconds": 4.0}
    return run | {"cost": {"gradient_passes": 30_000.0, "training_images": 30_000}}


def metrics_from(config, runs):
    """What the command makes of records, as it is read from its metrics.json."""
    made = {"command": "python -m experiments.reproduce digits", "commit": "0123abc"}
    made |= {"versions": {"jax": "0.10.2"}, "device": "cpu", "seed": 0}
    return json.loads(json.dumps(metrics.results(config, runs, {}, made)))
