"""Batches on their way to the device: one call's are put there while the call before is computed."""

import collections
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from experiments.data.loader import RECALIBRATION, TRAINING, Batches, Order
from experiments.training import placement
from experiments.training.run import Run
from subspace_jax import sharding


class Chunk(NamedTuple):
    """What one training call takes: images `[k, B, ...]` and labels `[k, B]` on the device.

    `wait` is how many seconds passed until the batches were there.
    """

    images: jax.Array
    labels: jax.Array
    wait: float


def training_chunks(run: Run, first: int) -> Iterator[Chunk]:
    """The batches of a run from a step on, in chunks that end with the epoch."""
    length = run.program.length
    order = Order(len(run.labels), run.batch_size, length.num_epochs, run.seed)
    stream = run.loader.stream(_batches(run, order, run.batch_size, run.crops, TRAINING), first)
    lengths = call_lengths(first, len(order), length.steps_per_epoch, run.steps_per_call)
    yield from ahead(_chunked(stream, lengths, run.batch_size, run.program.model.mesh))


def recalibration_images(run: Run, order: np.ndarray, crop: bool) -> Iterator[jax.Array]:
    """Images of the examples `order [steps, B]`, on the device, one batch ahead."""
    size, mesh = order.shape[1], run.program.model.mesh
    stream = run.loader.stream(_batches(run, order, size, crop, RECALIBRATION))
    yield from ahead(put(images, size, mesh) for images, _ in stream)


def _batches(run: Run, order, size: int, crop: bool, kind: int) -> Batches:
    """This process's rows of batches: all of them where the devices do not divide a batch."""
    mesh = run.program.model.mesh
    whole = mesh is not None and size % placement.num_shards(mesh)
    rows = range(size) if whole else run.loader.rows(size)
    return Batches(run.images, run.labels, order, rows, crop=crop, seed=run.seed, stream=kind)


def call_lengths(
    first: int, num_steps: int, steps_per_epoch: int, steps_per_call: int
) -> Iterator[int]:
    """How many steps each call takes, from a step on: calls end with the epoch."""
    while first < num_steps:
        length = min(steps_per_call, steps_per_epoch - first % steps_per_epoch)
        yield length
        first += length


def ahead(items: Iterable) -> Iterator:
    """The same items, one of them made before it is asked for."""
    waiting = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
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
