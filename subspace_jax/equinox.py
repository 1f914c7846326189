"""Equinox: a module of your own as a subspace, in the loop that you have.

>>> from subspace_jax import line
>>> model = wrap(eqx.nn.Linear, line(), 3, 4, key=jax.random.key(0))
>>> value = loss(model, jax.random.key(1), lambda net: net(jnp.ones(3)).mean())
>>> deploy(model).weight.shape  # an ordinary eqx.nn.Linear, ready to save
(4, 3)
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from subspace_jax import adapters
from subspace_jax.adapters import loss as loss
from subspace_jax.partition import Spans, combine, is_floating, split
from subspace_jax.subspaces import Subspace
from subspace_jax.tree import PyTree


class Stacked(eqx.Module):
    """A module in two parts: endpoints, and what all points share."""

    endpoints: PyTree
    shared: PyTree
    subspace: Subspace = eqx.field(static=True)

    def __call__(self, *args: Any, **kwargs: Any):
        raise adapters.stacked_error(self.subspace)

    def _parts(self, state: eqx.nn.State | None = None) -> adapters.Parts:
        norms = _norms(self.shared) if state is not None else []
        join = lambda params: combine(params, self.shared)

        def build(params, stats):
            network = eqx.nn.inference_mode(join(params))
            return network if state is None else (network, _with_stats(state, norms, stats))

        arrays, static = eqx.partition(self.shared, eqx.is_array)
        parts = self.subspace, self.endpoints, _moments(state, norms), (arrays, state)
        return adapters.Parts(*parts, join, build, _update, static)


def wrap(
    make: Callable, subspace: Subspace, *args: Any, key: Any, spans: Spans = is_floating, **kwargs
) -> Any:
    """Draws endpoints of `make(*args, key=key, **kwargs)`, of the leaves that `spans(path, leaf)` names.

    Returns the model, and the state where `make` is `eqx.nn.make_with_state(Module)`. Raises what
    `split` and `Subspace.init` raise.
    """

    def parts(key):
        made = make(*args, key=key, **kwargs)
        network, *state = made if isinstance(made, tuple) else (made,)
        return *split(network, spans), *state

    _, shared, *state = parts(key)
    model = Stacked(subspace.init(key, lambda key: parts(key)[0]), shared, subspace)
    return (model, *state) if state else model


def deploy(
    model: Stacked, batches: Any = (), coords: Any = None, *, state: Any = None, **options: Any
) -> Any:
    """The network at the midpoint or at `coords`: an ordinary module in inference mode, and its state.

    As `subspace_jax.nnx.deploy`; options are `inputs` and keywords of the network's call. Raises
    ValueError: there is a batch norm but no `state`.
    """
    parts = adapters.parts_of(model, state)
    if state is None and _norms(model.shared):
        raise ValueError("deploy got a model with batch norm and no state; pass `state=state`.")
    return adapters.deploy(parts, batches, coords, **options)


def _update(static, kwargs, params, stats, batch):
    arguments, (arrays, state) = batch
    network = eqx.nn.inference_mode(combine(params, eqx.combine(arrays, static)))
    of_norms = lambda network: [norm.inference for norm in _norms(network)]
    network, norms = eqx.tree_at(of_norms, network, replace_fn=lambda _: False), _norms(network)
    state = _with_stats(state, norms, stats, num_batches=0)
    call = lambda *arguments: network(*arguments, state, **dict(kwargs))
    _, state = jax.vmap(call, out_axes=(0, None), axis_name=norms[0].axis_name)(*arguments)
    return _moments(state, norms)


def _norms(network) -> list[eqx.nn.BatchNorm]:
    is_norm = lambda node: isinstance(node, eqx.nn.BatchNorm)
    return list(filter(is_norm, jax.tree.leaves(network, is_leaf=is_norm)))


def _index(norm):
    return norm.batch_state_index if norm.mode == "batch" else norm.ema_state_index


def _moments(state, norms):
    return [dict(zip(("mean", "var"), state.get(_index(norm)), strict=True)) for norm in norms]


def _with_stats(state, norms, stats, num_batches=2**30):
    """A state as if after so many batches: nothing is left of the zeros that Equinox divides out."""
    state = jax.tree.map(lambda x: x, state)  # a copy, since a state can be set but once
    for norm, new in zip(norms, stats, strict=True):
        state = state.set(_index(norm), (new["mean"], new["var"]))
        if norm.mode == "batch":
            state = state.set(norm.batch_counter, jnp.array(num_batches))
        else:
            state = state.set(norm.ema_first_time_index, jnp.array(num_batches == 0))
    return state
