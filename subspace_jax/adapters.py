"""What `nnx`, `linen` and `equinox` share: the loss of a sampled network, and networks to deploy."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from subspace_jax import tree
from subspace_jax.diversity import cosine_penalty
from subspace_jax.recalibration import for_each, recalibrate
from subspace_jax.subspaces import Subspace
from subspace_jax.tree import PyTree

INPUTS = ("image", "images", "input", "inputs", "input_ids", "pixel_values", "tokens", "x")
# What is called again is the same object, and compiled once.
_for_each, _partial = functools.lru_cache(8)(for_each), functools.lru_cache(8)(functools.partial)


class Parts(NamedTuple):
    """A model as a subspace, and how its parts become a network to train or one to deploy.

    `join` is `params -> network`, `build` `(params, stats) -> network`, and `update`
    `(static, kwargs, params, stats, (arguments, rest)) -> stats`, as `recalibrate` takes it.
    """

    subspace: Subspace
    endpoints: PyTree
    stats: PyTree
    rest: PyTree
    join: Callable
    build: Callable
    update: Callable
    static: Any


def inputs_of(batch: Any) -> Any:
    """What a network takes of a batch: all of it, the first of a pair, or what a dictionary names so.

    >>> inputs_of({"image": jnp.ones((2, 3)), "label": jnp.zeros(2)}).shape
    (2, 3)
    """
    if not isinstance(batch, Mapping):
        return batch[0] if isinstance(batch, tuple | list) else batch
    names = [name for name in INPUTS if name in batch]
    if len(names) != 1:
        raise ValueError(
            f"Of a batch's names {', '.join(map(str, batch))} {len(names)} are known as a network's "
            "input; say which it is, as `inputs=lambda batch: batch['image']`."
        )
    return batch[names[0]]


def loss(model: Any, key: jax.Array, loss_fn: Callable, *, penalty: Any = 1.0) -> Any:
    """`loss_fn(network)` of a random network, plus `penalty` times the cosine penalty.

    `loss_fn` may return a pair `(loss, auxiliary)`, and draw dropout masks with the same key. A network
    of NNX shares statistics and random streams with the model, which keeps their changes.
    """
    return loss_of(parts_of(model), key, loss_fn, penalty)


def parts_of(model: Any, *args: PyTree, **variables: PyTree) -> Parts:
    """The parts of what a `wrap` returned."""
    if not hasattr(model, "_parts"):
        raise TypeError(f"{type(model).__name__} has no endpoints; give what `wrap` returned.")
    return model._parts(*args, **variables)


def loss_of(parts: Parts, key: jax.Array, loss_fn: Callable, penalty: Any) -> Any:
    """`loss_fn` at a random point and `penalty` times the cosine penalty; auxiliary values stay."""
    key = jax.random.fold_in(key, parts.subspace.num_endpoints)  # so that `loss_fn` may use it too
    found = loss_fn(parts.join(parts.subspace.sample(key, parts.endpoints)))
    value, *auxiliary = found if isinstance(found, tuple) else (found,)
    if isinstance(penalty, jax.Array) or penalty:
        cost = penalty * cosine_penalty(parts.endpoints)
        dtype = tree.wider_dtype(value, cost)
        value = jnp.asarray(value, dtype) + jnp.asarray(cost, dtype)
    return (value, *auxiliary) if isinstance(found, tuple) else value


def deploy(
    parts: Parts, batches: Any, coords: Any, *, inputs: Callable = inputs_of, **kwargs
) -> Any:
    """The network at a point with its own statistics, or a list of several."""
    if isinstance(batches, Mapping | tuple) and batches:
        raise TypeError(
            f"deploy got a {type(batches).__name__} instead of batches; give it a list, as [batch]."
        )
    tree.check_batches("deploy", batches)
    coords = parts.subspace.center if coords is None else coords
    many = jnp.ndim(jax.tree.leaves(coords)[0]) > parts.subspace.center.ndim
    point = jax.vmap(parts.subspace.point, (None, 0)) if many else parts.subspace.point
    params, stats = point(parts.endpoints, coords), parts.stats
    if jax.tree.leaves(stats):

        def arguments(batch):
            found = inputs(batch)
            return jax.tree.map(jnp.asarray, found if isinstance(found, tuple) else (found,))

        update = _partial(parts.update, parts.static, tuple(kwargs.items()))
        update = _for_each(update) if many else update
        given = ((arguments(batch), parts.rest) for batch in batches)
        new = recalibrate(update, params, given, stats=stats).stats
        stats = jax.tree.map(lambda x, old: x.astype(old.dtype), new, stats)
    if not many:
        return parts.build(params, stats)
    take = lambda i: jax.tree.map(lambda x: x[i], (params, stats))
    return [parts.build(*take(i)) for i in range(tree.num_stacked(params))]


def stacked_error(subspace: Subspace) -> TypeError:
    """What a model says that is called in place of one of its networks."""
    return TypeError(
        f"This is a stack of {subspace.num_endpoints} networks and can't be called; call the network "
        "that `loss` hands to your function, or the one that `deploy` returns."
    )
