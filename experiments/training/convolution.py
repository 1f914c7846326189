"""The convolution of the networks: that of `jax.lax`, with a faster weight gradient on a CPU.

The gradient of a kernel needs the layer's input once more, as `[C, H, W, N]`. On a CPU, XLA fuses
into that transposition all that made the input (batch norm, ReLU, the residual sum) and computes it
anew, element by element and out of the memory's order, although the input lies there since the
forward pass. Here the gradient reads its input through a function of its own, which XLA does not
fuse across. The numbers are the same; docs/performance.md has the times.
"""

import functools

import jax
from jax.custom_derivatives import SymbolicZero
from jax.experimental.xla_metadata import set_xla_metadata


def unfused(x: jax.Array) -> jax.Array:
    """The same array, read from memory by whoever uses it: nothing is fused across it.

    (An optimisation barrier does not do that on a CPU: XLA removes it before it fuses.)
    """
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
