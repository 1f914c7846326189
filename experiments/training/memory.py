"""The memory that a compiled training step needs on each device."""

import math
from typing import NamedTuple

import jax

from subspace_jax import TrainState


class MemoryReport(NamedTuple):
    """Bytes that a training step needs on one device.

    Attributes:
      endpoints: the device's share of the stack.
      optimizer: of the optimizer's state.
      gradients: of the sampled network, which is the same on all devices.
      activations: all else that XLA keeps meanwhile.
      inputs: batches, or a data set that is resident.
      limit: what the device has; `None` if it is not known.
    """

    endpoints: int
    optimizer: int
    gradients: int
    activations: int
    inputs: int
    limit: int | None

    @property
    def total(self) -> int:
        """Bytes of all of them."""
        return sum(self[:-1])

    @property
    def fits(self) -> bool:
        """Whether the device has that much, as far as it says what it has."""
        return self.limit is None or self.total <= self.limit

    def sentence(self) -> str:
        """What is needed and, if that is more than there is, which axis of the mesh to enlarge.

        Example:
          >>> report = MemoryReport(2**30, 2**30, 2**29, 2**33, 0, limit=2**33)
          >>> report.sentence().partition("; ")[2]
          'enlarge the axis data, which splits the activations.'
        """
        parts = dict(zip(self._fields[:-1], self[:-1], strict=True))
        said = ", ".join(f"{name} {_gibibytes(size)}" for name, size in parts.items())
        needed = f"A step needs {_gibibytes(self.total)} GiB on a device ({said})"
        if self.fits:
            return f"{needed}."
        advice = {
            "endpoints": "enlarge the axis endpoint, which splits endpoints and optimizer state",
            "gradients": "train a smaller network",
            "activations": "enlarge the axis data, which splits the activations",
            "inputs": "keep fewer examples on the device",
        }
        advice["optimizer"] = advice["endpoints"]
        largest = max(parts, key=parts.get)
        return f"{needed} and it has {_gibibytes(self.limit)} GiB; {advice[largest]}."


def memory_report(
    compiled: jax.stages.Compiled, state: TrainState, *, limit: int | None = None
) -> MemoryReport | None:
    """What a compiled training step needs on each device, before it is run.

    Args:
      compiled: `jax.jit(step, donate_argnums=0).lower(state, key, batch).compile()`.
      state: that it was compiled for, arrays on their devices.
      limit: bytes of a device; what the device itself says by default, if it does.

    Returns:
      `None` where XLA does not say.

    Example:
      >>> import optax
      >>> state = TrainState.create(jax.numpy.zeros((2, 1000)), optax.sgd(0.1, momentum=0.9))
      >>> step = jax.jit(lambda state: state, donate_argnums=0)
      >>> report = memory_report(step.lower(state).compile(), state)
      >>> report.endpoints, report.optimizer
      (8000, 8000)
    """
    found = compiled.memory_analysis()
    if found is None:
        return None

    def share(tree):
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)

    stack = jax.tree.leaves(state.endpoints)
    gradients = sum(x.nbytes // x.shape[0] for x in stack)
    temporary = found.temp_size_in_bytes
    if limit is None:
        device = min(jax.tree.leaves(state)[0].sharding.addressable_devices, key=lambda d: d.id)
        limit = (device.memory_stats() or {}).get("bytes_limit")
    return MemoryReport(
        endpoints=share(state.endpoints),
        optimizer=share(state.opt_state),
        gradients=min(gradients, temporary),
        activations=max(temporary - gradients, 0)
        + found.output_size_in_bytes
        - found.alias_size_in_bytes,
        inputs=max(found.argument_size_in_bytes - share(state), 0),
        limit=limit,
    )


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f}" if count >= 2**29 else f"{count / 2**30:.3f}"
