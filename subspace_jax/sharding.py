"""Training on several devices: how endpoints, their optimizer state and batches lie on a mesh.

Endpoints, their gradients and optimizer state are split over the axis `endpoint` of a mesh, and
examples over `data` and `endpoint` together. `run` is for programs that stack whole runs. The training
step is the one of a single device, and XLA puts the reductions in.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from subspace_jax.training import TrainState
from subspace_jax.tree import PyTree, num_stacked

AXES = ("run", "data", "endpoint")


def make_mesh(layout: str = "", devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh of devices (all by default) with the axes `run`, `data` and `endpoint`.

    `layout` has their sizes, as `"data=4,endpoint=2"`, or 1 where it has none; but `data` takes all
    devices that are left. Raises ValueError: the layout can't be read, or does not multiply to the
    number of devices.

    >>> dict(make_mesh("endpoint=1", jax.devices()[:1]).shape)
    {'run': 1, 'data': 1, 'endpoint': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = _sizes(layout)
    others = math.prod(sizes.values())
    if "data" not in sizes and len(devices) % others == 0:
        sizes["data"] = len(devices) // others
    shape = tuple(sizes.get(axis, 1) for axis in AXES)
    if math.prod(shape) != len(devices):
        divisors = [k for k in range(1, len(devices) + 1) if len(devices) % k == 0]
        raise ValueError(
            f"The mesh {layout!r} is for {math.prod(shape)} devices but there are {len(devices)}; "
            f"choose sizes of {', '.join(map(str, divisors))} that multiply to {len(devices)}."
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def _sizes(layout: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for part in filter(None, layout.replace(" ", "").split(",")):
        axis, _, size = part.partition("=")
        if axis not in AXES or axis in sizes or not size.isdecimal() or int(size) < 1:
            raise ValueError(
                f"{part!r} in the mesh {layout!r} is no axis and size; "
                "name axes of run, data and endpoint once each, as 'data=4,endpoint=2'."
            )
        sizes[axis] = int(size)
    return sizes


def check_endpoints(mesh: Mesh, num_endpoints: int) -> None:
    """Refuses a mesh whose axis `endpoint` does not divide the number of endpoints."""
    shards = mesh.shape["endpoint"]
    if num_endpoints % shards:
        common = math.gcd(num_endpoints, mesh.size)
        divisors = [str(k) for k in range(1, common + 1) if common % k == 0]
        raise ValueError(
            f"The mesh splits endpoints {shards} ways but there are {num_endpoints} of them; "
            f"use endpoint={' or '.join(divisors)}."
        )


def stack_shardings(mesh: Mesh, endpoints: PyTree) -> PyTree:
    """Where the leaves of a stack lie: split over `endpoint`, the same on all of `data`.

    Raises ValueError: `endpoint` does not divide the number of endpoints.

    >>> mesh = make_mesh("endpoint=1", jax.devices()[:1])
    >>> stack_shardings(mesh, {"w": jax.numpy.zeros((2, 3))})["w"].spec
    P('endpoint',)
    """
    check_endpoints(mesh, num_stacked(endpoints))
    split = NamedSharding(mesh, P("endpoint"))
    return jax.tree.map(lambda leaf: split, endpoints)


def state_shardings(mesh: Mesh, state: TrainState) -> TrainState:
    """Where the leaves of a training state lie: the optimizer's as the endpoints that they belong to.

    Those are leaves whose path and shape end as those of an endpoint's leaf; all else is the same on
    all devices. Raises ValueError: `endpoint` does not divide the number of endpoints.

    >>> import optax
    >>> state = TrainState.create({"w": jax.numpy.zeros((2, 3))}, optax.sgd(0.1, momentum=0.9))
    >>> mesh = make_mesh("endpoint=1", jax.devices()[:1])
    >>> state_shardings(mesh, state).opt_state[0].trace["w"].spec
    P('endpoint',)
    """
    endpoints = stack_shardings(mesh, state.endpoints)
    everywhere = NamedSharding(mesh, P())
    leaves = jax.tree.leaves_with_path(state.endpoints)
    known = {
        path: (leaf.shape, sharding)
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(endpoints), strict=True)
    }

    def place(path, leaf):
        for start in range(len(path) + 1):  # an endpoint's path ends that of its momentum
            if path[start:] not in known:
                continue
            shape, sharding = known[path[start:]]
            more = leaf.ndim - len(shape)
            if more >= 0 and leaf.shape[more:] == shape:
                return NamedSharding(mesh, P(*(None,) * more, *sharding.spec))
        return everywhere

    places: Any = everywhere, endpoints, jax.tree.map_with_path(place, state.opt_state)
    return TrainState(*places)


def batch_sharding(mesh: Mesh, batch_size: int, *, axis: int = 0) -> NamedSharding:
    """Where a batch lies: `batch_size` examples on one axis, split over `data` and `endpoint` together.

    Raises ValueError: the devices do not divide the batch.

    >>> batch_sharding(make_mesh("endpoint=1", jax.devices()[:1]), 128).spec
    P(('data', 'endpoint'),)
    """
    shards = mesh.shape["data"] * mesh.shape["endpoint"]
    if batch_size % shards:
        below, above = batch_size // shards * shards, -(-batch_size // shards) * shards
        raise ValueError(
            f"A batch of {batch_size} examples can't be split over {shards} devices "
            f"(data x endpoint); use a batch size of {f'{below} or {above}' if below else above}."
        )
    return NamedSharding(mesh, P(*(None,) * axis, ("data", "endpoint")))
