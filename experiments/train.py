"""Training: compiled calls of several steps, and a loop that never waits for the device.

Every random number is a function of (seed, step): the endpoints' start, the order of the examples,
augmentation, and the sampled points. A state at step s and the config determine the rest of a run.
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import PartitionSpec

import subspace_jax as ss
from experiments import hosts, models, placement, starting, stream, weights
from experiments.data import Dataset
from experiments.errors import UserError
from experiments.images import AUGMENTATIONS, NORMALIZATIONS, RANDOM_RESIZED_CROP, normalize
from experiments.loader import Loader, Options
from experiments.methods import Hyperparameters, Length, Method, make_method, num_averaged_inits
from experiments.pictures import Pictures, is_lazy

# A call of several steps lasts seconds at the most, so that signals are answered promptly.
_ACCELERATOR_STEPS_PER_CALL = 500

# The streams of randomness that a run's seed is split into; predict, layout, scenes and methods
# have more.
_INIT, _ORDER, _STEPS = range(3)


@dataclasses.dataclass(frozen=True)
class Model:
    """A network and what happens to its images; hashable, the static argument of evaluation.

    Attributes:
      network: a Linen module of `experiments.networks`.
      normalization, augmentation: names in `experiments.images`.
      mesh: of the devices that share a batch; `None` for one device.
    """

    network: nn.Module
    normalization: str
    augmentation: str
    mesh: jax.sharding.Mesh | None = None


@dataclasses.dataclass(frozen=True)
class Program:
    """All that decides what is compiled; hashable, a static argument.

    Attributes:
      model: what is trained.
      method: how it is trained.
      length: how long, which decides the schedule of the learning rate.
    """

    model: Model
    method: Method
    length: Length

    @property
    def num_steps(self) -> int:
        return self.length.num_steps

    @property
    def steps_per_epoch(self) -> int:
        return self.length.steps_per_epoch


class Run(NamedTuple):
    """One training run: a program and what it is called with.

    The training split is on the device, or is streamed to it batch by batch by `loader`.
    """

    program: Program
    hyper: Hyperparameters
    images: jax.Array | Pictures  # uint8 [N, H, W, C], on the device or decoded where indexed
    labels: jax.Array | np.ndarray  # int32 [N]
    seed: int
    num_averaged_inits: int
    batch_size: int
    steps_per_call: int
    given: ss.tree.PyTree | None  # stack of the networks of `method.frozen`, trained before
    loader: Loader | None = None  # of a split that is streamed
    start: ss.tree.PyTree | None = None  # stack of one network or all endpoints, maybe headless

    @property
    def crops(self) -> bool:
        """Whether images are cropped at random where they are decoded."""
        return self.program.model.augmentation == RANDOM_RESIZED_CROP


def make_run(config: ml_collections.ConfigDict, data: Dataset, slot: int | None = None) -> Run:
    """Builds everything that a run needs from its config, once.

    Args:
      config: of the run.
      data: what it trains on.
      slot: of a run that trains together with others, its place among them, which decides its part of
        a mesh with the axis `run`; `None` for a run alone.

    Raises:
      UserError: a value that training can't work with.
    """
    _check(config, data)
    method, hyper = make_method(config)
    steps_per_epoch = len(data.train.labels) // config.batch_size
    model = Model(
        network=models.make_network(config.model, data.num_classes),
        normalization=config.normalization,
        augmentation=config.augmentation,
        mesh=placement.make_mesh(config, method, slot),
    )
    length = Length(
        num_epochs=config.num_epochs if method.trains else 0,
        warmup_epochs=config.optimizer.warmup_epochs,
        steps_per_epoch=steps_per_epoch,
    )
    everywhere = placement.everywhere(model.mesh)
    loader, images, labels = None, data.train.images, data.train.labels
    if is_lazy(images):
        options = Options(**config.loader, max_corrupt=config.max_corrupt)
        loader = Loader(options, jax.process_index(), jax.process_count())
        loader.rows(config.batch_size)
    else:
        images, labels = _resident(_Same(images), everywhere), hosts.put(labels, everywhere)
    one = on_cpu() or loader is not None
    steps_per_call = config.steps_per_call or (1 if one else _ACCELERATOR_STEPS_PER_CALL)
    given = _load_given(config, model, images)
    run = Run(
        program=Program(model, method, length),
        hyper=hyper,
        images=images,
        labels=labels,
        seed=config.seed,
        num_averaged_inits=num_averaged_inits(config),
        batch_size=config.batch_size,
        steps_per_call=min(steps_per_call, steps_per_epoch),
        given=given,
        loader=loader,
        start=None if given is not None else _load_start(config, method, model, images),
    )
    _check_plan(run)
    return run


class _Same:
    """An array that is equal to itself alone."""

    def __init__(self, array: np.ndarray):
        self.array = array  # which is kept, so that no other gets its id

    def __eq__(self, other):
        return self.array is other.array

    def __hash__(self):
        return id(self.array)


@functools.lru_cache(maxsize=32)  # runs together have their images on devices of their own
def _resident(same: _Same, where: jax.sharding.NamedSharding | None) -> jax.Array:
    return hosts.put(same.array, where)


def _load_given(config, model: Model, images: jax.Array) -> ss.tree.PyTree | None:
    """The stack of networks that a run starts from, or `None` if it starts from none."""
    sub = config.subspace
    wanted = len(sub.given) or (sub.num_endpoints if config.kind == "independent" else 0)
    if not wanted and sub.weights:
        raise UserError(
            f"config.subspace.weights is {tuple(sub.weights)} but {config.recipe} starts from no "
            "trained networks; leave it out, or name their endpoints in config.subspace.given."
        )
    if not wanted:
        return None
    if not sub.weights:
        raise UserError(
            f"config.subspace.weights is empty but {config.recipe} starts from {wanted} trained "
            "networks; name the weights.npz files of finished runs, or use experiments.reproduce."
        )
    like = _like(model, images)
    stack = weights.concatenate([weights.load(path, like) for path in sub.weights])
    found = ss.tree.num_stacked(stack)
    if found != wanted:
        raise UserError(
            f"config.subspace.weights holds {found} networks but {config.recipe} starts from "
            f"{wanted}; name as many."
        )
    return stack


def _load_start(config, method: Method, model: Model, images: jax.Array) -> ss.tree.PyTree | None:
    if not config.init_from:
        return None
    num_endpoints = method.subspace.num_endpoints
    return starting.load(
        config.init_from, config.init_head, _like(model, images), num_endpoints, config.recipe
    )


def one_network(run: Run) -> ss.tree.PyTree:
    """The shapes of one network of a run."""
    return _like(run.program.model, run.images)


def _like(model: Model, images: jax.Array) -> ss.tree.PyTree:
    like = functools.partial(_init_params, model)
    return jax.eval_shape(like, jax.random.key(0), _first(images))


def _first(images: jax.Array | Pictures) -> jax.Array | np.ndarray:
    """One image, of which the shape alone matters: of a stream nothing is decoded."""
    return np.zeros((1, *images.shape[1:]), np.uint8) if is_lazy(images) else images[:1]


def _check_plan(run: Run) -> None:
    """Refuses a schedule that does not fit into the training."""
    program = run.program
    if not program.method.trains:
        return
    try:
        plan = program.method.plan(program.length, run.hyper)
    except ValueError as error:  # the library's sentence has both values
        sentence = str(error).removesuffix(".")
        raise UserError(f"{sentence} (config.num_epochs, config.schedule).") from error
    if plan.start_step < 1:
        raise UserError(
            f"config.schedule.num_models is {program.method.num_models} but there are "
            f"{program.num_steps} steps; visit fewer networks or train for longer."
        )


def _check(config, data) -> None:
    size, opt = len(data.train.labels), config.optimizer
    channels, expected = data.train.images.shape[-1], len(NORMALIZATIONS["cifar"][0])
    if not 1 <= config.batch_size <= size:
        raise UserError(
            f"config.batch_size is {config.batch_size} but the training split has {size} examples; "
            f"choose a batch size from 1 to {size}."
        )
    if (
        config.kind != "independent"
        and config.num_epochs < 1
        or not 0 <= opt.warmup_epochs < config.num_epochs
    ):
        raise UserError(
            f"config.num_epochs is {config.num_epochs} and config.optimizer.warmup_epochs is "
            f"{opt.warmup_epochs}; train at least 1 epoch more than the warm-up."
        )
    for name, table in (("normalization", NORMALIZATIONS), ("augmentation", AUGMENTATIONS)):
        if config[name] not in table:
            raise UserError(f"config.{name} is {config[name]!r}; choose one of {', '.join(table)}.")
    if config.augmentation == RANDOM_RESIZED_CROP and not is_lazy(data.train.images):
        raise UserError(
            f"config.augmentation is {RANDOM_RESIZED_CROP!r} but the images of {data.name} are decoded "
            "already; use crop_and_flip or none."
        )
    if config.normalization != "none" and channels != expected:
        raise UserError(
            f"config.normalization={config.normalization} is for {expected} channels but the images "
            f"have {channels}; use --config.normalization=none."
        )
    if config.steps_per_call < 0:
        raise UserError(f"config.steps_per_call is {config.steps_per_call}; use 0 for automatic.")


def on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def learning_rate(run: Run, step: int) -> float:
    """The learning rate of a step."""
    plan = run.program.method.plan(run.program.length, run.hyper)
    return float(run.hyper.learning_rate * plan.factor(jnp.int32(step)))


def init_state(run: Run) -> ss.TrainState:
    """The state before the first step: of the run's seed, and of networks that were trained before."""
    if run.given is not None:
        endpoints = _around(run.given, run.program.method)
        optimizer = run.program.method.optimizer(run.hyper, run.program.length)
        return placement.place(run.program.model.mesh, ss.TrainState.create(endpoints, optimizer))
    key = jax.random.fold_in(jax.random.key(run.seed), _INIT)
    init = _compiled_init(run.program, run.num_averaged_inits)
    arguments = key, run.hyper, _first(run.images)
    if run.start is None:
        return init(*arguments)
    endpoints = jax.eval_shape(init, *arguments).endpoints
    if run.start.keys() != endpoints.keys():  # some are drawn
        endpoints = init(*arguments).endpoints
    endpoints = starting.begin(endpoints, run.start)
    optimizer = run.program.method.optimizer(run.hyper, run.program.length)
    return placement.place(run.program.model.mesh, ss.TrainState.create(endpoints, optimizer))


def _around(given: ss.tree.PyTree, method: Method) -> ss.tree.PyTree:
    """Given networks at their places, and their mean at all others."""
    if not method.frozen:
        return given
    count = ss.tree.num_stacked(given)
    networks = [jax.tree.map(lambda x, i=i: x[i], given) for i in range(count)]
    return method.subspace.grow(networks, positions=method.frozen)


def _init_params(model: Model, key, images) -> ss.tree.PyTree:
    return model.network.init(key, normalize(images, model.normalization), train=False)["params"]


@functools.cache
def _compiled_init(program: Program, num_averaged: int):
    def init(key, hyper, images):
        method = program.method
        one = functools.partial(_init_params, program.model, images=images)
        if num_averaged > 1:  # one network that starts at the midpoint of others
            spanning = ss.simplex(num_averaged)
            endpoints = ss.stack([spanning.midpoint(spanning.init(key, one))])
        else:
            endpoints = method.subspace.init(key, one)
        optimizer = method.optimizer(hyper, program.length)
        return placement.keep(program.model.mesh, ss.TrainState.create(endpoints, optimizer))

    # It runs once, and at full optimisation it compiles for seconds on a CPU.
    options = {"xla_backend_optimization_level": 0} if on_cpu() else {}
    return jax.jit(init, compiler_options=options)


def initial_stats(model: Model, images: jax.Array) -> ss.tree.PyTree:
    """The shapes of a network's batch-norm statistics, filled with zeros (`{}` without batch norm)."""
    image = normalize(images[:1], model.normalization)
    init = functools.partial(model.network.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), image)
    return jax.tree.map(jnp.zeros_like, dict(variables.get("batch_stats", {})))


def training_logits(
    model: Model, params, images: jax.Array, dropout_key: jax.Array | None = None
) -> tuple[jax.Array, dict]:
    """Logits in training mode, and the moments of this batch at every batch norm.

    Units are dropped only with a key.
    """
    logits, updated = model.network.apply(
        {"params": params, "batch_stats": initial_stats(model, images)},
        normalize(placement.spread(model.mesh, images), model.normalization),
        train=True,
        dropout=dropout_key is not None,
        mutable="batch_stats",
        rngs={} if dropout_key is None else {"dropout": dropout_key},
    )
    return logits, dict(updated.get("batch_stats", {}))


def make_loss_fn(program: Program, hyper: Hyperparameters) -> ss.training.LossFn:
    """Cross-entropy (with label smoothing) and accuracy of a batch of augmented images."""
    model = program.model

    def loss_fn(params, key, batch):
        images, labels = batch
        images = AUGMENTATIONS[model.augmentation](key, images)
        dropout_key = jax.random.fold_in(key, 1) if model.network.dropout > 0 else None
        logits, _ = training_logits(model, params, images, dropout_key)
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(one_hot, hyper.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}

    return loss_fn


@functools.partial(jax.jit, static_argnames=("program", "unroll"), donate_argnames="state")
def train_call(state, hyper, key, images, labels, indices, *, program, unroll):
    """Several training steps of one run in one call.

    Args:
      state: donated.
      hyper: `Hyperparameters`.
      key: the run's key for its steps.
      images, labels: the whole training split; or the batches `[k, B, ...]` and `[k, B]`.
      indices: `[k, B]`, the examples of each step; `None` for batches.
      program: static.
      unroll: static; unrolled on a CPU, where XLA's convolution gradients are many times slower
        inside a loop, and scanned elsewhere.

    Returns:
      The state after `k` steps, and metrics with leaves `[k]`.
    """
    step = ss.make_train_step(
        program.method.subspace,
        make_loss_fn(program, hyper),
        program.method.optimizer(hyper, program.length),
        penalty=program.method.penalty(hyper),
        num_samples=program.method.num_samples,
    )

    def body(state, given):
        batch = given
        if indices is not None:
            index = placement.spread(program.model.mesh, given)
            batch = images[index], labels[index]
        state, metrics = step(state, key, batch)
        return placement.keep(program.model.mesh, state), metrics

    chunk = (images, labels) if indices is None else indices
    if not unroll:
        return jax.lax.scan(body, state, chunk)
    metrics = []
    for i in range(len(jax.tree.leaves(chunk)[0])):
        state, metric = body(state, jax.tree.map(lambda x, i=i: x[i], chunk))
        metrics.append(metric)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *metrics)


@functools.partial(jax.jit, static_argnames=("program", "unroll"), donate_argnames="states")
def train_calls(states, others, images, *, program, unroll):
    """Several training steps of several runs of one program in one call, vectorised over the runs.

    Args:
      states: of every run; donated.
      others: of every run `(hyper, key, labels, indices)`, as for `train_call`.
      images: of all of them.
      program, unroll: as for `train_call`.

    Returns:
      What `train_call` returns, of every run.
    """

    def one(state, other):
        hyper, key, labels, indices = other
        return train_call.__wrapped__(
            state, hyper, key, images, labels, indices, program=program, unroll=unroll
        )

    found = jax.vmap(one)(ss.stack(states), ss.stack(others))
    return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(states))]


@functools.partial(jax.jit, static_argnames=("program", "unroll"), donate_argnames="states")
def train_apart(states, others, images, *, program, unroll):
    """`train_calls` on a mesh that splits the runs over its axis `run`: none knows of the others.

    Args:
      states: of all runs, leaves `[R, ...]`; donated.
      others: `(hyper, key, labels, indices)`, leaves `[R, ...]`.
      images: of all of them, the same on all devices.
      program, unroll: as for `train_call`; the mesh of its model is that of all runs.

    Returns:
      What `train_call` returns, leaves `[R, ...]`.
    """

    def own(states, others, images):
        def one(state, other):
            hyper, key, labels, indices = other
            return train_call.__wrapped__(
                state, hyper, key, images, labels, indices, program=program, unroll=unroll
            )

        if len(states.step) > 1:
            return jax.vmap(one)(states, others)
        # Vectorised convolutions would be grouped ones.
        found = one(*jax.tree.map(lambda x: x[0], (states, others)))
        return jax.tree.map(lambda x: x[None], found)

    of_run, of_all = PartitionSpec("run"), PartitionSpec()
    return jax.shard_map(
        own,
        mesh=program.model.mesh,
        in_specs=(of_run, of_run, of_all),
        out_specs=of_run,
        axis_names={"run"},
        check_vma=False,
    )(states, others, images)


@functools.partial(jax.jit, static_argnames=("size", "batch_size"))
def epoch_order(key: jax.Array, epoch: jax.Array, *, size: int, batch_size: int) -> jax.Array:
    """The examples of every batch of an epoch, `[steps, B]`: a permutation, the rest left out."""
    order = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    steps = size // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size)


class NonFiniteLoss(UserError):
    """Training diverged."""


class History:
    """Means of the training metrics over epochs, read one call late so that nothing waits.

    Args:
      run: the run that it records.
      on_epoch: called with the record of every finished epoch.
    """

    def __init__(self, run: Run, on_epoch: Callable[[dict], None] = lambda record: None):
        self.epochs: list[dict] = []
        self._run, self._on_epoch = run, on_epoch
        self._step, self._sums, self._pending = 0, {}, None
        self._start = time.perf_counter()

    @property
    def num_steps(self) -> int:
        """How many steps it has read, all but those of the last call."""
        return self._step

    @property
    def num_dispatched(self) -> int:
        """How many steps were taken, those of the last call included."""
        pending = 0 if self._pending is None else len(self._pending["loss"])
        return self._step + pending

    def to_json(self) -> dict:
        """A copy of all of it, for a checkpoint that is written while training goes on."""
        self.flush()
        loader = self._run.loader
        return {
            **({} if loader is None else {"corrupt": list(loader.corrupt)}),
            "epochs": list(self.epochs),
            "step": self._step,
            "sums": dict(self._sums),
            "seconds": time.perf_counter() - self._start,
        }

    def restore(self, saved: dict) -> None:
        """Takes up where `to_json` left off."""
        self.epochs, self._step, self._sums = saved["epochs"], saved["step"], saved["sums"]
        self._start = time.perf_counter() - saved["seconds"]
        if self._run.loader is not None:
            self._run.loader.corrupt[:] = saved.get("corrupt", [])

    def append(self, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics `[k]` of a call that may still be running; reads those before it."""
        previous, self._pending = self._pending, metrics
        self._read(previous)

    def flush(self) -> None:
        """Reads all metrics there are, waiting for them.

        Raises:
          NonFiniteLoss: the loss of a step is infinite or not a number.
        """
        previous, self._pending = self._pending, None
        self._read(previous)

    def _read(self, metrics) -> None:
        if metrics is None:
            return
        metrics = hosts.fetch(metrics)
        finite = np.isfinite(metrics["loss"]) & np.isfinite(metrics["penalty"])
        if not finite.all():
            first = int(np.argmin(finite))
            name = "penalty" if np.isfinite(metrics["loss"][first]) else "loss"
            raise NonFiniteLoss(
                f"The {name} is {metrics[name][first]} at step {self._step + first} with learning rate "
                f"{learning_rate(self._run, self._step + first):.3g}; lower the learning rate."
            )
        for name, values in metrics.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(values.sum(dtype=np.float64))
        self._step += len(finite)
        if self._step % self._run.program.steps_per_epoch == 0:
            self._finish_epoch()

    def _finish_epoch(self) -> None:
        steps, now = self._run.program.steps_per_epoch, time.perf_counter()
        seconds, self._start = now - self._start, now
        record = {
            "epoch": self._step // steps,
            "step": self._step,
            **{name: total / steps for name, total in sorted(self._sums.items())},
            "learning_rate": learning_rate(self._run, self._step - 1),
            "seconds": seconds,
            "images_per_second": steps * self._run.batch_size / seconds,
        }
        if "data_wait" in record:  # seconds of a step, so far
            record["data_wait"] *= steps / seconds
        self._sums = {}
        self.epochs.append(record)
        self._on_epoch(record)


def check_finite(run: Run, state: ss.TrainState) -> None:
    """Refuses a state with weights that are infinite or not a number.

    Raises:
      NonFiniteLoss: there are some; the next loss would be the first to show it.
    """
    if not all(np.isfinite(hosts.fetch(leaf)).all() for leaf in jax.tree.leaves(state)):
        step = int(state.step)
        raise NonFiniteLoss(
            f"Weights are no longer finite after step {step} with learning rate "
            f"{learning_rate(run, step - 1):.3g}; lower the learning rate."
        )


def fit(
    run: Run, state: ss.TrainState, history: History, call: Callable | None = None
) -> Iterator[ss.TrainState]:
    """Trains from a state to the end, yielding the state after every call.

    A yielded state is donated to the next call: use it before asking for the next one. On return
    the history is complete.

    Args:
      run: what is trained.
      state: where it starts.
      history: takes the metrics.
      call: with the arguments and results of `train_call`, which is the default.

    Raises:
      NonFiniteLoss: training diverged; noticed one call late.
    """
    program, unroll, call = run.program, on_cpu(), call or train_call
    step_key = jax.random.fold_in(jax.random.key(run.seed), _STEPS)
    examples = _resident_examples if run.loader is None else _streamed_examples
    with contextlib.closing(examples(run, int(state.step))) as chunks:
        for chunk, measured in chunks:
            state, metrics = call(
                state, run.hyper, step_key, *chunk, program=program, unroll=unroll
            )
            history.append(metrics | measured)
            yield state
    history.flush()


def _resident_examples(run: Run, first: int) -> Iterator[tuple[tuple, dict]]:
    """Images, labels and indices of every call of `train_call` from a step on."""
    order_key = jax.random.fold_in(jax.random.key(run.seed), _ORDER)
    size, per_call, steps = len(run.labels), run.steps_per_call, run.program.steps_per_epoch
    for epoch in range(first // steps, run.program.length.num_epochs):
        order = epoch_order(order_key, jnp.int32(epoch), size=size, batch_size=run.batch_size)
        for start in range(max(first - epoch * steps, 0), steps, per_call):
            yield (run.images, run.labels, order[start : start + per_call]), {}


def _streamed_examples(run: Run, first: int) -> Iterator[tuple[tuple, dict]]:
    """The same of a run whose batches are streamed, and how long each step waited for its own."""
    chunks = stream.training_chunks(
        run.loader,
        run.images,
        run.labels,
        batch_size=run.batch_size,
        num_epochs=run.program.length.num_epochs,
        steps_per_call=run.steps_per_call,
        first=first,
        seed=run.seed,
        crop=run.crops,
        mesh=run.program.model.mesh,
    )
    for images, labels, wait in chunks:
        share = np.full(len(labels), wait / len(labels), np.float32)
        yield (images, labels, None), {"data_wait": share}


def lowered_call(run: Run, state: ss.TrainState) -> jax.stages.Lowered:
    """The program of a run's training calls before XLA optimises it and parts it over devices."""
    shape = (run.steps_per_call, run.batch_size)
    indices = jax.ShapeDtypeStruct(shape, jnp.int32)
    chunk = run.images, run.labels, indices
    if run.loader is not None:
        where = stream.placed(run.batch_size, run.program.model.mesh, axis=1)
        images = jax.ShapeDtypeStruct((*shape, *run.images.shape[1:]), jnp.uint8, sharding=where)
        chunk = images, jax.ShapeDtypeStruct(shape, jnp.int32, sharding=where), None
    return train_call.lower(
        state,
        run.hyper,
        jax.random.key(run.seed),
        *chunk,
        program=run.program,
        unroll=on_cpu(),
    )


def compiled_call(run: Run, state: ss.TrainState) -> jax.stages.Compiled:
    """The program of a run's training calls; it is not compiled again if a call has been made."""
    return lowered_call(run, state).compile()


def step_memory(run: Run, state: ss.TrainState) -> int | None:
    """Bytes that a training call needs at once: its arguments, results and temporaries."""
    found = compiled_call(run, state).memory_analysis()
    if found is None:
        return None
    shared = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return shared + found.temp_size_in_bytes
