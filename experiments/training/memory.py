"""The memory that a compiled training step needs on each device."""

import math
from typing import NamedTuple

import jax

from subspace_jax import TrainState

_ADVICE = {
    "endpoints": "enlarge the axis endpoint, which splits endpoints and optimizer state",
    "optimizer": "enlarge the axis endpoint, which splits endpoints and optimizer state",
    "gradients": "train a smaller network",
    "activations": "enlarge the axis data, which splits the activations",
    "inputs": "keep fewer examples on the device",
}


class MemoryReport(NamedTuple):
    """Bytes that a training step needs on one device, and what the device has (`None`: unknown)."""

    endpoints: int  # the device's share of the stack
    optimizer: int
    gradients: int  # of the sampled network, which is the same on all devices
    activations: int  # all else that XLA keeps meanwhile
    inputs: int  # batches, or a data set that is resident
    limit: int | None

    @property
    def total(self) -> int:
        return sum(self[:-1])

    @property
    def fits(self) -> bool:
        """Whether the device has that much, as far as it says what it has."""
        return self.limit is None or self.total <= self.limit

    def sentence(self) -> str:
        """What is needed and, if that is more than there is, which axis of the mesh to enlarge."""
        parts = dict(zip(self._fields[:-1], self[:-1], strict=True))
        said = ", ".join(f"{name} {_gibibytes(size)}" for name, size in parts.items())
        needed = f"A step needs {_gibibytes(self.total)} GiB on a device ({said})"
        if self.fits:
            return f"{needed}."
        largest = max(parts, key=parts.get)
        return f"{needed} and it has {_gibibytes(self.limit)} GiB; {_ADVICE[largest]}."


def memory_report(compiled: jax.stages.Compiled, state: TrainState) -> MemoryReport | None:
    """What a compiled training step of a state needs on each device; `None` if XLA does not say."""
    found = compiled.memory_analysis()
    if found is None:
        return None

    def share(tree):
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)

    gradients = sum(x.nbytes // x.shape[0] for x in jax.tree.leaves(state.endpoints))
    temporary, results = found.temp_size_in_bytes, found.output_size_in_bytes
    device = min(jax.tree.leaves(state)[0].sharding.addressable_devices, key=lambda d: d.id)
    return MemoryReport(
        endpoints=share(state.endpoints),
        optimizer=share(state.opt_state),
        gradients=min(gradients, temporary),
        activations=max(temporary - gradients, 0) + results - found.alias_size_in_bytes,
        inputs=found.argument_size_in_bytes - share((state.endpoints, state.opt_state)),
        limit=(device.memory_stats() or {}).get("bytes_limit"),
    )


def _gibibytes(count: int) -> str:
    return f"{count / 2**30:.1f}" if count >= 2**29 else f"{count / 2**30:.3f}"
