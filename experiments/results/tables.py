"""The numbers of a suite as tables: as Markdown, as aligned text, as cells."""

import functools
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.results import claims, styles, summary, wording
from experiments.results.significance import corrected, paired
from experiments.results.summary import Record
from experiments.system.errors import UserError


class Table(NamedTuple):
    """Cells under a header; the first columns are texts, which begin at the left."""

    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    num_texts: int

    def markdown(self) -> str:
        rule = [":--" if i < self.num_texts else "--:" for i in range(len(self.header))]
        return "\n".join(f"| {' | '.join(row)} |" for row in (self.header, rule, *self.cells))

    def text(self) -> str:
        """Aligned for the terminal, one line per row under a header."""
        columns = zip(self.header, *self.cells, strict=True)
        widths = [max(map(len, column)) for column in columns]
        lines = [
            "  ".join(
                cell.ljust(width) if i < self.num_texts else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in (self.header, ["-" * width for width in widths], *self.cells)
        ]
        return "\n".join(line.rstrip() for line in lines)


# What a row may say: its key, the header, and how a value is written.
_TEXTS = {
    "setting": ("Setting", str),
    "label_noise": ("Noise", wording.percent),
    "method": ("Method", lambda product: styles.style_of(product).label),
    "place": ("Place", str),
}
_COLUMNS = _TEXTS | {
    "training_cost": ("Training", "{:.3g} x".format),
    "inference_passes": ("Passes", str),
    **{
        name: (styles.QUANTITIES[name].label, functools.partial(wording.mean_of, metric=name))
        for name in (*styles.METRICS, *styles.MCE)
    },
    "num_seeds": ("Seeds", str),
}


def of_rows(rows: Iterable[Record]) -> Table:
    """Entries of a suite's `table` in their order, with the columns that are in use."""
    rows = [row | {"place": wording.place_said(row["place"], row["method"])} for row in rows]
    used = [key for key in _COLUMNS if any(row.get(key) is not None for row in rows)]
    cells = [
        [_COLUMNS[key][1](row[key]) if row.get(key) is not None else "" for key in used]
        for row in rows
    ]
    return Table([_COLUMNS[key][0] for key in used], cells, len(_TEXTS.keys() & set(used)))


def of_claims(verdicts: Iterable[claims.Verdict]) -> Table:
    """The claims that have runs, each with its test."""
    cells = [
        [claim.figure, claim.text, wording.amount(claim.metric, difference, stderr), str(num_seeds)]
        + ["" if p_value is None else wording.p_said(p_value), outcome]
        for claim, difference, stderr, num_seeds, p_value, outcome in verdicts
        if outcome != claims.NOT_RUN
    ]
    return Table(["Figure", "Claim", "Difference", "n", "p", "Outcome"], cells, 2)


def of_gains(metrics: Record) -> Table:
    """What each subspace's midpoint gains."""
    header = ["Method", "Noise", "Metric", "Over standard training", "Over its matched control"]
    header += ["Tuned against tuned", "Share that survives tuning"]
    cells = []
    for entry in metrics.get("gains", ()):
        metric, share = entry["metric"], entry["share"]
        label = styles.style_of(entry["method"]).label
        gains = [entry[name] for name in ("untuned", "matched", "tuned")]
        cells.append(
            [label, wording.percent(entry["label_noise"]), styles.QUANTITIES[metric].name]
            + [wording.amount(metric, g["gain"], g["stderr"]) if g else "" for g in gains]
            + [wording.percent(share["mean"], share["stderr"]) if share else ""]
        )
    return Table(header, cells, 3)


def results(metrics: Record) -> str:
    """A suite's products as Markdown by training budget; its counts; what was chosen."""
    rows = [row for row in metrics["table"] if row["place"] != "endpoints"]
    rows.sort(key=lambda row: (row["setting"], row["label_noise"], row["inference_passes"]))
    budgets: dict[float, list[Record]] = {}
    for row in rows:
        cost = row.get("training_cost")
        budget = math.inf if cost is None else round(cost, 1)
        budgets.setdefault(budget, []).append(row | {"training_cost": None})
    parts = []
    for budget, group in sorted(budgets.items()):
        heading = f"{budget:g} x that of standard training" if math.isfinite(budget) else "unknown"
        parts.append(f"#### Training budget: {heading}\n\n{of_rows(group).markdown()}")
    said = [metrics["counts"], *chosen_said(metrics)]
    return "\n\n".join([*parts, "\n".join(f"- {sentence}" for sentence in said)])


def against(metrics: Record, others: Record) -> str:
    """What deployed networks of one suite differ by from those of another, tested as one family."""
    names = [found.get("config", {}).get("suite") for found in (metrics, others)]
    if len(set(names)) > 1:
        raise UserError(
            f"The files are of the suites {names[0]} and {names[1]}; compare files of one suite."
        )
    ours, theirs = (summary.chosen_runs(found["runs"]) for found in (metrics, others))
    common = [key for key in ours if key in theirs and key[0] in summary.SETTINGS]
    common.sort(key=lambda key: (*key[:2], styles.order_of(key[2])))
    effects = {}
    for key, metric in itertools.product(common, styles.METRICS):
        columns = (summary.column(runs[key], "midpoint", metric) for runs in (ours, theirs))
        if (effect := paired(*columns)).num_seeds:
            effects[key, metric] = effect
    if not effects:
        raise UserError(
            "The two suites have no run of the same method, label noise and seed; compare others."
        )
    rows: dict[summary.Key, list[str]] = {}
    for (key, metric), effect in zip(effects, corrected([*effects.values()]), strict=True):
        difference, stderr, num_seeds, p_value = effect
        start = [key[0], wording.percent(key[1]), styles.style_of(key[2]).label, str(num_seeds)]
        cell = wording.tested(metric, difference, stderr, p_value)
        rows.setdefault(key, start).append(cell)
    header = ["Setting", "Noise", "Method", "n"]
    header += [styles.QUANTITIES[metric].name for metric in styles.METRICS]
    table = Table(header, [*rows.values()], 3).markdown()
    return f"{table}\n\n- The first file minus the second, over the seeds of both."


def chosen_said(metrics: Record) -> list[str]:
    """What sweeps and the tuning chose, and from which grids, a sentence for each label noise."""
    config, groups = metrics.get("config", {}), {}
    for entry in metrics.get("chosen", ()):
        if entry["setting"] in summary.SETTINGS:
            groups.setdefault((entry["setting"], entry["label_noise"]), []).append(entry)
    said = []
    for (setting, noise), entries in groups.items():
        values, grids = [], {}
        for entry in entries:
            if setting == "tuned":
                tried = config.get("tuning", {})
            else:
                sweep = config.get("sweeps", {}).get(entry["method"], {})
                tried = {name.split(".")[-1]: sweep.get("values", ()) for name in entry["values"]}
            short = {name.split(".")[-1]: value for name, value in entry["values"].items()}
            grids |= {name: tried.get(name, ()) for name in short}
            label = styles.style_of(entry["method"]).label
            values.append(f"{label}: {_listed({k: [v] for k, v in short.items()}, ', ')}")
        start = f"Chosen by validation accuracy, {setting} setting, {wording.labels_said(noise)}"
        said.append(f"{start}: {'; '.join(values)}. Tried: {_listed(grids, '; ')}.")
    return said


def _listed(values: Record, separator: str) -> str:
    """Numbers by their short names in a config."""
    return separator.join(
        f"{name.replace('_', ' ')} {', '.join(f'{value:g}' for value in found)}"
        for name, found in values.items()
    )
