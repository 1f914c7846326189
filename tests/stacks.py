"""Arbitrary stacks of networks: every kind of container, leaves of every rank and float dtype."""

from typing import Any, NamedTuple

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np

arbitrary = hypothesis.settings(max_examples=20, deadline=None, derandomize=True)

SEEDS = st.integers(0, 2**31 - 1)
SHAPES = [(), (3,), (2, 3)]


class Block(NamedTuple):
    kernel: Any
    bias: Any


def stacks(n, dtype=np.float32, largest=4.0):
    """Stacks of `n` networks: NumPy leaves `[n, ...]`, possibly one bare array."""
    elements = st.floats(-largest, largest, width=32, allow_subnormal=False)
    leaf = st.sampled_from(SHAPES).flatmap(
        lambda shape: npst.arrays(np.float32, (n, *shape), elements=elements)
    )
    return st.recursive(
        leaf.map(lambda x: x.astype(dtype)),
        lambda children: st.one_of(
            st.dictionaries(st.sampled_from("abc"), children, min_size=1, max_size=2),
            st.lists(children, min_size=1, max_size=2),
            st.tuples(children, children),
            st.builds(Block, children, children),
        ),
        max_leaves=4,
    )


def device(stack):
    return jax.tree.map(jnp.asarray, stack)


def network(stack, i):
    return jax.tree.map(lambda x: x[i], stack)


def flat(tree, leading=0):
    """All leaves side by side, float64: `[..., P]`."""
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(tree)]
    return np.concatenate([x.reshape(*x.shape[:leading], -1) for x in leaves], axis=leading)


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
