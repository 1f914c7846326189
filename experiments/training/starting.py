"""Where endpoints start, if not at random: at one network that was trained before, or at one each."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.system.errors import UserError
from experiments.training import models, weights
from subspace_jax.tree import PyTree, num_stacked

HEADS = ("keep", "new")
_HINT = (
    " (torchvision's have --config.model.classifier_bias=True), or --config.init_head=new for "
    "classes of your own"
)


def load(path: str, head: str, like: PyTree, num_endpoints: int, recipe: str) -> PyTree:
    """A stack of one network or of all endpoints, without its classifier if that is to be new."""
    keep = head == "keep"
    try:
        heads = () if keep else tuple(f"['{module}']" for module in models.HEADS)
        own = like if keep else without_head(like)
        stack = weights.load(path, own, lambda name: name.startswith(heads))
    except UserError as error:
        sentence = str(error).removesuffix(".")
        raise UserError(f"config.init_from: {sentence}{_HINT if keep else ''}.") from error
    found = num_stacked(stack)
    if found not in (1, num_endpoints):
        fitting = " or ".join(str(count) for count in sorted({1, num_endpoints}))
        raise UserError(
            f"config.init_from {path} holds {found} networks but {recipe} has {num_endpoints} "
            f"endpoints; use a file of {fitting}."
        )
    return stack


def begin(endpoints: PyTree, start: PyTree) -> PyTree:
    """The endpoints with the modules of `start`, `[1, ...]` or `[n, ...]`, in place of their own."""
    # Not as a program for every shape.
    place = lambda old, new: jnp.asarray(np.broadcast_to(new, old.shape))
    return {**endpoints, **jax.tree.map(place, {name: endpoints[name] for name in start}, start)}


def without_head(params: PyTree) -> PyTree:
    """The modules of one network or a stack but for the last layer."""
    return {name: module for name, module in params.items() if name not in models.HEADS}
