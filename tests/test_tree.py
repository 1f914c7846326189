"""Stacks of networks, their weighted sums and inner products."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, arbitrary, device, flat, network, normal, stacks

from subspace_jax import tree

DTYPES = st.sampled_from(["bfloat16", "float32", "float64"])
as_float64 = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))


@arbitrary
@given(data=st.data(), n=st.integers(1, 3), dtype=DTYPES, narrow=st.booleans())
def test_one_hot_weights_return_a_network_exactly(data, n, dtype, narrow):
    stack = data.draw(stacks(n, jnp.dtype(dtype), largest=float(np.float32(1e30))))
    i = data.draw(st.integers(0, n - 1))
    with jax.enable_x64(dtype == "float64"):
        mixed = tree.mix(jnp.eye(n, dtype=dtype if narrow else "float32")[i], device(stack))
    chex.assert_trees_all_equal(mixed, network(stack, i), strict=True)


@arbitrary
@given(data=st.data(), n=st.integers(1, 3), seed=SEEDS, dtype=DTYPES)
def test_sums_and_inner_products_are_those_of_float64(data, n, seed, dtype):
    stack, weights = data.draw(stacks(n, jnp.dtype(dtype))), normal(seed, n)
    with jax.enable_x64(dtype == "float64"):
        mixed, gram = tree.mix(jnp.asarray(weights), device(stack)), tree.gram(device(stack))
        assert tree.num_stacked(stack) == n
        again = tree.stack([network(device(stack), i) for i in range(n)])
    chex.assert_trees_all_equal(again, stack, strict=True)
    chex.assert_trees_all_equal_dtypes(mixed, network(stack, 0))
    expected = jax.tree.map(lambda x: np.tensordot(np.float64(weights), x, 1), as_float64(stack))
    rtol = 1e-2 if dtype == "bfloat16" else 1e-5
    chex.assert_trees_all_close(as_float64(mixed), expected, rtol=rtol, atol=10 * rtol)
    vectors = flat(stack, leading=1)
    assert gram.dtype == ("float64" if dtype == "float64" else "float32")
    np.testing.assert_allclose(gram, vectors @ vectors.T, rtol=1e-5, atol=1e-4)


def test_sums_run_in_the_wider_dtype_whatever_promotion_is_in_force():
    stack = jnp.full(2, 256, jnp.bfloat16)
    for promotion in ("strict", "standard"):
        with jax.numpy_dtype_promotion(promotion):
            assert tree.wider_dtype(stack, jnp.float32) == jnp.float32
            assert jax.config.jax_numpy_dtype_promotion == promotion
            # In bfloat16, 257 / 256 is 1.
            assert tree.mix(jnp.array([257 / 256, -1]), stack) == 1
            both = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones((2, 3), jnp.float32)}
            np.testing.assert_array_equal(tree.gram(both), np.full((2, 2), 6, "f"), strict=True)
