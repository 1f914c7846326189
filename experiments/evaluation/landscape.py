"""The loss around trained networks as JSON: planes, random directions, barriers, curvature.

Networks are known here by three pure functions of one network, which are static arguments:
`stats_fn(params, batch)` and `loss_fn(params, batch)` in training mode, and in evaluation mode
`logits_fn((params, stats), images)`. Every point of every picture has statistics of its own.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation.evaluate import to_json
from experiments.evaluation.predict import Wrap, mixtures, no_wrap, padded_batches
from experiments.system.errors import UserError
from experiments.system.files import plain
from subspace_jax.landscape import filter_normalized_direction, filter_norms

PyTree = ss.tree.PyTree

# A point is outside of a triangle if it is farther from it than this share of the longest side.
_OUTSIDE = 0.1
# Space around a triangle, as a share of the longer side of its bounding box.
_MARGIN = 0.3
# Positions at which a line or curve is drawn, and those at which its curvature is measured.
_DRAWN = 65
_ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
_UNKNOWN = -1  # the label of images that fill up the last batch


def slice_record(
    subspace: ss.Subspace,
    networks: PyTree,
    stats_fn: Callable,
    logits_fn: Callable,
    recal_batches: Iterable,
    split: Split,
    *,
    key: jax.Array,
    resolution: int,
    wrap: Wrap = no_wrap,
    batch_size: int = 500,
) -> dict[str, Any]:
    """Accuracy and NLL `[R][R]`, at `x[j], y[i]`, on a plane, and the trained subspace that lies in it.

    The plane goes through three networks `[3, ...]`, for a line through its endpoints and another one;
    that of one network `[1, ...]` has random directions, as long as all its kernels together.
    """
    n = subspace.num_endpoints
    if n > 3:
        raise UserError(
            f"A subspace of {n} endpoints lies in no plane; draw one of at most 3 endpoints."
        )
    if resolution < 2:
        raise UserError(f"A plane of resolution {resolution} covers no area; use at least 2.")
    functions, images = (stats_fn, logits_fn), (recal_batches, split)
    measure = functools.partial(_measure, functions, images, wrap, batch_size)
    if n == 1:
        params = jax.tree.map(lambda x: x[0], networks)
        shown = {"kind": "point", "path": [[0.0, 0.0]], "midpoint": [0.0, 0.0], "other": None}
        return to_json(_around(params, key, measure, resolution)) | shown
    record = _plane(networks, measure, resolution)
    corners = record["corners"]
    if subspace.center.ndim == 0:
        alphas = jnp.linspace(0, 1, _DRAWN)
        path = np.asarray(jax.vmap(subspace.weights)(alphas), np.float64) @ corners[:n]
    else:
        path = corners[[*range(n), *([0] if n > 2 else [])]]
    center = np.asarray(subspace.weights(jnp.asarray(subspace.center)), np.float64)
    shown = {
        "kind": "line" if n == 2 else "simplex" if subspace.center.ndim else "curve",
        "path": path,
        "midpoint": center @ corners[:n],
        "other": corners[2] if n == 2 else None,
    }
    return to_json(record) | to_json(shown)


def _plane(endpoints: PyTree, measure: Callable, resolution: int) -> dict[str, Any]:
    """The plane through three networks, and means inside and outside of their triangle."""
    try:
        plane = ss.landscape.plane(endpoints)
    except ValueError as error:  # the library's sentence has both values and the fix
        raise UserError(str(error)) from error
    xy = ss.landscape.grid(plane, resolution, _MARGIN)
    weights = ss.landscape.grid_weights(plane, xy)
    measured = measure(endpoints, weights)
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    corners = np.asarray(plane.coordinates, np.float64)
    beyond = _OUTSIDE * max(np.linalg.norm(corners[i] - corners[i - 1]) for i in range(3))
    regions = {
        "inside": (np.asarray(weights) >= 0).all(axis=1),
        "outside": _distance_to_triangle(points, corners) > beyond,
    }
    record = _picture(xy[0, :, 0], xy[:, 0, 1], measured)
    for name, region in regions.items():
        none = not region.any()
        means = {m: None if none else measured[m][region].mean() for m in ("accuracy", "nll")}
        record[name] = means | {"num_points": int(region.sum())}
    record["outside"]["beyond"] = beyond
    return record | {"corners": corners}


def _around(params: PyTree, key: jax.Array, measure: Callable, resolution: int) -> dict[str, Any]:
    """The plane through one network in random directions, as far as its filters are long."""
    directions = [filter_normalized_direction(k, params) for k in jax.random.split(key)]
    steps = jnp.linspace(-1, 1, resolution)
    x, y = (c.ravel() for c in jnp.meshgrid(steps, steps))
    weights = jnp.stack([jnp.ones_like(x), x, y], axis=1)
    measured, norm = measure(ss.stack([params, *directions]), weights), _kernel_norm(params)
    return _picture(norm * steps, norm * steps, measured) | {"kernel_norm": norm}


def barriers(points: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """How far the test NLL and error on a path rise above the straight line between its ends."""
    path = _path_of(points)
    alphas = np.array([p["coords"] for p in path], np.float32)
    nll, accuracy = (np.array([p[m] for p in path], np.float32) for m in ("nll", "accuracy"))
    found = {"nll": nll, "error": 1 - accuracy}
    heights = {name: ss.landscape.barrier(values, alphas) for name, values in found.items()}
    return {name: plain(round(float(height), 6)) for name, height in heights.items()}


def _path_of(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those with a position on a path, in order."""
    path = [p for p in points if isinstance(p["coords"], int | float)]
    return sorted(path, key=lambda p: p["coords"])


def path_record(
    stack: PyTree,
    subspace: ss.Subspace,
    points: Sequence[Mapping[str, Any]],
    curvature: Callable[[PyTree], dict],
) -> dict[str, Any]:
    """Barriers of the test loss at a run's own points, and curvature, along a path or of one network."""
    single = subspace.num_endpoints == 1
    coords = jnp.asarray(subspace.center)[None] if single else jnp.asarray(_ALPHAS, jnp.float32)
    networks = mixtures(stack, jax.vmap(subspace.weights)(coords))
    shown = points[:1] if single else _path_of(points)
    accuracies = [p["accuracy"] for p in shown]
    return {
        "test": {
            "alphas": None if single else [p["coords"] for p in shown],
            "nll": [p["nll"] for p in shown],
            "error": [None if a is None else round(1 - a, 7) for a in accuracies],
        },
        "curvature": curvature(networks),
        "barrier": None if single else barriers(points),
        "alphas": None if single else list(_ALPHAS),
    }


def curvature_record(
    networks: PyTree,
    loss_fn: Callable,
    batches: Iterable,
    key: jax.Array,
    *,
    num_iterations: int,
    wrap: Wrap = no_wrap,
) -> dict[str, Any]:
    """The largest eigenvalue `[P]` of the Hessian of the training loss, of networks `[P, ...]`.

    It grows as the weights shrink, which batch norm does not notice: midpoints are smaller than their
    endpoints. The relative one, of steps measured by the norm of each filter, does not.
    """
    batches = list(batches)
    sizes = [_num_images(batch) for batch in batches]
    counts = {"num_images": sum(sizes), "batch_size": max(sizes), "num_iterations": num_iterations}
    found = {"eigenvalue": [], "relative_eigenvalue": [], "kernel_norm": []}
    for i in wrap(range(ss.tree.num_stacked(networks)), "curvature"):
        params = jax.tree.map(lambda x, i=i: x[i], networks)
        ones = jax.tree.map(jnp.ones_like, params)
        for name, scale in (("eigenvalue", ones), ("relative_eigenvalue", filter_norms(params))):
            product = functools.partial(_product, loss_fn, params, batches, scale)
            top = ss.landscape.top_eigenvalue(product, params, key, num_iterations=num_iterations)
            found[name].append(top)
        found["kernel_norm"].append(_kernel_norm(params))
    return to_json(found) | {"statistics": "batch"} | counts


def _measure(functions, images, wrap, batch_size, stack, weights) -> dict[str, Any]:
    """Accuracy and NLL `[P]` of mixtures by weights `[P, n]`, each with statistics of its own."""
    (stats_fn, logits_fn), (recal_batches, split) = functions, images
    recal_batches = wrap(recal_batches, "recalibrate the plane")
    given = _stats_at(stats_fn), (stack, weights), recal_batches
    pooled = ss.recalibrate(*given, num_examples=_num_images, check=False)
    total = len(split.labels)
    size = min(batch_size, total)
    labels = np.pad(split.labels, (0, -total % size), constant_values=_UNKNOWN).reshape(-1, size)
    batches = wrap(padded_batches(split.images, size), "predict on the plane")
    sums = dict.fromkeys(("accuracy", "nll"), jnp.zeros(len(weights), jnp.float32))
    for batch in zip(batches, labels, strict=True):
        sums = _add_metrics(sums, stack, weights, pooled.stats, batch, logits_fn=logits_fn)
    means = {name: np.asarray(values, np.float64) / total for name, values in sums.items()}
    return means | {
        "num_images": total,
        "recalibration_images": pooled.num_examples,
        "recalibration_batch_size": pooled.batch_size,
    }


@functools.cache
def _stats_at(stats_fn: Callable) -> Callable:
    return lambda at, batch: ss.landscape.along(stats_fn, *at, batch)


@functools.partial(jax.jit, static_argnames="logits_fn")
def _add_metrics(sums, stack, weights, stats, batch, *, logits_fn):
    images, labels = batch

    def of_one(point, stack):
        weights, stats = point
        logits = logits_fn((ss.mix(weights, stack), stats), images)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        nll = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
        right = (log_probs.argmax(1) == labels) & jnp.isfinite(nll)  # NaN predicts nothing
        count = lambda values: jnp.where(labels != _UNKNOWN, values, 0).sum()
        return {"accuracy": count(right.astype(jnp.float32)), "nll": count(nll)}

    return jax.tree.map(jnp.add, sums, ss.for_each(of_one)((weights, stats), stack))


def _product(loss_fn, params, batches, scale, v):
    """`S H S v` of the mean loss over batches, in no loop of XLA's, which is slow on a CPU."""
    total = sum(map(_num_images, batches))
    out = jax.tree.map(jnp.zeros_like, v)
    for batch in batches:
        share = jnp.float32(_num_images(batch) / total)
        out = _add_product(out, params, scale, v, batch, share, loss_fn=loss_fn)
    return out


@functools.partial(jax.jit, static_argnames="loss_fn")
def _add_product(out, params, scale, v, batch, share, *, loss_fn):
    step = jax.tree.map(lambda v, s, x: (v * s.astype(v.dtype)).astype(x.dtype), v, scale, params)
    gradient = jax.grad(lambda params: loss_fn(params, batch))
    _, found = jax.jvp(gradient, (params,), (step,))
    add = lambda o, f, s: o + share.astype(o.dtype) * s.astype(o.dtype) * f.astype(o.dtype)
    return jax.tree.map(add, out, found, scale)


def _kernel_norm(params: PyTree) -> float:
    """The norm of all kernels together."""
    leaves = jax.tree.leaves_with_path(params)
    kernels = [
        np.asarray(x, np.float64) for path, x in leaves if ss.diversity.is_kernel(path, x[None])
    ]
    return math.sqrt(sum(np.sum(x**2) for x in kernels))


def _num_images(batch) -> int:
    return len(jax.tree.leaves(batch)[-1])


def _picture(x, y, measured) -> dict:
    grid = {m: measured[m].reshape(len(y), len(x)) for m in ("accuracy", "nll")}
    return measured | grid | {"x": x, "y": y}


def _distance_to_triangle(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Distances `[P]` of points `[P, 2]` to a triangle `[3, 2]`, zero inside."""
    sides = np.roll(corners, -1, axis=0) - corners
    offsets = points[:, None] - corners  # [P, 3, 2]
    along = (offsets * sides).sum(-1) / (sides**2).sum(-1)
    nearest = corners + along.clip(0, 1)[..., None] * sides
    distances = np.linalg.norm(points[:, None] - nearest, axis=-1).min(1)
    turns = sides[:, 0] * offsets[..., 1] - sides[:, 1] * offsets[..., 0]
    within = (turns >= 0).all(1) | (turns <= 0).all(1)
    return np.where(within, 0.0, distances)
