"""A run's folder: one config, never mixed with another's, never overwritten unasked."""

import json
import shutil
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from experiments.data import sets
from experiments.system import files
from experiments.system.cli import config_differences
from experiments.system.errors import UserError
from experiments.training import weights

CONFIG, METRICS, HISTORY, REPORT = "config.json", "metrics.json", "history.jsonl", "report.html"
CHECKPOINTS, TENSORBOARD, FIGURES = "checkpoints", "tensorboard", "figures"
WEIGHTS, RUNS, TABLE = weights.FILE, "runs", "table.md"
LANDSCAPE, DIVERGED, KNOWN = "landscape.json", "diverged.json", "known_run.json"
# Beside the config: of an .npz file, wherever it lies; and what a suite says of its run.
_DATA, _SUITE = "data_sha256", "in_suite"
DAMAGED = "damaged_checkpoint_"
# All that commands write (and what starts with DAMAGED); --overwrite deletes nothing else.
_OURS = (
    *(CONFIG, METRICS, HISTORY, REPORT, WEIGHTS, TABLE, LANDSCAPE, DIVERGED, KNOWN),
    *(CHECKPOINTS, TENSORBOARD, FIGURES, RUNS),
)
# Where things are, how they are loaded, how often they are saved, how many run at once, on which
# devices, and how many corrupt images would have stopped a run changes no result by more than rounding.
_OF_A_RUN = (
    *("data_dir", "checkpoint_seconds", "mesh", "max_corrupt"),
    *("loader.num_workers", "loader.num_threads", "loader.prefetch"),
)
IRRELEVANT = (
    *("config.num_threads", "config.runs_at_once"),
    *(f"config.{run}{name}" for run in ("", "run.") for name in _OF_A_RUN),
)
# A suite's run starts from networks of runs beside it, whose configs say which they are.
IRRELEVANT_IN_A_SUITE = (*IRRELEVANT, "config.subspace.weights")


class InSuite(NamedTuple):
    """What a suite says of one of its runs."""

    # What else than the config decides the result: digests of what it needs, how a landscape is seen.
    given: str
    needs: tuple[str, ...]  # ids of the runs whose networks it starts from


def check(
    folder: str, config: ConfigDict, overwrite: bool, in_suite: InSuite | None = None
) -> Path:
    """The folder, if a run of this config may use it; nothing is written or deleted yet."""
    path = Path(folder).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir {folder} is a file; name a folder.")
    found = [entry.name for entry in _ours(path)]
    if CONFIG not in found:
        if found:
            raise UserError(
                f"{path} holds {found[0]} but no {CONFIG}, so it is not known what made it; choose "
                "another --workdir or delete it yourself."
            )
        return path
    if overwrite:
        return path
    held = _read(path / CONFIG)
    said = held.pop(_SUITE, {})
    there, here = held.pop(_DATA, ""), sets.fingerprint(config.get("data_dir", ""))
    if there and here and there != here:
        raise UserError(
            f"{path} holds a run of other data ({_DATA} {there[:12]} there, {here[:12]} of "
            f"{config.data_dir}); choose another --workdir or pass --overwrite."
        )
    ignored = IRRELEVANT if in_suite is None else IRRELEVANT_IN_A_SUITE
    differences = config_differences(held, config, ignored)
    if in_suite is not None and not differences and said.get("given", "") != in_suite.given:
        differences = [f"what it starts from or looks at is not {', '.join(in_suite.needs)} of now"]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(
            f"{path} holds a run of another config ({', '.join(differences[:3])}{more}); choose "
            "another --workdir or pass --overwrite."
        )
    return path


def prepare(
    path: Path, config: ConfigDict, overwrite: bool, in_suite: InSuite | None = None
) -> None:
    """Makes the folder and writes the config into it; deletes an earlier run if asked to."""
    if overwrite:
        for entry in _ours(path):
            delete(entry)
    path.mkdir(parents=True, exist_ok=True)
    if not (path / CONFIG).exists():
        fingerprint = sets.fingerprint(config.get("data_dir", ""))
        more = {_DATA: fingerprint} if fingerprint else {}
        if in_suite is not None:
            more[_SUITE] = in_suite._asdict()
        files.write_json(path / CONFIG, config.to_dict() | more)


def data_sha256(path: Path) -> str:
    """The SHA-256 of the .npz file that a folder's run trained on; empty without one."""
    return _read(path / CONFIG).get(_DATA, "")


def needs(path: Path) -> list[str]:
    """Ids of the runs of its suite that a folder's run starts from."""
    return _read(path / CONFIG).get(_SUITE, {}).get("needs", [])


def finished(path: Path) -> dict | None:
    """The metrics of a finished run, or `None`."""
    return _read(path / METRICS) if (path / METRICS).exists() else None


def diverged(path: Path) -> str:
    """Why a folder's run diverged, as it would again; empty if it did not."""
    return _read(path / DIVERGED).get("diverged", "") if (path / DIVERGED).exists() else ""


def set_diverged(path: Path, reason: str) -> None:
    """Marks a folder's run as one that diverges."""
    files.write_json(path / DIVERGED, {"diverged": reason})


def stored_config(path: Path) -> dict:
    """The config of the run that a folder holds."""
    config = _read(path / CONFIG)
    return {name: value for name, value in config.items() if name not in (_DATA, _SUITE)}


def landscape(path: Path) -> dict:
    """The landscape around a run's networks; empty without one."""
    return _read(path / LANDSCAPE) if (path / LANDSCAPE).exists() else {}


def publish(path: Path, figures: dict[str, bytes | str], report: str) -> None:
    """Writes figures, and the report last: what has none is published by the next command."""
    (path / FIGURES).mkdir(exist_ok=True)
    for name, content in figures.items():
        files.write_atomically(path / FIGURES / name, content)
    files.write_atomically(path / REPORT, report)


def _read(path: Path) -> dict:
    try:
        value = json.loads(path.read_text())
    except (ValueError, IsADirectoryError) as error:
        value = error
    if not isinstance(value, dict):
        raise UserError(
            f"{path} is not JSON ({value}); choose another --workdir or pass --overwrite."
        )
    return value


def _ours(path: Path) -> list[Path]:
    entries = [path / name for name in _OURS if (path / name).exists()]
    return entries + sorted(path.glob(f"{DAMAGED}*"))


def delete(path: Path) -> None:
    """Deletes a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
