"""The convolution of the networks: that of `jax.lax`, with a faster weight gradient on a CPU.

On a CPU, XLA would multiply the zeros between the rows of a strided convolution's gradient. Here the
tangent, of which that gradient is the transpose, is a sum of unstrided convolutions.

XLA would also fuse all that made the layer's input (batch norm, ReLU, the residual sum) into the
gradient, and compute it anew out of the memory's order. Here the gradient reads it through a function
of its own, which XLA does not fuse across; docs/performance.md has the times.
"""

import functools

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.experimental.xla_metadata import set_xla_metadata


def unfused(x: jax.Array) -> jax.Array:
    """The same array, across which nothing is fused; on a CPU XLA removes a mere barrier before."""
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)


def unstrided(x: jax.Array, kernel: jax.Array, window_strides, padding, **options) -> jax.Array:
    """A convolution of images `[B, H, W, C]` as a sum of unstrided ones, one for each phase."""
    taps, sizes, (down, across) = kernel.shape[:2], x.shape[1:3], window_strides
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(sizes, taps, window_strides, padding)
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


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, window_strides, padding, **kwargs
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with the same arguments and derivatives, for Flax layers."""
    options = {"window_strides": window_strides, "padding": padding} | kwargs
    plain = functools.partial(jax.lax.conv_general_dilated, **options)
    if jax.default_backend() != "cpu":
        return plain(lhs, rhs)
    strided = max(window_strides) > 1

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
            terms.append(plain(unfused(x), dkernel))
        return convolve(x, kernel), sum(terms[1:], terms[0])

    convolve.defjvp(jvp, symbolic_zeros=True)
    return convolve(lhs, rhs)
