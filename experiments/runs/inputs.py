"""What runs are trained and tested on, read once and handed on to all of them."""

import threading
from collections.abc import Callable

import ml_collections

from experiments.data import sets
from experiments.evaluation.shifted import Shifted, shifted_images

# Bytes of corrupted and foreign images that runs share; what is more is made anew for each of them.
_KEPT_BYTES = 3 << 30


class Inputs:
    """The data of the runs of one command, which may be threads."""

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
