"""Flax NNX: a model of your own as a subspace, in the loop that you have.

>>> import jax
>>> from subspace_jax import line
>>> model = wrap(nnx.Linear, line(), 3, 4, rngs=nnx.Rngs(0))  # nnx.Optimizer and nnx.jit as before
>>> value = loss(model, model.rngs(), lambda net: net(jax.numpy.ones((2, 3))).mean())
>>> deploy(model).kernel.shape  # an ordinary nnx.Linear, ready to save
(3, 4)
"""

from collections.abc import Callable
from typing import Any

from flax import nnx

from subspace_jax import adapters
from subspace_jax.adapters import loss as loss
from subspace_jax.subspaces import Subspace


class Stacked(nnx.Module):
    """A model whose parameters are endpoints; `rngs()` draws a key for `loss`."""

    def __init__(self, network: nnx.Module, subspace: Subspace, spans: Any, rngs: nnx.Rngs):
        self.network, self.subspace, self.spans, self.rngs = network, subspace, spans, rngs

    def __call__(self, *args: Any, **kwargs: Any):
        raise adapters.stacked_error(self.subspace)

    def _parts(self) -> adapters.Parts:
        graphdef, *states = nnx.split(self.network, self.spans, nnx.BatchStat, ...)
        endpoints, stats, rest = states
        join = lambda params: nnx.merge(graphdef, params, stats, rest)

        def build(params, stats):
            network = nnx.merge(graphdef, params, stats, rest, copy=True)
            network.eval()
            return network

        return adapters.Parts(self.subspace, endpoints, stats, rest, join, build, _update, graphdef)


def wrap(
    make: Callable, subspace: Subspace, *args: Any, rngs: nnx.Rngs, spans: Any = nnx.Param, **kwargs
) -> Stacked:
    """Draws endpoints of `make(*args, rngs=rngs, **kwargs)`, of what the NNX filter `spans` names.

    Raises what `Subspace.init` raises, and `TypeError` for a model.
    """
    if isinstance(make, nnx.Module):
        raise TypeError(f"wrap got a model; give its class, as wrap({type(make).__name__}, ...).")
    draw = lambda rngs: make(*args, rngs=rngs, **kwargs)
    network, init_fn = draw(rngs), lambda key: nnx.state(draw(nnx.Rngs(key)), spans)
    nnx.update(network, subspace.init(rngs.params(), init_fn))
    return Stacked(network, subspace, spans, nnx.Rngs(rngs.params()))


def deploy(model: Stacked, batches: Any = (), coords: Any = None, **options: Any) -> Any:
    """The network at the midpoint or at `coords`: an ordinary model in evaluation mode.

    Measures batch-norm statistics on the batches, dropout off. `coords` `[m, ...]` make a list. Options
    are `inputs`, `batch -> arguments`, and keywords of the call. Raises as `recalibrate` and `point` do.
    """
    return adapters.deploy(adapters.parts_of(model), batches, coords, **options)


def _update(graphdef, kwargs, params, stats, batch):
    arguments, rest = batch
    network = nnx.merge(graphdef, params, stats, rest, copy=True)
    network.set_attributes(deterministic=True, use_running_average=False, raise_if_not_found=False)
    network(*arguments, **dict(kwargs))
    return nnx.state(network, nnx.BatchStat)
