r"""Low-rank deltas on a frozen base: a subspace of fine-tuned networks in little memory.

    factors = line.init(key, lambda key: lora.init(key, base, rank=4))
    tuned = lora.around(line, base)
    params = tuned.sample(key, factors)             # the one new line of a training loop

Endpoint `i` is the base plus :math:`A_i B_i` at the kernels that are selected, as a matrix of rows and
columns. A point is a mixture of these networks and not of their factors,

.. math:: \theta(w) = \theta_0 + s \sum_i w_i A_i B_i
"""

import dataclasses
import itertools
import math
import operator
from typing import Any

import jax
import jax.numpy as jnp

from subspace_jax import diversity, tree
from subspace_jax.partition import Spans, is_floating
from subspace_jax.subspaces import Subspace
from subspace_jax.tree import PyTree

_HIGHEST = jax.lax.Precision.HIGHEST


def is_matrix(path: tuple, leaf: Any) -> bool:
    """Whether a leaf `[...]` of one network is a floating array of rank two or more."""
    return is_floating(path, leaf) and leaf.ndim >= 2


def init(
    key: jax.Array,
    base: PyTree,
    rank: int,
    *,
    select: Spans = is_matrix,
    axis: int = -1,
    b_std: float = 0.0,
) -> PyTree:
    """Draws the factors of one network's deltas.

    The entries of `a` are normal with variance 1 / rows. With `b` zero every point of a subspace is the
    base, bit for bit, and `cosine_penalty` is 0 in the first step.

    Args:
      base: the network that is kept, leaves `[...]`.
      rank: `r`, of the deltas; smaller where a kernel has fewer rows or columns.
      select: `(path, leaf [...]) -> bool`, the kernels that get a delta; by default of rank two or more.
      axis: the first axis of a kernel's columns: -1 where the last axis is that of the outputs (Flax,
        Haiku), 1 where the first is (Equinox, PyTorch).
      b_std: standard deviation of `b`.

    Returns a tree like `base` with `{"a": [rows, r], "b": [r, columns]}` for each selected kernel and
    None for all else. Raises ValueError: a rank below 1, no leaf is selected, or one that has no rows
    and columns; TypeError: a selected leaf is not floating. See Hu et al. 2021, "LoRA".

    >>> base = {"kernel": jnp.ones((3, 3, 8, 16)), "bias": jnp.ones(16)}
    >>> factors = init(jax.random.key(0), base, rank=2)
    >>> jax.tree.map(jnp.shape, factors)
    {'bias': None, 'kernel': {'a': (72, 2), 'b': (2, 16)}}
    """
    if rank < 1 or rank != int(rank):
        raise ValueError(f"The deltas' rank is {rank}; use a whole number of at least 1.")
    paths_and_leaves, treedef = jax.tree.flatten_with_path(base)
    chosen = [bool(select(path, leaf)) for path, leaf in paths_and_leaves]
    if not any(chosen):
        raise ValueError(
            f"None of the {len(chosen)} leaves of the base is selected (by default those of rank 2 or "
            "more); let `select` return True for at least one kernel."
        )
    keys = jax.random.split(key, len(chosen))

    def factors(path, leaf, key):
        rows, columns = _rows_and_columns(path, leaf, axis)
        least, (a_key, b_key) = min(rank, rows, columns), jax.random.split(key)
        a = jax.random.normal(a_key, (rows, least), leaf.dtype) / math.sqrt(rows)
        b = b_std * jax.random.normal(b_key, (least, columns), leaf.dtype)
        return {"a": a, "b": b if b_std else jnp.zeros_like(b)}

    return treedef.unflatten(
        factors(path, leaf, key) if mine else None
        for (path, leaf), mine, key in zip(paths_and_leaves, chosen, keys, strict=True)
    )


def _rows_and_columns(path, leaf, axis) -> tuple[int, int]:
    if not is_floating(path, leaf):
        raise TypeError(
            f"Leaf {tree.leaf_name(path)} {tree.kind(leaf)} and can't have a delta; "
            "let `select` return False for it, as `is_matrix` does."
        )
    place = axis if axis >= 0 else leaf.ndim + axis
    if not 0 < place < leaf.ndim:
        raise ValueError(
            f"Leaf {tree.leaf_name(path)} of shape {list(leaf.shape)} has no rows and columns on both "
            f"sides of axis {axis}; let `select` return False for it, or use another axis."
        )
    return math.prod(leaf.shape[:place]), math.prod(leaf.shape[place:])


def merge(
    base: PyTree, factors: PyTree, weights: PyTree | None = None, scale: float | jax.Array = 1.0
) -> PyTree:
    r"""An ordinary network: the base plus the weighted deltas, in one product of rank `n r`.

    .. math:: \theta_0 + s \sum_{i=1}^{n} w_i A_i B_i

    for the factors of a stack of `n` and weights `[n]`, or a tree prefix of factors with such an array
    at each; or for the factors of one network and no weights. `scale` is `s`, LoRA's alpha divided by
    the rank. Returns a network in the dtypes of the base. Raises ValueError: the factors are those of
    another base, or the weights do not fit.

    >>> factors = {"a": jnp.ones((2, 3, 1)), "b": jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])}
    >>> merge(jnp.zeros((3, 2)), factors, jnp.array([0.25, 0.75]))[0]
    Array([0.25, 0.75], dtype=float32)
    """
    if weights is None:
        weights = jnp.ones(1)
        factors = jax.tree.map(lambda x: x[None], factors)
    weights = jax.tree.broadcast(weights, factors)
    leaves, treedef = jax.tree.flatten_with_path(base)
    try:
        pairs, pair_weights = treedef.flatten_up_to(factors), treedef.flatten_up_to(weights)
    except ValueError as error:
        raise ValueError(
            "The factors have another structure than the base; make them with `lora.init` of this base."
        ) from error

    def one(path, leaf, pair, w):
        if pair is None:
            return leaf
        a, b, w = tree.whole(pair["a"]), tree.whole(pair["b"]), w["a"]
        n = a.shape[0]
        if a.ndim != 3 or jnp.shape(w) != (n,):
            raise ValueError(
                f"Mixing weights of shape {list(jnp.shape(w))} do not fit the factors of leaf "
                f"{tree.leaf_name(path)}, of shape {list(a.shape)}; give a stack of n factors weights "
                "of shape [n], and those of one network none."
            )
        rows = itertools.accumulate(leaf.shape[:-1], operator.mul)
        if a.shape[1] not in rows or a.shape[1] * b.shape[2] != leaf.size:
            raise ValueError(
                f"The factors of leaf {tree.leaf_name(path)} make a delta of shape "
                f"{[a.shape[1], b.shape[2]]} but the base has {list(leaf.shape)} there; "
                "make them with `lora.init` of this base."
            )
        dtype = tree.wider_dtype(leaf, a, b, w)
        scaled = (scale * w.astype(dtype))[:, None, None] * a.astype(dtype)
        delta = jnp.einsum("nir,nro->io", scaled, b.astype(dtype), precision=_HIGHEST)
        return (leaf.astype(dtype) + delta.reshape(leaf.shape)).astype(leaf.dtype)

    return treedef.unflatten(
        one(path, leaf, pair, w)
        for (path, leaf), pair, w in zip(leaves, pairs, pair_weights, strict=True)
    )


def around(subspace: Subspace, base: PyTree, scale: float | jax.Array = 1.0) -> Subspace:
    """The same subspace with factors for endpoints: its points are whole networks around a base.

    Both factors of a kernel share a layer's draw. In a function that is compiled, make it inside, of a
    base that is its argument: otherwise the base is a constant of the program.

    >>> from subspace_jax import simplex
    >>> tuned = around(simplex(2), jnp.zeros((3, 2)))
    >>> tuned.midpoint({"a": jnp.ones((2, 3, 1)), "b": jnp.ones((2, 1, 2))})[0]
    Array([1., 1.], dtype=float32)
    """
    layer_of = subspace.layer_of
    return dataclasses.replace(
        subspace,
        layer_of=layer_of and (lambda path: layer_of(path[:-1])),
        mix=lambda weights, factors: merge(base, factors, weights, scale),
    )


def gram(factors: PyTree) -> jax.Array:
    r"""Inner products `[n, n]` between the deltas of a stack of factors, before they are scaled.

    .. math:: G_{ij} = \langle A_i B_i, A_j B_j \rangle = \mathrm{tr}(A_i^\top A_j \, B_j B_i^\top)

    >>> gram({"a": jnp.ones((2, 3, 1)), "b": jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])})
    Array([[3., 3.],
           [3., 6.]], dtype=float32)
    """
    n = tree.num_stacked(factors)
    dtype = tree.wider_dtype(jnp.float32, *jax.tree.leaves(factors))
    total = jnp.zeros((n, n), tree.real_dtype(dtype))
    for pair in jax.tree.leaves(factors, is_leaf=_is_pair):
        a, b = (tree.whole(pair[name]).astype(dtype) for name in ("a", "b"))
        inner = jnp.einsum("nir,mis->nmrs", a.conj(), a, precision=_HIGHEST)
        inner *= jnp.einsum("nro,mso->nmrs", b.conj(), b, precision=_HIGHEST)
        total += inner.real.sum((2, 3))
    return total


def _is_pair(node) -> bool:
    return isinstance(node, dict) and node.keys() == {"a", "b"} and hasattr(node["a"], "ndim")


def cosine_penalty(factors: PyTree, key: jax.Array | None = None) -> jax.Array:
    """`subspace_jax.cosine_penalty` of the deltas, in [0, 1]; 0 for deltas that are zero.

    Raises ValueError: there is one endpoint.

    >>> cosine_penalty({"a": jnp.ones((2, 3, 1)), "b": jnp.array([[[1.0, 0.0]], [[1.0, 1.0]]])})
    Array(0.5, dtype=float32)
    """
    return diversity.penalty_of_gram(gram(factors), key)
