"""The files of one network: its variables or its program in a format of choice, and its source."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.data.augment import NORMALIZATIONS
from experiments.import_weights import torch_names
from experiments.training import networks

Tree = dict[str, Any]
_LARGEST = 127  # int8 number of both signs, so that zero is zero
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


class Exported(NamedTuple):
    """A network and its weights."""

    network: nn.Module
    variables: Tree
    normalization: str
    image_shape: tuple[int, ...]  # [H, W, C]
    int8: bool = False  # whether kernels are `quantised`
    metadata: Mapping[str, str] = {}

    @property
    def logits(self) -> Callable[[jax.Array], jax.Array]:
        """The function of uint8 images, with the weights as constants."""
        scope: dict[str, Any] = {}
        exec(flax_source(self), scope)
        return functools.partial(scope["logits"], self.variables)


def flax_source(exported: Exported) -> str:
    """Source of `network` and `logits(variables, images)`, which needs JAX and Flax alone."""
    network = exported.network
    names = [field.name for field in dataclasses.fields(network)]
    values = {x: repr(getattr(network, x)) for x in names if x not in ("parent", "name")}
    values["dtype"] = f"jnp.{np.dtype(network.dtype).name}"
    said = ", ".join(f"{name}={value}" for name, value in values.items())
    mean, std = NORMALIZATIONS[exported.normalization]
    return f"""{inspect.getsource(networks)}

{inspect.getsource(dequantised) if exported.int8 else ""}
network = {type(network).__name__}({said})
MEAN = jnp.array({list(mean)}, jnp.float32)[None, None, None]  # of intensities in [0, 1]
STD = jnp.array({list(std)}, jnp.float32)[None, None, None]


@jax.jit
def logits(variables, images):
    \"""Logits `[B, K]`, float32, of uint8 images `[B, H, W, C]`.\"""
    images = (images.astype(jnp.float32) / 255 - MEAN) / STD
    variables = {"dequantised(variables)" if exported.int8 else "variables"}
    return network.apply(variables, images, train=False)
"""


def torch_source(exported: Exported) -> str:
    """Source of `logits(weights, images)`, which needs PyTorch alone, for weights by PyTorch's names."""
    network, params = exported.network, exported.variables["params"]
    names = torch_names.module_names(network)
    blocks: list = []
    for block in dict.fromkeys(path[0] for path in names if len(path) > 1):
        modules = [name for name in torch_names.INSIDE if name in params[block]]
        has_shortcut = "shortcut" in modules
        # All stages but the first begin by halving, where the number of channels changes.
        halving = ("shortcut", modules[-4]) if has_shortcut and blocks else ()
        pairs = zip(modules[::2], modules[1::2], strict=True)
        row = [(names[block, c], names[block, n], 1 + (c in halving)) for c, n in pairs]
        blocks.append(row if has_shortcut else [None, *row])
    rows = "".join(f"    {row},\n" for row in blocks)
    halved = getattr(network, "stem", "small") == "imagenet"
    mean, std = NORMALIZATIONS[exported.normalization]
    return f'''"""The network in PyTorch, for weights that have the names of its modules."""

import torch
from torch.nn import functional as F

# Layers: the names of a convolution and its batch norm, and the stride.
STEM, POOL = {(names["Conv_0",], names["BatchNorm_0",], 2 if halved else 1)}, {halved}
BLOCKS = [  # of each the shortcut's layer, if it has one, then the others
{rows}]
DTYPE = torch.{np.dtype(network.dtype).name}  # of activations
MEAN, STD = {list(mean)}, {list(std)}  # of intensities in [0, 1]


def layer(weights, x, conv, norm, stride):
    """A convolution and the batch norm after it, which has float32."""
    kernel = weights[f"{{conv}}.weight"].to(x.dtype)
    x = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)
    names = ("running_mean", "running_var", "weight", "bias")
    return F.batch_norm(x.float(), *(weights[f"{{norm}}.{{name}}"] for name in names)).to(DTYPE)


def logits(weights, images):
    """Logits `[B, K]`, float32, of uint8 images `[B, H, W, C]`."""
    mean, std = (torch.tensor(x, device=images.device) for x in (MEAN, STD))
    x = ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).to(DTYPE)
    x = F.relu(layer(weights, x, *STEM))
    if POOL:
        x = F.max_pool2d(x, 3, 2, 1)
    for shortcut, first, *others in BLOCKS:
        y = layer(weights, x, *first)
        for names in others:
            y = layer(weights, F.relu(y), *names)
        x = F.relu(y + (layer(weights, x, *shortcut) if shortcut else x))
    x, kernel = x.mean((2, 3)), weights["fc.weight"].flatten(1).to(DTYPE)
    logits = F.linear(x, kernel).float()
    return logits + weights["fc.bias"] if "fc.bias" in weights else logits
'''


class Format(NamedTuple):
    """A way to keep a network in a file, a row of `FORMATS`."""

    file: str  # its name; a folder's for Orbax
    write: Callable[[Path, Exported], None]
    load: str  # code that reads it in the folder that holds it
    packages: tuple[str, ...]  # all that a process needs that loads it
    call: str = "network.logits(weights, images)"  # logits of uint8 images in NumPy
    source: Callable[[Exported], str] | None = flax_source  # of network.py, where there is one
    keeps_int8: bool = True
    writers: tuple[str, ...] = ()  # packages that write it
    refusal: Callable[[nn.Module], str | bool] = lambda network: False  # why it carries it not


def _write_orbax(path, exported):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), exported.variables)


def _write_safetensors(path, exported, arrays=None):
    from safetensors.numpy import save_file  # not needed by the other formats

    arrays = arrays or flatten_dict(exported.variables, sep=".")
    arrays = {name: np.ascontiguousarray(x) for name, x in arrays.items()}
    save_file(arrays, path, metadata=dict(exported.metadata))


def _write_npz(path, exported):
    metadata = json.dumps(dict(exported.metadata))
    np.savez(path, **flatten_dict(exported.variables, sep="."), metadata=metadata)


def _write_torch(path, exported):
    tensors = torch_names.to_torch(exported.network, exported.variables)
    _write_safetensors(path, exported, tensors)


def _images(exported: Exported) -> jax.ShapeDtypeStruct:
    """Of a batch of any size."""
    shape = (*jax.export.symbolic_shape("batch"), *exported.image_shape)
    return jax.ShapeDtypeStruct(shape, np.uint8)


def _write_stablehlo(path, exported):
    program = jax.export.export(jax.jit(exported.logits), platforms=_PLATFORMS)
    path.write_bytes(program(_images(exported)).serialize())


def _write_onnx(path, exported):
    from jax2onnx import to_onnx  # an extra

    # In float32, since jax2onnx mistakes the layout of sums of bfloat16 activations.
    exported = exported._replace(network=exported.network.clone(dtype=jnp.float32))
    names = {"input_names": ["images"], "output_names": ["logits"]}
    with jax.numpy_rank_promotion("allow"):  # of which its own code makes use
        model = to_onnx(exported.logits, [_images(exported)], **names)
    path.write_bytes(model.SerializeToString())


FORMATS = {
    "orbax": Format(
        "weights",
        _write_orbax,
        """\
import os
import network  # network.py, a Flax module and its input's scale
import orbax.checkpoint as ocp

weights = ocp.StandardCheckpointer().restore(os.path.abspath("weights"))""",
        ("numpy", "jax", "flax", "orbax-checkpoint"),
    ),
    "safetensors": Format(
        "weights.safetensors",
        _write_safetensors,
        """\
import network  # network.py, a Flax module and its input's scale
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

weights = unflatten_dict(load_file("weights.safetensors"), sep=".")""",
        ("numpy", "jax", "flax", "safetensors"),
    ),
    "npz": Format(
        "weights.npz",
        _write_npz,
        """\
import network  # network.py, a Flax module and its input's scale
from flax.traverse_util import unflatten_dict

arrays = dict(np.load("weights.npz"))
del arrays["metadata"]
weights = unflatten_dict(arrays, sep=".")""",
        ("numpy", "jax", "flax"),
    ),
    "torch": Format(
        "weights.safetensors",
        _write_torch,
        """\
import network  # network.py, for PyTorch
import torch
from safetensors.torch import load_file

weights = load_file("weights.safetensors")""",
        ("numpy", "torch", "safetensors"),
        "network.logits(weights, torch.from_numpy(images))",
        torch_source,
        keeps_int8=False,
        refusal=lambda network: (
            isinstance(network, networks.ConvNet) and "PyTorch has no padding as conv_net's"
        ),
    ),
    "stablehlo": Format(
        "network.stablehlo",
        _write_stablehlo,
        """\
import jax

with open("network.stablehlo", "rb") as file:
    network = jax.export.deserialize(file.read())""",
        ("numpy", "jax", "flatbuffers"),
        "network.call(images)",
        None,
    ),
    "onnx": Format(
        "network.onnx",
        _write_onnx,
        """\
import onnxruntime

session = onnxruntime.InferenceSession("network.onnx")""",
        ("numpy", "onnxruntime"),
        'session.run(None, {"images": images})[0]',
        None,
        keeps_int8=False,  # its constants are folded
        writers=("jax2onnx",),
        refusal=lambda network: (
            getattr(network, "stem", "") == "imagenet"
            and "jax2onnx mistakes the stem's max-pooling"
        ),
    ),
}
PACKAGES = {name for format_ in FORMATS.values() for name in format_.packages}


def quantised(tree: Tree) -> Tree:
    """Kernels as int8 numbers, `q = round(w / s)`, each beside its `kernel_scale` `[1, ..., K]`.

    The scale is `max |w| / 127` of an output channel, the last axis. All else stays as it is.
    """
    found = {}
    for path, leaf in flatten_dict(tree).items():
        found[path] = leaf = np.asarray(leaf)
        if leaf.ndim > 1 and leaf.dtype == np.float32:
            largest = np.abs(leaf).max(axis=tuple(range(leaf.ndim - 1)), keepdims=True)
            # Of a channel of zeros, or of numbers that are hardly any: they become zeros.
            scale = np.maximum(largest / np.float32(_LARGEST), np.finfo(np.float32).tiny)
            # In float64, since a quotient that is rounded first may be rounded to the wrong side.
            quotient = np.rint(leaf.astype(np.float64) / scale).clip(-_LARGEST, _LARGEST)
            found |= {path: quotient.astype(np.int8), (*path[:-1], f"{path[-1]}_scale"): scale}
    return unflatten_dict(found)


def dequantised(tree):
    """float32 weights: int8 ones times the scales beside them."""
    found = {}
    for name, leaf in tree.items():
        scale = tree.get(f"{name}_scale")
        if isinstance(leaf, dict):
            found[name] = dequantised(leaf)
        elif not name.endswith("_scale"):
            found[name] = leaf if scale is None else leaf.astype(scale.dtype) * scale
    return found
