"""Batches of a training split that is too large for memory, made by Grain while the device works.

What is in batch s of a run, in which row, and how it is cropped, is a function of (seed, s, row) alone:
not of threads, worker processes, the number of hosts, nor of interruptions. Of every batch process p of
P makes rows p B/P to (p + 1) B/P. Grain is given a source whose element s is the whole of these rows, so
that the position of its iterator is the number of the step, and a run that resumes reads on from there.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data.decode import NUM_DRAWS, Pictures, Unreadable, check_left_out
from experiments.system.errors import UserError

# Streams of randomness, of (seed, stream, step, row); labels.py and ood.py have others.
_ORDER, TRAINING, RECALIBRATION = 20, 21, 22
_MAX_THREADS = 16  # each makes a batch, which takes memory


class Options(NamedTuple):
    """The values of `config.loader` and `config.max_corrupt`; none of them changes a batch.

    Attributes:
      num_workers: processes; 0 for threads of this one alone.
      num_threads: of each; 0 for one per CPU core, at most 16 in all.
      prefetch: batches that each makes ahead, at least.
      max_corrupt: how many unreadable training images are passed over.
    """

    num_workers: int
    num_threads: int
    prefetch: int
    max_corrupt: int

    @property
    def threads(self) -> int:
        """Threads of each process."""
        cores = min(os.cpu_count() or 1, _MAX_THREADS)
        return self.num_threads or max(cores // max(self.num_workers, 1), 1)


class Order(Sequence):
    """The examples of the batches of a training: `[B]` numbers at every step.

    Every epoch is a permutation of its own, the rest left out; Grain's shuffle gives each number
    without the others.

    Args:
      size: of the split.
      batch_size: `B`, at most `size`.
      num_epochs: how many.
      seed: of the run.
    """

    def __init__(self, size: int, batch_size: int, num_epochs: int, seed: int):
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self._num_epochs, self._steps = num_epochs, size // batch_size

    def __len__(self) -> int:
        return self._num_epochs * self._steps

    def __getitem__(self, step: int) -> np.ndarray:
        epoch, step = divmod(step, self._steps)
        bits = np.random.Philox([self._seed, _ORDER, epoch]).random_raw()
        shuffle, start = import_grain().experimental.index_shuffle, step * self._batch_size
        options = {"max_index": self._size - 1, "seed": int(bits % 2**32), "rounds": 4}
        return np.array([shuffle(start + row, **options) for row in range(self._batch_size)])


class Batches:
    """The same rows of every batch: a source of Grain, whose element s is that of step s.

    An image that can't be decoded is passed over: its row takes the next row's example of the whole
    batch that can be.

    Args:
      pictures, labels: of the split.
      order: `[B]` numbers of examples at every step.
      rows: which are made.
      crop: whether images are cropped at random, and not at their centre.
      seed, stream: of the crops.
    """

    def __init__(
        self,
        pictures: Pictures,
        labels: np.ndarray,
        order: Sequence[np.ndarray],
        rows: range,
        *,
        crop: bool,
        seed: int,
        stream: int,
    ):
        self.pictures, self.order, self.rows = pictures, order, rows
        self._labels, self._crop, self._stream = labels, crop, (seed, stream)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images uint8 `[R, S, S, 3]`, labels int32 `[R]`, and numbers of unreadable images."""
        examples, unreadable = self.order[step], []
        images = np.empty((len(self.rows), *self.pictures.shape[1:]), np.uint8)
        labels = np.empty(len(self.rows), np.int32)
        for at, row in enumerate(self.rows):
            # From its own example on to those of the rows after it.
            for i in itertools.chain(examples[row:], examples[:row]):
                if i in unreadable:
                    continue
                try:
                    images[at] = self._image(i, step, row)
                except Unreadable:
                    unreadable.append(i)
                else:
                    labels[at] = self._labels[i]
                    break
            else:
                raise UserError(
                    f"None of the {len(examples)} images of batch {step} can be decoded (see "
                    f"{self.pictures.name(examples[row])}); restore the data set."
                )
        return images, labels, np.array(unreadable, np.int64)

    def _image(self, i: int, step: int, row: int) -> np.ndarray:
        if not self._crop:
            return self.pictures.centred(i)
        raw = np.random.Philox([*self._stream, step, row]).random_raw(NUM_DRAWS)
        return self.pictures.cropped(i, (raw >> np.uint64(11)) * 2.0**-53)


class Loader:
    """Makes the batches of a run in one of its processes.

    Args:
      options: see `Options`.
      process_index, process_count: which process of how many.
    """

    def __init__(self, options: Options, process_index: int = 0, process_count: int = 1):
        self.options, self.process_index, self.process_count = options, process_index, process_count
        self.corrupt: list[str] = []  # names of the images that were passed over

    def rows(self, batch_size: int) -> range:
        """This process's rows of a batch.

        Raises:
          UserError: the processes do not divide it.
        """
        size, rest = divmod(batch_size, self.process_count)
        if rest:
            below = batch_size - rest
            raise UserError(
                f"A batch has {batch_size} examples but is to be split over {self.process_count} "
                f"processes; use {f'{below} or ' if below else ''}{below + self.process_count}."
            )
        return range(self.process_index * size, (self.process_index + 1) * size)

    def stream(self, batches: Batches, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels of the batches from one on, in their order; close it to end early.

        Raises:
          UserError: more images are unreadable than may be.
        """
        if first >= len(batches):
            return
        grain, options = import_grain(), self.options
        reading = grain.ReadOptions(
            num_threads=options.threads,
            prefetch_buffer_size=max(options.prefetch, options.threads),
        )
        dataset = grain.MapDataset.source(batches)[first:].to_iter_dataset(reading)
        if options.num_workers:
            _parse_flags()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=options.num_workers, per_worker_buffer_size=options.prefetch
                ),
                worker_init_fn=_begin_worker,
            )
        iterator = iter(dataset)
        with contextlib.closing(iterator):
            for images, labels, unreadable in iterator:
                self._note([batches.pictures.name(i) for i in unreadable])
                if options.num_workers:  # out of shared memory, which ends with its last reader
                    images, labels = np.array(images), np.array(labels)
                yield images, labels

    def _note(self, names: Sequence[str]) -> None:
        for name in names:
            if name in self.corrupt:
                continue
            self.corrupt.append(name)
            unreadable = [f"{corrupt} can't be decoded" for corrupt in self.corrupt]
            check_left_out(unreadable, self.options.max_corrupt)
            print(f"Left out: {unreadable[-1]}.", file=sys.stderr)


def import_grain() -> Any:
    """Grain.

    Raises:
      UserError: it is not installed.
    """
    try:
        import grain
        import grain.experimental
    except ModuleNotFoundError as error:
        raise UserError(
            f"Training images are loaded with {error.name}, which is not installed; pip install "
            "'subspace_jax[experiments]'."
        ) from error
    return grain


def _parse_flags() -> None:
    """Grain reads absl's global flags in worker processes' favour; commands here have their own."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _begin_worker(index: int, count: int) -> None:
    """Signals are the parent's to answer, and no worker outlives it."""
    del index, count
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

    def end_with(parent):
        parent.join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
