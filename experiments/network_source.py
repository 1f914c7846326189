"""Files that hold a network on their own: Python source that imports no module of this project.

A file defines `logits(weights, images)`, from uint8 images `[B, H, W, C]` to float32 `[B, K]`, by the
Flax module of `experiments.models` or by the functions of `experiments.numpy_network`.
"""

import ast
import dataclasses
import inspect
from types import ModuleType

import flax.linen as nn
import jax.numpy as jnp

from experiments import errors, models, numpy_network, quantise
from experiments.images import NORMALIZATIONS

# What a definition takes from this project, and what stands for it in a file of its own.
_OURS = {
    # The same function; ours is for training on a CPU.
    "conv_general_dilated": "from jax.lax import conv_general_dilated",
    "UserError": inspect.getsource(errors.UserError),
}


def with_flax(network: nn.Module, normalization: str, int8: bool = False) -> str:
    """A network as a Flax Linen module, which needs Flax alone.

    Args:
      network: of `experiments.models`.
      normalization: a name in `experiments.images`.
      int8: whether the weights are those of `experiments.quantise.quantised`.

    Returns:
      Source that defines the module's class, `network` and `logits(variables, images)`.
    """
    network = network.clone(norm_groups=1)
    kind = type(network).__name__
    values = [
        f"    {field.name}={_said(getattr(network, field.name))},"
        for field in dataclasses.fields(network)
        if field.name not in ("parent", "name")
    ]
    first = "dequantised(variables)" if int8 else "variables"
    return "\n".join(
        [
            f'"""{kind}, a Flax Linen module, and its logits; needs Flax alone."""\n',
            definitions(models, kind),
            *_dequantised(int8),
            *(f"network = {kind}(", *values, ")"),
            *_moments("jnp.array", normalization, "jnp.float32"),
            "\n\n@jax.jit",
            "def logits(variables, images):",
            '    """Logits `[B, K]`, float32, of uint8 images `[B, H, W, C]`."""',
            "    images = (images.astype(jnp.float32) / 255 - MEAN) / STD",
            f"    return network.apply({first}, images, train=False)\n",
        ]
    )


def with_numpy(network: nn.Module, normalization: str, int8: bool = False) -> str:
    """A network in NumPy alone; arguments as for `with_flax`.

    Returns:
      Source that defines `logits(weights, images)`, with `weights` by dotted names.
    """
    if isinstance(network, models.ConvNet):
        call = f"conv_net(images, weights, stages={len(network.widths)})"
    elif isinstance(network, models.CifarResNet):
        blocks = ((network.depth - 2) // 6,) * 3
        call = _residual(blocks, bottleneck=False, large_stem=False)
    else:
        call = _residual(tuple(network.blocks), bool(network.widening), network.stem != "small")
    body = inspect.getsource(numpy_network).split('"""', 2)[2].strip()
    names = inspect.getdoc(numpy_network).split("\n\n")[1]
    return "\n".join(
        [
            f'"""{type(network).__name__} and its logits, in NumPy alone.\n\n{names}\n"""\n',
            f"{body}\n\n",
            *_dequantised(int8),
            *_moments("np.array", normalization, "np.float32"),
            "\n\ndef logits(weights, images):",
            '    """Logits `[B, K]`, float32, of uint8 images `[B, H, W, C]`."""',
            *(["    weights = dequantised(weights)"] if int8 else []),
            "    images = (images.astype(np.float32) / 255 - MEAN) / STD",
            f"    return {call}\n",
        ]
    )


def _residual(blocks: tuple[int, ...], bottleneck: bool, large_stem: bool) -> str:
    return (
        f"residual_network(images, weights, {blocks}, bottleneck={bottleneck}, "
        f"large_stem={large_stem})"
    )


def _said(value) -> str:
    """A value of a module's attribute as source."""
    known = {dtype: f"jnp.{name}" for name, dtype in models.DTYPES.items()}
    return known[value] if isinstance(value, type(jnp.float32)) else repr(value)


def _moments(make: str, normalization: str, dtype: str) -> list[str]:
    mean, std = NORMALIZATIONS[normalization]
    return [
        f"MEAN = {make}({list(mean)}, {dtype})[None, None, None]  # of intensities in [0, 1]",
        f"STD = {make}({list(std)}, {dtype})[None, None, None]",
    ]


def _dequantised(int8: bool) -> list[str]:
    if not int8:
        return []
    source = inspect.getsource(quantise.dequantised)
    return [source.split("\n\n    Example:")[0] + '"""' + source.split('"""')[-1] + "\n"]


def definitions(module: ModuleType, name: str) -> str:
    """The source of a definition of a module, and of all that it needs, in the module's order.

    Example:
      >>> print(definitions(numpy_network, "relu").splitlines()[0])
      import numpy as np
    """
    source = inspect.getsource(module)
    lines, body = source.splitlines(), ast.parse(source).body
    owners, imports = {}, {}
    for node in body:
        if isinstance(node, ast.Import):
            imports |= {x.asname or x.name: ast.unparse(ast.Import([x])) for x in node.names}
        elif isinstance(node, ast.ImportFrom):
            for x in node.names:
                line = ast.unparse(ast.ImportFrom(node.module, [x], 0))
                imports[x.asname or x.name] = _OURS.get(x.name, line)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            owners[node.name] = node
        elif isinstance(node, ast.Assign):
            owners |= {target.id: node for target in node.targets}
    needed, wanted = set(), [name]
    while wanted:
        one = wanted.pop()
        if one in owners and one not in needed:
            wanted += [x.id for x in ast.walk(owners[one]) if isinstance(x, ast.Name)]
        needed.add(one)
    outside = [text for used, text in imports.items() if used in needed]
    first = [text for text in outside if not text.startswith("class")]
    parts = ["\n".join(first), *(text.strip() for text in outside if text not in first)]
    for node in body:
        if any(owners.get(one) is node for one in needed):
            parts.append("\n".join(lines[_start(node) : node.end_lineno]))
    return "\n\n\n".join(parts) + "\n\n"


def _start(node) -> int:
    decorators = getattr(node, "decorator_list", [])
    return (decorators[0] if decorators else node).lineno - 1
