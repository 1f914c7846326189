"""Batches on their way to the device: one call's are put there while the call before is computed."""

import collections
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from experiments.data.decode import Pictures
from experiments.data.loader import RECALIBRATION, TRAINING, Batches, Loader, Order
from experiments.training import placement
from subspace_jax import sharding


class Chunk(NamedTuple):
    """What one training call takes.

    Attributes:
      images, labels: on the device, `[k, B, ...]` and `[k, B]`.
      wait: seconds that passed until the batches were there.
    """

    images: jax.Array
    labels: jax.Array
    wait: float


def training_chunks(
    loader: Loader,
    pictures: Pictures,
    labels: np.ndarray,
    *,
    batch_size: int,
    num_epochs: int,
    steps_per_call: int,
    first: int,
    seed: int,
    crop: bool,
    mesh: jax.sharding.Mesh | None,
) -> Iterator[Chunk]:
    """The batches of a run from a step on, in chunks that end with the epoch.

    Args:
      loader: makes them.
      pictures, labels: the training split.
      batch_size, num_epochs: of the run.
      steps_per_call: the most batches of a chunk.
      first: the step to begin with.
      seed: of the run.
      crop: whether images are cropped at random.
      mesh: whose devices share a batch; `None` for one device.
    """
    order = Order(len(labels), batch_size, num_epochs, seed)
    rows = loader.rows(batch_size)
    batches = Batches(pictures, labels, order, rows, crop=crop, seed=seed, stream=TRAINING)
    stream = loader.stream(batches, first)
    lengths = call_lengths(first, len(order), len(order) // num_epochs, steps_per_call)
    yield from ahead(_chunked(stream, lengths, batch_size, mesh))


def recalibration_images(
    loader: Loader,
    pictures: Pictures,
    labels: np.ndarray,
    order: np.ndarray,
    *,
    seed: int,
    crop: bool,
    mesh: jax.sharding.Mesh | None,
) -> Iterator[jax.Array]:
    """Images of the examples `order [steps, B]`, on the device, one batch ahead."""
    size = order.shape[1]
    whole = mesh is not None and size % placement.num_shards(mesh)
    rows = range(size) if whole else loader.rows(size)
    batches = Batches(pictures, labels, order, rows, crop=crop, seed=seed, stream=RECALIBRATION)
    stream = loader.stream(batches)
    yield from ahead(put(images, size, mesh) for images, _ in stream)


def call_lengths(
    first: int, num_steps: int, steps_per_epoch: int, steps_per_call: int
) -> Iterator[int]:
    """How many steps each call takes, from a step on: calls end with the epoch.

    Example:
      >>> list(call_lengths(1, 10, 5, 3))
      [3, 1, 3, 2]
    """
    while first < num_steps:
        length = min(steps_per_call, steps_per_epoch - first % steps_per_epoch)
        yield length
        first += length


def ahead(items: Iterable, count: int = 1) -> Iterator:
    """The same items, so many of them made before they are asked for.

    Example:
      >>> made = []
      >>> items = ahead(made.append(i) or i for i in range(3))
      >>> next(items), made
      (0, [0, 1])
    """
    waiting = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    yield from waiting


def put(
    local: np.ndarray, batch_size: int, mesh: jax.sharding.Mesh | None, axis: int = 0
) -> jax.Array:
    """A batch on the devices of a mesh, of which this process has its rows or all, along an axis."""
    where = placed(batch_size, mesh, axis)
    if where is None:
        return jax.device_put(local)
    shape = (*local.shape[:axis], batch_size, *local.shape[axis + 1 :])
    return jax.make_array_from_process_local_data(where, local, shape)


def placed(
    batch_size: int, mesh: jax.sharding.Mesh | None, axis: int = 0
) -> jax.sharding.NamedSharding | None:
    """Where a batch lies: split over the devices if they divide it; `None` for one device."""
    if mesh is None or batch_size % placement.num_shards(mesh):
        return placement.everywhere(mesh)
    return sharding.batch_sharding(mesh, batch_size, axis=axis)


def _chunked(stream, lengths, batch_size, mesh) -> Iterator[Chunk]:
    for length in lengths:
        begin = time.perf_counter()
        batches = list(itertools.islice(stream, length))
        wait = time.perf_counter() - begin
        images, labels = (
            x[0][None] if length == 1 else np.stack(x) for x in zip(*batches, strict=True)
        )
        yield Chunk(*(put(x, batch_size, mesh, axis=1) for x in (images, labels)), wait)
