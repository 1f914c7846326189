"""The numbers of runs as tables: as Markdown, as aligned text, as cells.

A *row* is a dict with `"accuracy"`, `"nll"` and `"ece"`, each `{"mean", "stderr"}`, and any of
`"setting"`, `"label_noise"`, `"method"`, `"place"` and `"num_seeds"`: an entry of a suite's
`"table"`, or of `run_rows`.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Sequence

from experiments.configs.recipes import product_of
from experiments.results import claims, styles, summary, wording
from experiments.results.significance import holm, paired
from experiments.results.summary import Record
from experiments.system.errors import UserError

Cells = list[list[str]]

# Columns of what a row costs.
_COSTS = {
    "training_cost": ("Training", lambda cost: f"{cost:.3g} x"),
    "inference_passes": ("Inference", lambda passes: f"{passes} x"),
}

# As Markdown


def results(metrics: Record, products: Iterable[str] = ()) -> str:
    """What predicts, by what its training costs; how many claims hold; what was chosen.

    Under a heading for every training budget, rows are sorted by setting, label noise and what a
    prediction costs.

    Args:
      metrics: of a suite.
      products: the rows that are wanted; empty for all, and for what was chosen.

    Raises:
      UserError: one that the suite does not have.
    """
    rows = [row for row in metrics["table"] if row["place"] != "endpoints"]
    if products := tuple(products):
        names = dict.fromkeys(row["method"] for row in rows)
        for product in products:
            if product not in names:
                raise UserError(f"--only has {product!r}; choose among {', '.join(names)}.")
        wanted = {(product, product_of(product)[1]) for product in products}
        rows = [row for row in rows if (row["method"], row["place"]) in wanted]
    budgets: dict[float, list[Record]] = {}
    for row in rows:
        cost = row.get("training_cost")
        budgets.setdefault(math.inf if cost is None else round(cost, 1), []).append(row)
    parts = []
    for budget, group in sorted(budgets.items()):
        heading = f"{budget:g} x that of standard training" if math.isfinite(budget) else "unknown"
        parts.append(f"#### Training budget: {heading}\n\n{_markdown_table(group)}")
    said = [metrics["counts"], *([] if products else chosen_said(metrics))]
    return "\n\n".join([*parts, "\n".join(f"- {sentence}" for sentence in said)])


def claims_of(metrics: Record, figures: Iterable[str]) -> str:
    """The claims about some figures that have runs, under a heading for each, and their counts.

    Args:
      metrics: of a suite.
      figures: `fig2` to `fig7`, `control`, `tuned`.

    Raises:
      UserError: one about which there is no claim.
    """
    verdicts = claims.from_json(metrics.get("claims", ()))
    known = dict.fromkeys(verdict.claim.figure for verdict in verdicts)
    parts = []
    for figure in figures:
        if figure not in known:
            raise UserError(f"--claims has {figure!r}; choose among {', '.join(known)}.")
        group = [verdict for verdict in verdicts if verdict.claim.figure == figure]
        rows = [claims.cells(v)[1:-1] for v in group if v.outcome != claims.NOT_RUN]
        parts.append(f"#### {claims.figure_said(figure)}")
        if rows:
            rule = (":--", "--:", "--:", "--:", ":--")
            parts.append(_lines([claims.HEADER[1:-1], rule, *rows]))
        parts.append(f"- {claims.counts_said(group)}")
    return "\n\n".join(parts)


def against(metrics: Record, others: Record) -> str:
    """What deployed networks of one suite differ by from those of another, paired by seed.

    The p-values are corrected by Holm's method over the whole table.

    Args:
      metrics: of a suite, whose values are ours.
      others: of a suite with runs of the same methods, label noise and seeds.

    Raises:
      UserError: they are of different suites, or have no run in common.
    """
    names = [found.get("config", {}).get("suite") for found in (metrics, others)]
    if len(set(names)) > 1:
        raise UserError(
            f"The files are of the suites {names[0]} and {names[1]}; compare files of one suite."
        )
    ours, theirs = (summary.chosen_runs(found["runs"]) for found in (metrics, others))
    common = [key for key in ours if key in theirs and key[0] in summary.SETTINGS]
    parts = ("setting", "label_noise", "method")
    common.sort(key=lambda key: summary.rank(dict(zip(parts, key, strict=True)) | {"place": ""}))
    compared = []
    for key, metric in itertools.product(common, styles.METRICS):
        columns = [summary.column(runs[key], "midpoint", metric) for runs in (ours, theirs)]
        if columns[0].keys() & columns[1].keys():
            compared.append((key, metric, paired(*columns)))
    if not compared:
        raise UserError(
            "The two suites have no run of the same method, label noise and seed; compare others."
        )
    p_values = holm([effect.p_value for *_, effect in compared])
    rows: dict[summary.Key, list[str]] = {}
    for (key, metric, effect), p_value in zip(compared, p_values, strict=True):
        setting, noise, recipe = key
        start = [setting, f"{100 * noise:.0f} %", styles.style_of(recipe).label]
        rows.setdefault(key, [*start, str(effect.num_seeds)]).append(
            _tested(metric, effect.difference, effect.stderr, p_value)
        )
    header = ["Setting", "Noise", "Method", "n"]
    header += [styles.QUANTITIES[metric].label.split(" [")[0] for metric in styles.METRICS]
    table = _lines([header, [":--"] * 3 + ["--:"] * (1 + len(styles.METRICS)), *rows.values()])
    return f"{table}\n\n- The first file minus the second, over the seeds of both."


def chosen_said(metrics: Record) -> list[str]:
    """What sweeps and the tuning chose, and from which grids, a sentence for each label noise."""
    config, groups = metrics.get("config", {}), {}
    for entry in metrics.get("chosen", ()):
        if entry["setting"] in summary.SETTINGS:
            groups.setdefault((entry["setting"], entry["label_noise"]), []).append(entry)
    said = []
    for (setting, noise), entries in groups.items():
        grid = {}
        for entry in entries:
            if setting == "tuned":
                tuning = config.get("tuning", {})
                grid |= {name: tuning.get(name.split(".")[-1], ()) for name in entry["values"]}
            else:
                sweep = config.get("sweeps", {}).get(entry["method"], {})
                grid |= {name: sweep.get("values", ()) for name in entry["values"]}
        values = "; ".join(
            f"{styles.style_of(entry['method']).label}: {_values_said(entry['values'])}"
            for entry in entries
        )
        others = "; ".join(
            f"{_name_said(name)} {', '.join(f'{value:g}' for value in tried)}"
            for name, tried in grid.items()
        )
        start = f"Chosen by validation accuracy, {setting} setting, {wording.labels_said(noise)}"
        said.append(f"{start}: {values}. Tried: {others}.")
    return said


def _values_said(values: Record) -> str:
    return ", ".join(f"{_name_said(name)} {value:g}" for name, value in values.items())


def _name_said(name: str) -> str:
    return name.split(".")[-1].replace("_", " ")


def _tested(metric: str, value: float | None, stderr: float | None, p_value: float | None) -> str:
    tested = "" if p_value is None else f", p {wording.p_said(p_value)}"
    return f"{wording.amount(metric, value, stderr)}{tested}"


def _markdown_table(rows: Sequence[Record]) -> str:
    header = ["Setting", "Noise", "Method", "Place", "Passes"]
    metrics = styles.shown(rows)
    rule = [":--"] * 4 + ["--:"] * (2 + len(metrics))
    header += [styles.QUANTITIES[name].label for name in metrics] + ["Seeds"]

    def rank(row):
        setting, noise, *rest = summary.rank(row)
        return setting, noise, row.get("inference_passes", 1), *rest

    cells = [
        [row["setting"], f"{100 * row['label_noise']:.0f} %", styles.style_of(row["method"]).label]
        + [_place_said(row), str(row.get("inference_passes", 1))]
        + [mean_of(row[name], name) if name in row else "" for name in metrics]
        + [str(row["num_seeds"])]
        for row in sorted(rows, key=rank)
    ]
    return _lines([header, rule, *cells])


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


# As text


def text_table(rows: Sequence[Record]) -> str:
    """The rows as a table for the terminal, aligned, one line per row under a header."""
    header, cells, num_texts = cells_of(rows)
    return _aligned(header, cells, range(num_texts, len(header)))


def claims_text(verdicts: Sequence[claims.Verdict]) -> str:
    """The claims that have runs as a table for the terminal, and below it how they came out."""
    run = [verdict for verdict in verdicts if verdict.outcome != claims.NOT_RUN]
    counts = claims.counts_said(verdicts)
    if not run:
        return counts
    sources = {verdict.claim.source: verdict.claim.text for verdict in run}
    notes = [f"Expected of {text!r}: {source}." for source, text in sources.items() if source]
    table = _aligned(claims.HEADER, [claims.cells(verdict) for verdict in run], (2, 3, 4))
    return "\n".join([table, "", *notes, counts])


def _aligned(header: Sequence[str], cells: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Lines under a header and a rule; the columns `right` end on one side, the others begin there."""
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]

    def line(row):
        parts = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return "\n".join(map(line, [header, ["-" * width for width in widths], *cells]))


# As cells


def run_rows(metrics: Record) -> list[Record]:
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
        {"place": place, **{name: {"mean": entry[name], "stderr": None} for name in styles.METRICS}}
        for place, entry in entries
    ]


def cells_of(rows: Sequence[Record]) -> tuple[list[str], Cells, int]:
    """Header, cells, and how many columns are text; methods in order, only columns in use."""
    texts = {
        "setting": ("Setting", lambda row: row["setting"]),
        "label_noise": ("Noise", lambda row: f"{100 * row['label_noise']:.0f} %"),
        "method": ("Method", lambda row: styles.style_of(row["method"]).label),
        "place": ("Place", _place_said),
    }
    texts = {key: text for key, text in texts.items() if any(key in row for row in rows)}
    has_seeds = any("num_seeds" in row for row in rows)
    header = [name for name, _ in texts.values()]
    costs = [key for key in _COSTS if any(row.get(key) is not None for row in rows)]
    header += [_COSTS[key][0] for key in costs]
    metrics = styles.shown(rows)
    header += [styles.QUANTITIES[name].label for name in metrics] + ["Seeds"] * has_seeds
    settings = list(dict.fromkeys(row.get("setting") for row in rows))

    def rank(row):
        order = styles.order_of(row.get("method", ""))
        return settings.index(row.get("setting")), row.get("label_noise", 0.0), order

    cells = [
        [said(row) if key in row else "" for key, (_, said) in texts.items()]
        + [_COSTS[key][1](row[key]) if row.get(key) is not None else "" for key in costs]
        + [mean_of(row[name], name) if name in row else "" for name in metrics]
        + [str(row.get("num_seeds", ""))] * has_seeds
        for row in sorted(rows, key=rank)
    ]
    return header, cells, len(texts)


def gains_of(metrics: Record) -> tuple[list[str], Cells, int]:
    """What each subspace's midpoint gains, as header, cells, and how many columns are text."""
    header = ["Method", "Noise", "Metric", "Over standard training", "Over its matched control"]
    header += ["Tuned against tuned", "Share that survives tuning"]
    cells = []
    for entry in metrics.get("gains", ()):
        metric, share = entry["metric"], entry["share"]
        label, noise = styles.style_of(entry["method"]).label, entry["label_noise"]
        gains = [entry[name] for name in ("untuned", "matched", "tuned")]
        cells.append(
            [label, f"{100 * noise:.0f} %", styles.QUANTITIES[metric].label.split(" [")[0]]
            + [_tested(metric, g["gain"], g["stderr"], g["p_value"]) if g else "" for g in gains]
            + [wording.percent(share["mean"], share["stderr"]) if share else ""]
        )
    return header, cells, 3


def _place_said(row: Record) -> str:
    """Ordinary training has one network, and no midpoint."""
    subspace = row.get("method", "line") in styles.SUBSPACES
    return "network" if row["place"] == "midpoint" and not subspace else row["place"]


def mean_of(value: Record, name: str) -> str:
    """`mean ± stderr` in the unit of the metric; the mean alone where one seed has no error."""
    mean, stderr = value["mean"], value.get("stderr")
    if mean is None or not math.isfinite(mean):
        return "not finite"
    _, scale, decimals = styles.QUANTITIES[name]
    return wording.spread(scale * mean, stderr and scale * stderr, decimals)
