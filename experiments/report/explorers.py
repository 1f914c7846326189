"""What the script of a run's page draws: numbers in their units, `None` if not finite or not known."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from experiments.report import landscape_figures, run_figures
from experiments.results.styles import METRICS, QUANTITIES, deployed
from experiments.system.files import plain

Metrics = Mapping[str, Any]

_DIGITS = 5  # of what is drawn and not read


def data_of(metrics: Metrics) -> dict[str, Any]:
    """All that the page's script draws of a run, as JSON values: the parts for which there are data."""
    points, ensembles = metrics.get("points", ()), metrics.get("ensembles", ())
    parts = {
        "path": _path(points, ensembles),
        "triangle": _triangle(points),
        "reliability": _bins(deployed(points) or {}),
        "history": _history(metrics.get("history", ())),
        "plane": _plane(metrics.get("landscape", {}).get("slice")),
    }
    ramp = matplotlib.colormaps["cividis"](np.linspace(0, 1, 16))
    return {
        "quantities": [{"name": name} | _axis(name) for name in METRICS],
        "colours": [to_hex(colour) for colour in ramp],
    } | {name: part for name, part in parts.items() if part}


def _axis(name: str) -> dict[str, Any]:
    return {"label": QUANTITIES[name].label, "decimals": QUANTITIES[name].decimals}


def _values(entries: Sequence[Metrics | None], name: str, scale: float = 0) -> list[float | None]:
    """One metric in its unit."""
    scale = scale or QUANTITIES[name].scale
    found = [entry and entry.get(name) for entry in entries]
    return [plain(None if value is None else scale * value) for value in found]


def _path(points: Sequence[Metrics], ensembles: Sequence[Metrics]) -> dict | None:
    path = run_figures.path_of(points)
    if not path:
        return None
    entries, pairs = list(path.values()), run_figures.mirror_pairs(ensembles)
    series = {"One network": entries}
    if pairs:
        series["Ensemble of α and 1 − α"] = [pairs.get(alpha) for alpha in path]
    return {
        "xs": list(path),
        "names": [entry["name"] for entry in entries],
        "panels": [
            _axis(name)
            | {"series": [{"name": k, "ys": _values(found, name)} for k, found in series.items()]}
            for name in METRICS
        ],
        "bins": [_bins(entry) for entry in entries],
    }


def _triangle(points: Sequence[Metrics]) -> dict | None:
    entries = run_figures.triangle_of(points)
    if not entries:
        return None
    coords = [list(entry["coords"]) for entry in entries]
    return {
        "coords": coords,
        "names": [entry["name"] for entry in entries],
        "values": [_values(entries, name) for name in METRICS],
        "triangles": run_figures.meshes_of(coords).tolist(),
        "corners": run_figures.EQUILATERAL.tolist(),
        "bins": [_bins(entry) for entry in entries],
    }


def _bins(entry: Metrics) -> dict | None:
    """Of the reliability diagram; bins of weight 0 are empty."""
    found = entry.get("reliability")
    return found and plain(found, _DIGITS)


def _history(history: Sequence[Metrics]) -> dict | None:
    if not history:
        return None
    panels = []
    for name, label, scale, decimals in run_figures.CURVES:
        series = [{"name": "Training", "ys": _values(history, name, scale)}]
        panels.append({"label": label, "decimals": decimals, "series": series})
    penalty = _values(history, "penalty", 1.0)
    if any(penalty):
        panels[0]["series"].append({"name": "Cosine penalty", "ys": penalty})
    return {"xs": [entry["epoch"] for entry in history], "panels": panels}


def _plane(found: Metrics | None) -> dict | None:
    """A slice of the loss as a picture behind, with bounds of its colours."""
    if not found:
        return None
    names = ("kind", "corners", "path", "midpoint", "other", "num_images", "recalibration_images")
    names += ("x", "y", "nll")
    levels = landscape_figures.levels_of(np.asarray(found["nll"], float)).tolist()
    return plain({k: found[k] for k in names if k in found}, _DIGITS) | {"levels": levels}
