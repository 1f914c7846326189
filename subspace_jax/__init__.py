"""Learning neural network subspaces: lines, curves and simplexes of networks in JAX.

    line = ss.line()                                    # or bezier(2), simplex(3); layerwise(line)
    endpoints = line.init(key, init_fn)                 # every leaf gains an axis of size 2
    params = line.sample(key, endpoints)                # the one new line of a training loop
    loss = loss_fn(params) + ss.cosine_penalty(endpoints)
    deployed = line.midpoint(endpoints)                 # an ordinary network

With ten names one trains and tests a subspace: `Subspace` and what makes one (`line`, `bezier`,
`simplex`, `layerwise`), `cosine_penalty`, `make_train_step`, `recalibrate`, `ensemble` and `metrics`.

The others are for when they are needed: operations on stacks (`stack`, `mix`, `gram`, `distances`,
`squared_cosines`), leaves that are shared (`split`, `combine`, `summary`), steps (`TrainState`,
`freeze`), optimizers that look at the rank of a leaf (`per_endpoint`, `decay_mask`), many networks
(`for_each`, `predict`), and the modules `averaging`, `calibration`, `corruptions`, `detection`,
`landscape` and `sharding`. `contrib`, `plotting`, which needs matplotlib, and `nnx`, `linen` and
`equinox`, by which models of these libraries become subspaces, are imported when they are used.

Everything works on any pytree of arrays. Start with `subspaces.py`, then `tree.py`.
"""

import importlib
from typing import Any

from subspace_jax import (
    averaging,
    calibration,
    corruptions,
    detection,
    landscape,
    metrics,
    sharding,
)
from subspace_jax.diversity import cosine_penalty, distances, squared_cosines
from subspace_jax.partition import combine, split, summary
from subspace_jax.prediction import ensemble, predict
from subspace_jax.recalibration import for_each, recalibrate
from subspace_jax.subspaces import Subspace, bezier, layerwise, line, simplex
from subspace_jax.training import TrainState, decay_mask, freeze, make_train_step, per_endpoint
from subspace_jax.tree import gram, mix, stack

__version__ = "0.2.0"

__all__ = [
    "Subspace",
    "line",
    "bezier",
    "simplex",
    "layerwise",
    "cosine_penalty",
    "make_train_step",
    "recalibrate",
    "ensemble",
    "metrics",
    # and when they are needed
    "TrainState",
    "averaging",
    "calibration",
    "combine",
    "corruptions",
    "decay_mask",
    "detection",
    "distances",
    "for_each",
    "freeze",
    "gram",
    "landscape",
    "mix",
    "per_endpoint",
    "predict",
    "sharding",
    "split",
    "squared_cosines",
    "stack",
    "summary",
]

_ON_USE = ("contrib", "equinox", "linen", "nnx", "plotting")


def __getattr__(name: str) -> Any:
    if name in _ON_USE:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
