"""Training: compiled calls of several steps, and a loop that never waits for the device.

Every random number is a function of (seed, step): a state and the config determine the rest of a run.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

import subspace_jax as ss
from experiments.data.augment import AUGMENTATIONS
from experiments.training import feed, placement, starting
from experiments.training import model as training_model
from experiments.training.history import History
from experiments.training.methods import Hyperparameters, Method
from experiments.training.model import init_params, on_cpu, training_logits
from experiments.training.run import Program, Run

# The streams of randomness that a run's seed is split into; predict, layout, scenes and methods
# have more.
_INIT, _ORDER, _STEPS = range(3)


def init_state(run: Run) -> ss.TrainState:
    """The state before the first step: of the run's seed, and of networks that were trained before."""
    method, model = run.program.method, run.program.model
    if run.given is not None:
        endpoints = _around(run.given, method)
    else:
        key = jax.random.fold_in(jax.random.key(run.seed), _INIT)
        draw = _compiled_draw(model.whole, method.subspace.num_endpoints, run.num_averaged_inits)
        arguments = key, training_model.first(run.images)
        if run.start is None:
            endpoints = draw(*arguments)
        else:
            endpoints = jax.eval_shape(draw, *arguments)
            if run.start.keys() != endpoints.keys():  # some are drawn
                endpoints = draw(*arguments)
            endpoints = starting.begin(endpoints, run.start)
    return _state_of(endpoints, run.hyper, program=run.program)


@functools.partial(jax.jit, static_argnames="program")
def _state_of(endpoints, hyper, *, program):
    optimizer = program.method.optimizer(hyper, program.length)
    return placement.keep(program.model.mesh, ss.TrainState.create(endpoints, optimizer))


def _around(given: ss.tree.PyTree, method: Method) -> ss.tree.PyTree:
    """Given networks at their places, and their mean at all others."""
    if not method.frozen:
        return given
    count = ss.tree.num_stacked(given)
    networks = [jax.tree.map(lambda x, i=i: x[i], given) for i in range(count)]
    return method.subspace.grow(networks, positions=method.frozen)


@functools.cache
def _compiled_draw(model: training_model.Model, num_endpoints: int, num_averaged: int):
    def draw(key, images):
        one = functools.partial(init_params, model, images=images)
        if num_averaged > 1:  # one network that starts at the midpoint of others
            spanning = ss.simplex(num_averaged)
            return ss.stack([spanning.midpoint(spanning.init(key, one))])
        return ss.simplex(num_endpoints).init(key, one)

    # It runs once, and at full optimisation it compiles for seconds on a CPU.
    options = {"xla_backend_optimization_level": 0} if on_cpu() else {}
    return jax.jit(draw, compiler_options=options)


def make_loss_fn(program: Program, hyper: Hyperparameters) -> ss.training.LossFn:
    """Cross-entropy (with label smoothing) and accuracy of a batch of augmented images."""
    model = program.model

    def loss_fn(params, key, batch):
        images, labels = batch
        images = AUGMENTATIONS[model.augmentation](key, images)
        dropout = (jax.random.fold_in(key, 1), hyper.dropout) if model.drops else None
        logits, _ = training_logits(model, params, images, dropout)
        one_hot = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(one_hot, hyper.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}

    return loss_fn


@functools.partial(jax.jit, static_argnames=("program", "unroll"), donate_argnames="state")
def train_call(state, hyper, key, images, labels, indices, *, program, unroll):
    """Several training steps of one run in one call: the state after them, and metrics `[k]`.

    Images and labels are the whole split, of which `indices [k, B]` are taken, or batches `[k, B, ...]`.
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
    if not unroll:  # convolution gradients are slow inside a loop on a CPU
        return jax.lax.scan(body, state, chunk)
    metrics = []
    for i in range(len(jax.tree.leaves(chunk)[0])):
        state, metric = body(state, jax.tree.map(lambda x, i=i: x[i], chunk))
        metrics.append(metric)
    return state, jax.tree.map(lambda *values: jnp.stack(values), *metrics)


def _train_one(state, others, images, **static):
    hyper, key, labels, indices = others
    return train_call.__wrapped__(state, hyper, key, images, labels, indices, **static)


@functools.partial(jax.jit, static_argnames=("program", "unroll"), donate_argnames="states")
def train_calls(states, others, images, *, program, unroll):
    """`train_call` of several runs that share their images; `others` are hyper, key, labels, indices."""
    one = functools.partial(_train_one, images=images, program=program, unroll=unroll)
    found = jax.vmap(one)(ss.stack(states), ss.stack(others))
    return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(states))]


@functools.partial(jax.jit, static_argnames=("program", "unroll"), donate_argnames="states")
def train_apart(states, others, images, *, program, unroll):
    """`train_calls`, leaves `[R, ...]`, on a mesh that splits the runs over its axis `run`."""

    def own(states, others, images):
        one = functools.partial(_train_one, images=images, program=program, unroll=unroll)
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


@functools.partial(jax.jit, static_argnames="size")  # JAX's own slicing takes ten times as long
def _part(order: jax.Array, start: int, *, size: int) -> jax.Array:
    return jax.lax.dynamic_slice_in_dim(order, start, size)


OnEpoch = Callable[[int, ss.TrainState], None]


def fit(
    run: Run,
    state: ss.TrainState,
    history: History,
    on_epoch: OnEpoch = lambda epoch, state: None,
) -> Iterator[ss.TrainState]:
    """Trains to the end, yielding the state after every call, which is donated to the next one."""
    with contextlib.closing(arguments_of_calls(run, int(state.step))) as calls:
        for given, measured in calls:
            state, metrics = train_call(state, *given, program=run.program, unroll=on_cpu())
            took(run, state, history, metrics | measured, on_epoch)
            yield state
    history.flush()


def arguments_of_calls(run: Run, first: int) -> Iterator[tuple[tuple, dict]]:
    """What `train_call` takes after the state, call by call from a step on, and what was measured."""
    step_key = jax.random.fold_in(jax.random.key(run.seed), _STEPS)
    examples = _resident_examples if run.loader is None else feed.training_calls
    with contextlib.closing(examples(run, first)) as chunks:
        for chunk, measured in chunks:
            yield (run.hyper, step_key, *chunk), measured


def took(run: Run, state: ss.TrainState, history: History, metrics, on_epoch: OnEpoch) -> None:
    """Notes a call that was made."""
    history.append(metrics)
    epoch, rest = divmod(history.num_dispatched, run.program.length.steps_per_epoch)
    if not rest:
        on_epoch(epoch, state)


def _resident_examples(run: Run, first: int) -> Iterator[tuple[tuple, dict]]:
    """Images, labels and indices of every call of `train_call` from a step on."""
    order_key = jax.random.fold_in(jax.random.key(run.seed), _ORDER)
    size, per_call, steps = len(run.labels), run.steps_per_call, run.program.length.steps_per_epoch
    for epoch in range(first // steps, run.program.length.num_epochs):
        order = epoch_order(order_key, jnp.int32(epoch), size=size, batch_size=run.batch_size)
        for start in range(max(first - epoch * steps, 0), steps, per_call):
            indices = _part(order, start, size=min(per_call, steps - start))
            yield (run.images, run.labels, indices), {}


def lowered_call(run: Run, state: ss.TrainState) -> jax.stages.Lowered:
    """The program of a run's training calls before XLA optimises it and parts it over devices."""
    shape = (run.steps_per_call, run.batch_size)
    indices = jax.ShapeDtypeStruct(shape, jnp.int32)
    chunk = run.images, run.labels, indices
    if run.loader is not None:
        where = feed.placed(run.batch_size, run.program.model.mesh, axis=1)
        images = jax.ShapeDtypeStruct((*shape, *run.images.shape[1:]), jnp.uint8, sharding=where)
        chunk = images, jax.ShapeDtypeStruct(shape, jnp.int32, sharding=where), None
    key, static = jax.random.key(run.seed), {"program": run.program, "unroll": on_cpu()}
    return train_call.lower(state, run.hyper, key, *chunk, **static)


def compiled_call(run: Run, state: ss.TrainState) -> jax.stages.Compiled:
    """The program of a run's training calls; it is not compiled again if a call has been made."""
    return lowered_call(run, state).compile()
