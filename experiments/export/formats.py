"""The files of one network: its variables in a format of choice, and its source."""

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from experiments.data.augment import NORMALIZATIONS
from experiments.training import networks

Tree = dict[str, Any]
_LARGEST = 127  # int8 number of both signs, so that zero is zero


class Format(NamedTuple):
    """A way to keep variables in a file, a row of `FORMATS`."""

    file: str  # its name; a folder's for Orbax
    write: Callable[[Path, Tree, dict[str, str]], None]  # of path, variables and metadata
    load: str  # code that reads it as `weights` in the folder that holds it
    packages: tuple[str, ...]  # all that a process needs that loads it


def flat(variables: Tree) -> dict[str, np.ndarray]:
    """Arrays by their dotted names."""
    return {name: np.asarray(x) for name, x in flatten_dict(variables, sep=".").items()}


def _write_orbax(path, variables, metadata):
    del metadata  # which is in the card beside it
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), variables)


def _write_safetensors(path, variables, metadata):
    from safetensors.numpy import save_file  # not needed by the other formats

    arrays = {name: np.ascontiguousarray(x) for name, x in flat(variables).items()}
    save_file(arrays, path, metadata=metadata)


def _write_npz(path, variables, metadata):
    np.savez(path, **flat(variables), metadata=np.array(json.dumps(metadata)))


FORMATS = {
    "orbax": Format(
        "weights",
        _write_orbax,
        """\
import os
import orbax.checkpoint as ocp

weights = ocp.StandardCheckpointer().restore(os.path.abspath("weights"))""",
        ("numpy", "jax", "flax", "orbax-checkpoint"),
    ),
    "safetensors": Format(
        "weights.safetensors",
        _write_safetensors,
        """\
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

weights = unflatten_dict(load_file("weights.safetensors"), sep=".")""",
        ("numpy", "jax", "flax", "safetensors"),
    ),
    "npz": Format(
        "weights.npz",
        _write_npz,
        """\
from flax.traverse_util import unflatten_dict

arrays = np.load("weights.npz")
weights = unflatten_dict({name: arrays[name] for name in arrays if name != "metadata"}, sep=".")""",
        ("numpy", "jax", "flax"),
    ),
}


def num_bytes(path: Path) -> int:
    """The size of a file, or of all files of a folder."""
    return sum(x.stat().st_size for x in (path, *path.rglob("*")) if x.is_file())


def source(network: nn.Module, normalization: str, int8: bool = False) -> str:
    """Source of `network` and `logits(variables, images)`, which needs JAX and Flax alone."""
    names = [field.name for field in dataclasses.fields(network)]
    values = {x: repr(getattr(network, x)) for x in names if x not in ("parent", "name")}
    values["dtype"] = f"jnp.{np.dtype(network.dtype).name}"
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    mean, std = NORMALIZATIONS[normalization]
    return f"""{inspect.getsource(networks)}

{inspect.getsource(dequantised) if int8 else ""}
network = {type(network).__name__}({said})
MEAN = jnp.array({list(mean)}, jnp.float32)[None, None, None]  # of intensities in [0, 1]
STD = jnp.array({list(std)}, jnp.float32)[None, None, None]


@jax.jit
def logits(variables, images):
    \"""Logits `[B, K]`, float32, of uint8 images `[B, H, W, C]`.\"""
    images = (images.astype(jnp.float32) / 255 - MEAN) / STD
    return network.apply({"dequantised(variables)" if int8 else "variables"}, images, train=False)
"""


def quantised(tree: Tree) -> Tree:
    """Kernels as int8 numbers, `q = round(w / s)`, each beside its `kernel_scale` `[1, ..., K]`.

    The scale is `max |w| / 127` of an output channel, the last axis. All else stays as it is.
    """
    found = {}
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            found[name] = quantised(leaf)
            continue
        found[name] = leaf = np.asarray(leaf)
        if leaf.ndim > 1 and leaf.dtype == np.float32:
            largest = np.abs(leaf).max(axis=tuple(range(leaf.ndim - 1)), keepdims=True)
            # Of a channel of zeros, or of numbers that are hardly any: they become zeros.
            scale = np.maximum(largest / np.float32(_LARGEST), np.finfo(np.float32).tiny)
            # In float64, since a quotient that is rounded first may be rounded to the wrong side.
            quotient = np.rint(leaf.astype(np.float64) / scale).clip(-_LARGEST, _LARGEST)
            found |= {name: quotient.astype(np.int8), f"{name}_scale": scale}
    return found


def dequantised(tree):
    """float32 weights: int8 ones times the scales beside them."""
    found = {}
    for name, leaf in tree.items():
        scale = tree.get(f"{name}_scale")
        if isinstance(leaf, dict):
            found[name] = dequantised(leaf)
        elif scale is not None:
            found[name] = leaf.astype(scale.dtype) * scale
        elif not name.endswith("_scale"):
            found[name] = leaf
    return found
