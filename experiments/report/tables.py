"""The metrics of runs as rows, and rows as aligned text or as cells of a table.

A *row* is a dict with `"accuracy"`, `"nll"` and `"ece"`, each `{"mean", "stderr"}`, and any of
`"setting"`, `"label_noise"`, `"method"`, `"place"` and `"num_seeds"`: an entry of the suite's
`"table"`, or of `run_rows`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.results.styles import METRICS, QUANTITIES, SUBSPACES, order_of, shown, style_of

Metrics = Mapping[str, Any]
Cells = list[list[str]]

# Columns of what a row costs.
_COSTS = {
    "training_cost": ("Training", lambda cost: f"{cost:.3g} x"),
    "inference_passes": ("Inference", lambda passes: f"{passes} x"),
}


def text_table(rows: Sequence[Metrics]) -> str:
    """The rows as a table for the terminal, aligned, one line per row under a header."""
    header, cells, num_texts = cells_of(rows)
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]

    def line(row):
        parts = [
            cell.ljust(width) if i < num_texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return "\n".join(map(line, [header, ["-" * width for width in widths], *cells]))


def run_rows(metrics: Metrics) -> list[Metrics]:
    """Rows for the named points of one run, and for the ensembles of its endpoints."""
    points = metrics.get("points", ())
    ends = {str(p["coords"]): p["name"][9:] for p in points if p["name"].startswith("endpoint ")}
    entries = [(name, p) for p in points if (name := p["name"])] or [("", p) for p in points]
    if len(entries) == 1:
        entries = [("network", entries[0][1])]
    for ensemble in metrics.get("ensembles", ()):
        members = [ends.get(str(member)) for member in ensemble["members"]]
        if all(members) and ensemble["average"] == "probability":
            entries.append((f"ensemble of endpoints {', '.join(members)}", ensemble))
    return [
        {"place": place, **{name: {"mean": entry[name], "stderr": None} for name in METRICS}}
        for place, entry in entries
    ]


def cells_of(rows: Sequence[Metrics]) -> tuple[list[str], Cells, int]:
    """Header, cells, and how many columns are text; methods in order, only columns in use."""
    texts = {
        "setting": ("Setting", str),
        "label_noise": ("Noise", lambda noise: f"{100 * noise:.0f} %"),
        "method": ("Method", lambda method: style_of(method).label),
        "place": ("Place", str),
    }
    texts = {key: text for key, text in texts.items() if any(key in row for row in rows)}
    has_seeds = any("num_seeds" in row for row in rows)
    header = [name for name, _ in texts.values()]
    costs = [key for key in _COSTS if any(row.get(key) is not None for row in rows)]
    header += [_COSTS[key][0] for key in costs]
    metrics = shown(rows)
    header += [QUANTITIES[name].label for name in metrics] + ["Seeds"] * has_seeds
    settings = list(dict.fromkeys(row.get("setting") for row in rows))

    def rank(row):
        setting = settings.index(row.get("setting"))
        return setting, row.get("label_noise", 0.0), order_of(row.get("method", ""))

    cells = []
    for row in sorted(rows, key=rank):
        row = {**row}
        if row.get("place") == "midpoint" and row.get("method", "line") not in SUBSPACES:
            row["place"] = "network"
        cells.append(
            [show(row[key]) if key in row else "" for key, (_, show) in texts.items()]
            + [_COSTS[key][1](row[key]) if row.get(key) is not None else "" for key in costs]
            + [mean_of(row[name], name) if name in row else "" for name in metrics]
            + [str(row.get("num_seeds", ""))] * has_seeds
        )
    return header, cells, len(texts)


def mean_of(value: Metrics, name: str) -> str:
    """`mean ± stderr` in the unit of the metric; the mean alone where one seed has no error."""
    _, scale, decimals = QUANTITIES[name]
    mean = f"{scale * number(value['mean']):.{decimals}f}"
    if value.get("stderr") is None:
        return mean
    return f"{mean} ± {scale * number(value['stderr']):.{decimals}f}"


def number(value: Any) -> float:
    """A number as JSON may hold it: null is NaN."""
    return float("nan") if value is None else float(value)
