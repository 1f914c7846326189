"""What the script of a run's page draws: numbers in the units in which they are shown.

Lists run over points or epochs. A value that is not finite or not known is `None`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import to_hex

from experiments.report import landscape_figures, run_figures, triangle
from experiments.results.styles import METRICS, QUANTITIES, deployed
from experiments.system.files import plain

Metrics = Mapping[str, Any]

# The names of what is shown along a path.
_ONE, _PAIR = "One network", "Ensemble of α and 1 − α"
_MAP_COLOURS = 16
_DIGITS = 5  # of what is drawn and not read


def data_of(metrics: Metrics) -> dict[str, Any]:
    """All that the page's script draws of a run.

    Args:
      metrics: of the run, and its `landscape` if there is one.

    Returns:
      JSON values: `quantities`, `colours`, and those of `path`, `triangle`, `point`, `history` and
      `plane` for which there are data.
    """
    points, ensembles = metrics.get("points", ()), metrics.get("ensembles", ())
    parts = {
        "path": _path(points, ensembles),
        "triangle": _triangle(points),
        "point": _bins(deployed(points) or {}),
        "history": _history(metrics.get("history", ())),
        "plane": _plane(metrics.get("landscape", {}).get("slice")),
    }
    shown = {name: QUANTITIES[name] for name in METRICS}
    ramp = matplotlib.colormaps["cividis"](np.linspace(0, 1, _MAP_COLOURS))
    return {
        "quantities": [
            {"name": name, "label": quantity.label, "decimals": quantity.decimals}
            for name, quantity in shown.items()
        ],
        "colours": [to_hex(colour) for colour in ramp],
    } | {name: part for name, part in parts.items() if part}


def _values(entries: Sequence[Metrics | None], name: str) -> list[float | None]:
    """One metric in its unit."""
    return [_scaled(entry and entry.get(name), QUANTITIES[name].scale) for entry in entries]


def _scaled(value: float | None, scale: float) -> float | None:
    return plain(None if value is None else scale * value)


def _path(points: Sequence[Metrics], ensembles: Sequence[Metrics]) -> dict | None:
    path = run_figures.path_of(points)
    if not path:
        return None
    entries, pairs = list(path.values()), run_figures.mirror_pairs(ensembles)
    mirrored = [pairs.get(alpha) for alpha in path]
    return {
        "xs": list(path),
        "names": [entry["name"] for entry in entries],
        "panels": [
            {
                "label": QUANTITIES[name].label,
                "decimals": QUANTITIES[name].decimals,
                "series": [{"name": _ONE, "ys": _values(entries, name)}]
                + ([{"name": _PAIR, "ys": _values(mirrored, name)}] if pairs else []),
            }
            for name in METRICS
        ],
        "bins": [_bins(entry) for entry in entries],
    }


def _triangle(points: Sequence[Metrics]) -> dict | None:
    entries = triangle.points_of(points)
    if not entries:
        return None
    coords = [list(entry["coords"]) for entry in entries]
    return {
        "coords": coords,
        "names": [entry["name"] for entry in entries],
        "values": [_values(entries, name) for name in METRICS],
        "triangles": triangle.triangles(coords).tolist(),
        "corners": triangle.EQUILATERAL.tolist(),
        "bins": [_bins(entry) for entry in entries],
    }


def _bins(entry: Metrics) -> dict | None:
    """Of the reliability diagram; bins of weight 0 are empty."""
    found = entry.get("reliability")
    return found and plain(found, _DIGITS)


def _history(history: Sequence[Metrics]) -> dict | None:
    if not history:
        return None
    panels = [
        ("Training loss [nats]", 3, "loss", 1.0),
        ("Training accuracy [%]", 2, "accuracy", 100.0),
        ("Learning rate", 4, "learning_rate", 1.0),
    ]
    of = lambda name, scale: [_scaled(entry.get(name), scale) for entry in history]
    drawn = [
        {
            "label": label,
            "decimals": decimals,
            "series": [{"name": "Training", "ys": of(name, scale)}],
        }
        for label, decimals, name, scale in panels
    ]
    penalty = of("penalty", 1.0)
    if any(penalty):
        drawn[0]["series"].append({"name": "Cosine penalty (part of the objective)", "ys": penalty})
    return {"xs": [entry["epoch"] for entry in history], "panels": drawn}


def _plane(found: Metrics | None) -> dict | None:
    """A slice of the loss as a picture behind, with bounds of its colours."""
    if not found:
        return None
    nll = np.asarray(found["nll"], float)
    names = ("kind", "corners", "path", "midpoint", "other", "num_images", "recalibration_images")
    names += ("x", "y", "nll")
    return plain({name: found[name] for name in names if name in found}, _DIGITS) | {
        "levels": landscape_figures.levels_of(nll).tolist()
    }
