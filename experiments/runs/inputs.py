"""What runs are trained and tested on, read once and handed on to all of them."""

import functools
import threading
from collections.abc import Callable

import ml_collections

from experiments.data import corrupted, ood, sets
from experiments.evaluation.predictors import Shifted

# Bytes of corrupted and foreign images that runs share; what is more is made anew for each of them.
_KEPT_BYTES = 3 << 30


class Inputs:
    """The data of the runs of one command, which may be threads.

    Example:
      >>> from experiments.configs.digits import get_config
      >>> inputs = Inputs()
      >>> one, two = (inputs.dataset(get_config("line")) for _ in range(2))
      >>> one.train.images is two.train.images
      True
    """

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
        """See `shifted_images`; runs share what is made."""
        return shifted_images(config, self.dataset(config), self._shared)

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


def shifted_images(
    config: ml_collections.ConfigDict,
    dataset: sets.Dataset,
    shared: Callable[[tuple, Callable], object] = lambda key, make: make(),
) -> Shifted:
    """The corrupted and the foreign images that a config asks for, made when they are needed.

    Args:
      config: of the run.
      dataset: of the run.
      shared: `(key, make) -> images`, which may know what a key stands for already.

    Raises:
      UserError: a corruption or severity that does not exist.
    """
    evaluation, source = config.evaluation, config.evaluation.corruption_source
    corrupted.check_names(evaluation.corruptions, evaluation.severities)
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
    """Loads the foreign images and a severity of each published corruption, before any training.

    Raises:
      UserError: they do not exist, can't be read, or do not fit the model.
    """
    if config.evaluation.corruption_source != corrupted.GENERATED:
        for severities in shifted.corrupted.values():
            next(iter(severities.values()))()
    for load in shifted.outside.values():
        load()
