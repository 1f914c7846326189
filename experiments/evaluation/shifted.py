"""Images that are not those of the test split: corrupted ones, and ones of other data sets."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from experiments.data import corrupted, ood, sets
from experiments.data.corrupted import Corrupted


class Shifted(NamedTuple):
    """Images that are not those of the test split, made when they are asked for."""

    corrupted: Mapping[str, Mapping[int, Callable[[], Corrupted]]] = {}  # by name and severity
    outside: Mapping[str, Callable[[], np.ndarray]] = {}  # uint8 [M, H, W, C] of other data sets


NOTHING_SHIFTED = Shifted()


def shifted_images(
    config: ml_collections.ConfigDict,
    dataset: sets.Dataset,
    shared: Callable[[tuple, Callable], object] = lambda key, make: make(),
) -> Shifted:
    """The corrupted and the foreign images that a config asks for; `shared` may keep what is made."""
    evaluation, source = config.evaluation, config.evaluation.corruption_source
    corrupted.check_names(evaluation.corruptions)
    where = (config.dataset, config.data_dir, config.image_size)
    # Where TFDS has other data sets: with the first one, unless that is a file.
    data_dir = "" if config.data_dir.endswith(".npz") else config.data_dir
    generated = source == corrupted.GENERATED

    def corrupt(name, severity):
        names = () if generated else sets.class_names(config.dataset, config.data_dir)
        made = (source, name, severity, dataset.test, dataset.num_classes)
        return corrupted.load_corrupted(*made, class_names=names, data_dir=data_dir)

    def foreign(name):
        return ood.load_outside(name, dataset.test, data_dir)

    def later(make, *what):
        return functools.partial(shared, (*where, source, *what), functools.partial(make, *what))

    return Shifted(
        {
            name: {severity: later(corrupt, name, severity) for severity in evaluation.severities}
            for name in evaluation.corruptions
        },
        {name: later(foreign, name) for name in evaluation.outside},
    )


def check_shifted(config: ml_collections.ConfigDict, shifted: Shifted) -> None:
    """Loads the foreign images and a severity of each published corruption, before any training."""
    if config.evaluation.corruption_source != corrupted.GENERATED:
        for severities in shifted.corrupted.values():
            next(iter(severities.values()))()
    for load in shifted.outside.values():
        load()
