"""The demo: every kind of subspace beside its rivals on real digits; `python -m experiments.digits`."""

import collections
import functools
import math
import statistics
import sys
import time
from types import SimpleNamespace

from ml_collections import ConfigDict

from experiments import cli, figures, report, styles, suite, summary, workdir
from experiments.configs.digits import run_config
from experiments.errors import UserError
from experiments.provenance import finished_now, provenance
from experiments.suite import Entry
from experiments.train import NonFiniteLoss

DESCRIPTION = """Trains lines, curves and simplexes of networks beside standard training, its average,
label smoothing and a matched control on 1,797 handwritten digits, with clean and with wrong labels,
and writes a report. No arguments are needed, nothing is downloaded.

    python -m experiments.digits
    python -m experiments.digits --config experiments/configs/digits.py:tune --workdir runs/tune"""

# What is kept of every point and ensemble in the results of many runs.
_KEPT = ("name", "coords", "members", "average", "accuracy", "nll", "brier", "ece")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    return cli.run(
        run,
        argv=argv,
        description=DESCRIPTION,
        default_config="experiments/configs/digits.py:demo",
        default_workdir="runs/digits",
    )


def run(options: SimpleNamespace) -> None:
    """Runs the demo, or the sweep behind its tuned values.

    Raises:
      UserError: a config or workdir that it can't have.
    """
    config = options.config
    _check(config)
    folder = workdir.check(options.workdir, config, options.overwrite)
    if metrics := workdir.finished(folder, options.overwrite):
        date = metrics["provenance"]["date"]
        print(f"{folder} holds this run, finished on {date}; pass --overwrite to run it again.")
    else:
        entries, run_one, results = VARIANTS[config.variant]
        metrics = _run_variant(config, entries(config), run_one, results, folder, options.overwrite)
        pictures = {name: figures.png(f) for name, f in figures.suite_figures(metrics).items()}
        workdir.publish(folder, metrics, pictures, report.page(metrics, pictures))
    if metrics["table"]:
        print(report.text_table(metrics["table"]), end="\n\n")
    print("\n".join(metrics["verdict"]))
    print(f"Report: {(folder / workdir.REPORT).absolute()}")


def _check(config) -> None:
    for name in ("seeds", "noise_rates"):
        values = config[name]
        if not values or len(set(values)) < len(values):
            raise UserError(f"config.{name} is {values}; give at least one value, each once.")
    if config.num_threads < 0:
        raise UserError(f"config.num_threads is {config.num_threads}; use 0 for one per CPU core.")


def _run_variant(config, entries, run_one, results, folder, overwrite) -> dict:
    suite.check(entries)
    workdir.prepare(folder, config, overwrite)
    record = provenance("experiments.digits") | {"seeds": list(config.seeds)}
    begin = time.perf_counter()
    runs = suite.run_all(entries, run_one, config.num_threads)
    record |= finished_now() | {"wall_seconds": time.perf_counter() - begin, "num_runs": len(runs)}
    return {"config": config.to_dict(), "provenance": record} | results(runs)


def demo_entries(config: ConfigDict) -> list[Entry]:
    """All methods by the article's recipe, and some of them tuned."""
    for method, tuned in config.tuned.items():
        if not len(tuned.learning_rate) == len(tuned.weight_decay) == len(config.noise_rates):
            raise UserError(
                f"config.tuned.{method} has {len(tuned.learning_rate)} learning rates and "
                f"{len(tuned.weight_decay)} weight decays for {len(config.noise_rates)} noise rates; "
                "give one of each for every noise rate."
            )
    article = [
        _entry(config, method, "article", noise, seed)
        for seed in config.seeds
        for noise in config.noise_rates
        for method in _in_order(config.methods)
    ]
    tuned = [
        _entry(
            config,
            method,
            "tuned",
            noise,
            seed,
            learning_rate=config.tuned[method].learning_rate[i],
            weight_decay=config.tuned[method].weight_decay[i],
        )
        for seed in config.seeds
        for i, noise in enumerate(config.noise_rates)
        for method in _in_order(config.tuned)
    ]
    return article + tuned


def demo_results(runs: list[dict]) -> dict:
    """The table, what holds and what does not with its tests, and all runs."""
    comparisons = summary.compare(runs)
    return {
        "table": summary.table(runs),
        "verdict": summary.verdict(comparisons),
        "comparisons": [comparison._asdict() for comparison in comparisons],
        "runs": runs,
    }


def tune_entries(config: ConfigDict) -> list[Entry]:
    """Every method with every learning rate and every weight decay."""
    return [
        _entry(config, method, "tuning", noise, seed, learning_rate=rate, weight_decay=decay)
        for seed in config.seeds
        for noise in config.noise_rates
        for rate in config.grid.learning_rate
        for decay in config.grid.weight_decay
        for method in _in_order(config.methods)
    ]


def tune_results(runs: list[dict]) -> dict:
    """The best cell of the grid for every method and noise, by validation accuracy, ties by NLL."""
    cells = _cells(runs)
    best = {}
    for cell in sorted(cells, key=_rank):
        best[cell["method"], cell["label_noise"]] = cell
    chosen = [cell for _, cell in sorted(best.items())]
    sentences = [
        f"{styles.METHODS[cell['method']].label}, {100 * cell['label_noise']:.0f} % wrong labels: "
        f"learning rate {cell['learning_rate']}, weight decay {cell['weight_decay']} (validation "
        f"accuracy {100 * cell['accuracy']:.2f} %, {cell['num_seeds']} seeds)."
        for cell in chosen
    ]
    return {"table": [], "verdict": sentences, "chosen": chosen, "cells": cells}


def _rank(cell: dict) -> tuple[float, float]:
    return cell["accuracy"], -math.inf if cell["nll"] is None else -cell["nll"]


def _cells(runs: list[dict]) -> list[dict]:
    """Means over seeds of every cell of the grid; a run that diverged has accuracy 0 and no NLL."""
    names = ("method", "label_noise", "learning_rate", "weight_decay")
    diverged = {"name": "midpoint", "accuracy": 0.0, "nll": None}
    groups = collections.defaultdict(list)
    for r in runs:
        points = [*r["points"], diverged]
        groups[tuple(r[name] for name in names)].append(
            next(p for p in points if p["name"] == "midpoint")
        )
    return [
        dict(zip(names, key, strict=True))
        | {"accuracy": statistics.fmean(p["accuracy"] for p in points)}
        | {"nll": _mean_or_none([p["nll"] for p in points]), "num_seeds": len(points)}
        for key, points in groups.items()
    ]


def _mean_or_none(values: list[float | None]) -> float | None:
    return None if None in values else statistics.fmean(values)


def _in_order(methods: ConfigDict) -> list[str]:
    """A config sorts its names; results follow the order in which methods are always shown."""
    return [name for name in styles.METHODS if name in methods]


def _entry(config, method, setting, noise, seed, **optimizer) -> Entry:
    values = config.methods[method].to_dict()
    run = run_config(values["kind"])
    run.update(config.run.to_dict())
    run.update(values)
    run.seed = seed
    run.label_noise.rate = noise
    run.label_noise.seed = seed
    run.optimizer.update(optimizer)
    return Entry(method, setting, noise, seed, run)


def _run(entry: Entry, advance: suite.Advance, split: str) -> dict:
    optimizer = entry.config.optimizer
    names = {
        "method": entry.method,
        "setting": entry.setting,
        "label_noise": entry.label_noise,
        "seed": entry.seed,
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
    }
    begin = time.perf_counter()
    try:
        results = suite.train_and_evaluate(entry, advance, split)
    except NonFiniteLoss as error:
        if entry.setting != "tuning":
            raise UserError(
                f"{entry.method} ({entry.setting} setting, noise {entry.label_noise}, seed "
                f"{entry.seed}) diverged: {error}"
            ) from error
        return names | {"points": [], "ensembles": [], "wall_seconds": None}
    return names | {
        "points": [_kept(point) for point in results["points"]],
        "ensembles": [_kept(e) for e in results["ensembles"][:2]],
        "geometry": _rounded(results["geometry"]),
        "wall_seconds": round(time.perf_counter() - begin, 3),
    }


def _kept(point: dict) -> dict:
    names = _KEPT + (("num_bins", "reliability") if point.get("name") == "midpoint" else ())
    return _rounded({name: point[name] for name in names if name in point})


def _rounded(value):
    """Floats with six significant digits, which is more than float32 metrics of 500 images hold."""
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_rounded(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


# What each variant runs, how, and what it makes of it. The sweep never reads the test split.
VARIANTS = {
    "demo": (demo_entries, functools.partial(_run, split="test"), demo_results),
    "tune": (tune_entries, functools.partial(_run, split="validation"), tune_results),
}


if __name__ == "__main__":
    sys.exit(main())
