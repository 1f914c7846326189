"""The two pytree operations that everything else is written in terms of.

A *stack* of networks is a parameter pytree whose leaves have an extra leading axis, one slice per
network. In all shapes of this package `n` is that axis, and a *network* is the same tree without it.
"""

import operator
from collections.abc import Sequence
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

PyTree = Any
_ARRAYS = jax.ShapeDtypeStruct | np.ndarray | np.generic | jax.Array


def stack(networks: Sequence[PyTree]) -> PyTree:
    """Stacks networks of one structure along a new leading axis.

    Raises ValueError: there is no network, or the trees differ in structure or shapes; TypeError: a
    leaf is no array.

    >>> stack([{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}])["w"].shape
    (2, 3)
    """
    if not networks:
        raise ValueError("stack got 0 networks; give it at least 1.")
    for path, leaf in jax.tree.leaves_with_path(list(networks)):
        _check_array(path, leaf)
    _check_alike(networks)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *networks)


def _check_array(path, leaf) -> None:
    if not isinstance(leaf, (jax.ShapeDtypeStruct, *get_args(ArrayLike))):
        raise TypeError(f"Leaf {leaf_name(path)} {kind(leaf)}; stack arrays of NumPy or JAX.")


def _check_alike(networks) -> None:
    shapes = [{p: jnp.shape(x) for p, x in jax.tree.leaves_with_path(net)} for net in networks]
    structures: list[Any] = [jax.tree.structure(network) for network in networks]
    for i, (other, structure) in enumerate(zip(shapes, structures, strict=True)):
        only = sorted(map(leaf_name, shapes[0].keys() ^ other.keys()))
        if only or structure != structures[0]:
            where = f"leaf {only[0]} is in one only" if only else "their containers are others"
            raise ValueError(
                f"Networks 0 and {i} differ in structure: {where}; "
                "stack networks that one function has made."
            )
        for path, shape in shapes[0].items():
            if shape != other[path]:
                raise ValueError(
                    f"Networks 0 and {i} differ in the shape of leaf {leaf_name(path)}: "
                    f"{list(shape)} and {list(other[path])}; stack networks of one architecture."
                )


def num_stacked(stack: PyTree) -> int:
    """The size `n` of the leading axis that all leaves of a stack share, checked."""
    leaves = jax.tree.leaves_with_path(stack)
    if not leaves:
        raise ValueError("The tree has 0 leaves; a stack of networks needs at least 1 array.")
    first_path, first = leaves[0]
    for path, leaf in leaves:
        _check_array(path, leaf)
        if jnp.ndim(leaf) == 0:
            raise ValueError(
                f"Leaf {leaf_name(path)} is a scalar and has no endpoint axis; "
                "make endpoints with `Subspace.init` or `stack`, which give every leaf one."
            )
        if leaf.shape[0] != first.shape[0]:
            raise ValueError(
                f"Leaves disagree on the endpoint axis: {leaf_name(first_path)} has {first.shape[0]} "
                f"endpoints and {leaf_name(path)} has {leaf.shape[0]}; stack the same number in both."
            )
    return first.shape[0]


def wider_dtype(*values: Any) -> jnp.dtype:
    """The dtype that arrays or dtypes promote to, however strict the user set promotion to be."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*map(_at_least_16_bits, values))


def _at_least_16_bits(value: Any) -> Any:
    """Floating numbers of 8 bits or fewer promote to no other dtype."""
    dtype = jnp.result_type(value)
    narrow = jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize < 2
    return jnp.float16 if narrow else value


def widened(leaf: Any) -> jax.Array:
    """A leaf in at least float32, in which sums over many of them lose nothing that counts."""
    return jnp.asarray(leaf, wider_dtype(leaf, jnp.float32))


def on_host(leaf: Any) -> np.ndarray:
    """A leaf in NumPy's widest dtype of its kind."""
    return np.asarray(leaf, np.complex128 if jnp.iscomplexobj(leaf) else np.float64)


def as_real(leaf: jax.Array) -> jax.Array:
    """Complex numbers `[...]` as pairs of real ones `[..., 2]`, of the same inner products."""
    if not jnp.iscomplexobj(leaf):
        return leaf
    return jnp.stack([leaf.real, leaf.imag], axis=-1)


def is_concrete(value: Any) -> bool:
    """Whether a value is known now, and not traced by a transformation."""
    return not isinstance(value, jax.core.Tracer)


def mix(weights: PyTree, stack: PyTree) -> PyTree:
    r"""Contracts the leading axis of every leaf with mixing weights: one network out of `n`.

    .. math:: \theta = \sum_{i=1}^{n} w_i \theta_i

    The sum runs in the wider of the two dtypes and at the highest precision, so that one-hot weights
    return an equal (finite) network. The axis is contracted, never indexed: a stack that is sharded
    over it is reduced, not gathered. Weights are any real `[n]`, or a tree prefix of `stack` with such
    an array at every leaf.

    Raises ValueError: leaves disagree on `n`, or the weights have another number of entries; TypeError:
    a leaf is not floating (or complex), which `split` keeps beside the stack.

    >>> mix(jnp.array([0.25, 0.75]), {"w": jnp.array([[0.0, 4.0], [4.0, 8.0]])})["w"]
    Array([3., 7.], dtype=float32)
    """
    check_mixable(stack)
    n = num_stacked(stack)
    try:
        weights = jax.tree.broadcast(weights, stack)
    except ValueError as error:
        raise ValueError(
            f"Mixing weights or coordinates of type {type(weights).__name__} are no array and no tree "
            "like the stack; give an array, as np.asarray makes."
        ) from error

    def contract(path, x, w):
        if jnp.shape(w) != (n,):
            raise ValueError(
                f"Mixing weights of shape {list(jnp.shape(w))} do not fit leaf {leaf_name(path)} of a "
                f"stack of {n} networks; give one weight per network, shape [{n}]."
            )
        dtype = wider_dtype(x, w)
        mixed = jnp.tensordot(
            jnp.asarray(w, dtype), x.astype(dtype), axes=1, precision=jax.lax.Precision.HIGHEST
        )
        return mixed.astype(x.dtype)

    return jax.tree.map_with_path(contract, stack, weights)


def gram(stack: PyTree) -> jax.Array:
    r"""Inner products `[n, n]` between the networks of a stack, real and at least float32.

    .. math:: G_{ij} = \operatorname{Re} \langle \theta_i, \theta_j \rangle

    Raises ValueError: the tree has no leaves or its leaves disagree on `n`.

    >>> gram({"w": jnp.array([[1.0, 0.0], [1.0, 2.0]])})
    Array([[1., 1.],
           [1., 5.]], dtype=float32)
    """
    num_stacked(stack)
    dtype = real_dtype(*jax.tree.leaves(stack))

    def leaf_gram(x):
        x = as_real(widened(x)).astype(dtype)
        return contract(x, x, 1)

    return jax.tree.reduce(operator.add, jax.tree.map(leaf_gram, stack))


def contract(x: jax.Array, y: jax.Array, start: int) -> jax.Array:
    """Sums of products over all axes from `start` on; all devices of an explicit mesh hold them."""
    axes = (*range(start, x.ndim),)
    mesh = jax.typeof(x).sharding.mesh
    everywhere = NamedSharding(mesh, PartitionSpec())
    sharding = everywhere if AxisType.Explicit in mesh.axis_types else None
    how: Any = {"precision": jax.lax.Precision.HIGHEST, "out_sharding": sharding}
    return jax.lax.dot_general(x, y, ((axes, axes), ((), ())), **how)


def is_split(leaf: jax.Array) -> bool:
    """Whether the leading axis lies over several devices of a mesh with explicit axes."""
    return jnp.ndim(leaf) > 0 and jax.typeof(leaf).sharding.spec[0] is not None


def lay_alike(stacks: PyTree, like: PyTree) -> PyTree:
    """Splits leading axes as that of `like`, where a mesh has explicit axes."""
    split = next(filter(is_split, jax.tree.leaves(like)), None)
    if split is None:
        return stacks
    sharding = jax.typeof(split).sharding

    def lay(x):
        spec = PartitionSpec(sharding.spec[0], *jax.typeof(x).sharding.spec[1:])
        return jax.sharding.reshard(x, NamedSharding(sharding.mesh, spec))

    return jax.tree.map(lay, stacks)


def whole(leaf: Any) -> Any:
    """An array that is split over a mesh with explicit axes, as all its devices hold it."""
    if not isinstance(leaf, jax.Array) or not any(jax.typeof(leaf).sharding.spec):
        return leaf
    mesh = jax.typeof(leaf).sharding.mesh
    return jax.sharding.reshard(leaf, NamedSharding(mesh, PartitionSpec()))


def real_dtype(*leaves: Any) -> jnp.dtype:
    """The real dtype, at least float32, in which numbers of all leaves are measured."""
    return jnp.finfo(wider_dtype(jnp.float32, *leaves)).dtype


def leaf_name(path: tuple) -> str:
    """A path as errors show it."""
    return jax.tree_util.keystr(path) or "(the array itself)"


def path_text(path: tuple) -> str:
    """A path as users write it: names with slashes between them."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def own_name(path: tuple) -> str:
    """The last name of a path, dotted ones too, before the `value` in which those of Flax NNX end."""
    *owners, name = path_text(path).replace(".", "/").split("/")
    return owners[-1] if owners and name == "value" else name


def is_mixable(leaf: Any) -> bool:
    """Whether a leaf holds floating (or complex) numbers, of which a mean makes sense."""
    if isinstance(leaf, _ARRAYS):
        return jnp.issubdtype(leaf.dtype, jnp.inexact)
    return isinstance(leaf, float | complex)


def check_mixable(network_or_stack: PyTree) -> None:
    """Refuses a tree with leaves that can't be mixed: integers, keys, and what is no array."""
    for path, leaf in jax.tree.leaves_with_path(network_or_stack):
        if not is_mixable(leaf):
            raise TypeError(
                f"Leaf {leaf_name(path)} {kind(leaf)} and can't be mixed; share it between all points "
                "with `spanned, shared = subspace_jax.split(network)` and make endpoints of `spanned`."
            )


def check_numbers(**values: Any) -> None:
    """Refuses what is no array of real numbers, by the names of the arguments."""
    for name, value in values.items():
        if not isinstance(value, get_args(ArrayLike)):
            raise TypeError(
                f"{name} is an object of type {type(value).__name__}; "
                "pass a NumPy or JAX array, as np.asarray makes."
            )
        dtype = value.dtype if hasattr(value, "dtype") else np.result_type(value)
        if not any(jnp.issubdtype(dtype, real) for real in (jnp.floating, jnp.integer, bool)):
            raise TypeError(f"{name} has dtype {dtype}; pass real numbers.")


def check_batches(name: str, batches: Any) -> None:
    """Refuses one array in place of an iterable of batches: each of its examples would be one."""
    if isinstance(batches, np.ndarray | jax.Array):
        raise TypeError(
            f"{name} got an array of shape {list(batches.shape)} instead of batches; "
            "give it a list of batches, as [images]."
        )


def kind(leaf: Any) -> str:
    """What a leaf is, as errors say it."""
    if isinstance(leaf, _ARRAYS):
        return f"has dtype {leaf.dtype}"
    return f"is an object of type {type(leaf).__name__}"
