"""Where the arrays of a run lie: on one device, or on the devices of a mesh that share its work."""

import jax
import ml_collections
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import subspace_jax as ss
from experiments.errors import UserError
from experiments.methods import Method
from subspace_jax import sharding


def make_mesh(config: ml_collections.ConfigDict, method: Method) -> Mesh | None:
    """The mesh that a config names; `None` if it names none.

    Raises:
      UserError: it does not fit the devices, the endpoints or the batches.
    """
    if not config.mesh:
        return None
    try:
        mesh = sharding.make_mesh(config.mesh)
        sharding.check_endpoints(mesh, method.subspace.num_endpoints)
    except ValueError as error:  # the library's sentence has both values
        raise UserError(f"{str(error).removesuffix('.')} (config.mesh).") from error
    if mesh.shape["run"] > 1:
        raise UserError(
            f"config.mesh is {config.mesh!r} but a run trains alone; use the axes data and endpoint."
        )
    least = mesh.size * method.num_samples
    if rest := config.batch_size % least:
        below = config.batch_size - rest
        raise UserError(
            f"config.batch_size is {config.batch_size} but is to be split over {mesh.size} devices "
            f"and {method.num_samples} sampled networks; use "
            f"{f'{below} or ' if below else ''}{below + least}."
        )
    return mesh


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """Whole on every device of a mesh; `None` without one."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec())


def num_shards(mesh: Mesh | None) -> int:
    """Over how many devices a batch is split."""
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["endpoint"]


def spread(mesh: Mesh | None, batch: jax.Array) -> jax.Array:
    """A batch, split over the devices if they divide it; traced."""
    if mesh is None or len(batch) % num_shards(mesh):
        return batch
    where = sharding.batch_sharding(mesh, len(batch))
    return jax.lax.with_sharding_constraint(batch, where)


def place(mesh: Mesh | None, state: ss.TrainState) -> ss.TrainState:
    """A state, on the devices of a mesh if there is one."""
    return state if mesh is None else jax.device_put(state, sharding.state_shardings(mesh, state))


def keep(mesh: Mesh | None, state: ss.TrainState) -> ss.TrainState:
    """The same, traced."""
    if mesh is None:
        return state
    return jax.lax.with_sharding_constraint(state, sharding.state_shardings(mesh, state))
