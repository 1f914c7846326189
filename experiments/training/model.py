"""A network with what happens to its images, and its logits."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import subspace_jax as ss
from experiments.data.augment import normalize
from experiments.data.decode import Pictures, is_lazy
from experiments.training import placement


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and what happens to its images; hashable, the static argument of evaluation."""

    network: nn.Module  # of a rate of dropout of 0 or 1: the true one is a hyperparameter
    normalization: str  # and augmentation: names in `experiments.data.augment`
    augmentation: str
    mesh: jax.sharding.Mesh | None = None  # of the devices that share a batch

    @property
    def drops(self) -> bool:
        """Whether units are dropped in training."""
        return self.network.dropout > 0

    @property
    def whole(self) -> "Model":
        """The same without dropout, which all share where no unit is dropped."""
        return dataclasses.replace(self, network=self.network.clone(dropout=0.0))


def first(images: jax.Array | Pictures) -> jax.Array | np.ndarray:
    """One image, of which the shape alone matters: of a stream nothing is decoded."""
    return np.zeros((1, *images.shape[1:]), np.uint8) if is_lazy(images) else images[:1]


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def init_params(model: Model, key, images) -> ss.tree.PyTree:
    return model.network.init(key, normalize(images, model.normalization), train=False)["params"]


def initial_stats(model: Model, images: jax.Array) -> ss.tree.PyTree:
    """The shapes of a network's batch-norm statistics, filled with zeros (`{}` without batch norm)."""
    image = normalize(images[:1], model.normalization)
    init = functools.partial(model.network.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), image)
    return jax.tree.map(jnp.zeros_like, dict(variables.get("batch_stats", {})))


def normalized(model: Model, images: jax.Array) -> jax.Array:
    """uint8 images as the network takes them, split over the devices that share a batch."""
    return normalize(placement.spread(model.mesh, images), model.normalization)


Dropout = tuple[jax.Array, ArrayLike] | None  # a key and a rate
Moments = tuple[jax.Array, dict]  # logits, and the moments of the batch


def training_logits(model: Model, params, images: jax.Array, dropout: Dropout = None) -> Moments:
    """Logits in training mode, and the batch's moments; units are dropped with a key and a rate."""
    return logits_and_moments(model, params, normalized(model, images), dropout)


def logits_and_moments(model: Model, params, images: jax.Array, dropout: Dropout = None) -> Moments:
    """The same of normalised images."""
    key, rate = dropout or (None, 0.0)
    logits, updated = model.network.clone(dropout=rate).apply(
        {"params": params, "batch_stats": initial_stats(model, images)},
        images,
        train=True,
        dropout=dropout is not None,
        mutable="batch_stats",
        rngs={} if dropout is None else {"dropout": key},
    )
    return logits, dict(updated.get("batch_stats", {}))
