"""Data, configs and networks so small that they compile in seconds and train in milliseconds."""

import numpy as np
from ml_collections import ConfigDict

from experiments.configs.base import base_config
from experiments.data.sets import NPZ_KEYS, Dataset, Split
from experiments.training import steps, weights
from experiments.training.run import Run, make_run

NUM_TRAIN, NUM_TEST, NUM_CLASSES = 64, 20, 3


def _split(rng, size):
    """Noise whose contrast depends on the label, so that there is something to learn."""
    labels = rng.integers(0, NUM_CLASSES, size).astype(np.int32)
    contrasts = np.array([20, 60, 120])[labels, None, None, None]
    images = 128 + contrasts * rng.uniform(-1, 1, (size, 8, 8, 1))
    return Split(images.astype(np.uint8), labels)


def dataset(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    parts = [_split(rng, size) for size in (NUM_TRAIN, 0, NUM_TEST)]
    return Dataset("tiny", *parts, NUM_CLASSES)


def npz_file(path) -> str:
    """The data set as a file, and its name."""
    made = dataset()
    np.savez(path, **dict(zip(NPZ_KEYS, (*made.train, *made.test), strict=True)))
    return str(path)


def config(recipe: str = "line", **changes) -> ConfigDict:
    """A config of 2 epochs of 10 steps; `a__b=1` sets `config.a.b`."""
    tiny = base_config(recipe)
    tiny.num_epochs = 2
    tiny.batch_size = 6
    tiny.steps_per_call = 1
    tiny.augmentation = "crop_and_flip"
    tiny.model.name = "conv_net"
    tiny.model.widths = (4, 8)
    tiny.optimizer.warmup_epochs = 1
    tiny.evaluation.num_points = 5
    tiny.evaluation.grid_steps = 0
    tiny.evaluation.num_bins = 10
    tiny.evaluation.batch_size = 8
    tiny.evaluation.recalibration_batch_size = 16
    tiny.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return tiny


def get_config(recipe: str = "line") -> ConfigDict:
    """Of commands with `--config=tests/tiny.py:RECIPE` on the data set as a file."""
    return config(recipe, dataset="tiny")


def run(recipe: str = "line", **changes) -> Run:
    return make_run(config(recipe, **changes), dataset())


def weights_file(path, seed: int, recipe: str = "standard", **changes) -> str:
    """A file of networks as a run of this seed starts with, and its name."""
    weights.save(path, steps.init_state(run(recipe, seed=seed, **changes)).endpoints)
    return str(path)
