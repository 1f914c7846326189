"""The images of the runs of one command: its data set, and those that are not of the test split."""

import functools
import threading
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_collections
import numpy as np

from experiments.data import corrupted, ood, sets
from experiments.data.corrupted import Corrupted

# Bytes of corrupted and foreign images that runs share; what is more is made anew for each of them.
_KEPT_BYTES = 3 << 30


class Shifted(NamedTuple):
    """Images that are not those of the test split, made when they are asked for."""

    corrupted: Mapping[str, Mapping[int, Callable[[], Corrupted]]] = {}  # by name and severity
    outside: Mapping[str, Callable[[], np.ndarray]] = {}  # uint8 [M, H, W, C] of other data sets


NOTHING_SHIFTED = Shifted()


class Inputs:
    """The data of the runs of one command, which may be threads: each is read once."""

    def __init__(self):
        self._lock = threading.RLock()
        self._read: dict = {}
        self._made: dict = {}
        self._bytes = 0

    def dataset(self, config: ml_collections.ConfigDict) -> sets.Dataset:
        """The data set of a config, its images shared with those of equal ones."""
        with self._lock:
            return sets.of(config, self._read)

    def shifted(self, config: ml_collections.ConfigDict) -> Shifted:
        """The corrupted and the foreign images that a config asks for."""
        evaluation, source = config.evaluation, config.evaluation.corruption_source
        corrupted.check_names(evaluation.corruptions)
        dataset, where = self.dataset(config), (config.dataset, config.data_dir, config.image_size)
        # Where TFDS has other data sets: with the first one, unless that is a file.
        data_dir = "" if config.data_dir.endswith(".npz") else config.data_dir
        generated = source == corrupted.GENERATED

        def corrupt(name, severity):
            names = () if generated else sets.class_names(config.dataset, config.data_dir)
            made = (source, name, severity, dataset.test, dataset.num_classes)
            return corrupted.load_corrupted(*made, class_names=names, data_dir=data_dir)

        foreign = lambda name: ood.load_outside(name, dataset.test, data_dir)

        def later(make, *what):
            key = (*where, source, *what)
            return functools.partial(self._shared, key, functools.partial(make, *what))

        return Shifted(
            {
                name: {level: later(corrupt, name, level) for level in evaluation.severities}
                for name in evaluation.corruptions
            },
            {name: later(foreign, name) for name in evaluation.outside},
        )

    def _shared(self, key: tuple, make: Callable):
        with self._lock:
            if key in self._made:
                return self._made[key]
            made = make()
            size = getattr(made.split.images if hasattr(made, "split") else made, "nbytes", 0)
            if self._bytes + size <= _KEPT_BYTES:
                self._bytes += size
                self._made[key] = made
            return made


def check_shifted(config: ml_collections.ConfigDict, shifted: Shifted) -> None:
    """Loads the foreign images and a severity of each published corruption, before any training."""
    if config.evaluation.corruption_source != corrupted.GENERATED:
        for severities in shifted.corrupted.values():
            next(iter(severities.values()))()
    for load in shifted.outside.values():
        load()
