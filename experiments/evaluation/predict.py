"""Predictions of networks with statistics of their own: the one way to them in the experiments.

`recalibrated` measures the batch-norm statistics of every network itself, and only what it returns
can predict: they can't be forgotten.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import tqdm

import subspace_jax as ss
from experiments.data.augment import AUGMENTATIONS, normalize
from experiments.data.sets import Split
from experiments.system import hosts
from experiments.system.errors import UserError
from experiments.training import feed, placement
from experiments.training.model import Model, training_logits
from experiments.training.run import Run

# The stream of a run's randomness that recalibration takes; train.py has the first three.
_RECALIBRATION = 3

# `(batches, what is done with them) -> batches`: for progress bars and signals.
Wrap = Callable[[Iterable, str], Iterable]


class Settings(NamedTuple):
    """How a stack is evaluated.

    Attributes:
      num_points: of a line or curve, alpha = 0 .. 1.
      grid_steps: of the grid of a triangle, along each side; 0 for none.
      num_bins: equal-width bins of the calibration errors.
      batch_size: images per batch of predictions.
      recalibration_batch_size: images per batch whose moments are pooled.
      recalibration_examples: over how many training images; 0 for all.
      recalibration_augment: whether they are augmented as in training.
      at_once: networks vectorised together; 0 for one after another.
      num_samples: networks drawn from a complex, and passes of Monte-Carlo dropout.
    """

    num_points: int
    grid_steps: int
    num_bins: int
    batch_size: int
    recalibration_batch_size: int
    recalibration_examples: int
    recalibration_augment: bool
    at_once: int
    num_samples: int


def make_settings(config: ml_collections.ConfigDict, run: Run) -> Settings:
    """The settings of a config.

    Raises:
      UserError: more images per batch of recalibration than there are.
    """
    settings = Settings(*(config.evaluation[name] for name in Settings._fields))
    examples = settings.recalibration_examples or len(run.labels)
    if settings.recalibration_batch_size > min(examples, len(run.labels)):
        raise UserError(
            f"config.evaluation.recalibration_batch_size is {settings.recalibration_batch_size} but "
            f"there are {min(examples, len(run.labels))} images to recalibrate on; use 1 to that."
        )
    return settings


class Networks(NamedTuple):
    """Networks that can predict: leaves `[P, ...]` of the weights and of their own statistics."""

    params: ss.tree.PyTree
    stats: ss.tree.PyTree

    def take(self, members: Iterable[int]) -> "Networks":
        """Some of them."""
        index = np.asarray(tuple(members))
        return jax.tree.map(lambda x: x[index], self)


def no_wrap(batches: Iterable, what: str) -> Iterable:
    """Batches as they are."""
    del what
    return batches


def with_bar(batches: Iterable, what: str) -> Iterable:
    """Batches, with a progress bar if they take longer than a second."""
    return tqdm.tqdm(batches, unit="batch", desc=what, delay=1, mininterval=0.5)


def recalibrated(
    run: Run, params: ss.tree.PyTree, settings: Settings, wrap: Wrap = no_wrap
) -> tuple[Networks, ss.recalibration.Recalibration]:
    """Networks `[P, ...]` with the statistics of the training images, each its own."""
    at_once = settings.at_once or None
    recalibration = ss.recalibrate(
        moments_fn(run.program.model, settings.recalibration_augment, at_once),
        params,
        wrap(recalibration_batches(run, settings), "recalibrate"),
        num_examples=lambda batch: len(batch[1]),
    )
    recalibration = recalibration._replace(stats=hosts.local(recalibration.stats))
    return Networks(params, recalibration.stats), recalibration


def predict(
    model: Model, networks: Networks, images: np.ndarray, settings: Settings, wrap: Wrap = no_wrap
) -> jax.Array:
    """Logits `[P, N, K]` of networks `[P, ...]` for uint8 images `[N, H, W, C]`."""
    fn = logits_fn(model, settings.at_once or None)
    shards = placement.num_shards(model.mesh)
    size = -(-settings.batch_size // shards) * shards
    batches = wrap(padded_batches(images, size, shards), "predict")
    return hosts.local(ss.predict(fn, networks, batches)[:, : len(images)])


def predict_networks(
    run: Run,
    params: ss.tree.PyTree,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = no_wrap,
) -> tuple[dict[str, jax.Array], Networks, ss.recalibration.Recalibration]:
    """Logits of many networks on every split, each network with statistics of its own.

    Args:
      run: the run that trained them; its training images recalibrate.
      params: networks, leaves `[P, ...]`.
      splits: what to predict, by name.
      settings: see `Settings`.
      wrap: what the batches pass through.

    Returns:
      Logits `[P, N, K]` by the name of the split, the networks, and the recalibration.
    """
    networks, recalibration = recalibrated(run, params, settings, wrap)
    model = run.program.model
    logits = {
        name: predict(model, networks, split.images, settings, wrap)
        for name, split in splits.items()
    }
    return logits, networks, recalibration


@jax.jit
def mixtures(stack: ss.tree.PyTree, weights: jax.Array) -> ss.tree.PyTree:
    """Networks `[P, ...]` out of a stack `[n, ...]` by mixing weights `[P, n]`."""
    return jax.vmap(ss.mix, in_axes=(0, None))(weights, stack)


@dataclasses.dataclass(frozen=True)
class ModelFunction:
    """A function of a model's networks; equal ones are equal, so that nothing is compiled again."""

    model: Model


@functools.cache  # methods are equal only if they are of the same object
@dataclasses.dataclass(frozen=True)
class Single:
    """The functions of one network; equal calls return one object: nothing is compiled again."""

    model: Model
    augment: bool

    def moments(self, params, batch):
        """Moments of a batch `(key, images)` in training mode."""
        key, images = batch
        augmentation = AUGMENTATIONS[self.model.augmentation if self.augment else "none"]
        return training_logits(self.model, params, augmentation(key, images))[1]

    def logits(self, network, images, **options):
        """Logits `[B, K]` of `(params, stats)` in evaluation mode; options are those of the network."""
        params, stats = network
        return self.model.network.apply(
            {"params": params, "batch_stats": stats},
            normalize(placement.spread(self.model.mesh, images), self.model.normalization),
            train=False,
            **options,
        )


@functools.cache
def moments_fn(model: Model, augment: bool, at_once: int | None = None):
    """`(networks, (key, images)) -> moments` of a batch in training mode, leaves `[P, ...]`."""
    return ss.for_each(Single(model, augment).moments, at_once=at_once)


@functools.cache
def logits_fn(model: Model, at_once: int | None = None):
    """`(networks, images) -> logits [P, B, K]` in evaluation mode."""
    return ss.for_each(Single(model, False).logits, at_once=at_once)


@functools.cache
def dropout_logits_fn(model: Model):
    """`((network, keys [S]), images) -> logits [S, B, K]`, units dropped anew with every key."""

    def logits(key, network, images):
        drop = {"dropout": True, "rngs": {"dropout": key}}
        return Single(model, False).logits(network, images, **drop)

    def mapped(network_and_keys, images):
        network, keys = network_and_keys
        return ss.for_each(logits)(keys, network, images)

    return mapped


def recalibration_batches(run: Run, settings: Settings) -> "_Lazy | _Streamed":
    """Full batches `(key, images)` of the training split in a fixed random order."""
    key = jax.random.fold_in(jax.random.key(run.seed), _RECALIBRATION)
    size = settings.recalibration_batch_size
    order = np.asarray(jax.random.permutation(key, len(run.labels)))
    order = order[: settings.recalibration_examples or None]
    starts = range(0, len(order) - size + 1, size)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(starts))
    if run.loader is not None:
        order = order[: len(starts) * size].reshape(-1, size)
        return _Streamed(run, keys, order, settings.recalibration_augment)
    return _Lazy(len(starts), lambda i: (keys[i], run.images[order[i * size : (i + 1) * size]]))


def padded_batches(images, batch_size, multiple=1):
    """Batches of one size, a multiple; the last filled up with copies of its last image."""
    size = min(batch_size, -(-len(images) // multiple) * multiple)
    last = len(images) - 1

    def batch(i):
        return jnp.asarray(images[np.minimum(np.arange(i * size, (i + 1) * size), last)])

    return _Lazy(-(-len(images) // size), batch)


class _Lazy:
    """A sized iterable of things made when they are asked for."""

    def __init__(self, size, make):
        self._size, self._make = size, make

    def __len__(self):
        return self._size

    def __iter__(self):
        return map(self._make, range(self._size))


class _Streamed:
    """The batches `(key, images)` of a streamed training split, read anew by every iteration."""

    def __init__(self, run: Run, keys: jax.Array, order: np.ndarray, augment: bool):
        self._run, self._keys, self._order, self._augment = run, keys, order, augment

    def __len__(self):
        return len(self._order)

    def __iter__(self):
        crop = self._run.crops and self._augment
        images = feed.recalibration_images(self._run, self._order, crop)
        return zip(self._keys, images, strict=True)
