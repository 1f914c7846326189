"""Weights as int8 numbers with a scale for every output channel."""

from typing import Any

import numpy as np

LARGEST = 127  # of both signs, so that zero is zero


def quantised(tree: dict[str, Any]) -> dict[str, Any]:
    r"""Kernels as int8 numbers, each beside its scales; all else as it is.

    .. math:: q = \mathrm{round}(w / s), \qquad s = \max |w| / 127

    with the largest weight of an output channel, which is the last axis of a kernel. Kernels are the
    float32 leaves of rank two or more. No weight moves by more than half a scale, and zero stays zero.

    Args:
      tree: nested dictionaries of arrays.

    Returns:
      The same tree; every `kernel` is int8, with a float32 `kernel_scale` `[1, ..., K]` beside it.

    Example:
      >>> found = quantised({"kernel": np.float32([[1.27, 0.0], [-0.5, 0.0]])})
      >>> found["kernel"].tolist(), found["kernel_scale"].round(4)[0, 0].item()
      ([[127, 0], [-50, 0]], 0.01)
    """
    found = {}
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            found[name] = quantised(leaf)
            continue
        found[name] = leaf = np.asarray(leaf)
        if leaf.ndim > 1 and leaf.dtype == np.float32:
            found[name], found[f"{name}_scale"] = _channels(leaf)
    return found


def _channels(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)), keepdims=True)
    # Of a channel of zeros, or of numbers that are hardly any: they become zeros.
    scale = np.maximum(largest / np.float32(LARGEST), np.finfo(np.float32).tiny)
    # In float64, since a quotient that is rounded first may be rounded to the wrong side.
    quotient = np.rint(kernel.astype(np.float64) / scale)
    return quotient.clip(-LARGEST, LARGEST).astype(np.int8), scale


def dequantised(tree):
    """float32 weights: int8 ones times the scales beside them; of nested or of dotted names.

    Example:
      >>> dequantised({"a.kernel": np.int8([[2]]), "a.kernel_scale": np.float32([[0.5]])})
      {'a.kernel': array([[1.]], dtype=float32)}
    """
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
