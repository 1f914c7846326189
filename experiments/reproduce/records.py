"""The entries of a suite, and what the folder that each leaves says of it."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ml_collections

from experiments.evaluation.inputs import Inputs
from experiments.runs import workdir
from experiments.runs.workdir import InSuite
from experiments.system import files
from experiments.system.errors import UserError
from experiments.system.provenance import of_a_run
from experiments.system.values import flatten

# What is kept of every point and ensemble along a path.
_KEPT = (
    *("name", "coords", "members", "average", "accuracy", "nll", "brier", "ece"),
    *("disagreement", "total_variation"),
)
# Settings of entries that train nothing and look at what others trained, see `scenes`.
LOOKING = ("landscape", "corrupted")
_COST = ("training_images", "runs_at_once", "training_seconds")
_COST += ("images_per_second", "evaluation_seconds")


class Entry(NamedTuple):
    """One run of a suite."""

    method: str  # its recipe
    setting: str  # article, tuning, tuned, partner (others start from it), or one of `LOOKING`
    label_noise: float
    seed: int
    config: ml_collections.ConfigDict
    values: dict[str, float] = {}  # what a sweep or the tuning chose
    needs: tuple[str, ...] = ()  # ids of the entries whose networks it starts from
    given: str = ""  # what else than the config decides the result

    @property
    def in_suite(self) -> InSuite:
        """What its folder says of it."""
        return InSuite(self.given, self.needs)

    @property
    def id(self) -> str:
        """The name of its folder."""
        varied = "".join(f",{name}={value:g}" for name, value in self.values.items())
        noise = f"noise{round(100 * self.label_noise)}"
        return f"{self.setting}/{self.method}{varied}/{noise}/seed{self.seed}"


class Suite(NamedTuple):
    """What the runs of a suite share."""

    folder: Path
    inputs: Inputs
    stop: Callable[[], bool]  # whether a signal came, so that runs are to be saved and given up


def digest(entry: Entry) -> str:
    """Of all that decides a run's results, but for the data."""
    values = dict(flatten(entry.config.to_dict()))
    values = {k: v for k, v in values.items() if k not in workdir.IRRELEVANT_IN_A_SUITE}
    if entry.given:
        values["given"] = entry.given
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def steps_of(entry: Entry) -> str:
    """All that decides a run's steps, which runs that differ in their average alone have in common."""
    if entry.setting in LOOKING or entry.config.average.name not in ("none", "ema"):
        return entry.id
    values = entry.config.to_dict().items()
    deciding = {k: v for k, v in values if k not in ("recipe", "average", "evaluation")}
    return json.dumps([entry.setting, entry.given, deciding], sort_keys=True)


def run_folder(folder: Path, entry_id: str) -> Path:
    """The folder of a run, as commands for single runs take it."""
    return folder / workdir.RUNS / entry_id


def weights_path(folder: Path, entry_id: str) -> Path:
    """The file of a run's stack of networks."""
    return run_folder(folder, entry_id) / workdir.WEIGHTS


def finished(folder: Path, entry: Entry) -> dict | None:
    """What a suite says of a run that is done, here or on another machine; `None` if it is not."""
    own = run_folder(folder, entry.id)
    workdir.check(str(own), entry.config, False, entry.in_suite)
    for name, read in ((workdir.METRICS, _row), (workdir.KNOWN, lambda folder, entry, row: row)):
        if (path := own / name).exists():
            try:
                return identity(entry) | read(folder, entry, json.loads(path.read_text()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"{path} is not a run's whole record; delete it, and the run is done again."
                ) from error
    return None


def _row(folder: Path, entry: Entry, metrics: dict) -> dict:
    """What a suite says of a run, from the metrics of its folder."""
    record = metrics["provenance"]
    here = {"data_sha256": workdir.data_sha256(run_folder(folder, entry.id))}
    row = {"made": of_a_run(record | {k: v for k, v in here.items() if v})}
    if entry.setting in LOOKING:
        seen = {name: metrics[name] for name in ("places", "landscape")}
        return row | seen | {"wall_seconds": record["wall_seconds"]}
    cost = {"gradient_passes": gradient_passes(folder, entry.id)}
    seen = {
        "places": metrics["places"],
        "points": points_of(metrics),
        "ensembles": [_kept(ensemble) for ensemble in metrics["ensembles"]],
        **{name: metrics[name] for name in ("geometry", "data", "recalibration")},
        "last_epoch": {
            k: last[k] for last in metrics["history"][-1:] for k in ("accuracy", "loss")
        },
        "cost": cost | {name: record.get(name) for name in _COST},
        "wall_seconds": record["wall_seconds"],
    }
    return row | rounded(seen)


def points_of(metrics: dict) -> list[dict]:
    """What is kept of the points of a run."""
    return rounded([_kept(point) for point in metrics["points"]])


def gradient_passes(folder: Path, entry_id: str) -> int:
    """Of a run and of those that it starts from, each through one image."""
    own = run_folder(folder, entry_id)
    passes = workdir.finished(own)["provenance"]["gradient_passes"]
    return passes + sum(gradient_passes(folder, need) for need in workdir.needs(own))


def write_known(folder: Path, entry: Entry, row: dict) -> None:
    """Writes what another suite's results say of a run, which marks it as done."""
    own = run_folder(folder, entry.id)
    workdir.prepare(own, entry.config, False, entry.in_suite)
    files.write_json(own / workdir.KNOWN, row)


def is_settled(folder: Path, entry: Entry) -> bool:
    """Whether a run is done, or known to diverge."""
    own = run_folder(folder, entry.id)
    return finished(folder, entry) is not None or bool(workdir.diverged(own))


def identity(entry: Entry) -> dict:
    """Which run it is."""
    names = ("id", "method", "setting", "label_noise", "seed", "values")
    return {name: getattr(entry, name) for name in names}


def _kept(entry: dict) -> dict:
    return {name: entry[name] for name in _KEPT if name in entry}


def rounded(value):
    """Floats with six significant digits, which is more than float32 metrics hold."""
    return files.plain(value, digits=6)
