"""Batches of a training split that is too large for memory, made by Grain while the device works.

What is in batch s of a run, in which row, and how it is cropped, is a function of (seed, s, row) alone.
Of every batch process p of P makes rows p B/P to (p + 1) B/P; these are element s of Grain's source, so
that the position of its iterator is the number of the step, and a run that resumes reads on from there.
"""

import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import absl.flags
import numpy as np

from experiments.data.decode import NUM_DRAWS, Pictures, Unreadable, check_left_out
from experiments.system.errors import UserError, needed_for

# Streams of randomness, of (seed, stream, step, row); labels.py and ood.py have others.
_ORDER, TRAINING, RECALIBRATION = 20, 21, 22
_MAX_THREADS = 16  # each makes a batch, which takes memory


class Options(NamedTuple):
    """The values of `config.loader` and `config.max_corrupt`; none of them changes a batch."""

    num_workers: int  # processes; 0 for threads of this one alone
    num_threads: int  # of each; 0 for one per CPU core, at most 16 in all
    prefetch: int  # batches that each makes ahead, at least
    max_corrupt: int  # how many unreadable training images are passed over

    @property
    def threads(self) -> int:
        """Threads of each process."""
        cores = min(os.cpu_count() or 1, _MAX_THREADS)
        return self.num_threads or max(cores // max(self.num_workers, 1), 1)


@dataclasses.dataclass(frozen=True)
class Order(Sequence):
    """The examples of the batches of a training, `[B]` at every step: a permutation each epoch."""

    size: int
    batch_size: int
    num_epochs: int
    seed: int

    def __len__(self) -> int:
        return self.num_epochs * (self.size // self.batch_size)

    def __getitem__(self, step: int) -> np.ndarray:
        epoch, step = divmod(step, self.size // self.batch_size)
        bits = np.random.Philox([self.seed, _ORDER, epoch]).random_raw()
        # It gives each number without the others.
        shuffle, start = import_grain().experimental.index_shuffle, step * self.batch_size
        options = {"max_index": self.size - 1, "seed": int(bits % 2**32), "rounds": 4}
        return np.array([shuffle(start + row, **options) for row in range(self.batch_size)])


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """The same rows of every batch: a source of Grain, whose element s is that of step s.

    An image that can't be decoded is passed over: its row takes the next row's example of the whole
    batch that can be.
    """

    pictures: Pictures
    labels: np.ndarray
    order: Sequence[np.ndarray]  # numbers of examples [B], by step
    rows: range
    _: dataclasses.KW_ONLY
    crop: bool  # whether at random, by the seed and the stream, and not at the centre
    seed: int
    stream: int

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
                    labels[at] = self.labels[i]
                    break
            else:
                raise UserError(
                    f"None of the {len(examples)} images of batch {step} can be decoded (see "
                    f"{self.pictures.name(examples[row])}); restore the data set."
                )
        return images, labels, np.array(unreadable, np.int64)

    def _image(self, i: int, step: int, row: int) -> np.ndarray:
        if not self.crop:
            return self.pictures.centred(i)
        raw = np.random.Philox([self.seed, self.stream, step, row]).random_raw(NUM_DRAWS)
        return self.pictures.cropped(i, (raw >> np.uint64(11)) * 2.0**-53)


class Loader:
    """Makes the batches of a run in one of its processes."""

    def __init__(self, options: Options, process_index: int = 0, process_count: int = 1):
        self.options, self.process_index, self.process_count = options, process_index, process_count
        self.corrupt: list[str] = []  # names of the images that were passed over

    def rows(self, batch_size: int) -> range:
        """This process's rows of a batch, which the processes must divide."""
        size, rest = divmod(batch_size, self.process_count)
        if rest:
            raise UserError(
                f"A batch has {batch_size} examples but is to be split over {self.process_count} "
                f"processes; use {batch_size - rest + self.process_count}."
            )
        return range(self.process_index * size, (self.process_index + 1) * size)

    def stream(self, batches: Batches, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Images and labels of the batches from one on, in their order; close it to end early."""
        if first >= len(batches):
            return
        grain, options = import_grain(), self.options
        reading = grain.ReadOptions(
            num_threads=options.threads,
            prefetch_buffer_size=max(options.prefetch, options.threads),
        )
        dataset = grain.MapDataset.source(batches)[first:].to_iter_dataset(reading)
        if options.num_workers:
            # Grain reads absl's global flags in worker processes' favour; commands here have their own.
            absl.flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=options.num_workers, per_worker_buffer_size=options.prefetch
                ),
                worker_init_fn=_begin_worker,
            )
        iterator = iter(dataset)
        with contextlib.closing(iterator):
            for images, labels, unreadable in iterator:
                for i in unreadable:
                    self._note(batches.pictures.name(i))
                if options.num_workers:  # out of shared memory, which ends with its last reader
                    images, labels = np.array(images), np.array(labels)
                yield images, labels

    def _note(self, name: str) -> None:
        if name not in self.corrupt:
            self.corrupt.append(name)
            unreadable = [f"{corrupt} can't be decoded" for corrupt in self.corrupt]
            check_left_out(unreadable, self.options.max_corrupt)
            print(f"Left out: {unreadable[-1]}.", file=sys.stderr)


def import_grain() -> Any:
    """Grain, which is imported for this alone."""
    with needed_for("Loading images"):
        import grain
        import grain.experimental
    return grain


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
