"""The entries of a suite, and the record that each leaves in a file of its own."""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import ml_collections

from experiments.data import sets
from experiments.runs import workdir
from experiments.system import files
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, of_a_run, provenance

DIVERGED = ".diverged"  # of the file that says why a run has no record
# What changes no result of a run by more than rounding: where things are, how they are loaded, how often
# they are saved, on which devices, and how many corrupt images would have stopped it.
_IRRELEVANT = ("data_dir", "checkpoint_seconds", "mesh", "max_corrupt", "loader")
# What is kept of every point and ensemble along a path.
_KEPT = (
    *("name", "coords", "members", "average", "accuracy", "nll", "brier", "ece"),
    *("disagreement", "total_variation"),
)


class Entry(NamedTuple):
    """One run of a suite.

    Attributes:
      method: its recipe.
      setting: "article", "tuning", "tuned", "partner" of a run that others start from, or "landscape"
        (see `scenes`).
      label_noise, seed: of the run.
      config: all of it; the weights that it starts from are filled in when they are there.
      values: what a sweep or the tuning chose, by name in the config.
      needs: ids of the entries whose networks it starts from.
      given: what else than the config decides the result: digests of those entries, and how a landscape
        is looked at.
    """

    method: str
    setting: str
    label_noise: float
    seed: int
    config: ml_collections.ConfigDict
    values: dict[str, float] = {}
    needs: tuple[str, ...] = ()
    given: str = ""

    @property
    def id(self) -> str:
        """The name of its files."""
        varied = "".join(f",{name}={value:g}" for name, value in self.values.items())
        noise = f"noise{round(100 * self.label_noise)}"
        return f"{self.setting}/{self.method}{varied}/{noise}/seed{self.seed}"


def digest(entry: Entry) -> str:
    """Of all that decides a run's results, but for the data."""
    values = {k: v for k, v in entry.config.to_dict().items() if k not in _IRRELEVANT}
    if entry.given:
        values["given"] = entry.given
    values["subspace"] = {k: v for k, v in values["subspace"].items() if k != "weights"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def record_path(folder: Path, entry_id: str) -> Path:
    """The file of a run's record; its weights lie beside it."""
    return folder / workdir.RUNS / f"{entry_id}.json"


def weights_path(folder: Path, entry_id: str) -> Path:
    """The file of a run's stack of networks."""
    return folder / workdir.RUNS / f"{entry_id}.npz"


def ids_of_records(folder: Path) -> set[str]:
    """Of all runs of a suite that are done."""
    root = folder / workdir.RUNS
    return {path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.json")}


def write(folder: Path, entry: Entry, record: dict) -> dict:
    """Writes the record of a run, which marks it as done.

    Returns:
      The record, which now says how it was made: here and now, unless it says so itself.
    """
    here = provenance("experiments.reproduce", entry.config.model.dtype) | finished_now()
    record = {"made": of_a_run(here | record)} | record
    path = record_path(folder, entry.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(path, json.dumps(record, allow_nan=False) + "\n")
    return record


def read(folder: Path, entry_id: str) -> dict:
    """The record of a run that is done.

    Raises:
      UserError: the file is damaged.
    """
    path = record_path(folder, entry_id)
    try:
        record = json.loads(path.read_text())
    except ValueError:
        record = None
    if not isinstance(record, dict) or "config_sha256" not in record:
        raise UserError(
            f"{path} is not a run's whole record; delete it, and the run is done again."
        )
    return record


def finished(folder: Path, entry: Entry) -> dict | None:
    """The record of a run that is done, here or on another machine.

    Raises:
      UserError: it is that of another config, or damaged.
    """
    path = record_path(folder, entry.id)
    if not path.exists():
        return None
    record = read(folder, entry.id)
    _check_same(path, record, entry)
    return record


def _check_same(path: Path, record: dict, entry: Entry) -> None:
    here = {"config_sha256": digest(entry), "data_sha256": sets.fingerprint(entry.config.data_dir)}
    for name, what in (("config_sha256", "config"), ("data_sha256", "data set")):
        there = record.get(name, "")
        if there != here[name] and (name == "config_sha256" or (there and here[name])):
            raise UserError(
                f"{path} is the record of a run of another {what} ({there[:12]} there, "
                f"{here[name][:12]} here); move it away or choose another --workdir."
            )


def diverged(folder: Path, entry: Entry) -> str:
    """Why a run diverged that was tried before; empty if it was not, or has another config now."""
    path = record_path(folder, entry.id).with_suffix(DIVERGED)
    if not path.exists():
        return ""
    note = json.loads(path.read_text())
    return note["error"] if note["config_sha256"] == digest(entry) else ""


def is_settled(folder: Path, entry: Entry) -> bool:
    """Whether a run is done, or known to diverge."""
    return finished(folder, entry) is not None or bool(diverged(folder, entry))


def identity(entry: Entry) -> dict:
    """What a record says of what it is the record of."""
    fingerprint = sets.fingerprint(entry.config.data_dir)
    return {
        "id": entry.id,
        "method": entry.method,
        "setting": entry.setting,
        "label_noise": entry.label_noise,
        "seed": entry.seed,
        "values": entry.values,
        "config_sha256": digest(entry),
        **({"data_sha256": fingerprint} if fingerprint else {}),
    }


def cost_of(folder: Path, need: str) -> float:
    return read(folder, need)["cost"]["gradient_passes"]


def kept(entry: dict) -> dict:
    return {name: entry[name] for name in _KEPT if name in entry}


def rounded(value):
    """Floats with six significant digits, which is more than float32 metrics hold."""
    return files.plain(value, digits=6)
