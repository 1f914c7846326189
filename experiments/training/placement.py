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
    """The mesh of a run; `None` if its config names none. Several processes share all their devices.

    Args:
      config: of the run.
      method: how it trains.
      slot: of a run that trains together with others, its place among them: it gets the devices of one
        index of the axis `run`, and several runs share them if there are more runs. `None` for a run
        alone.

    Raises:
      UserError: it does not fit the devices, the endpoints or the batches.
    """
    if not config.mesh and jax.process_count() == 1:
        return None
    try:
        mesh = sharding.make_mesh(config.mesh)
        sharding.check_endpoints(mesh, method.subspace.num_endpoints)
    except ValueError as error:  # the library's sentence has both values
        raise UserError(f"{str(error).removesuffix('.')} (config.mesh).") from error
    if (runs := mesh.shape["run"]) > 1:
        if slot is None:
            raise UserError(
                f"config.mesh is {config.mesh!r} but a run trains alone; use the axes data and "
                "endpoint."
            )
        mesh = _mesh(mesh.devices[slot % runs][None])
    least = mesh.size * method.num_samples
    if rest := config.batch_size % least:
        below = config.batch_size - rest
        raise UserError(
            f"config.batch_size is {config.batch_size} but is to be split over {mesh.size} devices "
            f"and {method.num_samples} sampled networks; use "
            f"{f'{below} or ' if below else ''}{below + least}."
        )
    return mesh


def check_runs(layout: str, runs_at_once: int) -> None:
    """Refuses a suite's mesh that does not split its groups of runs equally.

    Raises:
      UserError: the mesh can't be made, or its axis `run` does not divide the runs.
    """
    if not layout:
        return
    try:
        runs = sharding.make_mesh(layout).shape["run"]
    except ValueError as error:  # the library's sentence has both values
        raise UserError(f"{str(error).removesuffix('.')} (config.run.mesh).") from error
    if rest := runs_at_once % runs:
        below = runs_at_once - rest
        raise UserError(
            f"config.run.mesh splits runs {runs} ways but config.runs_at_once is {runs_at_once}; use "
            f"--config.runs_at_once={f'{below} or ' if below else ''}{below + runs}."
        )


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, sharding.AXES, axis_types=(AxisType.Auto,) * len(sharding.AXES))


def beside(meshes: Sequence[Mesh]) -> Mesh:
    """The meshes of several runs as one, along the axis `run`."""
    return _mesh(np.concatenate([mesh.devices for mesh in meshes]))


def joined(mesh: Mesh, trees: Sequence[Sequence[PyTree]]) -> PyTree:
    """Equal trees on the meshes of several runs as one tree on the mesh of `beside`.

    Args:
      mesh: of all of them.
      trees: by mesh and run, as many of every mesh; arrays that have no such place are put there.

    Returns:
      A tree of leaves `[R, ...]`, split over `run` and lying there as they lay before.
    """
    owns = [_mesh(devices[None]) for devices in mesh.devices]
    placed = [
        [jax.device_put(tree, _where(own, tree)) for tree in of_mesh]
        for own, of_mesh in zip(owns, trees, strict=True)
    ]
    count = len(placed) * len(placed[0])

    def join(*leaves):
        parts: dict[jax.Device, list] = {}
        for leaf in leaves:
            for shard in leaf.addressable_shards:
                parts.setdefault(shard.device, []).append(shard.data)
        where = NamedSharding(mesh, PartitionSpec("run", *leaves[0].sharding.spec))
        shards = [jnp.stack(parts[device]) for device in mesh.devices.flat]
        return jax.make_array_from_single_device_arrays((count, *leaves[0].shape), where, shards)

    return jax.tree.map(join, *(tree for of_mesh in placed for tree in of_mesh))


def shared(mesh: Mesh, images: Sequence[jax.Array]) -> jax.Array:
    """The same images on the meshes of several runs as one array, whole on all devices."""
    parts = {s.device: s.data for of_mesh in images for s in of_mesh.addressable_shards}
    shards = [parts[device] for device in mesh.devices.flat]
    return jax.make_array_from_single_device_arrays(images[0].shape, everywhere(mesh), shards)


def parted(mesh: Mesh, tree: PyTree) -> list[list[PyTree]]:
    """The inverse of `joined`: trees by mesh and run."""
    owns = [_mesh(devices[None]) for devices in mesh.devices]
    depth = jax.tree.leaves(tree)[0].shape[0] // len(owns)

    def part(own, i, leaf):
        parts = {shard.device: shard.data for shard in leaf.addressable_shards}
        where = NamedSharding(own, PartitionSpec(*leaf.sharding.spec[1:]))
        shards = [parts[device][i] for device in own.devices.flat]
        return jax.make_array_from_single_device_arrays(leaf.shape[1:], where, shards)

    return [
        [jax.tree.map(functools.partial(part, own, i), tree) for i in range(depth)] for own in owns
    ]


def _where(mesh: Mesh, tree: PyTree) -> PyTree:
    """Where each leaf lies on a mesh, if it lies there, and everywhere on it otherwise."""

    def place(leaf):
        found = leaf.sharding
        if isinstance(found, NamedSharding) and found.mesh == mesh:
            return found
        return everywhere(mesh)

    return jax.tree.map(place, tree)


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """Whole on every device of a mesh; `None` without one."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def num_shards(mesh: Mesh | None) -> int:
    """Over how many devices a batch is split."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["endpoint"]


def spread(mesh: Mesh | None, batch: jax.Array) -> jax.Array:
    """A batch, split over the devices, or over as many of them as divide it; traced.

    Each part is then computed by several devices; the whole by each, only if nothing divides it.
    """
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


def place(mesh: Mesh | None, state: ss.TrainState) -> ss.TrainState:
    """A state, on the devices of a mesh if there is one."""
    return state if mesh is None else jax.device_put(state, sharding.state_shardings(mesh, state))


def keep(mesh: Mesh | None, state: ss.TrainState) -> ss.TrainState:
    """The same, traced."""
    if mesh is None:
        return state
    return jax.lax.with_sharding_constraint(state, sharding.state_shardings(mesh, state))
