"""Evaluation of points of a subspace: recalibrated statistics, then every metric, then ensembles.

There is one way to predictions here, `predict_points`, and it measures the batch-norm statistics of
every point itself: they can't be forgotten.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import subspace_jax as ss
from experiments.data import Split
from experiments.errors import UserError
from experiments.images import AUGMENTATIONS, normalize
from experiments.train import Program, Run, training_logits

# The stream of a run's randomness that recalibration takes; train.py has the first three.
_RECALIBRATION = 3

# `(batches, what is done with them) -> batches`: for progress bars and signals.
Wrap = Callable[[Iterable, str], Iterable]


class Settings(NamedTuple):
    """How points are evaluated.

    Attributes:
      num_points: of a line or curve, alpha = 0 .. 1.
      num_bins: equal-width bins of the calibration errors.
      batch_size: images per batch of predictions.
      recalibration_batch_size: images per batch whose moments are pooled.
      recalibration_examples: over how many training images; 0 for all.
      recalibration_augment: whether they are augmented as in training.
      at_once: networks vectorised together; 0 for one after another.
    """

    num_points: int
    num_bins: int
    batch_size: int
    recalibration_batch_size: int
    recalibration_examples: int
    recalibration_augment: bool
    at_once: int


def make_settings(config: ml_collections.ConfigDict, run: Run) -> Settings:
    """The settings of a config.

    Raises:
      UserError: a value that evaluation can't work with.
    """
    settings = Settings(**config.evaluation)
    examples = settings.recalibration_examples or len(run.labels)
    least = {
        "num_points": 3,
        "num_bins": 1,
        "batch_size": 1,
        "recalibration_examples": 0,
        "at_once": 0,
    }
    for name, minimum in least.items():
        if getattr(settings, name) < minimum:
            raise UserError(
                f"config.evaluation.{name} is {getattr(settings, name)}; use at least {minimum}."
            )
    if settings.num_points % 2 == 0:
        raise UserError(
            f"config.evaluation.num_points is {settings.num_points}, which leaves out the midpoint; "
            "use an odd number."
        )
    if not 1 <= settings.recalibration_batch_size <= min(examples, len(run.labels)):
        raise UserError(
            f"config.evaluation.recalibration_batch_size is {settings.recalibration_batch_size} but "
            f"there are {min(examples, len(run.labels))} images to recalibrate on; use 1 to that."
        )
    return settings


class Point(NamedTuple):
    """A point to evaluate: a name for it ("" if it has none) and its coordinates."""

    name: str
    coords: np.ndarray


def points_of(subspace: ss.Subspace, num_points: int) -> list[Point]:
    """A grid along a line or curve; corners, middles of edges and the center of a simplex."""
    n = subspace.num_endpoints
    if subspace.center.ndim == 0:
        names = {0: "endpoint 0", num_points - 1: f"endpoint {n - 1}"}
        names[(num_points - 1) // 2] = "midpoint"
        alphas = np.linspace(0, 1, num_points, dtype=np.float32)
        return [Point(names.get(i, ""), alpha) for i, alpha in enumerate(alphas)]
    if n == 1:
        return [Point("midpoint", subspace.center)]
    corners = np.eye(n, dtype=np.float32)
    pairs = list(itertools.combinations(range(n), 2)) if n > 2 else []
    return [
        *(Point(f"endpoint {i}", corner) for i, corner in enumerate(corners)),
        *(Point(f"edge {i}-{j}", (corners[i] + corners[j]) / 2) for i, j in pairs),
        Point("midpoint", subspace.center),
    ]


def predict_points(
    run: Run,
    endpoints: ss.tree.PyTree,
    coords: np.ndarray,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = lambda batches, what: batches,
) -> tuple[dict[str, jax.Array], ss.Recalibration]:
    """Logits of many points on every split, each point with statistics of its own.

    Args:
      run: the run that trained the endpoints; its training images recalibrate.
      endpoints: stack with leaves `[n, ...]`.
      coords: `[P]` or `[P, n]`.
      splits: what to predict, by name.
      settings: see `Settings`.
      wrap: what the batches pass through.

    Returns:
      Logits `[P, N, K]` by the name of the split, and the recalibration.
    """
    program, at_once = run.program, settings.at_once or None
    networks = _points(endpoints, jnp.asarray(coords), subspace=program.method.subspace)
    recalibration = ss.recalibrate(
        _moments_fn(program, settings.recalibration_augment, at_once),
        networks,
        wrap(recalibration_batches(run, settings), "recalibrate"),
        num_examples=lambda batch: len(batch[1]),
    )
    logits = {}
    for name, split in splits.items():
        batches = wrap(_padded_batches(split.images, settings.batch_size), f"predict {name}")
        padded = ss.predict(_logits_fn(program, at_once), (networks, recalibration.stats), batches)
        logits[name] = padded[:, : len(split.labels)]
    return logits, recalibration


@functools.partial(jax.jit, static_argnames="subspace")
def _points(endpoints, coords, *, subspace):
    return jax.vmap(subspace.point, in_axes=(None, 0))(endpoints, coords)


@functools.cache
def _moments_fn(program: Program, augment: bool, at_once: int | None):
    augmentation = AUGMENTATIONS[program.augmentation if augment else "none"]

    def moments(params, batch):
        key, images = batch
        return training_logits(program, params, augmentation(key, images))[1]

    return ss.for_each(moments, at_once=at_once)


@functools.cache
def _logits_fn(program: Program, at_once: int | None):
    def logits(network, images):
        params, stats = network
        variables = {"params": params, "batch_stats": stats}
        return program.network.apply(
            variables, normalize(images, program.normalization), train=False
        )

    return ss.for_each(logits, at_once=at_once)


def recalibration_batches(run: Run, settings: Settings) -> "_Lazy":
    """Full batches `(key, images)` of the training split in a fixed random order."""
    key = jax.random.fold_in(jax.random.key(run.seed), _RECALIBRATION)
    size = settings.recalibration_batch_size
    order = np.asarray(jax.random.permutation(key, len(run.labels)))
    order = order[: settings.recalibration_examples or None]
    starts = range(0, len(order) - size + 1, size)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(starts))
    return _Lazy(len(starts), lambda i: (keys[i], run.images[order[i * size : (i + 1) * size]]))


def _padded_batches(images, batch_size):
    """Batches of one size, the last filled up with copies of its last image."""
    size = min(batch_size, len(images))
    images = jnp.asarray(images)
    last = len(images) - 1

    def batch(i):
        return images[np.minimum(np.arange(i * size, (i + 1) * size), last)]

    return _Lazy(-(-len(images) // size), batch)


class _Lazy:
    """A sized iterable of things made when they are asked for."""

    def __init__(self, size, make):
        self._size, self._make = size, make

    def __len__(self):
        return self._size

    def __iter__(self):
        return map(self._make, range(self._size))


@functools.partial(jax.jit, static_argnames="num_bins")
def all_metrics(log_probs: jax.Array, labels: jax.Array, *, num_bins: int) -> dict[str, jax.Array]:
    """Every metric of one prediction `[N, K]`: scalars, and the bins of the reliability diagram."""
    probs = jnp.exp(log_probs)
    m = ss.metrics
    return {
        "accuracy": m.accuracy(probs, labels),
        "nll": m.nll(log_probs, labels),
        "brier": m.brier(probs, labels),
        "brier_decomposition": m.brier_decomposition(probs, labels)._asdict(),
        "ece": m.ece(probs, labels, num_bins=num_bins),
        "adaptive_ece": m.adaptive_ece(probs, labels, num_bins=num_bins),
        "classwise_ece": m.classwise_ece(probs, labels, num_bins=num_bins),
        "max_calibration_error": m.max_calibration_error(probs, labels, num_bins=num_bins),
        "entropy": m.entropy(probs),
        "aurc": m.aurc(probs, labels),
        "reliability": m.reliability(probs, labels, num_bins=num_bins)._asdict(),
    }


def evaluate(
    run: Run,
    endpoints: ss.tree.PyTree,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = lambda batches, what: batches,
) -> dict:
    """Everything that is reported of trained endpoints.

    Args:
      run: the run that trained them.
      endpoints: stack with leaves `[n, ...]`.
      splits: the first is what is reported; of the others each point gets all metrics under their
        name.
      settings: see `Settings`.
      wrap: what the batches pass through.

    Returns:
      JSON values: `points` (`name`, `coords`, metrics), `ensembles` (of opposite points of a path, or
      the corners of a simplex: `members`, `average`, metrics, and the members' `disagreement` and
      `total_variation`), `geometry` (`distances`, `squared_cosines`) and `recalibration`.
    """
    points = points_of(run.program.method.subspace, settings.num_points)
    coords = np.stack([point.coords for point in points])
    logits, recalibration = predict_points(run, endpoints, coords, splits, settings, wrap)
    labels = {name: jnp.asarray(split.labels) for name, split in splits.items()}
    (main, *others), bins = splits, settings.num_bins

    def metrics_of(log_probs, name):
        return all_metrics(log_probs, labels[name], num_bins=bins) | {"num_bins": bins}

    log_probs = {name: jax.nn.log_softmax(values) for name, values in logits.items()}
    records = [
        {"name": point.name, "coords": _short(point.coords)}
        | metrics_of(log_probs[main][i], main)
        | {name: metrics_of(log_probs[name][i], name) for name in others}
        for i, point in enumerate(points)
    ]
    ensembles = [
        {"members": _short(coords[list(members)]), "average": average}
        | metrics_of(ss.ensemble(logits[main][jnp.array(members)], average), main)
        | _diversity(jnp.exp(log_probs[main]), members)
        for members in _ensembles(points)
        for average in ("probability", "logit")
    ]
    return _to_json(
        {
            "points": records,
            "ensembles": ensembles,
            "geometry": geometry(endpoints),
            "recalibration": {
                "num_examples": recalibration.num_examples,
                "batch_size": recalibration.batch_size,
                "augmented": settings.recalibration_augment,
            },
        }
    )


def geometry(endpoints: ss.tree.PyTree) -> dict:
    """Distances and squared cosines between the kernels of the endpoints, `[n, n]`."""
    return {
        "distances": ss.distances(endpoints),
        "squared_cosines": ss.squared_cosines(endpoints),
    }


def _ensembles(points: list[Point]) -> list[tuple[int, ...]]:
    """Opposite points of a path; the corners of a simplex, all together and in pairs."""
    if len(points) == 1:
        return []
    if points[0].coords.ndim == 0:
        return [(i, len(points) - 1 - i) for i in range(len(points) // 2)]
    corners = tuple(i for i, point in enumerate(points) if point.name.startswith("endpoint"))
    pairs = list(itertools.combinations(corners, 2)) if len(corners) > 2 else []
    return [corners, *pairs]


def _diversity(probs: jax.Array, members: tuple[int, ...]) -> dict[str, jax.Array]:
    """Means over pairs of members."""
    pairs = list(itertools.combinations(members, 2))
    m = ss.metrics
    return {
        "disagreement": sum(m.disagreement(probs[i], probs[j]) for i, j in pairs) / len(pairs),
        "total_variation": sum(m.total_variation(probs[i], probs[j]) for i, j in pairs)
        / len(pairs),
    }


def _short(coords: np.ndarray) -> np.ndarray:
    """float32 coordinates as the decimals that they stand for: 0.05 and not 0.05000000074505806."""
    return coords.astype(np.float64).round(7)


def _to_json(tree):
    """Arrays as lists and numbers, fetched in one transfer; `None` for what is not a number."""
    return jax.tree.map(_plain, jax.device_get(tree))


def _plain(x):
    if isinstance(x, np.ndarray | np.generic):
        return _plain(x.tolist())
    if isinstance(x, list):
        return [_plain(entry) for entry in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
