"""Where the arrays of a run lie: on one device, or on the devices of a mesh that share its work."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import subspace_jax as ss
from experiments.system.errors import UserError
from experiments.training.methods import Method
from subspace_jax import sharding
from subspace_jax.tree import PyTree


def make_mesh(
    config: ml_collections.ConfigDict, method: Method, slot: int | None = None
) -> Mesh | None:
    """The mesh of a run, or of its slot in a group; `None` if it names none and is of one process."""
    if not config.mesh and jax.process_count() == 1:
        return None
    mesh = _named_mesh(config.mesh, "config.mesh", method.subspace.num_endpoints)
    if (runs := mesh.shape["run"]) > 1:
        if slot is None:
            raise UserError(
                f"config.mesh is {config.mesh!r} but a run trains alone; use the axes data and "
                "endpoint."
            )
        mesh = _mesh(mesh.devices[slot % runs][None])
    least = mesh.size * method.num_samples
    if config.batch_size % least:
        raise UserError(
            f"config.batch_size is {config.batch_size} but is to be split over {mesh.size} devices "
            f"and {method.num_samples} sampled networks; use {_multiples(config.batch_size, least)}."
        )
    return mesh


def check_runs(layout: str, runs_at_once: int) -> None:
    """Refuses a suite's mesh that does not split its groups of runs equally."""
    if not layout:
        return
    runs = _named_mesh(layout, "config.run.mesh").shape["run"]
    if runs_at_once % runs:
        raise UserError(
            f"config.run.mesh splits runs {runs} ways but config.runs_at_once is {runs_at_once}; use "
            f"--config.runs_at_once={_multiples(runs_at_once, runs)}."
        )


def _named_mesh(layout: str, name: str, num_endpoints: int | None = None) -> Mesh:
    try:
        mesh = sharding.make_mesh(layout)
        sharding.check_endpoints(mesh, num_endpoints or mesh.shape["endpoint"])
    except ValueError as error:  # the library's sentence has both values
        raise UserError(f"{str(error).removesuffix('.')} ({name}).") from error
    return mesh


def _multiples(count: int, of: int) -> str:
    """The next ones on both sides of a count."""
    below = count // of * of
    return f"{f'{below} or ' if below else ''}{below + of}"


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * len(sharding.AXES))


def beside(meshes: Sequence[Mesh]) -> Mesh:
    """The meshes of several runs as one, along the axis `run`."""
    return _mesh(np.concatenate([mesh.devices for mesh in meshes]))


def _of_runs(mesh: Mesh) -> list[Mesh]:
    return [_mesh(devices[None]) for devices in mesh.devices]


def joined(mesh: Mesh, trees: Sequence[Sequence[PyTree]]) -> PyTree:
    """Equal trees, by mesh and run, as one tree `[R, ...]` on the mesh of `beside`, split over `run`."""

    def place(own, leaf):
        found = leaf.sharding
        stays = isinstance(found, NamedSharding) and found.mesh == own
        return found if stays else everywhere(own)

    def join(*leaves):
        parts: dict[jax.Device, list] = {}
        for leaf in leaves:
            for shard in leaf.addressable_shards:
                parts.setdefault(shard.device, []).append(shard.data)
        where = NamedSharding(mesh, PartitionSpec("run", *leaves[0].sharding.spec))
        shards = [jnp.stack(parts[device]) for device in mesh.devices.flat]
        shape = (len(leaves), *leaves[0].shape)
        return jax.make_array_from_single_device_arrays(shape, where, shards)

    placed = [
        jax.device_put(tree, jax.tree.map(functools.partial(place, own), tree))
        for own, of_mesh in zip(_of_runs(mesh), trees, strict=True)
        for tree in of_mesh
    ]
    return jax.tree.map(join, *placed)


def shared(mesh: Mesh, images: Sequence[jax.Array]) -> jax.Array:
    """The same images on the meshes of several runs as one array, whole on all devices."""
    parts = {s.device: s.data for of_mesh in images for s in of_mesh.addressable_shards}
    shards = [parts[device] for device in mesh.devices.flat]
    return jax.make_array_from_single_device_arrays(images[0].shape, everywhere(mesh), shards)


def parted(mesh: Mesh, tree: PyTree) -> list[list[PyTree]]:
    """The inverse of `joined`: trees by mesh and run."""
    depth = jax.tree.leaves(tree)[0].shape[0] // len(mesh.devices)

    def part(own, i, leaf):
        parts = {shard.device: shard.data for shard in leaf.addressable_shards}
        where = NamedSharding(own, PartitionSpec(*leaf.sharding.spec[1:]))
        shards = [parts[device][i] for device in own.devices.flat]
        return jax.make_array_from_single_device_arrays(leaf.shape[1:], where, shards)

    return [
        [jax.tree.map(functools.partial(part, own, i), tree) for i in range(depth)]
        for own in _of_runs(mesh)
    ]


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """Whole on every device of a mesh; `None` without one."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def num_shards(mesh: Mesh | None) -> int:
    """Over how many devices a batch is split."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["endpoint"]


def spread(mesh: Mesh | None, batch: jax.Array) -> jax.Array:
    """A traced batch, split over as many devices as divide it; others compute the same parts."""
    if mesh is None:
        return batch
    parts = math.gcd(len(batch), num_shards(mesh))
    if parts == num_shards(mesh):
        where = sharding.batch_sharding(mesh, len(batch))
    else:
        devices = mesh.devices.reshape(parts, -1)
        coarse = Mesh(devices, ("part", "copy"), axis_types=(AxisType.Auto,) * 2)
        where = NamedSharding(coarse, PartitionSpec("part"))
    return jax.lax.with_sharding_constraint(batch, where)


def place(mesh: Mesh | None, state: ss.TrainState, put=jax.device_put) -> ss.TrainState:
    """A state, on the devices of a mesh if there is one."""
    return state if mesh is None else put(state, sharding.state_shardings(mesh, state))


keep = functools.partial(place, put=jax.lax.with_sharding_constraint)  # of a state that is traced
