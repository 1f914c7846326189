"""Endpoints that start from networks which were trained before: what `Subspace.grow` does."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import tree
from subspace_jax.tree import PyTree


def grow(
    num_endpoints: int,
    networks: Sequence[PyTree],
    key: jax.Array | None,
    noise: float,
    positions: Sequence[int] | None,
) -> PyTree:
    r"""Given networks at their positions, and their mean with some noise at all others.

    .. math:: \bar\theta + \sigma \, \mathrm{rms}(\bar\theta) \, \epsilon,
              \qquad \epsilon \sim \mathcal{N}(0, I)

    with the root mean square of each leaf of the mean by itself.

    Args:
      num_endpoints: `n`.
      networks: at most `n` trees with leaves `[...]`.
      key: a random key for the noise.
      noise: sigma.
      positions: of each network among the endpoints; the first ones by default.

    Returns:
      Endpoints, leaves `[n, ...]`.

    Raises:
      ValueError: as `Subspace.grow`.
      TypeError: a leaf can't be mixed.

    Example:
      >>> grow(3, [jnp.ones(2), jnp.zeros(2)], None, 0.0, (0, 2))[:, 0]
      Array([1. , 0.5, 0. ], dtype=float32)
    """
    networks = list(networks)
    positions = tuple(range(len(networks)) if positions is None else positions)
    _check(num_endpoints, networks, key, noise, positions)
    for network in networks:
        tree.check_mixable(network)
    given = tree.stack(networks)
    rows = jnp.full((num_endpoints, len(networks)), 1 / len(networks), jnp.float32)
    endpoints = jax.vmap(tree.mix, in_axes=(0, None))(rows, given)
    if noise:
        endpoints = _noisy(key, noise, endpoints)
    return jax.tree.map(lambda x, own: x.at[np.array(positions)].set(own), endpoints, given)


def _noisy(key, noise, stack):
    """A stack of equal networks with noise on each of its leaves."""
    leaves, treedef = jax.tree.flatten(stack)

    def one(key, x):
        wide = x.astype(tree.wider_dtype(jnp.float32, x))
        scale = noise * jnp.sqrt(jnp.mean(jnp.abs(wide) ** 2))
        return (wide + scale * jax.random.normal(key, x.shape, wide.dtype)).astype(x.dtype)

    return treedef.unflatten(map(one, jax.random.split(key, len(leaves)), leaves))


def _check(n, networks, key, noise, positions) -> None:
    count = len(networks)
    if not 1 <= count <= n:
        raise ValueError(
            f"grow got {count} networks but the subspace has {n} endpoints; give it 1 to {n}."
        )
    if (
        len(set(positions)) != count
        or len(positions) != count
        or not set(positions) <= set(range(n))
    ):
        raise ValueError(
            f"The positions {positions} do not place {count} networks among {n} endpoints; "
            f"give each network a number of its own from 0 to {n - 1}."
        )
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise is {noise}; use 0 for none or a number above it.")
    if noise and key is None:
        raise ValueError(f"noise is {noise} but there is no key to draw it with; pass `key` too.")
