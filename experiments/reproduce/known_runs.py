"""Runs that a results file has, so that a published suite is extended without training them again."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.configs import suites
from experiments.configs.check import without_removed
from experiments.data import sets
from experiments.reproduce import plan, records
from experiments.reproduce.records import Entry
from experiments.results import summary
from experiments.runs import workdir
from experiments.system import provenance
from experiments.system.cli import config_differences
from experiments.system.errors import UserError


class KnownRuns(NamedTuple):
    """What a results file keeps of its runs, and the entries that its own config plans, both by id."""

    path: Path
    runs: dict[str, dict]
    entries: dict[str, Entry]


class Sorted(NamedTuple):
    """The entries of a suite that need not be done, and those that are to be done again."""

    done: set[str]  # settled in the folder
    known: dict[str, dict]  # records of a results file, by id
    stale: set[str]  # with a record but no weights, while another one starts from their networks


def read(path: str) -> KnownRuns:
    """The runs of the metrics.json of a suite."""
    try:
        metrics = json.loads(Path(path).expanduser().read_text())
        record, runs = metrics["provenance"], metrics["runs"]
        config = suites.plain(metrics["config"]["suite"])
        with config.unlocked():  # what suites have got since then, it does without
            config.update(without_removed(metrics["config"]))
        entries = plan.entries(config, suites.FIGURES)
        entries += plan.tuned_entries(config, summary.choose_values(runs))
        found = {run["id"]: _whole(run, record) for run in [*runs, *metrics["landscapes"]]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--known_runs has {path!r}, which is not the metrics.json of a suite; give one that "
            "experiments.reproduce wrote."
        ) from error
    return KnownRuns(Path(path), found, {entry.id: entry for entry in entries})


def _whole(run: dict, record: dict) -> dict:
    """A run as its record had it: with how it was made in place of a number, and its time."""
    made = record
    if groups := record.get("made"):  # the rest of the record is of the command that joined them
        made = groups[run["made"]] if "made" in run else {}
    cost = run.get("cost", {})
    seconds = cost.get("training_seconds", 0) + cost.get("evaluation_seconds", 0)
    return {"wall_seconds": seconds} | run | {"made": provenance.of_a_run(made)}


def sort(folder: Path | None, known: Sequence[KnownRuns], entries: Sequence[Entry]) -> Sorted:
    """Which entries need not be done, each standing after those that it needs.

    Results files have no weights. So a run is not known, and one that has a record without weights is
    not done, if another one starts from its networks that is to be done.
    """
    found, needed = Sorted(set(), {}, set()), set()
    for entry in reversed(entries):
        is_needed = entry.id in needed
        holder = next((file for file in known if entry.id in file.runs), None)
        if folder and records.is_settled(folder, entry):
            own = records.run_folder(folder, entry.id)
            # Nothing starts from a run that diverged.
            is_done = not is_needed or (own / workdir.WEIGHTS).exists() or workdir.diverged(own)
            (found.done if is_done else found.stale).add(entry.id)
        elif holder and not is_needed:
            found.known[entry.id] = _record(holder, entry)
        if entry.id not in found.done and entry.id not in found.known:
            needed.update(entry.needs)
    return found


def _record(known: KnownRuns, entry: Entry) -> dict:
    run, planned = known.runs[entry.id], known.entries.get(entry.id)
    if planned is None or records.digest(planned) != records.digest(entry):
        # By the names that the values have in a suite's config.
        old, new = ({"run": one.config.to_dict()} for one in (planned or entry, entry))
        differences = config_differences(old, ConfigDict(new), workdir.IRRELEVANT_IN_A_SUITE)
        what = f" ({', '.join(differences[:3])})" if differences else ""
        raise UserError(
            f"--known_runs has {str(known.path)!r} but its {entry.id} was made with another config"
            f"{what}; give the same --config values, or leave that file out."
        )
    there, here = run["made"].get("data_sha256", ""), sets.fingerprint(entry.config.data_dir)
    if there and here and there != here:
        raise UserError(
            f"--known_runs has {str(known.path)!r} but its runs are of other data ({there[:12]} there, "
            f"{here[:12]} here); give the same data, or leave that file out."
        )
    return run | records.identity(entry)
