"""A method of training as a value: what is compiled, and the numbers that it is called with.

`Method` is hashable and decides the program; `Hyperparameters` are arrays, so that a sweep over
them, over seeds or over label noise is one compilation.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

import subspace_jax as ss
from experiments.errors import UserError

# kind -> (its subspace, given the number of endpoints; the number by default)
KINDS = {
    "standard": (ss.simplex, 1),
    "standard_matched": (lambda n: ss.simplex(1), 2),
    "line": (lambda n: ss.line(), 2),
    "layerwise_line": (lambda n: ss.layerwise(ss.line()), 2),
    "curve": (lambda n: ss.bezier(n - 1), 3),
    "simplex": (ss.simplex, 3),
    "layerwise_simplex": (lambda n: ss.layerwise(ss.simplex(n)), 3),
}
# Kinds whose number of endpoints is not free, and the number.
FIXED = {"standard": 1, "line": 2, "layerwise_line": 2}


class Hyperparameters(NamedTuple):
    """Scalars that a compiled step takes as arguments, float32."""

    learning_rate: jax.Array
    weight_decay: jax.Array
    momentum: jax.Array
    penalty: jax.Array
    label_smoothing: jax.Array
    ema_decay: jax.Array


@dataclasses.dataclass(frozen=True)
class Method:
    """The part of a method that decides which program is compiled.

    Attributes:
      subspace: where networks are sampled; `simplex(1)` for ordinary training.
      penalty_pairs: "none", "random" (one pair of endpoints a step) or "all".
      num_samples: points per batch.
      has_ema: whether an average of the endpoints is kept, and evaluated in their place.
    """

    subspace: ss.Subspace
    penalty_pairs: str
    num_samples: int
    has_ema: bool

    def optimizer(self, hyper: Hyperparameters, schedule: optax.Schedule):
        """SGD with momentum; decay is added to the gradient, of every parameter of every endpoint."""
        links = [
            optax.add_decayed_weights(hyper.weight_decay),
            optax.sgd(lambda step: hyper.learning_rate * schedule(step), momentum=hyper.momentum),
        ]
        if self.has_ema:
            links.append(ss.averaging.ema(hyper.ema_decay))
        return optax.chain(*links)

    def penalty(self, hyper: Hyperparameters):
        """`(endpoints, key) -> scalar`, or None."""
        if self.penalty_pairs == "none":
            return None

        def penalty(endpoints, key):
            pair_key = key if self.penalty_pairs == "random" else None
            return hyper.penalty * ss.cosine_penalty(endpoints, pair_key)

        return penalty

    def trained(self, state: ss.TrainState) -> ss.tree.PyTree:
        """The endpoints to evaluate: the trained ones, or their average."""
        return ss.averaging.average_of(state.opt_state, default=state.endpoints)


def default_num_endpoints(kind: str) -> int:
    """How many endpoints a kind has unless the config says otherwise."""
    if kind not in KINDS:
        raise UserError(f"Unknown kind {kind!r}; choose one of {', '.join(KINDS)}.")
    return KINDS[kind][1]


def num_averaged_inits(config: ml_collections.ConfigDict) -> int:
    """How many initialisations each endpoint starts from the mean of: m for `standard_matched`."""
    return config.subspace.num_endpoints if config.kind == "standard_matched" else 1


def make_method(config: ml_collections.ConfigDict) -> tuple[Method, Hyperparameters]:
    """The method that a config describes.

    `standard_matched` is ordinary training in which the subspace is the only thing left out: the
    midpoint of m endpoints under SGD moves with 1/m of the gradient and the whole decay, so that one
    network with learning rate `lr / m`, weight decay `m * wd` and the mean of m initialisations as
    its start follows it but for the point at which the gradient is taken (and the penalty).

    Raises:
      UserError: an unknown kind, or a number of endpoints, samples or a penalty that it can't have.
    """
    kind, sub, opt = config.kind, config.subspace, config.optimizer
    n = sub.num_endpoints
    default_num_endpoints(kind)
    if n < 1:
        raise UserError(f"config.subspace.num_endpoints is {n}; use at least 1.")
    if kind in FIXED and n != FIXED[kind]:
        raise UserError(
            f"config.subspace.num_endpoints is {n} but {kind} has {FIXED[kind]}; "
            "leave it out, or use the kind simplex or curve."
        )
    if kind == "curve" and n < 3:
        raise UserError(
            f"config.subspace.num_endpoints is {n} but a curve has at least 3; use the kind line."
        )
    if config.subspace.num_samples < 1 or config.batch_size % sub.num_samples:
        raise UserError(
            f"config.subspace.num_samples is {sub.num_samples}, which does not divide "
            f"config.batch_size of {config.batch_size}; choose a divisor."
        )
    if sub.penalty_pairs not in ("random", "all"):
        raise UserError(
            f"config.subspace.penalty_pairs is {sub.penalty_pairs!r}; use 'random' or 'all'."
        )
    if kind == "standard_matched" and n < 2:
        raise UserError(
            f"config.subspace.num_endpoints is {n} but standard_matched is matched to the midpoint of "
            "at least 2 endpoints."
        )
    ranges = {
        "optimizer.learning_rate": (opt.learning_rate, 0 < opt.learning_rate < math.inf, "above 0"),
        "optimizer.weight_decay": (
            opt.weight_decay,
            0 <= opt.weight_decay < math.inf,
            "of 0 or more",
        ),
        "optimizer.momentum": (opt.momentum, 0 <= opt.momentum < 1, "in [0, 1)"),
        "subspace.penalty": (sub.penalty, 0 <= sub.penalty < math.inf, "of 0 or more"),
        "ema_decay": (config.ema_decay, 0 <= config.ema_decay < 1, "in [0, 1), 0 for none"),
        "label_smoothing": (config.label_smoothing, 0 <= config.label_smoothing < 1, "in [0, 1)"),
    }
    for name, (value, fits, wanted) in ranges.items():
        if not fits:
            raise UserError(f"config.{name} is {value}; use a value {wanted}.")
    subspace = KINDS[kind][0](n)
    if sub.penalty > 0 and subspace.num_endpoints == 1:
        raise UserError(
            f"config.subspace.penalty is {sub.penalty} but {kind} has 1 endpoint and so no pair; "
            "set the penalty to 0 or use at least 2 endpoints."
        )
    matched = num_averaged_inits(config)
    method = Method(
        subspace=subspace,
        penalty_pairs=sub.penalty_pairs if sub.penalty > 0 else "none",
        num_samples=sub.num_samples,
        has_ema=config.ema_decay > 0,
    )
    hyper = Hyperparameters(
        learning_rate=jnp.float32(opt.learning_rate / matched),
        weight_decay=jnp.float32(opt.weight_decay * matched),
        momentum=jnp.float32(opt.momentum),
        penalty=jnp.float32(sub.penalty),
        label_smoothing=jnp.float32(config.label_smoothing),
        ema_decay=jnp.float32(config.ema_decay),
    )
    return method, hyper
