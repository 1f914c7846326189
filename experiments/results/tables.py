"""The results of a suite as Markdown tables."""

import itertools
import math
from collections.abc import Iterable, Sequence

from experiments.configs.recipes import product_of
from experiments.results import claims, styles, summary, wording
from experiments.results.significance import holm, paired
from experiments.results.summary import Record
from experiments.system.errors import UserError


def results(metrics: Record, products: Iterable[str] = ()) -> str:
    """The results: what predicts, by what its training costs; what holds.

    Under a heading for every training budget, rows are sorted by setting, label noise and what a
    prediction costs.

    Args:
      metrics: of a suite.
      products: the rows that are wanted, with the number of claims that hold in place of all
        sentences; empty for all.

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
    said = [metrics["counts"]] if products else [*metrics["verdict"], *chosen_said(metrics)]
    sentences = "\n".join(f"- {sentence}" for sentence in said)
    return "\n\n".join(filter(None, [*parts, sentences]))


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
        said = wording.amount(metric, effect.difference, effect.stderr)
        tested = "" if p_value is None else f", p {wording.p_said(p_value)}"
        rows.setdefault(key, [*start, str(effect.num_seeds)]).append(f"{said}{tested}")
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
        + [_cell(row, name) for name in metrics]
        + [str(row["num_seeds"])]
        for row in sorted(rows, key=rank)
    ]
    return _lines([header, rule, *cells])


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _place_said(row: Record) -> str:
    subspace = row["method"] in styles.SUBSPACES
    return "network" if row["place"] == "midpoint" and not subspace else row["place"]


def _cell(row: Record, metric: str) -> str:
    mean = row.get(metric, {}).get("mean")
    if mean is None:
        return "not finite" if metric in row else ""
    _, scale, decimals = styles.QUANTITIES[metric]
    stderr = row[metric]["stderr"]
    return wording.spread(scale * mean, stderr and scale * stderr, decimals)
