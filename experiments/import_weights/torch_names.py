"""The names of PyTorch's tensors for our networks, as data, and the way between both layouts.

Kernels are `[O, I, H, W]` there and `[H, W, I, O]` here; torchvision's classifier is a matrix `[K, C]`
with a bias, ours and the authors' a 1x1 convolution. The authors keep all endpoints of a subspace in
one module: `weight`, `weight1`, `weight2`, ..., and the same for a bias; running statistics are there
once. Padding, strides and batch norm's epsilon are the same, so that logits are.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.system.errors import UserError
from experiments.training.networks import CifarResNet
from experiments.training.starting import without_head
from subspace_jax.tree import PyTree


class Layout(NamedTuple):
    """Names of a network's modules, each a convolution's and then that of its batch norm.

    A block has the number of its stage and of the one `after` it, counted from 1, and its own within
    the stage and its index in the network, counted from 0. Within a block the shortcut comes first.
    """

    stem: str
    block: str
    inside: str


TORCHVISION = Layout(  # the authors' too, of an `ImageNetResNet` with the stem `imagenet`
    "conv1 bn1",
    "layer{stage}.{block}",
    "downsample.0 downsample.1 conv1 bn1 conv2 bn2 conv3 bn3",
)
TINY_IMAGENET = Layout(  # the authors', of one with the stem `small`
    "conv1.0 conv1.1",
    "conv{after}_x.{block}",
    "shortcut.0 shortcut.1 residual_function.0 residual_function.1 residual_function.3 "
    "residual_function.4 residual_function.6 residual_function.7",
)
# The authors', of a `CifarResNet`.
CIFAR = Layout("conv bn", "blocks.{index}", "shortcut.0 shortcut.1 conv1 bn1 conv2 bn2")
_STEM = ("Conv_0", "BatchNorm_0")
INSIDE = ("shortcut", "shortcut_norm", *_STEM, "Conv_1", "BatchNorm_1", "Conv_2", "BatchNorm_2")
# Ours -> theirs; only the first two have endpoints.
_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias"}
_STATISTICS = {"mean": "running_mean", "var": "running_var"}
_CLASSIFIER, _IGNORED = "fc", "num_batches_tracked"
_LISTED = 5  # names in a sentence


def to_torch(network: nn.Module, variables: PyTree) -> dict[str, np.ndarray]:
    """The tensors by PyTorch's names of a `CifarResNet` or an `ImageNetResNet` with its variables."""
    names = module_names(network)
    return {
        _name(names, path): _to_torch(network, path, np.asarray(leaf))
        for path, leaf in flatten_dict(variables).items()
    }


def from_torch(
    network: nn.Module,
    tensors: Mapping[str, np.ndarray],
    order: Sequence[int] = (0,),
    *,
    head: bool = True,
    source: str = "The file",
) -> PyTree:
    """`params` with leaves `[len(order), ...]` and `batch_stats` with leaves `[1, ...]`, float32.

    `order` has numbers of endpoints as the tensors are named, 0 for those without a number. What does
    not fit is refused in one sentence, whose subject is `source`.
    """
    names, wanted = module_names(network), flatten_dict(_shapes(network, head))
    places = {
        path: [f"{_name(names, path)}{i or ''}" for i in (order if path[-1] in _LEAVES else (0,))]
        for path in wanted
    }
    shapes = {
        name: _to_torch(network, path, np.empty(wanted[path].shape, np.bool_)).shape
        for path, many in places.items()
        for name in many
    }
    found = {
        name: array
        for name, array in tensors.items()
        if not name.endswith(_IGNORED) and (head or not name.startswith(f"{_CLASSIFIER}."))
    }
    _check(shapes, found, source)
    leaves = {
        path: np.stack([_from_torch(path, np.asarray(found[name], np.float32)) for name in many])
        for path, many in places.items()
    }
    return unflatten_dict(leaves)


def module_names(network: nn.Module) -> dict[tuple[str, ...], str]:
    """PyTorch's name of every module by its path here, shortcuts of all blocks among them."""
    if isinstance(network, CifarResNet):
        layout, kind, stages = CIFAR, "BasicBlock", 3 * ((network.depth - 2) // 6,)
    else:
        layout = TINY_IMAGENET if network.stem == "small" else TORCHVISION
        kind, stages = "Bottleneck" if network.widening else "BasicBlock", network.blocks
    stem = zip(_STEM, layout.stem.split(), strict=True)
    names = {("classifier",): _CLASSIFIER, **{(ours,): theirs for ours, theirs in stem}}
    blocks = [(stage, block) for stage, count in enumerate(stages, 1) for block in range(count)]
    for index, (stage, block) in enumerate(blocks):
        parent = layout.block.format(stage=stage, after=stage + 1, block=block, index=index)
        for ours, theirs in zip(INSIDE, layout.inside.split(), strict=False):
            names[f"{kind}_{index}", ours] = f"{parent}.{theirs}"
    return names


def _name(names, path: tuple[str, ...]) -> str:
    _, *module, leaf = path
    return f"{names[tuple(module)]}.{(_LEAVES | _STATISTICS)[leaf]}"


@functools.cache
def _shapes(network: nn.Module, head: bool) -> PyTree:
    init, image = functools.partial(network.init, train=False), jnp.zeros((1, 64, 64, 3))
    variables = jax.eval_shape(init, jax.random.key(0), image)
    params = variables["params"] if head else without_head(variables["params"])
    return {"params": params, "batch_stats": variables["batch_stats"]}


def _to_torch(network: nn.Module, path: tuple[str, ...], leaf: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return leaf
    if path[1] == "classifier" and getattr(network, "classifier_bias", False):
        return np.ascontiguousarray(leaf[0, 0].T)
    return np.ascontiguousarray(leaf.transpose(3, 2, 0, 1))


def _from_torch(path: tuple[str, ...], tensor: np.ndarray) -> np.ndarray:
    if path[-1] != "kernel":
        return tensor
    if tensor.ndim == 2:
        tensor = tensor[:, :, None, None]
    return tensor.transpose(2, 3, 1, 0)


def _check(shapes: dict[str, tuple], found: Mapping[str, np.ndarray], source: str) -> None:
    both = sorted(shapes.keys() & found.keys())
    other = [
        f"{name} {list(found[name].shape)} for {list(shapes[name])}"
        for name in both
        if found[name].shape != shapes[name]
    ]
    problems = {
        "it lacks": sorted(shapes.keys() - found.keys()),
        "it has, but the network lacks,": sorted(found.keys() - shapes.keys()),
        "of another shape are": other,
        "no finite floating-point numbers are in": [n for n in both if not _is_finite(found[n])],
    }
    if sentences := [f"{what} {_listed(names)}" for what, names in problems.items() if names]:
        raise UserError(
            f"{source} does not hold this network: {' and '.join(sentences)}; choose the network that "
            "it holds by --model, --stem, --depth and --width, or --head new if only the classifier "
            "differs."
        )


def _is_finite(array: np.ndarray) -> bool:
    is_float = jnp.issubdtype(array.dtype, jnp.floating)
    return bool(is_float and np.isfinite(array.astype(np.float32)).all())


def _listed(names: list[str]) -> str:
    """How many there are, and the names of some."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    plural = "s" if len(names) > 1 else ""
    return f"{len(names)} tensor{plural} ({', '.join(names[:_LISTED])}{more})"
