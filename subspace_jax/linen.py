"""Flax Linen: a module of your own as a subspace, in the loop that you have.

>>> from subspace_jax import line
>>> network, x = wrap(nn.Dense(4), line()), jax.numpy.ones((2, 3))
>>> variables = network.init(jax.random.key(0), x)  # as before
>>> loss_fn = lambda params: network.apply({"params": params}, x).mean()  # as before
>>> value = loss(network, variables["params"], jax.random.key(1), loss_fn)
>>> deploy(network, variables)["params"]["kernel"].shape  # ordinary variables, ready to save
(3, 4)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
from flax import errors

from subspace_jax import adapters
from subspace_jax.partition import Spans, combine, is_floating, split
from subspace_jax.subspaces import Subspace
from subspace_jax.tree import PyTree


@dataclasses.dataclass(frozen=True)
class Stacked:
    """A module whose `init` draws endpoints; `apply` takes the parameters of one network."""

    module: nn.Module
    subspace: Subspace
    spans: Spans

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> dict[str, PyTree]:
        """The variables that `module.init` returns, with endpoints as parameters."""
        rngs = rngs if isinstance(rngs, dict) else {"params": rngs}
        init = lambda key: dict(self.module.init({**rngs, "params": key}, *args, **kwargs))
        variables, key = init(rngs["params"]), rngs["params"]
        endpoints = self.subspace.init(key, lambda key: split(init(key)["params"], self.spans)[0])
        _, shared = split(variables["params"], self.spans)
        return variables | {"params": combine(endpoints, shared)}

    def apply(self, variables: PyTree, *args: Any, **kwargs: Any) -> Any:
        """`module.apply`, which refuses endpoints in one sentence."""
        try:
            return self.module.apply(variables, *args, **kwargs)
        except errors.ScopeParamShapeError as error:
            spanned = jax.tree.leaves(split(variables["params"], self.spans)[0])
            if {x.shape[:1] for x in spanned} != {(self.subspace.num_endpoints,)}:
                raise
            raise adapters.stacked_error(self.subspace) from error

    def _parts(self, params: PyTree, batch_stats: PyTree = None, **rest: PyTree) -> adapters.Parts:
        endpoints, shared = split(params, self.spans)
        join = lambda params: combine(params, shared)

        def build(params, stats):
            return {**rest, **({"batch_stats": stats} if stats else {}), "params": join(params)}

        parts = self.subspace, endpoints, batch_stats or {}, (rest, shared)
        return adapters.Parts(*parts, join, build, _update, self.module.apply)


def wrap(module: nn.Module, subspace: Subspace, *, spans: Spans = is_floating) -> Stacked:
    """The module with an `init` of endpoints, of the parameters that `spans(path, leaf)` names."""
    return Stacked(module, subspace, spans)


def loss(
    network: Stacked, params: PyTree, key: jax.Array, loss_fn: Callable, *, penalty: Any = 1.0
) -> Any:
    """`loss_fn(params)` of a random network, plus `penalty` times the cosine penalty.

    `loss_fn` may return a pair `(loss, auxiliary)`, and draw dropout masks with the same key.
    """
    return adapters.loss_of(adapters.parts_of(network, params), key, loss_fn, penalty)


def deploy(
    network: Stacked, variables: PyTree, batches: Any = (), coords: Any = None, **options: Any
) -> Any:
    """The variables of the network at the midpoint or at `coords`: those of an ordinary module.

    As `subspace_jax.nnx.deploy`; options are `inputs` and keywords that put `apply` in training mode, as
    `train=True`.
    """
    return adapters.deploy(adapters.parts_of(network, **variables), batches, coords, **options)


def _update(apply, kwargs, params, stats, batch):
    arguments, (rest, shared) = batch
    variables = rest | {"params": combine(params, shared), "batch_stats": stats}
    with nn.intercept_methods(_without_dropout):
        return apply(variables, *arguments, **dict(kwargs), mutable="batch_stats")[1]["batch_stats"]


def _without_dropout(call, args, kwargs, context):
    return args[0] if isinstance(context.module, nn.Dropout) else call(*args, **kwargs)
