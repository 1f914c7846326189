"""A network whose parameters are two vectors: endpoints are then two matrices instead of a tree.

Mixing, the penalty and the update of all endpoints are then one operation each instead of one a leaf.
Kernels are a vector of their own, as `[1, P]`, so that the penalty finds them by their rank.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class FlatNetwork:
    """A Linen module with flat parameters.

    Attributes:
      network: the module.
      image_shape: of the images that it is made for, one in a batch.
    """

    network: nn.Module
    image_shape: tuple[int, ...]

    @property
    def dropout(self) -> float:
        return self.network.dropout

    @functools.cached_property
    def _params(self) -> Any:
        init = functools.partial(self.network.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), jnp.zeros(self.image_shape))
        return variables["params"]

    def init(self, key: jax.Array, images: jax.Array, train: bool) -> dict:
        variables = self.network.init(key, images, train=train)
        return {**variables, "params": self.flatten(variables["params"])}

    def apply(self, variables: dict, *arguments, **keywords) -> Any:
        params = self.unflatten(variables["params"])
        return self.network.apply({**variables, "params": params}, *arguments, **keywords)

    def flatten(self, params: Any) -> dict[str, jax.Array]:
        """`{"kernels": [1, P], "others": [Q]}` from the tree of a network."""
        leaves = jax.tree.leaves(params)
        kernels = [x.ravel() for x in leaves if x.ndim > 1]
        others = [x.ravel() for x in leaves if x.ndim <= 1]
        return {"kernels": jnp.concatenate(kernels)[None], "others": jnp.concatenate(others)}

    def unflatten(self, flat: dict[str, jax.Array]) -> Any:
        """The inverse of `flatten`."""
        shapes, structure = jax.tree.flatten(self._params)
        parts, starts = {True: flat["kernels"][0], False: flat["others"]}, {True: 0, False: 0}
        leaves = []
        for shape in shapes:
            kind = shape.ndim > 1
            start = starts[kind]
            starts[kind] += math.prod(shape.shape)
            leaves.append(parts[kind][start : starts[kind]].reshape(shape.shape))
        return jax.tree.unflatten(structure, leaves)
