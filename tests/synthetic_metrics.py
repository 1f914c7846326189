"""Made-up metrics.json contents, shaped like those of one run and of the digits suite."""

import itertools

import numpy as np

PATHS = ("line", "layerwise_line", "curve")
METHODS = ("standard", "standard_matched", "ema", "label_smoothing", *PATHS, "simplex")
VERDICT = [
    "With clean labels the midpoint of the line is as accurate as Standard & EMA (p > 0.05).",
    "With 20 % wrong labels the layerwise line is 4.1 points more accurate than Standard.",
]


def reliability(rng, accuracy, sharpness, num_bins=10):
    """Bins whose accuracy is off the confidence by `sharpness`; the lowest one is empty."""
    edges = np.linspace(0, 1, num_bins + 1)
    centre = (edges[1:] + edges[:-1]) / 2
    weight = centre**6 * rng.uniform(0.7, 1.3, num_bins)
    weight[0] = 0.0
    weight /= weight.sum()
    correct = np.clip(centre + sharpness * centre * (1 - centre) * 3 * accuracy, 0, 1)
    return {
        "confidence": np.where(weight > 0, centre, np.nan).tolist(),
        "accuracy": np.where(weight > 0, correct, np.nan).tolist(),
        "weight": weight.tolist(),
        "edges": edges.tolist(),
    }


def point(rng, coords, name, accuracy, nll, ece):
    return {
        "name": name,
        "coords": coords,
        "accuracy": float(accuracy + rng.normal(0, 0.0003)),
        "nll": float(nll),
        "brier": float(1.4 * (1 - accuracy)),
        "brier_decomposition": {"reliability": 0.01, "resolution": 0.8, "uncertainty": 0.9},
        "ece": float(ece),
        "adaptive_ece": float(0.9 * ece),
        "classwise_ece": float(0.2 * ece),
        "max_calibration_error": float(4 * ece),
        "entropy": float(0.8 * nll),
        "aurc": float(0.2 * (1 - accuracy)),
        "num_bins": 10,
        "reliability": reliability(rng, accuracy, rng.uniform(-0.5, 0.3)),
    }


def _bump(alpha):
    """1 at the midpoint, 0 at both ends."""
    return np.sqrt(4 * alpha * (1 - alpha))


def points_of(rng, method, label_noise=0.0):
    """The points of one run, accurate at the midpoint and less so at the ends."""
    base = 0.972 - 0.55 * label_noise + rng.normal(0, 0.004)
    gain = (0.004 + 0.25 * label_noise) * (1.2 if method == "layerwise_line" else 1.0)
    nll = (0.11 + 2.2 * label_noise) * rng.normal(1, 0.05)
    ece = (0.012 + 0.4 * label_noise) * rng.normal(1, 0.1)
    if method in PATHS:
        return [
            point(
                rng,
                float(alpha),
                {0.0: "endpoint 0", 0.5: "midpoint", 1.0: "endpoint 1"}.get(float(alpha), ""),
                base + gain * _bump(alpha) + rng.normal(0, 0.0008),
                nll * (1.1 - 0.4 * _bump(alpha)),
                ece * (1.2 - 0.5 * _bump(alpha)),
            )
            for alpha in np.linspace(0, 1, 21, dtype=np.float32)
        ]
    if method in ("simplex", "layerwise_simplex"):
        corners = np.eye(3)
        points = [
            point(rng, corner.tolist(), f"endpoint {i}", base + rng.normal(0, 0.003), nll, ece)
            for i, corner in enumerate(corners)
        ]
        for i, j in itertools.combinations(range(3), 2):
            middle = ((corners[i] + corners[j]) / 2).tolist()
            points.append(
                point(rng, middle, f"edge {i}-{j}", base + 0.8 * gain, 0.8 * nll, 0.8 * ece)
            )
        centre = point(rng, [1 / 3] * 3, "midpoint", base + gain, 0.7 * nll, 0.7 * ece)
        return [*points, centre]
    extra = {"standard": 0.0, "standard_matched": 0.1, "ema": 0.3, "label_smoothing": 0.2}[method]
    return [point(rng, [1.0], "midpoint", base + extra * gain, nll * (1 - 0.4 * extra), ece)]


def _ensembles(rng, method, points):
    if method in PATHS:
        pairs = [(points[i]["coords"], points[20 - i]["coords"]) for i in range(10)]
    elif method in ("simplex", "layerwise_simplex"):
        corners = [p["coords"] for p in points[:3]]
        pairs = [corners, *itertools.combinations(corners, 2)]
    else:
        return []
    middle = next(p for p in points if p["name"] == "midpoint")
    return [
        {
            "members": list(pair),
            "average": average,
            "accuracy": middle["accuracy"] + rng.normal(0.001, 0.0005),
            "nll": rng.normal(0.97, 0.02) * middle["nll"],
            "ece": rng.normal(1.1, 0.05) * middle["ece"],
            "disagreement": 0.02,
            "total_variation": 0.03,
        }
        for pair in pairs
        for average in ("probability", "logit")
    ]


def _geometry(method):
    size = 3 if "simplex" in method else 2
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
        "ensembles": _ensembles(rng, kind, points),
        "geometry": {} if kind.startswith("standard") else _geometry(kind),
    }


def suite_metrics(num_seeds=8):
    """What `python -m experiments.digits` writes."""
    rng = np.random.default_rng(1)
    runs = []
    for setting, methods in {
        "article": METHODS,
        "tuned": ("standard", "layerwise_line"),
    }.items():
        for noise, method, seed in itertools.product((0.0, 0.2), methods, range(num_seeds)):
            points = points_of(rng, method, noise)
            runs.append(
                {
                    "method": method,
                    "setting": setting,
                    "label_noise": noise,
                    "seed": seed,
                    "points": points,
                    "ensembles": _ensembles(rng, method, points),
                    "geometry": _geometry(method),
                }
            )
    return {
        "config": {"num_epochs": 100, "num_seeds": num_seeds, "path": {"num_points": 21}},
        "provenance": _provenance("python -m experiments.digits"),
        "runs": runs,
        "table": _table(runs),
        "verdict": VERDICT,
    }


def _table(runs):
    groups = {}
    for run in runs:
        key = run["setting"], run["label_noise"], run["method"]
        middle = [p for p in run["points"] if p["name"] == "midpoint"] or run["points"]
        ends = [p for p in run["points"] if p["name"].startswith("endpoint")]
        places = {"midpoint": middle, "endpoints": ends, "ensemble": run["ensembles"][:1]}
        for place, entries in places.items():
            if entries:
                groups.setdefault((*key, place), []).append(entries)
    rows = []
    for (setting, noise, method, place), seeds in groups.items():
        row = {"setting": setting, "label_noise": noise, "method": method, "place": place}
        row["num_seeds"] = len(seeds)
        for name in ("accuracy", "nll", "ece"):
            values = [np.mean([entry[name] for entry in entries]) for entries in seeds]
            stderr = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
            row[name] = {"mean": float(np.mean(values)), "stderr": stderr and float(stderr)}
        rows.append(row)
    return rows
