"""The loss around trained networks as JSON: planes, random directions, barriers, curvature.

Networks are known here by three functions alone, pure and of one network, which are arguments:

    stats_fn(params, batch)             moments of every batch norm on this batch, in training mode
    logits_fn((params, stats), images)  logits [B, K], in evaluation mode
    loss_fn(params, batch)              the mean training loss of a batch, in training mode

Pass the same function objects again and nothing is compiled again. Every point of every picture has
batch-norm statistics of its own.
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
from experiments.evaluation.predict import Wrap, mixtures, no_wrap
from experiments.system.errors import UserError
from experiments.system.files import plain
from subspace_jax.landscape import filter_normalized_direction, filter_norms

PyTree = ss.tree.PyTree

# A point is outside of a triangle if it is farther from it than this share of the longest side.
_OUTSIDE = 0.1
# Positions at which a line or curve is drawn.
_DRAWN = 65


def plane_record(
    endpoints: PyTree,
    stats_fn: Callable,
    logits_fn: Callable,
    recal_batches: Iterable,
    split: Split,
    *,
    resolution: int,
    margin: float = 0.3,
    wrap: Wrap = no_wrap,
    batch_size: int = 500,
    at_once: int | None = None,
) -> dict[str, Any]:
    """Accuracy and NLL on the plane through three networks.

    Args:
      endpoints: stack of the three, leaves `[3, ...]`.
      stats_fn, logits_fn: see the module.
      recal_batches: batches for `stats_fn` whose last array has an image per row.
      split: what is predicted.
      resolution: `R`, points along each axis.
      margin: as in `landscape.grid`.
      wrap: what the batches pass through.
      batch_size: images that are predicted at once.
      at_once: networks vectorised together; `None` for one after another.

    Returns:
      JSON values: `x`, `y` `[R]` and `corners` `[3][2]` in units of weight distance, `accuracy` and
      `nll` `[R][R]` (the entry `[i][j]` is at `x[j], y[i]`), the means of both over the points
      `inside` the triangle and over those `outside`, more than a tenth of the longest side away from
      it (`beyond`), and `num_images`, `recalibration_images`, `recalibration_batch_size`.

    Raises:
      UserError: the networks are collinear, two of them coincide or are not finite; a resolution or
        margin that leaves no plane.
    """
    try:
        plane = ss.landscape.plane(endpoints)
        xy = ss.landscape.grid(plane, resolution, margin)
    except ValueError as error:  # the library's sentence has both values and the fix
        raise UserError(str(error)) from error
    weights = ss.landscape.grid_weights(plane, xy)
    functions = stats_fn, logits_fn
    measured = _measure(
        endpoints, weights, functions, recal_batches, split, wrap, batch_size, at_once
    )
    points = np.asarray(xy, np.float64).reshape(-1, 2)
    corners = np.asarray(plane.coordinates, np.float64)
    beyond = _OUTSIDE * max(np.linalg.norm(corners[i] - corners[i - 1]) for i in range(3))
    regions = {
        "inside": (np.asarray(weights) >= 0).all(axis=1),
        "outside": _distance_to_triangle(points, corners) > beyond,
    }
    record = _picture(xy[0, :, 0], xy[:, 0, 1], measured)
    for name, region in regions.items():
        means = {m: _mean(measured[m], region) for m in ("accuracy", "nll")}
        record[name] = means | {"num_points": int(region.sum())}
    record["outside"]["beyond"] = beyond
    return to_json(record | {"corners": corners})


def directions_record(
    params: PyTree,
    key: jax.Array,
    stats_fn: Callable,
    logits_fn: Callable,
    recal_batches: Iterable,
    split: Split,
    *,
    resolution: int,
    extent: float = 1.0,
    wrap: Wrap = no_wrap,
    batch_size: int = 500,
    at_once: int | None = None,
) -> dict[str, Any]:
    """Accuracy and NLL around one network, in two random directions normalised by filters.

    Args:
      params: the network, leaves `[...]`.
      key: of the directions.
      extent: how far each way, in multiples of every filter's own norm.
      stats_fn, logits_fn, recal_batches, split, resolution, wrap, batch_size, at_once: as for
        `plane_record`.

    Returns:
      What `plane_record` returns, without `corners`, `inside` and `outside`. The network is at
      (0, 0). `kernel_norm` is the norm of all kernels, the length of both directions: `extent` of it
      is the last of `x` and of `y`.

    Raises:
      UserError: a resolution or extent that leaves no plane.
    """
    if resolution < 2 or not extent > 0:
        raise UserError(
            f"A plane of resolution {resolution} and extent {extent} covers no area; "
            "use at least 2 and more than 0."
        )
    directions = [filter_normalized_direction(k, params) for k in jax.random.split(key)]
    steps = jnp.linspace(-extent, extent, resolution)
    x, y = (c.ravel() for c in jnp.meshgrid(steps, steps))
    weights = jnp.stack([jnp.ones_like(x), x, y], axis=1)
    stack, functions = ss.stack([params, *directions]), (stats_fn, logits_fn)
    measured = _measure(stack, weights, functions, recal_batches, split, wrap, batch_size, at_once)
    norm = _kernel_norm(params)
    return to_json(_picture(norm * steps, norm * steps, measured) | {"kernel_norm": norm})


def slice_record(
    subspace: ss.Subspace,
    networks: PyTree,
    stats_fn: Callable,
    logits_fn: Callable,
    recal_batches: Iterable,
    split: Split,
    *,
    key: jax.Array | None = None,
    resolution: int,
    margin: float = 0.3,
    extent: float = 1.0,
    wrap: Wrap = no_wrap,
    batch_size: int = 500,
    at_once: int | None = None,
) -> dict[str, Any]:
    """A two-parameter slice of the loss, and the trained subspace that lies in it.

    Args:
      subspace: of one endpoint (the slice has random directions), of two (a line: the plane goes
        through its ends and an independently trained network) or of three (a curve or simplex).
      networks: its endpoints, leaves `[1, ...]` or `[3, ...]`; the last of a line's is independent.
      key: of the random directions; needed for one endpoint alone.
      margin, extent: as in `plane_record` and `directions_record`.
      stats_fn, logits_fn, recal_batches, split, resolution, wrap, batch_size, at_once: as there.

    Returns:
      What these return, and `kind` (`point`, `line`, `curve` or `simplex`), `path` `[D][2]` (the
      line, the curve, or the triangle's outline, closed), `midpoint` `[2]`, and `other` `[2]` (the
      independent network of a line, else null).

    Raises:
      UserError: as there, and a subspace of more than three endpoints.
    """
    n = subspace.num_endpoints
    if n > 3:
        raise UserError(
            f"A subspace of {n} endpoints lies in no plane; draw one of at most 3 endpoints."
        )
    functions = stats_fn, logits_fn, recal_batches, split
    options = {
        "resolution": resolution,
        "wrap": wrap,
        "batch_size": batch_size,
        "at_once": at_once,
    }
    if n == 1:
        if key is None:
            raise ValueError("key is None but random directions are drawn; give a random key.")
        params = jax.tree.map(lambda x: x[0], networks)
        record = directions_record(params, key, *functions, extent=extent, **options)
        return record | {"kind": "point", "path": [[0.0, 0.0]], "midpoint": [0.0, 0.0]} | _OTHER
    record = plane_record(networks, *functions, margin=margin, **options)
    corners = np.asarray(record["corners"])
    if subspace.center.ndim == 0:
        kind = "line" if n == 2 else "curve"
        alphas = jnp.linspace(0, 1, _DRAWN)
        path = np.asarray(jax.vmap(subspace.weights)(alphas), np.float64) @ corners[:n]
    else:
        kind = "line" if n == 2 else "simplex"
        path = corners[[*range(n), *([0] if n > 2 else [])]]
    center = np.asarray(subspace.weights(jnp.asarray(subspace.center)), np.float64)
    shown = {"kind": kind, "path": path, "midpoint": center @ corners[:n]}
    return record | _OTHER | to_json(shown | ({"other": corners[2]} if n == 2 else {}))


def barriers(points: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """How far the test loss and error on a path rise above the straight line between its ends.

    Args:
      points: a record's; those with a position on a path count.

    Returns:
      `nll` in nats and `error` as a share, of at least two points; null if not finite.

    Example:
      >>> nll, error = [0.3, 0.5, 0.3], [0.1, 0.1, 0.1]
      >>> barriers([{"coords": a / 2, "nll": nll[a], "accuracy": 1 - error[a]} for a in range(3)])
      {'nll': 0.2, 'error': 0.0}
    """
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


def curvature_record(
    networks: PyTree,
    loss_fn: Callable,
    batches: Iterable,
    key: jax.Array,
    *,
    num_iterations: int,
    relative: bool = True,
    wrap: Wrap = no_wrap,
) -> dict[str, Any]:
    """The largest eigenvalue of the Hessian of the training loss, of several networks.

    The loss is the mean over fixed batches, and each batch norm takes the statistics of the batch: in
    training mode, as it was trained. The Hessian so depends on the size of the batches. Weight
    decay is no part of the loss. Products with it are summed over batches from the host, since XLA's
    derivatives of convolutions are many times slower inside a loop on a CPU.

    The eigenvalue grows as the weights shrink, which a network with batch norm does not notice:
    midpoints are smaller than their endpoints. The relative one, of steps measured by the norm of
    each filter (`landscape.filter_norms`), does not, and leaves out all that is not a kernel.

    Args:
      networks: leaves `[P, ...]`.
      loss_fn: see the module; no dropout and no augmentation.
      batches: batches of one size for `loss_fn`, whose last array has an image per row.
      key: of the first vector, the same for all networks.
      num_iterations: of Lanczos; each, and two more, costs about three gradients on all batches.
      relative: whether the relative eigenvalue is found too, at the same cost again.
      wrap: what the networks pass through.

    Returns:
      JSON values: `eigenvalue`, `relative_eigenvalue` (null without) and `kernel_norm`, each `[P]`,
      `statistics` ("batch"), `num_images`, `batch_size` and `num_iterations`.

    Raises:
      UserError: less than one iteration, or no batch.
    """
    batches = list(batches)
    if num_iterations < 1 or not batches:
        raise UserError(
            f"{num_iterations} iterations on {len(batches)} batches find no eigenvalue; "
            "use at least 1 of both."
        )
    sizes = [_num_images(batch) for batch in batches]
    found = {"eigenvalue": [], "relative_eigenvalue": [], "kernel_norm": []}
    for i in wrap(range(ss.tree.num_stacked(networks)), "curvature"):
        params = jax.tree.map(lambda x, i=i: x[i], networks)
        scales = {"eigenvalue": jax.tree.map(jnp.ones_like, params)}
        if relative:
            scales["relative_eigenvalue"] = filter_norms(params)
        for name, scale in scales.items():
            product = functools.partial(_product, loss_fn, params, batches, scale)
            top = ss.landscape.top_eigenvalue(product, params, key, num_iterations=num_iterations)
            found[name].append(top)
        found["kernel_norm"].append(_kernel_norm(params))
    counts = {
        "num_images": sum(sizes),
        "batch_size": max(sizes),
        "num_iterations": num_iterations,
    }
    if not relative:
        found["relative_eigenvalue"] = None
    return to_json(found) | {"statistics": "batch"} | counts


def path_record(
    stack: PyTree,
    subspace: ss.Subspace,
    points: Sequence[Mapping[str, Any]],
    loss_fn: Callable,
    batches: Iterable,
    key: jax.Array,
    *,
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    num_iterations: int,
    relative: bool = True,
    wrap: Wrap = no_wrap,
) -> dict[str, Any]:
    """Barriers of the test loss and curvature of the training loss along a line or curve.

    Args:
      stack: its endpoints, leaves `[n, ...]`; one network for the level to compare with.
      subspace: with a position as its coordinates, or of one endpoint.
      points: of the record of this run, which are not evaluated again.
      alphas: positions of the curvature.
      loss_fn, batches, key, num_iterations, relative, wrap: as in `curvature_record`.

    Returns:
      JSON values: `barrier` (of `barriers`), `test` (`alphas`, `nll` and `error` of the points, as
      shares), `alphas` and `curvature` (of `curvature_record`, at these positions). For one network
      `barrier` and both `alphas` are null.

    Raises:
      UserError: a simplex, or as in `curvature_record`.
    """
    single = subspace.num_endpoints == 1
    if subspace.center.ndim and not single:
        raise UserError(
            f"A simplex of {subspace.num_endpoints} endpoints is no path; measure a line or curve."
        )
    coords = jnp.asarray(subspace.center)[None] if single else jnp.asarray(alphas, jnp.float32)
    networks = mixtures(stack, jax.vmap(subspace.weights)(coords))
    curvature = curvature_record(
        networks, loss_fn, batches, key, num_iterations=num_iterations, relative=relative, wrap=wrap
    )
    shown = points[:1] if single else _path_of(points)
    accuracies = [p["accuracy"] for p in shown]
    test = {
        "alphas": None if single else [p["coords"] for p in shown],
        "nll": [p["nll"] for p in shown],
        "error": [None if a is None else round(1 - a, 7) for a in accuracies],
    }
    return {
        "barrier": None if single else barriers(points),
        "test": test,
        "alphas": None if single else [float(a) for a in alphas],
        "curvature": curvature,
    }


_OTHER = {"other": None}


def _measure(stack, weights, functions, recal_batches, split, wrap, batch_size, at_once) -> dict:
    """Accuracy and NLL `[P]` of mixtures by weights `[P, n]`, each with statistics of its own.

    No logits but those of one network (or `at_once`) and one batch are held.
    """
    stats_fn, logits_fn = functions
    pooled = ss.recalibrate(
        _stats_at(stats_fn, at_once),
        (stack, weights),
        wrap(recal_batches, "recalibrate the plane"),
        num_examples=_num_images,
    )
    labels = jnp.asarray(split.labels)
    total = len(labels)
    size = min(batch_size, total)
    zeros = jnp.zeros(len(weights), jnp.float32)
    sums = {"accuracy": zeros, "nll": zeros}
    for start in wrap(range(0, total, size), "predict on the plane"):
        index = np.arange(start, start + size)
        known = jnp.asarray(index < total)  # the last batch is filled up with its last image
        index = np.minimum(index, total - 1)
        batch = jnp.asarray(split.images[index]), labels[index], known
        sums = _add_metrics(
            sums, stack, weights, pooled.stats, batch, logits_fn=logits_fn, at_once=at_once
        )
    means = {name: np.asarray(values, np.float64) / total for name, values in sums.items()}
    counts = {
        "num_images": total,
        "recalibration_images": pooled.num_examples,
        "recalibration_batch_size": pooled.batch_size,
    }
    return means | counts


@functools.cache
def _stats_at(stats_fn: Callable, at_once: int | None) -> Callable:
    return lambda at, batch: ss.landscape.along(stats_fn, *at, batch, at_once=at_once)


@functools.partial(jax.jit, static_argnames=("logits_fn", "at_once"))
def _add_metrics(sums, stack, weights, stats, batch, *, logits_fn, at_once):
    images, labels, known = batch

    def of_one(point, stack):
        weights, stats = point
        logits = logits_fn((ss.mix(weights, stack), stats), images)
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        nll = -jnp.take_along_axis(log_probs, labels[:, None], axis=1)[:, 0]
        right = (log_probs.argmax(1) == labels) & jnp.isfinite(nll)  # NaN predicts nothing
        count = lambda values: jnp.where(known, values, 0).sum()
        return {"accuracy": count(right.astype(jnp.float32)), "nll": count(nll)}

    found = ss.for_each(of_one, at_once=at_once)((weights, stats), stack)
    return jax.tree.map(jnp.add, sums, found)


def _product(loss_fn, params, batches, scale, v):
    """`S H S v` of the mean loss over batches."""
    total = sum(_num_images(batch) for batch in batches)
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


def _mean(values: np.ndarray, region: np.ndarray) -> float | None:
    return float(values[region].mean()) if region.any() else None


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
