"""The convolution of the networks: that of `jax.lax`, with faster gradients on a CPU.

On a CPU, XLA would multiply the zeros between the rows of a strided convolution's gradient. Here the
tangent, of which that gradient is the transpose, is a sum of unstrided convolutions.

XLA would also fuse all that made the layer's input (batch norm, ReLU, the residual sum) into the
gradient, and compute it anew out of the memory's order. Here the gradient reads it through a function
of its own, which XLA does not fuse across; docs/performance.md has the times.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.xla_metadata import set_xla_metadata

from experiments.system import xla


def unfused(x: jax.Array) -> jax.Array:
    """The same array, across which nothing is fused; on a CPU XLA removes a mere barrier before."""
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)


def unstrided(x: jax.Array, kernel: jax.Array, window_strides, padding, **options) -> jax.Array:
    """A convolution of images `[B, H, W, C]` as a sum of unstrided ones, one for each phase."""
    taps, sizes, (down, across) = kernel.shape[:2], x.shape[1:3], window_strides
    edges = [(0, 0, 0)] * 4
    for i, (low, high) in enumerate(padding):
        whole = (sizes[i] + low + high - taps[i]) // window_strides[i] * window_strides[i] + taps[i]
        edges[1 + i] = (low, whole - low - sizes[i], 0)  # as far as the last window
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=(1, 1), padding="VALID", **options
    )
    terms = [
        convolve(x[:, i::down, j::across], kernel[i::down, j::across])
        for i in range(min(down, taps[0]))
        for j in range(min(across, taps[1]))
    ]
    return sum(terms[1:], terms[0])


def weight_gradient(x: jax.Array, taps, strides, padding, g: jax.Array) -> jax.Array:
    """The gradient `[*taps, C, K]` of a kernel, from images `[B, H, W, C]` and that of the output.

    As a convolution whose features are the batch and whose kernel is `g`, so that oneDNN takes it; eight
    channels become neighbours in a row, since its output has few pixels, which are computed in rows.
    """
    batch, height, width, channels = x.shape
    run = math.gcd(channels, 8)
    (down, across), (top, left) = strides, (low for low, _ in padding)
    bottom = (g.shape[1] - 1) * down + taps[0] - height - top
    right = (g.shape[2] - 1) * across + taps[1] - width - left
    rows = x.reshape(batch, height, width, -1, run).transpose(3, 1, 2, 4, 0)
    found = jax.lax.conv_general_dilated(
        rows.reshape(-1, height, width * run, batch),
        g.transpose(1, 2, 0, 3),
        window_strides=(1, 1),
        padding=((top, bottom), (left * run, right * run)),
        rhs_dilation=(down, across * run),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    found = found.reshape(-1, *taps, run, g.shape[-1]).transpose(1, 2, 0, 3, 4)
    return found.reshape(*taps, channels, -1)


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides, padding, **kwargs
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with the same arguments and derivatives, for Flax layers."""
    options = {"window_strides": window_strides, "padding": padding} | kwargs
    plain = functools.partial(jax.lax.conv_general_dilated, **options)
    if jax.default_backend() != "cpu":
        return plain(lhs, rhs)
    sizes, taps = lhs.shape[1:3], rhs.shape[:2]
    strided, by_onednn = max(window_strides) > 1, xla.has_onednn() and max(taps) > 1
    if isinstance(padding, str):
        options["padding"] = jax.lax.padtype_to_pads(sizes, taps, window_strides, padding)

    def of_kernel(x, dkernel):
        if not by_onednn:
            return plain(x, dkernel)
        gradient = functools.partial(weight_gradient, x, taps, window_strides, options["padding"])
        return jax.linear_transpose(gradient, jax.eval_shape(plain, x, dkernel))(dkernel)[0]

    @jax.custom_jvp
    def convolve(x, kernel):
        return plain(x, kernel)

    def jvp(primals, tangents):
        x, kernel = primals
        dx, dkernel = tangents
        terms = []
        if not isinstance(dx, SymbolicZero):
            terms.append(unstrided(dx, kernel, **options) if strided else plain(dx, kernel))
        if not isinstance(dkernel, SymbolicZero):
            terms.append(of_kernel(unfused(x), dkernel))
        return convolve(x, kernel), sum(terms[1:], terms[0])

    convolve.defjvp(jvp, symbolic_zeros=True)
    return convolve(lhs, rhs)
