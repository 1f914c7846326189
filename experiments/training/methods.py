"""A method of training as a value: what is compiled, and the numbers that it is called with.

`Method` is hashable and decides the program; `Hyperparameters` are arrays, so that a sweep over
them, over seeds or over label noise is one compilation.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import optax

import subspace_jax as ss
from experiments.training import schedules
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
# The learning rate of averaging, as a share of the largest one: 0.05 of 0.1 in the article.
LOW_FACTOR = 0.5


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


class Plan(NamedTuple):
    """The learning rate over a whole run, and the networks that averages take.

    Attributes:
      factor: `step -> share of the largest learning rate`.
      start_step, every: the networks are those after `start_step, start_step + every, ...` steps.
    """

    factor: optax.Schedule
    start_step: int
    every: int


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a run is: `num_epochs` epochs of `steps_per_epoch` steps after a warm-up of some."""

    num_epochs: int
    warmup_epochs: int
    steps_per_epoch: int

    @property
    def num_steps(self) -> int:
        return self.num_epochs * self.steps_per_epoch


def _cosine(length: Length, num_models: int, low: jax.Array) -> Plan:
    """The article's: linear warm-up, then a cosine, both constant within an epoch."""
    del num_models, low

    def factor(step):
        epoch = step // length.steps_per_epoch
        warmup, rest = length.warmup_epochs, length.num_epochs - length.warmup_epochs
        rising = (epoch + 1) / max(warmup, 1)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * ((epoch - warmup) / rest)))
        return jnp.where(epoch < warmup, rising, cosine)

    return Plan(factor, length.num_steps, 1)


def _swa_constant(length: Length, num_models: int, low: jax.Array) -> Plan:
    """Networks at equal distances in the last tenth of training, the last one among them."""
    factor = schedules.swa_constant_schedule(1.0, low, **dataclasses.asdict(length))
    every = max((length.num_steps // 10) // max(num_models - 1, 1), 1)
    return Plan(factor, length.num_steps - (num_models - 1) * every, every)


def _swa_cyclic(length: Length, num_models: int, low: jax.Array) -> Plan:
    factor = schedules.swa_cyclic_schedule(1.0, low, num_models, **dataclasses.asdict(length))
    start, every = schedules.swa_cycles(length.num_epochs, num_models)
    return Plan(factor, start * length.steps_per_epoch, every * length.steps_per_epoch)


def _snapshot(length: Length, num_models: int, low: jax.Array) -> Plan:
    del low
    factor = schedules.snapshot_schedule(1.0, num_models, **dataclasses.asdict(length))
    start, every = schedules.snapshot_cycles(length.num_epochs, num_models)
    return Plan(factor, start * length.steps_per_epoch, every * length.steps_per_epoch)


def _fge(length: Length, num_models: int, low: jax.Array) -> Plan:
    """Triangles between `low` and a hundredth of it."""
    factor = schedules.fge_schedule(1.0, low, low / 100, num_models, **dataclasses.asdict(length))
    start, every = schedules.fge_cycles(length.num_epochs, length.steps_per_epoch, num_models)
    return Plan(factor, start, every)


SCHEDULES: dict[str, Callable[[Length, int, jax.Array], Plan]] = {
    "cosine": _cosine,
    "swa_constant": _swa_constant,
    "swa_cyclic": _swa_cyclic,
    "snapshot": _snapshot,
    "fge": _fge,
}


class Answer(NamedTuple):
    """What a trained method leaves to evaluate, whatever its weights are.

    Attributes:
      said: what its networks span.
      networks: what they are if they are not the trained endpoints themselves.
      subspace: whose points are evaluated; `None` if the stack is a mean and draws around it.
      num_networks: of the stack that `Method.trained` returns.
      drawn: whether it predicts with networks that are drawn.
      chooses: what validation data choose: a "point", of a subspace trained as a whole, or a "soup".
      simplexes: the sets of networks whose mixtures were trained.
    """

    said: str
    networks: str
    subspace: ss.Subspace | None
    num_networks: int
    drawn: bool
    chooses: Literal["point", "soup", "nothing"]
    simplexes: tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Method:
    """The part of a method that decides which program is compiled.

    Attributes:
      subspace: where networks are sampled; `simplex(1)` for ordinary training.
      has_penalty: whether a random pair of endpoints a step is kept from being one network.
      num_samples: points per batch.
      schedule: a name in `SCHEDULES`.
      num_models: networks that an average visits.
      average: of `config.average`, evaluated in place of the trained endpoints.
      num_draws: networks drawn from SWAG's Gaussian.
      gradient: "plain", "sam" or "asam".
      frozen: endpoints that are given and never move.
      simplexes: of a complex, and whose volume may be rewarded.
      rewards_volume: whether it is.
      is_complex: whether the subspace is a complex of simplexes, whose center may lie outside.
      trains: whether anything is trained at all.
    """

    subspace: ss.Subspace
    has_penalty: bool
    num_samples: int
    schedule: str
    num_models: int
    average: str
    num_draws: int
    gradient: str
    frozen: tuple[int, ...]
    simplexes: tuple[tuple[int, ...], ...]
    rewards_volume: bool
    is_complex: bool
    trains: bool

    @property
    def gradients_per_step(self) -> int:
        """Passes forward and backward over a batch that one step takes."""
        return 1 if self.gradient == "plain" else 2

    def plan(self, length: Length) -> Plan:
        """When the learning rate falls, and what averages take."""
        return SCHEDULES[self.schedule](length, self.num_models, jnp.float32(LOW_FACTOR))

    def optimizer(self, hyper: Hyperparameters, length: Length) -> optax.GradientTransformation:
        """SGD with momentum; decay is added to the gradient, of every parameter of every endpoint."""
        plan = self.plan(length)
        optimizer = optax.chain(
            optax.add_decayed_weights(hyper.weight_decay),
            optax.sgd(
                lambda step: hyper.learning_rate * plan.factor(step), momentum=hyper.momentum
            ),
        )
        if self.gradient != "plain":
            optimizer = sharpness.sam(optimizer, hyper.rho, adaptive=self.gradient == "asam")
        links = [optimizer]
        if self.frozen:
            links.append(ss.freeze(self.frozen))
        visits = (plan.start_step, plan.every)
        averages = {
            "ema": lambda: ss.averaging.ema(hyper.ema_decay),
            "swa": lambda: ss.averaging.swa(*visits),
            "swag": lambda: swag.swag(*visits, SWAG_RANK),
            "snapshots": lambda: ss.averaging.snapshots(*visits, self.num_models),
        }
        if self.average != "none":
            links.append(averages[self.average]())
        return optax.chain(*links)

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
        if self.is_complex:
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
        """The stack to evaluate: the trained endpoints, their average, or networks along the way.

        The key is the run's; it draws SWAG's networks, which follow its mean.
        """
        if self.average == "snapshots":
            return jax.tree.map(lambda x: x[:, 0], ss.averaging.snapshots_of(state.opt_state))
        average = ss.averaging.average_of(state.opt_state, default=state.endpoints)
        if self.average != "swag":
            return average
        key = jax.random.fold_in(jax.random.key(0) if key is None else key, _SWAG_STREAM)
        draw = jax.jit(swag.swag_sample)
        drawn = [draw(state.opt_state, k) for k in jax.random.split(key, self.num_draws)]
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), average, *drawn)

    def middle(self, state: ss.TrainState) -> ss.tree.PyTree:
        """The network that early stopping looks at: averages of several have no midpoint."""
        several = self.average in ("swag", "snapshots")
        return self.subspace.midpoint(state.endpoints if several else self.trained(state))


def num_averaged_inits(config: ml_collections.ConfigDict) -> int:
    """How many initialisations each endpoint starts from the mean of: m for `standard_matched`."""
    return config.subspace.num_endpoints if config.kind == "standard_matched" else 1


def make_method(config: ml_collections.ConfigDict) -> tuple[Method, Hyperparameters]:
    """The method that a config describes.

    `standard_matched` is ordinary training in which the subspace is the only thing left out: the
    midpoint of m endpoints under SGD moves with 1/m of the gradient and the whole decay, so that one
    network with learning rate `lr / m`, weight decay `m * wd` and the mean of m initialisations as
    its start follows it but for the point at which the gradient is taken (and the penalty).
    """
    kind, sub, opt = config.kind, config.subspace, config.optimizer
    subspace = KINDS[kind](sub, sub.num_endpoints)
    average, nearby = config.average, config.sharpness
    matched = num_averaged_inits(config)
    method = Method(
        subspace=subspace,
        has_penalty=sub.penalty > 0,
        num_samples=sub.num_samples,
        schedule=config.schedule.name,
        num_models=config.schedule.num_models,
        average=average.name,
        num_draws=SWAG_DRAWS if average.name == "swag" else 0,
        gradient=("asam" if nearby.adaptive else "sam") if nearby.rho > 0 else "plain",
        frozen=tuple(sub.given),
        simplexes=_simplexes(sub),
        rewards_volume=sub.volume > 0 and len(sub.simplexes) > 0,
        is_complex=kind == "complex",
        trains=kind != "independent",
    )
    hyper = Hyperparameters(
        learning_rate=jnp.float32(opt.learning_rate / matched),
        weight_decay=jnp.float32(opt.weight_decay * matched),
        momentum=jnp.float32(opt.momentum),
        penalty=jnp.float32(sub.penalty),
        volume=jnp.float32(sub.volume),
        label_smoothing=jnp.float32(config.label_smoothing),
        ema_decay=jnp.float32(average.decay),
        rho=jnp.float32(nearby.rho),
    )
    return method, hyper


def _simplexes(sub) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(simplex) for simplex in sub.simplexes)
