"""Batches on their way to the device: one call's are put there while the call before is computed."""

import itertools
import time
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from experiments.data.loader import RECALIBRATION, TRAINING, Batches, Order
from experiments.training import placement
from experiments.training.run import Run
from subspace_jax import sharding


def training_calls(run: Run, first: int) -> Iterator[tuple[tuple, dict]]:
    """Batches of every training call from a step on, and the seconds that each step waited for one."""
    order = Order(len(run.labels), run.batch_size, run.program.length.num_epochs, run.seed)
    stream = run.loader.stream(_batches(run, order, run.batch_size, run.crops, TRAINING), first)
    yield from ahead(_calls(run, stream, first, len(order)))


def _calls(run: Run, stream: Iterator, first: int, num_steps: int) -> Iterator[tuple[tuple, dict]]:
    per_epoch, mesh = run.program.length.steps_per_epoch, run.program.model.mesh
    while first < num_steps:
        length = min(run.steps_per_call, per_epoch - first % per_epoch)  # calls end with the epoch
        first += length
        begin = time.perf_counter()
        batches = list(itertools.islice(stream, length))
        wait = (time.perf_counter() - begin) / length
        images, labels = (
            x[0][None] if length == 1 else np.stack(x) for x in zip(*batches, strict=True)
        )
        chunk = (put(x, run.batch_size, mesh, axis=1) for x in (images, labels))
        yield (*chunk, None), {"data_wait": np.full(length, wait, np.float32)}


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


def ahead(items: Iterable) -> Iterator:
    """The same items, one of them made before it is asked for."""
    for item, _ in itertools.pairwise(itertools.chain(items, [None])):
        yield item


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
