"""A run's folder: one config, never mixed with another's, never overwritten unasked."""

import json
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from experiments import files
from experiments.cli import config_differences
from experiments.errors import UserError

CONFIG, METRICS, HISTORY, REPORT = "config.json", "metrics.json", "history.jsonl", "report.html"
CHECKPOINTS, TENSORBOARD, FIGURES = "checkpoints", "tensorboard", "figures"
# All that commands write; --overwrite deletes nothing else.
_OURS = (CONFIG, METRICS, HISTORY, REPORT, CHECKPOINTS, TENSORBOARD, FIGURES)
# Where things are and how often they are saved does not change what a run computes.
_IRRELEVANT = ("config.data_dir", "config.checkpoint_seconds")


def check(folder: str, config: ConfigDict, overwrite: bool) -> Path:
    """The folder, if a run of this config may use it; nothing is written or deleted yet.

    Raises:
      UserError: it is a file, or holds a run of another config or files of unknown origin.
    """
    path = Path(folder).expanduser()
    if path.exists() and not path.is_dir():
        raise UserError(f"--workdir {folder} is a file; name a folder.")
    if overwrite:
        return path
    found = [name for name in _OURS if (path / name).exists()]
    if CONFIG not in found:
        if found:
            raise UserError(
                f"{path} holds {found[0]} but no {CONFIG}, so it is not known what made it; choose "
                "another --workdir or pass --overwrite."
            )
        return path
    differences = config_differences(_read(path / CONFIG), config, _IRRELEVANT)
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise UserError(
            f"{path} holds a run of another config ({', '.join(differences[:3])}{more}); choose "
            "another --workdir or pass --overwrite."
        )
    return path


def prepare(path: Path, config: ConfigDict, overwrite: bool) -> None:
    """Makes the folder and writes the config into it; deletes an earlier run if asked to."""
    if overwrite:
        for name in _OURS:
            _delete(path / name)
    path.mkdir(parents=True, exist_ok=True)
    if not (path / CONFIG).exists():
        files.write_json(path / CONFIG, config.to_dict())


def finished(path: Path, overwrite: bool) -> dict | None:
    """The metrics of a finished run, or `None`."""
    if overwrite or not (path / METRICS).exists():
        return None
    return _read(path / METRICS)


def publish(path: Path, metrics: dict, pictures: dict[str, bytes], report: str) -> None:
    """Writes figures and report, and the metrics last: they mark a run as finished."""
    (path / FIGURES).mkdir(exist_ok=True)
    for name, picture in pictures.items():
        files.write_atomically(path / FIGURES / f"{name}.png", picture)
    files.write_atomically(path / REPORT, report)
    files.write_json(path / METRICS, metrics)


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


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
