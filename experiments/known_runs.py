"""Runs that a results file has, so that a published suite is extended without training them again."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from experiments import plan, provenance, suite, summary, workdir
from experiments.cli import config_differences
from experiments.configs import suites
from experiments.errors import UserError
from experiments.suite import Entry


class KnownRuns(NamedTuple):
    """What a results file says of each of its runs, and with which config each was made.

    Attributes:
      path: the file.
      runs: what it keeps of them, by id.
      entries: its runs as its own config plans them, by id.
      made: how a run was made whose record does not say so itself.
    """

    path: Path
    runs: dict[str, dict]
    entries: dict[str, Entry]
    made: list[dict]


def read(path: str) -> KnownRuns:
    """The runs of the metrics.json of a suite.

    Raises:
      UserError: it can't be read, or is no such file.
    """
    try:
        metrics = json.loads(Path(path).expanduser().read_text())
        runs, record, config = (metrics[name] for name in ("runs", "provenance", "config"))
        config = _config(config)
        found = {run["id"]: run for run in runs if "wall_seconds" in run}
        chosen = summary.choose_values(runs)
    except OSError as error:
        raise UserError(
            f"--known_runs has {path!r}, which can't be read ({error.strerror})."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"--known_runs has {path!r}, which is not the metrics.json of a suite; give one that "
            "experiments.reproduce wrote."
        ) from error
    entries = [
        *plan.article_entries(config, suites.FIGURES),
        *plan.tuning_entries(config, suites.FIGURES),
        *plan.tuned_entries(config, chosen),
    ]
    made = record.get("made") or [provenance.of_a_run(record)]
    return KnownRuns(Path(path), found, {entry.id: entry for entry in entries}, made)


def _config(stored: dict[str, Any]) -> ConfigDict:
    """The config of a file; what suites have got since then, it does without."""
    config = suites.plain(stored["suite"])
    with config.unlocked():
        config.update(_tuples(stored))
    return config


def _tuples(value: Any) -> Any:
    """Lists of JSON as the tuples that they were."""
    if isinstance(value, dict):
        return {name: _tuples(entry) for name, entry in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def records(
    known: Sequence[KnownRuns], entries: Sequence[Entry], settled: Collection[str]
) -> dict[str, dict]:
    """Records, by id, of the entries that are not settled and that a results file has.

    Results files have no weights, so that a run is left out if another one starts from its networks
    that has yet to be done.

    Args:
      known: what `read` returns; of several files with one run, the first counts.
      entries: all of the suite, those that others need before them.
      settled: ids of those that need no record.

    Raises:
      UserError: a run was made with another config, or on other data.
    """
    found, needed = {}, set()
    for entry in reversed(entries):
        if entry.id in settled:
            continue
        holder = next((file for file in known if entry.id in file.runs), None)
        if holder and entry.id not in needed:
            found[entry.id] = _record(holder, entry)
        else:
            needed.update(entry.needs)
    return found


def check_weights(folder: Path, entries: Sequence[Entry], done: Collection[str]) -> None:
    """Refuses records without weights of runs that others start from.

    Args:
      folder: of the suite.
      entries: all of it.
      done: ids of those that have a record in the folder.

    Raises:
      UserError: there is one.
    """
    for entry in entries:
        for need in entry.needs if entry.id not in done else ():
            weights = suite.weights_path(folder, need)
            if need in done and not weights.exists():
                raise UserError(
                    f"{entry.id} starts from the networks of {need}, which has a record in {folder} but "
                    f"no weights; bring {weights.name} too, or delete the record to train it again."
                )


def _record(known: KnownRuns, entry: Entry) -> dict:
    run, planned = known.runs[entry.id], known.entries.get(entry.id)
    made = known.made[run.get("made", 0)]
    here = suite.identity(entry)
    if planned is None or suite.digest(planned) != here["config_sha256"]:
        differences = _differences(planned, entry) if planned else []
        what = f" ({', '.join(differences[:3])})" if differences else ""
        raise UserError(
            f"--known_runs has {str(known.path)!r} but its {entry.id} was made with another config"
            f"{what}; give the same --config values, or leave that file out."
        )
    hashes = made.get("data_sha256", ""), here.get("data_sha256", "")
    if all(hashes) and len(set(hashes)) > 1:
        raise UserError(
            f"--known_runs has {str(known.path)!r} but its runs are of other data ({hashes[0][:12]} "
            f"there, {hashes[1][:12]} here); give the same data, or leave that file out."
        )
    if not hashes[0]:  # it is not known which data they were
        here.pop("data_sha256", None)
    return run | here | {"made": made}


def _differences(there: Entry, here: Entry) -> list[str]:
    """Sentences with the names that the values have in a suite's config."""
    old, new = ({"run": entry.config.to_dict()} for entry in (there, here))
    return config_differences(old, ConfigDict(new), workdir.IRRELEVANT)
