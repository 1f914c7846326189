"""Stacks of networks, their weighted sums and inner products."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stacks import SEEDS, Block, arbitrary, device, network, normal, stacks

from subspace_jax import tree

DTYPES = ["bfloat16", "float32", "float64"]


@pytest.mark.parametrize("weights_dtype", ["float32", None], ids=["float32_weights", "same"])
@pytest.mark.parametrize("dtype", DTYPES)
@arbitrary
@given(data=st.data(), n=st.integers(1, 3))
def test_one_hot_weights_return_a_network_exactly(data, n, dtype, weights_dtype):
    stack = data.draw(stacks(n, jnp.dtype(dtype), largest=float(np.float32(1e30))))
    i = data.draw(st.integers(0, n - 1))
    with jax.enable_x64(dtype == "float64"):
        mixed = tree.mix(jnp.eye(n, dtype=weights_dtype or dtype)[i], device(stack))
    chex.assert_trees_all_equal(mixed, network(stack, i))
    chex.assert_trees_all_equal_dtypes(mixed, network(stack, i))


@pytest.mark.parametrize(("dtype", "rtol"), [("bfloat16", 1e-2), ("float32", 1e-5)])
@arbitrary
@given(data=st.data(), n=st.integers(1, 3), seed=SEEDS)
def test_mix_is_the_weighted_sum(data, n, seed, dtype, rtol):
    stack = data.draw(stacks(n, jnp.dtype(dtype)))
    weights = normal(seed, n)

    def weighted_sum(x):
        return sum(np.float64(weights[i]) * x[i].astype(np.float64) for i in range(n))

    mixed = tree.mix(jnp.asarray(weights), device(stack))
    chex.assert_trees_all_equal_dtypes(mixed, network(stack, 0))
    as_float64 = functools.partial(jax.tree.map, lambda x: np.asarray(x, np.float64))
    expected = jax.tree.map(weighted_sum, stack)
    chex.assert_trees_all_close(as_float64(mixed), as_float64(expected), rtol=rtol, atol=10 * rtol)


def test_mix_takes_a_tree_prefix_of_weights():
    stack = {"a": Block(normal(0, 2, 3), normal(1, 2)), "b": normal(2, 2)}
    mixed = tree.mix({"a": jnp.array([1.0, 0.0]), "b": jnp.array([0.0, 1.0])}, device(stack))
    chex.assert_trees_all_equal(mixed, {"a": network(stack["a"], 0), "b": stack["b"][1]})


def test_mix_keeps_weights_wide_beside_a_stack_of_low_precision():
    stack = jnp.full(2, 256, jnp.bfloat16)
    assert tree.mix(jnp.array([257 / 256, -1]), stack) == 1  # in bfloat16, 257 / 256 is 1


def test_mix_is_transformable():
    stack, weights = {"a": jnp.asarray(normal(0, 2, 3))}, jnp.asarray(normal(1, 5, 2))
    one_by_one = tree.stack([tree.mix(w, stack) for w in weights])
    mapped = jax.jit(jax.vmap(tree.mix, in_axes=(0, None)))(weights, stack)
    chex.assert_trees_all_close(mapped, one_by_one, rtol=1e-5)
    total = lambda weights, stack: tree.mix(weights, stack)["a"].sum()
    to_weights, to_stack = jax.grad(total, argnums=(0, 1))(weights[0], stack)
    np.testing.assert_allclose(to_weights, stack["a"].sum(1), rtol=1e-5)
    np.testing.assert_allclose(to_stack["a"], np.tile(weights[0][:, None], (1, 3)), rtol=1e-5)


@arbitrary
@given(data=st.data(), n=st.integers(1, 3))
def test_stack_is_undone_by_indexing(data, n):
    stack = device(data.draw(stacks(n)))
    again = tree.stack([network(stack, i) for i in range(n)])
    chex.assert_trees_all_equal(again, stack)
    assert tree.num_stacked(stack) == n


@pytest.mark.parametrize(("dtype", "wide"), [("bfloat16", "float32"), ("float64", "float64")])
@arbitrary
@given(data=st.data(), n=st.integers(1, 3))
def test_gram_holds_inner_products(data, n, dtype, wide):
    stack = data.draw(stacks(n, jnp.dtype(dtype)))
    flat = [
        np.concatenate([np.ravel(x[i]).astype(np.float64) for x in jax.tree.leaves(stack)])
        for i in range(n)
    ]
    with jax.enable_x64(dtype == "float64"):
        gram = tree.gram(device(stack))
    assert gram.dtype == wide
    np.testing.assert_allclose(gram, np.inner(flat, flat), rtol=1e-5, atol=1e-4)


def test_gram_of_leaves_of_several_dtypes_is_in_the_widest():
    stack = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones((2, 3), jnp.float32)}
    np.testing.assert_array_equal(tree.gram(stack), np.full((2, 2), 6, np.float32), strict=True)


@pytest.mark.parametrize("promotion", ["strict", "standard"])
def test_wider_dtype_does_not_depend_on_the_promotion_in_force(promotion):
    with jax.numpy_dtype_promotion(promotion):
        assert tree.wider_dtype(jnp.ones(2, jnp.bfloat16), jnp.float32) == jnp.float32
        assert jax.config.jax_numpy_dtype_promotion == promotion


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([], "stack got 0 networks; give it at least 1"),
        (
            [{"a": np.zeros(2)}] * 2 + [{"b": np.zeros(2)}],
            r"Networks 0 and 2 differ in structure: leaf \['a'\] is in one only; stack",
        ),
        ([[np.zeros(2)], (np.zeros(2),)], "structure: their containers are others"),
        (
            [{"a": np.zeros(2)}, {"a": np.zeros((3, 1))}],
            r"Networks 0 and 1 differ in the shape of leaf \['a'\]: \[2\] and \[3, 1\]; stack",
        ),
    ],
)
def test_stack_refuses_networks_that_differ(networks, message):
    with pytest.raises(ValueError, match=message):
        tree.stack(networks)


@pytest.mark.parametrize("function", [tree.num_stacked, tree.gram, lambda s: tree.mix(1.0, s)])
@pytest.mark.parametrize(
    ("stack", "message"),
    [
        ({}, "has 0 leaves; a stack of networks needs at least 1"),
        ({"a": np.float32(1)}, r"Leaf \['a'\] is a scalar and has no endpoint axis"),
        (np.float32(1), r"Leaf \(the array itself\) is a scalar"),
        (
            {"a": np.zeros(2), "b": np.zeros(3)},
            r"disagree on the endpoint axis: \['a'\] has 2 endpoints and \['b'\] has 3;",
        ),
    ],
)
def test_what_is_no_stack_is_refused(function, stack, message):
    with pytest.raises(ValueError, match=message):
        function(stack)


@pytest.mark.parametrize("weights", [np.ones(3, np.float32), np.float32(1)], ids=["3", "scalar"])
def test_mix_refuses_weights_that_do_not_fit(weights):
    shape = r"\[3\]" if weights.ndim else r"\[\]"
    message = rf"shape {shape} do not fit leaf \['a'\] of a stack of 2 networks; .* shape \[2\]"
    with pytest.raises(ValueError, match=message):
        tree.mix(weights, {"a": jnp.zeros((2, 3))})


@pytest.mark.parametrize(
    ("leaf", "dtype"),
    [(jnp.arange(2), "int32"), (jax.random.split(jax.random.key(0)), "key<fry>")],
    ids=["integers", "keys"],
)
def test_mix_refuses_what_has_no_mean(leaf, dtype):
    with pytest.raises(TypeError, match=rf"Leaf \['b'\] has dtype {dtype} and can't be mixed"):
        tree.mix(jnp.ones(2), {"a": jnp.zeros((2, 3)), "b": leaf})
