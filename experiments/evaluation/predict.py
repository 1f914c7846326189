"""Predictions of networks, of which only those that `recalibrated` returns can predict."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import subspace_jax as ss
from experiments.data.augment import AUGMENTATIONS
from experiments.data.sets import Split
from experiments.system import hosts
from experiments.system.errors import UserError
from experiments.training import feed, placement
from experiments.training.model import Model, logits_and_moments, normalized
from experiments.training.run import Run

# The stream of a run's randomness that recalibration takes; train.py has the first three.
_RECALIBRATION = 3

# Activations at one time per number of the images: a layer's input, convolution and output, of 64
# channels at full resolution for the 3 of an image.
_ACTIVATIONS = 64
_MOST = 8  # networks vectorised together unless the config asks for more

# `(batches, what is done with them) -> batches`: for progress bars and signals.
Wrap = Callable[[Iterable, str], Iterable]


class Settings(NamedTuple):
    """How a stack is evaluated: `config.evaluation`, where `--help` explains the values."""

    num_points: int
    grid_steps: int
    num_bins: int
    batch_size: int
    recalibration_batch_size: int
    recalibration_examples: int  # 0 for all
    recalibration_augment: bool
    at_once: int  # networks vectorised together; 0 for what `networks_at_once` chooses
    num_samples: int  # networks drawn from a complex, and passes of Monte-Carlo dropout


def make_settings(config: ml_collections.ConfigDict, run: Run) -> Settings:
    """The settings of a config, which asks for no larger batches than there are images."""
    settings = Settings(*(config.evaluation[name] for name in Settings._fields))
    examples = min(settings.recalibration_examples or len(run.labels), len(run.labels))
    if settings.recalibration_batch_size > examples:
        raise UserError(
            f"config.evaluation.recalibration_batch_size is {settings.recalibration_batch_size} but "
            f"there are {examples} images to recalibrate on; use 1 to that."
        )
    return settings


class Networks(NamedTuple):
    """Networks that can predict: leaves `[P, ...]` of the weights and of their own statistics."""

    params: ss.tree.PyTree
    stats: ss.tree.PyTree

    def take(self, members: Iterable[int]) -> "Networks":
        """Some of them."""
        return _taken(self, np.asarray(tuple(members)))


@jax.jit
def _taken(tree: ss.tree.PyTree, index: np.ndarray) -> ss.tree.PyTree:
    return jax.tree.map(lambda x: x[index], tree)


def no_wrap(batches: Iterable, what: str) -> Iterable:
    """Batches as they are."""
    del what
    return batches


def recalibrated(
    run: Run, params: ss.tree.PyTree, settings: Settings, wrap: Wrap = no_wrap
) -> tuple[Networks, ss.recalibration.Recalibration]:
    """Networks `[P, ...]` with the statistics of the training images, each its own."""
    model, augment = run.program.model.whole, settings.recalibration_augment
    size = settings.recalibration_batch_size
    at_once = networks_at_once(settings, params, size * math.prod(run.images.shape[1:]))
    recalibration = ss.recalibrate(
        moments_fn(model, augment, at_once),
        params,
        wrap(recalibration_batches(run, settings), "recalibrate"),
        num_examples=lambda batch: len(batch[1]),
        check=False,
    )
    recalibration = recalibration._replace(stats=hosts.local(recalibration.stats))
    return Networks(params, recalibration.stats), recalibration


def networks_at_once(settings: Settings, params: ss.tree.PyTree, numbers: int) -> int:
    """How many of networks `[P, ...]` see a batch of so many numbers vectorised together."""
    if settings.at_once:
        return settings.at_once
    device = jax.local_devices()[0]
    if device.platform == "cpu":  # whose grouped convolutions are slow
        return 1
    return fitting((device.memory_stats() or {}).get("bytes_limit", 0), params, numbers)


def fitting(memory: int, params: ss.tree.PyTree, numbers: int) -> int:
    """How many networks `[P, ...]` fit into a quarter of a memory of bytes, at most `_MOST`."""
    leaves = jax.tree.leaves(params)
    weights = sum(x.nbytes for x in leaves) // len(leaves[0])
    each = 2 * weights + 4 * _ACTIVATIONS * numbers
    return max(1, min(len(leaves[0]), _MOST, memory // 4 // each))


def predict(
    model: Model,
    networks: Networks,
    images: np.ndarray,
    settings: Settings,
    wrap: Wrap = no_wrap,
    what: str = "images",
) -> jax.Array:
    """Logits `[P, N, K]` of networks `[P, ...]` for uint8 images `[N, H, W, C]`, called `what`."""
    shards = placement.num_shards(model.mesh)
    size = -(-settings.batch_size // shards) * shards
    batches = wrap(padded_batches(images, size, shards), f"predict {what}")
    at_once = networks_at_once(settings, networks.params, size * math.prod(images.shape[1:]))
    fn = logits_fn(model.whole, at_once)
    return hosts.local(ss.predict(fn, networks, batches)[:, : len(images)])


def predict_networks(
    run: Run,
    params: ss.tree.PyTree,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = no_wrap,
) -> tuple[dict[str, jax.Array], Networks, ss.recalibration.Recalibration]:
    """Logits `[P, N, K]`, by the name of the split, of networks that the run's images recalibrate."""
    networks, recalibration = recalibrated(run, params, settings, wrap)
    model = run.program.model
    logits = {
        name: predict(model, networks, split.images, settings, wrap, f"{name} images")
        for name, split in splits.items()
    }
    return logits, networks, recalibration


@jax.jit
def mixtures(stack: ss.tree.PyTree, weights: jax.Array) -> ss.tree.PyTree:
    """Networks `[P, ...]` out of a stack `[n, ...]` by mixing weights `[P, n]`."""
    return jax.vmap(ss.mix, in_axes=(0, None))(weights, stack)


# Below, equal calls return the same function, so that nothing is compiled again.


@functools.cache
def moments_fn(model: Model, augment: bool, at_once: int = 0) -> Callable:
    """`(params, (key, images)) -> moments` of a batch in training mode, of one network.

    With `at_once` it is of networks `[P, ...]`, for which a batch is augmented and normalised once.
    """
    augmentation = AUGMENTATIONS[model.augmentation if augment else "none"]
    moments = lambda params, images: logits_and_moments(model, params, images)[1]
    moments = _of_all(moments, at_once)
    return lambda params, batch: moments(params, normalized(model, augmentation(*batch)))


@functools.cache
def logits_fn(model: Model, at_once: int = 0) -> Callable:
    """`((params, stats), images) -> logits [B, K]` of a network; a key and a rate drop units.

    With `at_once` it is of networks `[P, ...]`, for which a batch is normalised once.
    """

    def logits(network, images, dropout=None):
        (params, stats), (key, rate) = network, dropout or (None, 0.0)
        return model.network.clone(dropout=rate).apply(
            {"params": params, "batch_stats": stats},
            images,
            train=False,
            dropout=dropout is not None,
            rngs={} if dropout is None else {"dropout": key},
        )

    logits = _of_all(logits, at_once)
    return lambda network, images, *dropout: logits(network, normalized(model, images), *dropout)


def _of_all(function: Callable, at_once: int) -> Callable:
    return ss.for_each(function, at_once=at_once if at_once > 1 else None) if at_once else function


@functools.cache
def dropout_logits_fn(model: Model) -> Callable:
    """`((network, keys [S], rate), images) -> logits [S, B, K]`, units dropped anew with every key."""

    def logits(given, images):
        network, keys, rate = given
        return jax.lax.map(lambda key: logits_fn(model)(network, images, (key, rate)), keys)

    return logits


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches whose number is known, made anew by every iteration."""

    size: int
    make: Callable[[], Iterator]

    def __len__(self):
        return self.size

    def __iter__(self):
        return self.make()


def recalibration_batches(run: Run, settings: Settings) -> Batches:
    """Full batches `(key, images)` of the training split in a fixed random order."""
    key = jax.random.fold_in(jax.random.key(run.seed), _RECALIBRATION)
    size = settings.recalibration_batch_size
    order = np.asarray(jax.random.permutation(key, len(run.labels)))
    order = order[: settings.recalibration_examples or None]
    order = order[: len(order) // size * size].reshape(-1, size)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(order))

    def images():
        if run.loader is None:
            return (_taken(run.images, places) for places in order)
        crop = run.crops and settings.recalibration_augment
        return feed.recalibration_images(run, order, crop)

    return Batches(len(order), lambda: zip(keys, images(), strict=True))


def padded_batches(images: np.ndarray, batch_size: int, multiple: int = 1) -> Batches:
    """Batches of one size, a multiple; the last filled up with copies of its last image."""
    # Fewer images than a batch fill one of the next power of two, so that splits share programs.
    size = min(batch_size, -(-(1 << (len(images) - 1).bit_length()) // multiple) * multiple)
    places = np.arange(-(-len(images) // size) * size).clip(max=len(images) - 1).reshape(-1, size)
    return Batches(len(places), lambda: (jnp.asarray(images[at]) for at in places))
