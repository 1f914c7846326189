"""Where endpoints start, if not at random: at one network that was trained before, or at one each."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.system.errors import UserError
from experiments.training import models, weights
from subspace_jax.tree import PyTree, num_stacked

HEADS = ("keep", "new")


def load(path: str, head: str, like: PyTree, num_endpoints: int, recipe: str) -> PyTree:
    """Reads the networks that the endpoints of a run start from.

    Args:
      path: `config.init_from`.
      head: `config.init_head`.
      like: the shapes of one network.
      num_endpoints: `n`.
      recipe: of the run, for sentences.

    Returns:
      A stack of one network or of `n`, without its classifier if that is to be new.

    Raises:
      UserError: there is no such file, or it holds other networks or another number of them.
    """
    if head not in HEADS:
        raise UserError(f"config.init_head is {head!r}; choose {' or '.join(HEADS)}.")
    try:
        if head == "keep":
            stack = weights.load(path, like)
        else:
            stack = weights.load(path, without_head(like), _is_of_head)
    except UserError as error:
        raise UserError(
            f"config.init_from: {str(error).removesuffix('.')}{_hint(head)}."
        ) from error
    found = num_stacked(stack)
    if found not in (1, num_endpoints):
        fitting = " or ".join(str(count) for count in sorted({1, num_endpoints}))
        raise UserError(
            f"config.init_from {path} holds {found} networks but {recipe} has {num_endpoints} "
            f"endpoints; use a file of {fitting}."
        )
    return stack


def begin(endpoints: PyTree, start: PyTree) -> PyTree:
    """The endpoints with all modules of `start` in place of their own.

    Args:
      endpoints: a stack by module, leaves `[n, ...]`, or shapes where all are replaced.
      start: some of the modules, leaves `[1, ...]`, for all endpoints, or `[n, ...]`.

    Example:
      >>> drawn = {"body": jnp.zeros((2, 3)), "classifier": jnp.zeros((2, 3))}
      >>> begun = begin(drawn, {"body": jnp.ones((1, 3))})
      >>> begun["body"].tolist(), float(begun["classifier"].max())
      ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], 0.0)
    """
    own = {name: endpoints[name] for name in start}
    return {**endpoints, **jax.tree.map(_placed, own, start)}


def _placed(old, new):
    return jnp.asarray(np.broadcast_to(new, old.shape))  # not as a program for every shape


def without_head(params: PyTree) -> PyTree:
    """The modules of one network or a stack but for the last layer."""
    return {name: module for name, module in params.items() if name not in models.HEADS}


def _is_of_head(name: str) -> bool:
    return name.startswith(tuple(f"['{module}']" for module in models.HEADS))


def _hint(head: str) -> str:
    if head == "new":
        return ""
    return (
        " (torchvision's have --config.model.classifier_bias=True), or --config.init_head=new for "
        "classes of your own"
    )
