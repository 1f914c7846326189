r"""Batch-norm statistics of any network, or of many networks in one pass over the data.

The running statistics that training leaves behind belong to no point of a subspace, since every step
saw another network. So the network runs in training mode over data, and the moments of its batches are
pooled into those of all data, in at least float32, by Chan's merge:

.. math:: \mu = \sum_b \frac{n_b}{N} \mu_b, \qquad
          \sigma^2 = \sum_b \frac{n_b}{N} \left(\sigma_b^2 + (\mu_b - \mu)^2\right)

Of the first normalisation these are exactly the statistics of the concatenated data; deeper ones depend
a little on the batch size, which is recorded.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from subspace_jax import tree
from subspace_jax.tree import PyTree


class Recalibration(NamedTuple):
    """Pooled statistics, at least float32, over how many examples, and the size of the largest batch."""

    stats: PyTree
    num_examples: int
    batch_size: int


class _Pool(NamedTuple):
    count: jax.Array | np.ndarray  # type: ignore[assignment]
    stats: PyTree


class _Update(NamedTuple):
    """How running averages become moments: what they start from, and which share a batch has."""

    start: PyTree
    share: PyTree


def recalibrate(
    stats_fn: Callable[..., PyTree],
    params: PyTree,
    batches: Iterable[Any],
    *,
    stats: PyTree | None = None,
    num_examples: Callable[[Any], int] | None = None,
    check: bool = True,
) -> Recalibration:
    r"""Measures the normalisation statistics of a network, or of many, in one pass over the data.

    For many networks give a stack and `for_each(stats_fn)`. Without `stats`, `stats_fn` is `(params,
    batch) -> moments`, the biased ones of this batch alone, as of Flax's `BatchNorm` with `momentum=0`.
    With `stats`, it is the ordinary update of running averages, `(params, stats, batch) -> stats`,

    .. math:: s \leftarrow d s + (1 - d) \, \text{moment}

    whose momentum `d` is measured on the first batch, from three starts, and taken out again.

    Args:
      stats_fn: pure, in training mode; returns a tree whose leaves are siblings named `mean` and `var`.
        The same function object is not compiled again.
      params: whatever `stats_fn` takes: one network, a stack of networks, ...
      batches: an iterable of trees of arrays; sizes may differ.
      stats: running averages with the shapes and dtypes of one network's, of any values.
      num_examples: `batch -> int`; by default the leading axis of the batch's first array.
      check: whether to test on the first batch that moments, and no running averages, are returned.

    Raises ValueError: there is no example, or a leaf is not one of a pair `mean`, `var`, or is no
    moment or no running average; TypeError: `batches` is one array. See Chan, Golub, LeVeque 1983.

    >>> stats_fn = lambda scale, x: {"mean": (scale * x).mean(), "var": (scale * x).var()}
    >>> batches = [jnp.array([0.0, 2.0]), jnp.array([10.0, 12.0])]
    >>> recalibrate(stats_fn, jnp.float32(1), batches).stats["var"]
    Array(26., dtype=float32)
    """
    tree.check_batches("recalibrate", batches)
    num_examples = num_examples or _leading_axis
    pool = previous = update = None
    total = largest = 0
    for batch in batches:
        count = num_examples(batch)
        if not count:
            continue
        if pool is None:
            pool = _empty(stats_fn, params, stats, batch)
            if stats is not None:
                update = _measured_update(stats_fn, pool, params, stats, batch)
            elif check:
                _check_moments(stats_fn, pool, params, batch, count)
        jax.block_until_ready(previous)  # else all batches could wait on the device at once
        previous, pool = pool, _merge(stats_fn, pool, params, update, batch, np.float32(count))
        total, largest = total + count, max(largest, count)
    if pool is None:
        raise ValueError("recalibrate got 0 examples; give it at least 1 batch of training data.")
    return Recalibration(pool.stats, total, largest)


def _measured_update(stats_fn, empty, params, stats, batch) -> _Update:
    """From starts of 0, K and 2 K: the slope is the momentum, and the third says that it is one."""
    ones = jax.tree.map(lambda x: jnp.ones((), x.dtype), empty.stats)

    def updated(start):
        update = _Update(jax.tree.map(lambda x: jnp.full_like(x, start), stats), ones)
        return _host(_merge(stats_fn, empty, params, update, batch, np.float32(1)).stats)

    zero = updated(0)
    far = max(1.0, *(np.abs(x[np.isfinite(x)]).max(initial=0) for x in zero.values()))
    far = float(2 ** np.ceil(np.log2(far)))  # it is multiplied exactly
    once, twice = updated(far), updated(2 * far)

    def share(path, leaf):
        finite = np.isfinite(twice[path])  # what is not, as of a diverged network, stays so
        start, first, second = (x[path][finite] for x in (zero, once, twice))
        slopes, bend = (first - start) / far, (second - 2 * first + start) / far
        momentum = float(slopes.mean().real) if slopes.size else 0.0
        rounded = round(momentum, 5)
        if abs(momentum - rounded) < 2e-7:  # momenta are set by people
            momentum = rounded
        error = np.abs([slopes - momentum, bend]).max(initial=0)
        if not (-1e-6 <= momentum < 1 - 1e-6 and error < 1e-5):
            raise ValueError(
                f"Leaf {tree.leaf_name(path)} of the statistics is no running average of moments: "
                f"from starts of 0, {far:g} and {2 * far:g} it becomes {zero[path].mean():.4g}, "
                f"{once[path].mean():.4g} and {twice[path].mean():.4g}; let stats_fn run in training "
                "mode and return the updated statistics."
            )
        return jnp.asarray(1 - momentum, leaf.dtype)

    shares = jax.tree.map_with_path(share, empty.stats)
    return _Update(jax.tree.map(jnp.zeros_like, stats), shares)


def _check_moments(stats_fn, empty, params, batch, count) -> None:
    """Refuses running averages, of which a share 1 / (1 - d) too much lies between a batch's halves."""
    half = count // 2
    arrays = [x for x in jax.tree.leaves(batch) if jnp.ndim(x)]
    if half < 1 or any(len(x) != count or tree.is_split(x) for x in arrays):
        return

    def moments(*order):
        order = np.concatenate(order)
        part = jax.tree.map(lambda x: x[order] if jnp.ndim(x) else x, batch)
        return _host(_merge(stats_fn, empty, params, None, part, np.float32(1)).stats)

    first, second = np.arange(half), np.arange(half, 2 * half)
    whole, one, two = moments(first, second), moments(first, first), moments(second, second)
    ratios = []
    for var, mean in _mean_paths(empty.stats).items():
        square = (np.abs(one[mean] - two[mean]) ** 2 / 4).ravel()
        spread = (whole[var] - (one[var] + two[var]) / 2).ravel()
        ratio = (square @ spread) / max(square @ square, np.finfo(float).tiny)
        error = np.linalg.norm(spread - ratio * square) / (np.linalg.norm(spread) + 1e-30)
        ratios.append((float(error) if square.size > 1 else 1.0, float(ratio)))
    error, ratio = min(ratios, default=(1.0, 1.0))
    if error < 0.01 and ratio > 1.1 and all(abs(other - 1) > 0.1 for _, other in ratios):
        raise ValueError(
            f"stats_fn returns running averages, of a momentum of about {1 - 1 / ratio:.2g}, and not "
            "the moments of the batch alone; let it take what they start from, as "
            "`(params, stats, batch) -> stats`, and pass `stats=` to recalibrate."
        )


def _host(stats) -> dict[tuple, np.ndarray]:
    return {path: tree.on_host(x) for path, x in jax.tree.leaves_with_path(stats)}


def for_each(fn: Callable, *, at_once: int | None = None) -> Callable:
    """Maps `(network, *args) -> tree` over the leading axis of its first argument: over a stack.

    `at_once` networks run vectorised together, faster on an accelerator; `None` runs them one by one.

    >>> for_each(lambda w, x: w * x)(jnp.array([1.0, 2.0]), jnp.float32(3))
    Array([3., 6.], dtype=float32)
    """

    @functools.wraps(fn)
    def mapped(stack, *args):
        one = lambda network: fn(network, *args)
        if any(map(tree.is_split, jax.tree.leaves(stack))):  # each device has its own
            return jax.vmap(one)(tree.lay_alike(stack, stack))
        return jax.lax.map(one, stack, batch_size=at_once)

    return mapped


def _empty(stats_fn, params, stats, batch) -> _Pool:
    arguments = (params, batch) if stats is None else (params, stats, batch)
    shapes = jax.eval_shape(stats_fn, *arguments)
    # Of the host, since JAX would compile one program for each shape.
    zeros = jax.tree.map(lambda s: np.zeros(s.shape, tree.wider_dtype(s, jnp.float32)), shapes)
    return _Pool(np.zeros((), np.float32), zeros)


@functools.partial(jax.jit, static_argnums=0)
def _merge(stats_fn, pool, params, update, batch, count):
    if update is None:
        stats = jax.tree.map(tree.widened, stats_fn(params, batch))
    else:
        stats = jax.tree.map(tree.widened, stats_fn(params, update.start, batch))
        stats = jax.tree.map(jnp.divide, stats, update.share)
    total = pool.count + count
    partners = _mean_paths(stats)
    old_leaves, new_leaves = (dict(jax.tree.leaves_with_path(s)) for s in (pool.stats, stats))

    def merge(path, old):
        share = (count / total).astype(old.dtype)
        merged = old + share * (new_leaves[path] - old)
        if path in partners:  # a variance: add the spread between the two means
            mean = partners[path]
            merged += share * (1 - share) * jnp.abs(new_leaves[mean] - old_leaves[mean]) ** 2
        return merged

    return _Pool(total, jax.tree.map_with_path(merge, pool.stats))


def _mean_paths(stats) -> dict:
    """The path of the mean that belongs to each variance, by the path of the variance."""
    pairs: dict[tuple, dict] = {}  # by the path without its last `mean` or `var`
    for path, _ in jax.tree.leaves_with_path(stats):
        names = [getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in path]
        last = max((i for i, name in enumerate(names) if name in ("mean", "var")), default=None)
        role = None if last is None else names.pop(last)
        pairs.setdefault(tuple(names), {})[role] = path
    for pair in pairs.values():
        if pair.keys() != {"mean", "var"}:
            raise ValueError(
                f"Leaf {jax.tree_util.keystr(next(iter(pair.values())))} of the statistics is not one "
                "of a pair `mean` and `var`; let stats_fn return such pairs only."
            )
    return {pair["var"]: pair["mean"] for pair in pairs.values()}


def _leading_axis(batch) -> int:
    arrays = [x for x in jax.tree.leaves(batch) if jnp.ndim(x)]
    if not arrays:
        raise ValueError(
            f"A batch has {len(jax.tree.leaves(batch))} leaves and no array with an axis of examples; "
            "give batches of arrays, or say how many examples one has by `num_examples`."
        )
    return arrays[0].shape[0]
