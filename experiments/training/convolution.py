"""The convolution of the networks: that of `jax.lax`, with a faster weight gradient on a CPU.

On a CPU, XLA would fuse all that made the layer's input (batch norm, ReLU, the residual sum) into the
gradient, and compute it anew out of the memory's order. Here the gradient reads it through a function
of its own, which XLA does not fuse across; docs/performance.md has the times.
"""

import functools

import jax
from jax.custom_derivatives import SymbolicZero
from jax.experimental.xla_metadata import set_xla_metadata


def unfused(x: jax.Array) -> jax.Array:
    """The same array, across which nothing is fused; on a CPU XLA removes a mere barrier before."""
    with set_xla_metadata(inlineable="false"):
        return jax.jit(jax.lax.optimization_barrier)(x)


def conv_general_dilated(lhs: jax.Array, rhs: jax.Array, *args, **kwargs) -> jax.Array:
    """`jax.lax.conv_general_dilated`, with the same arguments and derivatives, for Flax layers."""
    plain = functools.partial(jax.lax.conv_general_dilated, **kwargs)
    if jax.default_backend() != "cpu":
        return plain(lhs, rhs, *args)

    @jax.custom_jvp
    def convolve(x, kernel):
        return plain(x, kernel, *args)

    def jvp(primals, tangents):
        x, kernel = primals
        dx, dkernel = tangents
        terms = []
        if not isinstance(dx, SymbolicZero):
            terms.append(plain(dx, kernel, *args))
        if not isinstance(dkernel, SymbolicZero):
            terms.append(plain(unfused(x), dkernel, *args))
        return convolve(x, kernel), sum(terms[1:], terms[0])

    convolve.defjvp(jvp, symbolic_zeros=True)
    return convolve(lhs, rhs)
