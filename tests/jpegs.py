"""A folder in the layout of ImageNet, of small generated JPEGs, and configs that train on it."""

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from experiments.configs import imagenet

CLASSES = ("n001", "n002", "n003", "n004")
NUM_TRAIN, NUM_VAL = 12, 3  # of each class
SIDE = 16


def picture(rng, label: int, mode: str = "RGB") -> Image.Image:
    """Noise around a level that tells the class, of a size of its own."""
    width, height = rng.integers(20, 41, 2)
    pixels = 40 + 45 * label + rng.integers(0, 40, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def make(root, seed: int = 0):
    """Writes the folder; among the images are greyscale and CMYK ones."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for label, name in enumerate(CLASSES):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                mode = {0: "L", 1: "CMYK"}.get(i, "RGB")
                picture(rng, label, mode).save(folder / f"{name}_{i}.JPEG", "JPEG")
    return root


def get_config(recipe: str = "line") -> ConfigDict:
    """The config of ImageNet, with a network and values that are small enough for a test.

    This file is a config file of a command too.
    """
    config = imagenet.get_config(recipe)
    config.model.name, config.model.widths = "conv_net", (4, 8)
    config.update_from_flattened_dict(VALUES)
    return config


def config(root, recipe: str = "line", **changes) -> ConfigDict:
    """`a__b=1` sets `config.a.b`."""
    small = get_config(recipe)
    small.data_dir = str(root)
    small.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return small


VALUES = {
    "num_classes": len(CLASSES),
    "image_size": SIDE,
    "validation_size": 6,
    "batch_size": 8,
    "num_epochs": 3,
    "steps_per_call": 1,
    "optimizer.warmup_epochs": 1,
    "model.dtype": "float32",
    "loader.num_threads": 1,
    "max_corrupt": 2,
    "evaluation.num_points": 3,
    "evaluation.batch_size": 8,
    "evaluation.recalibration_batch_size": 8,
    "evaluation.recalibration_examples": 16,
}
