r"""Batch-norm statistics of any network, or of many networks in one pass over the data.

The running statistics that training leaves behind belong to no point of a subspace: every step saw
another network. So a point's statistics are measured: the network runs in training mode over data,
and the moments of its batches are pooled into those of all data,

.. math:: \mu = \sum_b \frac{n_b}{N} \mu_b, \qquad
          \sigma^2 = \sum_b \frac{n_b}{N} \left(\sigma_b^2 + (\mu_b - \mu)^2\right)

in float32, by Chan's merge. The second term is the spread between batches, which a mean of the
batches' variances would lose. For the first normalisation of a network the result is exactly the
statistics of the concatenated data; deeper ones see activations that were normalised with their own
batch, as in training, so that their statistics depend a little on the batch size, which is recorded.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax.tree import PyTree


class Recalibration(NamedTuple):
    """Pooled statistics and what they were measured on.

    Attributes:
      stats: a tree like the one that `stats_fn` returns, float32.
      num_examples: over how many examples, an int.
      batch_size: the size of the largest batch, an int.
    """

    stats: PyTree
    num_examples: int
    batch_size: int


class _Pool(NamedTuple):
    count: jax.Array  # type: ignore[assignment]
    stats: PyTree


def recalibrate(
    stats_fn: Callable[[PyTree, Any], PyTree],
    params: PyTree,
    batches: Iterable[Any],
    *,
    num_examples: Callable[[Any], int] | None = None,
) -> Recalibration:
    """Measures the normalisation statistics of a network, or of many, in one pass over the data.

    For many networks give a stack and `for_each(stats_fn)`: pooling is elementwise, so the moments of a
    batch may have any leading axes.

    Args:
      stats_fn: pure `(params, batch) -> stats`, the moments of one batch in training mode: a tree whose
        leaves are siblings named `mean` and `var` (dictionary keys or attributes), the biased moments
        of this batch alone. With Flax's `BatchNorm` this is the updated `batch_stats` of a module with
        `momentum=0`. Pass the same function object again and it is not compiled again.
      params: whatever `stats_fn` takes: one network, a stack of networks, ...
      batches: an iterable of batches, each a tree of arrays. Their sizes may differ.
      num_examples: `batch -> int`; by default the leading axis of the batch's first array.

    Raises ValueError: there is no batch, or a leaf is not one of a pair `mean`, `var`. See Chan, Golub,
    LeVeque 1983, "Algorithms for Computing the Sample Variance"; Izmailov et al. 2018, "Averaging
    Weights Leads to Wider Optima and Better Generalization".

    >>> stats_fn = lambda scale, x: {"mean": (scale * x).mean(), "var": (scale * x).var()}
    >>> batches = [jnp.array([0.0, 2.0]), jnp.array([10.0, 12.0])]
    >>> recalibrate(stats_fn, jnp.float32(1), batches).stats["var"]
    Array(26., dtype=float32)
    """
    num_examples = num_examples or _leading_axis
    pool, previous, total, largest = None, None, 0, 0
    for batch in batches:
        count = num_examples(batch)
        if pool is None:
            pool = _empty(stats_fn, params, batch)
        jax.block_until_ready(previous)  # else all batches could wait on the device at once
        previous, pool = pool, _merge(stats_fn, pool, params, batch, np.float32(count))
        total, largest = total + count, max(largest, count)
    if pool is None:
        raise ValueError("recalibrate got 0 batches; give it at least 1 batch of training data.")
    return Recalibration(pool.stats, total, largest)


def for_each(fn: Callable, *, at_once: int | None = None) -> Callable:
    """Maps `(network, *args) -> tree` over the leading axis of its first argument: over a stack.

    `at_once` networks run vectorised together, which is faster where small ones leave an accelerator
    idle; `None` runs them one after another, which is faster on a CPU and takes the memory of one.

    >>> for_each(lambda w, x: w * x)(jnp.array([1.0, 2.0]), jnp.float32(3))
    Array([3., 6.], dtype=float32)
    """

    @functools.wraps(fn)
    def mapped(stack, *args):
        return jax.lax.map(lambda network: fn(network, *args), stack, batch_size=at_once)

    return mapped


def _empty(stats_fn, params, batch) -> _Pool:
    shapes = jax.eval_shape(stats_fn, params, batch)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, jnp.float32), shapes)
    return _Pool(jnp.zeros((), jnp.float32), zeros)


@functools.partial(jax.jit, static_argnums=0)
def _merge(stats_fn, pool, params, batch, count):
    stats = jax.tree.map(lambda s: s.astype(jnp.float32), stats_fn(params, batch))
    total = pool.count + count
    share = count / total
    partners = _mean_paths(stats)
    old_leaves, new_leaves = (dict(jax.tree.leaves_with_path(s)) for s in (pool.stats, stats))

    def merge(path, old):
        merged = old + share * (new_leaves[path] - old)
        if path in partners:  # a variance: add the spread between the two means
            mean = partners[path]
            merged += share * (1 - share) * (new_leaves[mean] - old_leaves[mean]) ** 2
        return merged

    return _Pool(total, jax.tree.map_with_path(merge, pool.stats))


def _mean_paths(stats) -> dict:
    """The path of the mean that belongs to each variance, by the path of the variance."""
    paths = [path for path, _ in jax.tree.leaves_with_path(stats)]
    means = {_owner(path): path for path in paths if _role(path) == "mean"}
    variances = {_owner(path): path for path in paths if _role(path) == "var"}
    unpaired = [p for p in paths if _role(p) is None or _owner(p) not in means.keys() & variances]
    if unpaired:
        raise ValueError(
            f"Leaf {jax.tree_util.keystr(unpaired[0])} of the statistics is not one of a pair "
            "`mean` and `var`; let stats_fn return such pairs only."
        )
    return {variances[owner]: means[owner] for owner in means}


def _names(path):
    return [getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in path]


def _role(path) -> str | None:
    return next((name for name in reversed(_names(path)) if name in ("mean", "var")), None)


def _owner(path) -> tuple:
    """A path with its last `mean` or `var` taken out: the same for the two of a pair."""
    names = _names(path)
    last = max((i for i, name in enumerate(names) if name in ("mean", "var")), default=None)
    return tuple(name for i, name in enumerate(names) if i != last)


def _leading_axis(batch) -> int:
    return jax.tree.leaves(batch)[0].shape[0]
