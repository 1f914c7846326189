"""A run that is finished, opened again from its folder: config, data, networks, results."""

import importlib
import shlex
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

import subspace_jax as ss
from experiments.configs import check
from experiments.configs.base import base_config
from experiments.data import sets
from experiments.evaluation import predict
from experiments.evaluation.points import layout
from experiments.runs import workdir
from experiments.system.errors import UserError
from experiments.system.values import flatten
from experiments.training import weights
from experiments.training.run import Run, make_run, one_network

# Data sets with a command of their own; `experiments.cifar` trains on all others.
_COMMANDS = ("tiny_imagenet", "imagenet")
_OWN = ("digits", "cifar10", "cifar100", *_COMMANDS)  # with a file in configs/


class FinishedRun(NamedTuple):
    """What a finished run's folder holds, and what its config stands for."""

    config: ConfigDict
    metrics: dict
    dataset: sets.Dataset  # with the true labels
    run: Run  # of one device
    settings: predict.Settings
    stack: ss.tree.PyTree  # of the networks that were evaluated, leaves [n, ...]


def reopen(folder: Path, data_dir: str = "") -> FinishedRun:
    """Opens the folder of a finished run, whose data may be in `data_dir` now; nothing is changed."""
    check_folder(folder)
    metrics = workdir.finished(folder)
    if metrics is None:
        if reason := workdir.diverged(folder):
            raise UserError(f"{folder} holds a run that diverged: {reason}")
        raise UserError(
            f"{folder} holds a run that is not finished; finish it with `{command_of(folder)}`."
        )
    if "points" not in metrics:
        raise UserError(
            f"{folder} holds a landscape of a suite and no networks; give the folder of a run beside it."
        )
    config = config_of(folder)
    config.data_dir = data_dir or config.data_dir
    there, here = workdir.data_sha256(folder), sets.fingerprint(config.data_dir)
    if there and here and there != here:
        raise UserError(
            f"{config.data_dir} is not the file that {folder} was trained on (SHA-256 {there[:12]} "
            f"there, {here[:12]} here); give that one with --data_dir."
        )
    path = folder / workdir.WEIGHTS
    if not path.exists():
        raise UserError(
            f"{folder} has no {workdir.WEIGHTS}; delete its {workdir.METRICS} and run "
            f"`{command_of(folder)}`, which trains what the last checkpoint lacks and writes it."
        )
    own = alone(config, path)
    dataset = sets.of(own)
    run = make_run(own, dataset)
    settings = predict.make_settings(own, run)
    stack = weights.load(path, one_network(run))
    there, wanted = ss.tree.num_stacked(stack), layout(run, settings).weights.shape[1]
    if there != wanted:
        raise UserError(
            f"{path} holds {there} networks but the run of {workdir.CONFIG} has {wanted}; put the "
            "file back that the run wrote."
        )
    return FinishedRun(config, metrics, dataset, run, settings, stack)


def check_folder(folder: Path) -> None:
    """Refuses what is not the folder of a single run, finished or not."""
    if not (folder / workdir.CONFIG).is_file():
        raise UserError(
            f"{folder} has no {workdir.CONFIG}, so no command of this project trained there; give the "
            "--workdir of a finished run."
        )
    if "recipe" not in workdir.stored_config(folder):
        raise UserError(
            f"{folder} holds a suite of runs and not a single one; train the run that you want by its "
            "recipe and give its --workdir."
        )


def config_of(folder: Path) -> ConfigDict:
    """The config of a single run's folder, with today's values for what came after it."""
    stored = workdir.stored_config(folder)
    config = base_config(stored["recipe"])
    config.update(check.without_removed(stored))
    return config


def alone(config: ConfigDict, path: Path) -> ConfigDict:
    """The run of the networks in `path` without what only its training needed, which may be gone."""
    alone = config.copy_and_resolve_references()
    alone.mesh = ""
    alone.label_noise.update({"rate": 0.0, "mode": "uniform_wrong", "file": ""})
    alone.init_from = ""
    alone.subspace.given = ()  # of its own networks these are some
    alone.subspace.weights = (str(path),) if config.kind == "independent" else ()
    return alone


def command_of(folder: Path) -> str:
    """The command that trains, resumes or finishes the run of a folder."""
    config = workdir.stored_config(folder)
    name, recipe = config.get("dataset"), config.get("recipe", "line")
    command = name if name in _COMMANDS else "cifar"
    file = name if name in _OWN else "cifar10"
    usual = importlib.import_module(f"experiments.configs.{file}").get_config(recipe)
    usual = dict(flatten(usual.to_dict()))
    changed = [
        f"--{key}={tuple(value) if isinstance(value, list) else value}"
        for key, value in flatten(config)
        if key in usual and usual[key] != value
    ]
    words = ["python", "-m", f"experiments.{command}"]
    words += ["--config", f"experiments/configs/{file}.py:{recipe}", "--workdir", str(folder)]
    return shlex.join([*words, *changed, *(["--quick"] if config.get("quick") else [])])
