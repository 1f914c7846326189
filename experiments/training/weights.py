"""Stacks of networks as .npz files: leaves `[n, ...]` by their path in the parameter tree."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.system import files
from experiments.system.errors import UserError
from subspace_jax.tree import PyTree

FILE = "weights.npz"  # of a run, and of what was imported


def save(path: str | os.PathLike[str], stack: PyTree) -> None:
    """Writes a stack, whole or not at all."""
    files.write_npz(path, {name: np.asarray(leaf) for name, leaf in _named(stack).items()})


def load(
    path: str | os.PathLike[str],
    like: PyTree,
    leave_out: Callable[[str], bool] = lambda name: False,
) -> PyTree:
    """Reads a stack of networks that look like `like`, without the leaves of which `leave_out` holds."""
    path = Path(path).expanduser()
    with files.open_npz(path, "weights of a finished run") as file:
        arrays = {name: file[name] for name in file.files if not leave_out(name)}
    wanted = {name: tuple(leaf.shape) for name, leaf in _named(like).items()}
    found = {name: array.shape[1:] for name, array in arrays.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise UserError(
                f"{path} has {name} of shape {found.get(name)} but the network's is "
                f"{wanted.get(name)}; use weights of the same config.model."
            )
    return jax.tree.unflatten(
        jax.tree.structure(like), [jnp.asarray(arrays[name]) for name in _named(like)]
    )


def concatenate(stacks: Sequence[PyTree]) -> PyTree:
    """One stack of all networks, in order."""
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *stacks)


def _named(tree: PyTree) -> dict:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
