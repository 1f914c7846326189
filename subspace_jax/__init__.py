"""Learning neural network subspaces: lines, curves and simplexes of networks in JAX.

    line = subspace_jax.line()
    endpoints = line.init(key, init_fn)                 # every leaf gains an axis of size 2
    params = line.sample(key, endpoints)                # the one new line of a training loop
    loss = loss_fn(params) + subspace_jax.cosine_penalty(endpoints)
    deployed = line.midpoint(endpoints)                 # an ordinary network

Everything works on any pytree of arrays. Start with `subspaces.py`, then `tree.py`.
"""

__version__ = "0.1.0"

from subspace_jax import (
    alignment,
    averaging,
    calibration,
    corruptions,
    detection,
    landscape,
    lora,
    metrics,
    schedules,
    sharding,
    sharpness,
)
from subspace_jax.diversity import (
    cosine_penalty,
    distances,
    is_kernel,
    log_volume,
    squared_cosines,
)
from subspace_jax.partition import combine, is_floating, split, summary
from subspace_jax.prediction import ensemble, predict
from subspace_jax.recalibration import Recalibration, for_each, recalibrate
from subspace_jax.subspaces import (
    Subspace,
    bezier,
    layerwise,
    line,
    parent,
    simplex,
    simplicial_complex,
)
from subspace_jax.training import TrainState, freeze, make_train_step
from subspace_jax.tree import gram, mix, stack

__all__ = [
    "Recalibration",
    "Subspace",
    "TrainState",
    "alignment",
    "averaging",
    "bezier",
    "calibration",
    "combine",
    "corruptions",
    "cosine_penalty",
    "detection",
    "distances",
    "ensemble",
    "for_each",
    "freeze",
    "gram",
    "is_floating",
    "is_kernel",
    "landscape",
    "layerwise",
    "line",
    "log_volume",
    "lora",
    "make_train_step",
    "metrics",
    "mix",
    "parent",
    "predict",
    "recalibrate",
    "schedules",
    "sharding",
    "sharpness",
    "simplex",
    "simplicial_complex",
    "split",
    "squared_cosines",
    "stack",
    "summary",
]
