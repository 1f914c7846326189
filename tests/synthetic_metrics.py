"""Made-up metrics.json contents: of one run, and of a suite, whose runs are those of its plan.

A suite's metrics are what `reproduce.metrics.results` makes of the made-up records.
"""

import functools
import itertools
import json

import numpy as np

from experiments.configs import recipes, suites
from experiments.reproduce import metrics, plan
from experiments.results import styles, summary

NUM_POINTS, NUM_BINS = 11, 10
SEVERITIES = (1, 2, 3, 4, 5)
# Products of a suite that is quick to make, of every kind of place.
FEW = (
    *("standard", "standard_matched", "early_stopping", "ema", "swa_constant", "dropout"),
    *("mc_dropout", "label_smoothing", "ensemble", "line", "layerwise_line", "curve", "simplex_3"),
)


def reliability(rng, accuracy, sharpness):
    """Bins whose accuracy is off the confidence by `sharpness`; the lowest one is empty."""
    edges = np.linspace(0, 1, NUM_BINS + 1)
    centre = (edges[1:] + edges[:-1]) / 2
    weight = centre**6 * rng.uniform(0.7, 1.3, NUM_BINS)
    weight[0] = 0.0
    weight /= weight.sum()
    correct = np.clip(centre + sharpness * centre * (1 - centre) * 3 * accuracy, 0, 1)
    return {
        "confidence": np.where(weight > 0, centre, 0.0).tolist(),
        "accuracy": np.where(weight > 0, correct, 0.0).tolist(),
        "weight": weight.tolist(),
        "edges": edges.tolist(),
    }


def short(accuracy, nll, ece):
    return {"accuracy": float(accuracy), "nll": float(nll), "ece": float(ece)}


def metrics_of(rng, accuracy, nll, ece):
    """All metrics of one prediction."""
    return short(accuracy + rng.normal(0, 0.0003), nll, ece) | {
        "brier": float(1.4 * (1 - accuracy)),
        "brier_decomposition": {"reliability": 0.01, "resolution": 0.8, "uncertainty": 0.9},
        "adaptive_ece": float(0.9 * ece),
        "classwise_ece": float(0.2 * ece),
        "max_calibration_error": float(4 * ece),
        "entropy": float(0.8 * nll),
        "aurc": float(0.2 * (1 - accuracy)),
        "num_bins": NUM_BINS,
        "reliability": reliability(rng, accuracy, rng.uniform(-0.5, 0.3)),
    }


def _bump(alpha):
    """1 at the midpoint, 0 at both ends."""
    return np.sqrt(4 * alpha * (1 - alpha))


def _base(rng, method, label_noise):
    """Accuracy, NLL and ECE of one end, and what the midpoint is more accurate by."""
    base = 0.972 - 0.55 * label_noise + rng.normal(0, 0.004)
    gain = (0.004 + 0.25 * label_noise) * (1.2 if method == "layerwise_line" else 1.0)
    nll = (0.11 + 2.2 * label_noise) * rng.normal(1, 0.05)
    ece = (0.012 + 0.4 * label_noise) * rng.normal(1, 0.1)
    return base, gain, nll, ece


def points_of(rng, method, label_noise=0.0):
    """The points of one run, accurate at the midpoint and less so at the ends."""
    base, gain, nll, ece = _base(rng, method, label_noise)

    def point(coords, name, *metrics):
        return {"name": name, "coords": coords} | metrics_of(rng, *metrics)

    kind = recipes.RECIPES.get(method, {"kind": method}).get("kind", "standard")
    if kind in ("line", "layerwise_line", "curve"):
        names = {0.0: "endpoint 0", 0.5: "midpoint", 1.0: "endpoint 1"}
        return [
            point(
                float(alpha),
                names.get(float(alpha), ""),
                base + gain * _bump(alpha) + rng.normal(0, 0.0008),
                nll * (1.1 - 0.4 * _bump(alpha)),
                ece * (1.2 - 0.5 * _bump(alpha)),
            )
            for alpha in np.linspace(0, 1, NUM_POINTS).round(7)
        ]
    count = recipes.RECIPES.get(method, {}).get(
        "subspace.num_endpoints", recipes.default_num_endpoints(kind)
    )
    if count == 1 or kind.startswith("standard"):
        gain *= {"standard": 0.0, "standard_matched": 0.1, "ema": 0.3}.get(method, 0.2)
        return [point([1.0], "midpoint", base + gain, nll * (1 - gain), ece)]
    corners = np.eye(count)
    points = [
        point(corner.tolist(), f"endpoint {i}", base + rng.normal(0, 0.003), nll, ece)
        for i, corner in enumerate(corners)
    ]
    for i, j in itertools.combinations(range(count), 2):
        if count > 2:
            middle = ((corners[i] + corners[j]) / 2).tolist()
            points.append(point(middle, f"edge {i}-{j}", base + 0.8 * gain, 0.8 * nll, 0.8 * ece))
    centre = point([1 / count] * count, "midpoint", base + gain, 0.7 * nll, 0.7 * ece)
    return [*points, centre]


def _ends(points):
    return [p for p in points if p["name"].startswith("endpoint")]


def _middle(points):
    return next(p for p in points if p["name"] == "midpoint")


def ensembles_of(rng, points):
    """Of opposite points of a path; of the corners of a simplex, all together and in pairs."""
    if len(points) == 1:
        return []
    if isinstance(points[0]["coords"], float):
        coords = [point["coords"] for point in points]
        groups = [(coords[i], coords[-1 - i]) for i in range(len(coords) // 2)]
    else:
        corners = [p["coords"] for p in _ends(points)]
        groups = [corners, *(itertools.combinations(corners, 2) if len(corners) > 2 else ())]
    middle = _middle(points)
    return [
        {"members": list(group), "average": average}
        | short(
            middle["accuracy"] + rng.normal(0.001, 0.0005),
            rng.normal(0.97, 0.02) * middle["nll"],
            rng.normal(1.1, 0.05) * middle["ece"],
        )
        | {"disagreement": 0.02, "total_variation": 0.03}
        for group in groups
        for average in ("probability", "logit")
    ]


def _geometry(size):
    return {
        "distances": (7.5 * (1 - np.eye(size))).tolist(),
        "squared_cosines": (0.02 + 0.98 * np.eye(size)).tolist(),
    }


def _provenance(command):
    return {
        "command": command,
        "commit": "0123abc",
        "versions": {"jax": "0.10.2", "numpy": "2.3.1"},
        "device": "cpu <AMD & co>",
        "seed": 0,
        "wall_seconds": 4521.7,
        "images_per_second": 8123.4,
    }


def run_metrics(kind="line", seed=0):
    """What `python -m experiments.cifar` writes, for one kind of subspace."""
    rng = np.random.default_rng(seed)
    points = points_of(rng, kind)
    history = [
        {
            "epoch": epoch,
            "step": 390 * epoch,
            "loss": 1.8 * np.exp(-epoch / 8) + 0.05 + 0.02 * rng.random(),
            "penalty": 0.0 if kind.startswith("standard") else 0.3 * np.exp(-epoch / 5),
            "accuracy": 0.99 - 0.6 * np.exp(-epoch / 8),
            "learning_rate": 0.05 * (1 + np.cos(np.pi * epoch / 30)),
            "seconds": 12.0 * epoch,
        }
        for epoch in range(1, 31)
    ]
    return {
        "config": {"kind": kind, "num_epochs": 30, "optimizer": {"momentum": 0.9}, "note": "a<b"},
        "provenance": _provenance("python -m experiments.cifar --config='experiments/<x>.py'"),
        "history": history,
        "points": points,
        "ensembles": ensembles_of(rng, points),
        "geometry": _geometry(len(_ends(points))) if len(points) > 1 else {},
    }


def landscape_of(kind):
    """What `python -m experiments.plane` writes."""
    x = np.linspace(-2, 7, 6)
    nll = (0.1 + 0.05 * (x[:, None] - 2) ** 2 + 0.05 * (x - 2) ** 2).tolist()
    nll[0][0] = None
    corners = [[0.0, 0.0], [5.0, 0.0], [2.5, 4.0]]
    path = corners[:2] if kind == "line" else [*corners, corners[0]]
    return {
        "slice": {"kind": kind, "x": x.tolist(), "y": x.tolist(), "nll": nll, "accuracy": nll}
        | {"corners": corners, "path": path, "midpoint": [2.5, 0.0]}
        | {"other": corners[2] if kind == "line" else None}
        | {"num_images": 500, "recalibration_images": 1000}
        | dict.fromkeys(("inside", "outside"), {"accuracy": 0.9, "nll": 0.2})
    }


# A suite


def config_of(name="digits", num_seeds=4, products=FEW, **changes):
    """A suite with fewer seeds and products and a small tuning; `a__b=1` sets `config.a.b`."""
    config = suites.get_config(name)
    config.seeds = tuple(range(num_seeds))
    config.products = products
    config.run.evaluation.severities = SEVERITIES
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
    # Each run has random numbers of its own, the same in every suite.
    rng = np.random.default_rng([*entry.id.encode()])
    points = points_of(rng, entry.method, entry.label_noise)
    places = _places(rng, entry, points)
    if entry.setting == "tuning":
        held_out = places["midpoint"]["validation"]
        places = {"midpoint": {"inference_passes": 1, "validation": held_out}}
    kept = ("name", "coords", "accuracy", "nll", "brier", "ece")
    passes = {"ensemble": 2.0, "curve_finding": 3.0, "sam": 2.0}.get(entry.method, 1.0)
    return {
        "id": entry.id,
        "method": entry.method,
        "setting": entry.setting,
        "label_noise": entry.label_noise,
        "seed": entry.seed,
        "values": dict(entry.values),
        "places": places,
        "points": [{name: point[name] for name in kept} for point in points],
        "ensembles": ensembles_of(rng, points),
        "geometry": _geometry(max(1, len(_ends(points)))),
        "recalibration": {},
        "cost": {
            "gradient_passes": 30_000 * passes,
            "training_images": 30_000,
            "step_memory_bytes": 1e6,
            "training_seconds": 3.0,
            "evaluation_seconds": 1.0,
        },
        "wall_seconds": 4.0,
        "config_sha256": 64 * "0",
    }


def _places(rng, entry, points):
    middle = _middle(points)
    passes = {"mc ensemble": 10, "ensemble": max(2, len(_ends(points)))}
    names = dict.fromkeys(("midpoint", *recipes.places_of(entry.method)))
    if len(points) > 1:
        names |= dict.fromkeys(("endpoints", "ensemble"))
    if entry.config.evaluation.oracle_epochs == 0:
        names.pop("early stopping", None)
    places = {}
    for name in names:
        metrics = {metric: middle[metric] for metric in styles.METRICS}
        if name == "early stopping":
            places[name] = {"inference_passes": 1, "oracle": True, "epoch": 4}
            places[name]["accuracy"] = metrics["accuracy"] + 0.01
        elif name == "endpoints":
            ends = _ends(points)
            means = {m: float(np.mean([end[m] for end in ends])) for m in (*metrics, "brier")}
            places[name] = {"inference_passes": 1} | means
        else:
            if name != "midpoint":
                metrics["accuracy"] += 0.002
            places[name] = {"inference_passes": passes.get(name, 1)} | _place(rng, **metrics)
    return places


def _place(rng, accuracy, nll, ece):
    """A prediction under everything that the digits suite asks for."""
    snow = {
        str(severity): short(accuracy - 0.06 * severity - rng.uniform(0, 0.01), 2 * nll, 2 * ece)
        for severity in SEVERITIES
    }
    held_out = short(accuracy + rng.normal(0, 0.003), nll * rng.normal(1, 0.05), ece)
    metrics = metrics_of(rng, accuracy, nll, ece) | {"accuracy": accuracy}
    shares = np.linspace(0, 1, 50)
    risk = rng.uniform(0.5, 1.5) * (1 - accuracy) * shares
    foreign = {
        name: {"auroc": rng.uniform(0.7, 0.95), "fpr95": rng.uniform(0.2, 0.6)}
        for name in ("noise", "shuffled")
    }
    return metrics | {
        "validation": held_out,
        "risk_coverage": {"coverage": shares.tolist(), "risk": risk.tolist()},
        "temperature": 1.3,
        "scaled": {"nll": 0.9 * nll, "ece": 0.5 * ece},
        "corruptions": {"snow": snow},
        "corruptions_mce": {"raw": float(np.mean([1 - s["accuracy"] for s in snow.values()]))},
        "ood": foreign,
    }


def metrics_from(config, runs, failures=None):
    """What the command makes of records, as it is read from its metrics.json."""
    record = _provenance("python -m experiments.reproduce digits")
    return json.loads(json.dumps(metrics.results(config, runs, failures or {}, record)))


def suite_metrics(**changes):
    """What `python -m experiments.reproduce` writes; see `config_of` for the arguments."""
    return json.loads(_suite_text(tuple(sorted(changes.items()))))


@functools.cache
def _suite_text(changes):
    config = config_of(**dict(changes))
    return json.dumps(metrics_from(config, records_of(config)))
