"""A method of training as a hashable value, which is compiled, and the numbers it is called with."""

import dataclasses
import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

import subspace_jax as ss
from experiments.training.schedules import SCHEDULES, Length, Plan
from subspace_jax.contrib import complexes, sharpness, swag

# kind -> its subspace, given config.subspace and n
KINDS = {
    "standard": lambda sub, n: ss.simplex(n),
    "standard_matched": lambda sub, n: ss.simplex(1),
    "line": lambda sub, n: ss.line(),
    "layerwise_line": lambda sub, n: ss.layerwise(ss.line()),
    "curve": lambda sub, n: ss.bezier(n - 1),
    "simplex": lambda sub, n: ss.simplex(n),
    "layerwise_simplex": lambda sub, n: ss.layerwise(ss.simplex(n)),
    "complex": lambda sub, n: complexes.simplicial_complex(_simplexes(sub)),
    # Networks that were trained one by one: nothing is trained.
    "independent": lambda sub, n: ss.simplex(n),
}
# Of a run's seed, after the streams of training, evaluation and landscapes.
_SWAG_STREAM = 6
# average -> what the networks to evaluate are
_AVERAGED = {
    "none": "",
    "ema": "exponential moving averages of the networks over training",
    "swa": "means of the networks visited in training (SWA)",
    "swag": "the mean of the networks visited in training and draws from the Gaussian around it (SWAG)",
    "snapshots": "the networks visited in training, whose mean is the midpoint (a uniform soup)",
}
# Of SWAG: deviations that are kept, and networks that are drawn.
SWAG_RANK, SWAG_DRAWS = 10, 5


class Hyperparameters(NamedTuple):
    """Scalars that a compiled step takes as arguments, float32."""

    learning_rate: jax.Array
    weight_decay: jax.Array
    momentum: jax.Array
    penalty: jax.Array
    volume: jax.Array
    label_smoothing: jax.Array
    ema_decay: jax.Array
    rho: jax.Array
    dropout: jax.Array


class Answer(NamedTuple):
    """What a trained method leaves to evaluate, whatever its weights are."""

    said: str  # what its networks span
    networks: str  # what they are if they are not the trained endpoints themselves
    subspace: ss.Subspace | None  # `None` if the stack is a mean and draws around it
    num_networks: int  # of the stack that `Method.trained` returns
    drawn: bool  # whether it predicts with networks that are drawn
    chooses: Literal["point", "soup", "nothing"]  # on validation data
    simplexes: tuple[tuple[int, ...], ...]  # the sets of networks whose mixtures were trained


@dataclasses.dataclass(frozen=True)
class Method:
    """The part of a method that decides which program is compiled."""

    subspace: ss.Subspace  # where networks are sampled; `simplex(1)` for ordinary training
    has_penalty: bool  # whether a random pair of endpoints a step is kept from being one network
    num_samples: int  # points per batch
    schedule: str  # a name in `SCHEDULES`
    num_models: int  # networks that an average visits
    average: str  # evaluated in place of the trained endpoints
    num_draws: int  # networks drawn from SWAG's Gaussian
    gradient: Literal["plain", "sam", "asam"]
    frozen: tuple[int, ...]  # endpoints that are given and never move
    simplexes: tuple[tuple[int, ...], ...]  # of a complex, whose center may lie outside
    rewards_volume: bool  # of the simplexes
    trains: bool  # whether anything is trained at all

    @property
    def gradients_per_step(self) -> int:
        """Passes forward and backward over a batch that one step takes."""
        return 1 if self.gradient == "plain" else 2

    def plan(self, length: Length) -> Plan:
        """When the learning rate falls, and what averages take."""
        return SCHEDULES[self.schedule](length, self.num_models)

    def optimizer(self, hyper: Hyperparameters, length: Length) -> optax.GradientTransformation:
        """SGD with momentum; decay is added to the gradient, of every parameter of every endpoint."""
        factor, *visits = self.plan(length)
        rate = lambda step: hyper.learning_rate * factor(step)
        optimizer = optax.chain(
            optax.add_decayed_weights(hyper.weight_decay),
            optax.sgd(rate, momentum=hyper.momentum),
        )
        if self.gradient != "plain":
            optimizer = sharpness.sam(optimizer, hyper.rho, adaptive=self.gradient == "asam")
        links = [optimizer]
        if self.frozen:
            links.append(ss.freeze(self.frozen))
        averages = {
            "none": lambda: (),
            "ema": lambda: (ss.averaging.ema(hyper.ema_decay),),
            "swa": lambda: (ss.averaging.swa(*visits),),
            "swag": lambda: (swag.swag(*visits, SWAG_RANK),),
            "snapshots": lambda: (ss.averaging.snapshots(*visits, self.num_models),),
        }
        return optax.chain(*links, *averages[self.average]())

    def penalty(self, hyper: Hyperparameters):
        """`(endpoints, key) -> scalar`, or None."""
        if not self.has_penalty and not self.rewards_volume:
            return None

        def penalty(endpoints, key):
            cost = jnp.zeros(())
            if self.has_penalty:
                cost += hyper.penalty * ss.cosine_penalty(endpoints, key)
            if self.rewards_volume:  # of the whole complex
                logs = [
                    complexes.log_volume(endpoints, vertices=simplex) for simplex in self.simplexes
                ]
                cost -= hyper.volume * jax.nn.logsumexp(jnp.stack(logs))
            return cost

        return penalty

    @property
    def answer(self) -> Answer:
        """What there is to evaluate after training."""
        n, subspace, networks = self.subspace.num_endpoints, self.subspace, _AVERAGED[self.average]
        if self.average == "swag":
            return Answer("Gaussian", networks, None, 1 + self.num_draws, True, "nothing", ())
        if self.average == "snapshots":
            n, subspace = self.num_models, ss.simplex(self.num_models)
        if self.simplexes:
            return Answer("complex", networks, subspace, n, True, "nothing", self.simplexes)
        if self.average == "snapshots" or not self.trains:
            said = f"set of {n} networks"
        elif subspace.center.ndim == 0:
            said = "line" if n == 2 else "curve"
        else:
            said = "network" if n == 1 else f"simplex of {n} networks"
        chooses = "soup" if self.average == "snapshots" else "point"
        return Answer(said, networks, subspace, n, False, chooses, (tuple(range(n)),))

    def trained(self, state: ss.TrainState, key: jax.Array | None = None) -> ss.tree.PyTree:
        """The stack to evaluate: endpoints, their average, or networks on the way; SWAG's need a key."""
        if self.average == "snapshots":
            return jax.tree.map(lambda x: x[:, 0], ss.averaging.snapshots_of(state.opt_state))
        average = ss.averaging.average_of(state.opt_state, default=state.endpoints)
        if self.average != "swag":
            return average
        key = jax.random.fold_in(jax.random.key(0) if key is None else key, _SWAG_STREAM)
        draw = jax.jit(swag.swag_sample)
        drawn = [draw(state.opt_state, k) for k in jax.random.split(key, self.num_draws)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), average, *drawn)

    @functools.partial(jax.jit, static_argnums=0)
    def middle(self, state: ss.TrainState) -> ss.tree.PyTree:
        """The network `[1, ...]` that early stopping looks at: averages of several have no midpoint."""
        several = self.average in ("swag", "snapshots")
        middle = self.subspace.midpoint(state.endpoints if several else self.trained(state))
        return jax.tree.map(lambda x: x[None], middle)


def num_averaged_inits(config: ml_collections.ConfigDict) -> int:
    """How many initialisations each endpoint starts from the mean of: m for `standard_matched`."""
    return config.subspace.num_endpoints if config.kind == "standard_matched" else 1


def make_method(config: ml_collections.ConfigDict) -> tuple[Method, Hyperparameters]:
    """The method that a config describes.

    The midpoint of m endpoints under SGD moves with 1/m of the gradient and the whole decay: as one
    network, `standard_matched`, of rate `lr / m` and decay `m * wd` from the mean of m initialisations.
    """
    kind, sub, opt = config.kind, config.subspace, config.optimizer
    average, nearby = config.average, config.sharpness
    matched = num_averaged_inits(config)
    simplexes = _simplexes(sub) if kind == "complex" else ()
    method = Method(
        subspace=KINDS[kind](sub, sub.num_endpoints),
        has_penalty=sub.penalty > 0,
        num_samples=sub.num_samples,
        schedule=config.schedule.name,
        num_models=config.schedule.num_models,
        average=average.name,
        num_draws=SWAG_DRAWS if average.name == "swag" else 0,
        gradient=("asam" if nearby.adaptive else "sam") if nearby.rho > 0 else "plain",
        frozen=tuple(sub.given),
        simplexes=simplexes,
        rewards_volume=sub.volume > 0 and len(simplexes) > 0,
        trains=kind != "independent",
    )
    values = {
        "learning_rate": opt.learning_rate * (sub.num_endpoints if sub.lr_times_m else 1) / matched,
        "weight_decay": opt.weight_decay * matched,
        "momentum": opt.momentum,
        "penalty": sub.penalty,
        "volume": sub.volume,
        "label_smoothing": config.label_smoothing,
        "ema_decay": average.decay,
        "rho": nearby.rho,
        "dropout": config.model.get("dropout", 0.0),
    }
    return method, Hyperparameters(**{name: jnp.float32(x) for name, x in values.items()})


def _simplexes(sub) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(simplex) for simplex in sub.simplexes)
