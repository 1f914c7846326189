"""From what a suite's runs left to its metrics.json."""

import json
import statistics
from collections.abc import Sequence

from ml_collections import ConfigDict

from experiments.configs.recipes import SHOWN
from experiments.configs.suites import FIGURES
from experiments.reproduce import records
from experiments.results import claims, summary

# Kept of those recipes alone that they are drawn of; all are in the runs' records.
_CURVES = ("reliability", "risk_coverage")
_OF_TUNING = ("id", "method", "setting", "label_noise", "seed", "values", "cost", "made")


def results(
    config: ConfigDict,
    runs: list[dict],
    failures: dict[str, str],
    record: dict,
    figures: Sequence[str] = tuple(FIGURES),
) -> dict:
    """A suite's metrics: tables, tests, and what is kept of the runs; claims of some figures or all."""
    made, runs = _made(runs)
    landscapes = [run for run in runs if run["setting"] == "landscape"]
    seen = {(run["method"], run["seed"]): run["places"] for run in landscapes}
    runs = [
        run | {"places": run["places"] | seen.get((run["method"], run["seed"]), {})}
        if (run["setting"], run["label_noise"]) == ("article", 0.0)
        else run
        for run in runs
        if run["setting"] != "landscape"
    ]
    runs = summary.with_mce(runs)
    chosen = summary.choose_values(runs)
    # Holm's correction is for the claims of one group together.
    verdicts = [
        verdict
        for group in (claims.ARTICLE, claims.CONTROLS, claims.TUNED)
        for verdict in claims.check(group, runs)
    ]
    of_rates = claims.check(claims.LEARNING_RATE, runs)
    verdicts += [verdict for verdict in of_rates if verdict.outcome != claims.NOT_RUN]
    if set(figures) < set(FIGURES):  # the controls are of all together
        verdicts = [verdict for verdict in verdicts if verdict.claim.figure in figures]
    return {
        "config": json.loads(config.to_json_best_effort()),
        "provenance": record | ({"made": made} if made else {}),
        "counts": claims.counts_said(verdicts),
        "table": records.rounded(summary.table(runs, config.products)),
        "claims": records.rounded(claims.to_json(verdicts)),
        "chosen": [
            {"setting": setting, "label_noise": noise, "method": method, "values": values}
            for (setting, noise, method), values in chosen.items()
            if values
        ],
        "gains": records.rounded(summary.gains(runs)),
        "failed": [{"id": name, "error": error} for name, error in failures.items()],
        "runs": [_kept(run) for run in runs],
        "landscapes": landscapes,
    }


def _made(runs: list[dict]) -> tuple[list[dict], list[dict]]:
    """On what machines and by which code runs were made, and runs that refer to it by number."""
    groups: dict[str, list[dict]] = {}
    for run in runs:
        if "made" in run:
            groups.setdefault(_machine(run), []).append(run)
    numbers = {machine: number for number, machine in enumerate(groups)}
    made = []
    for group in groups.values():
        speeds = [run.get("cost", {}).get("images_per_second") for run in group]
        speeds = [speed for speed in speeds if speed]
        made.append(
            max((run["made"] for run in group), key=lambda made: made.get("date", ""))
            | {"num_runs": len(group)}
            | {"seconds_of_all_runs": round(sum(run["wall_seconds"] for run in group), 1)}
            | ({"images_per_second": round(statistics.median(speeds), 1)} if speeds else {})
        )
    return made, [run | {"made": numbers[_machine(run)]} if "made" in run else run for run in runs]


def _machine(run: dict) -> str:
    return json.dumps({**run["made"], "date": ""}, sort_keys=True)


def _kept(run: dict) -> dict:
    """A run's record without what no figure or table shows."""
    if run["setting"] == "tuning":
        found = run["places"].items()
        places = {k: {"validation": v["validation"]} for k, v in found if k == "midpoint"}
        names = (*_OF_TUNING, "wall_seconds")
        return {name: run[name] for name in names if name in run} | {"places": places}
    if run["method"] not in SHOWN["path"] or run["setting"] != "article":
        run = {name: value for name, value in run.items() if name not in ("points", "ensembles")}
    left_out = ("looks",) if run["method"] in SHOWN["curves"] else ("looks", *_CURVES)
    places = {
        place: {name: value for name, value in metrics.items() if name not in left_out}
        for place, metrics in run["places"].items()
    }
    return {k: v for k, v in run.items() if not k.endswith("_sha256")} | {"places": places}
