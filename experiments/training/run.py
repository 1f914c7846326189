"""A run as a value: its program, its data on the devices, what it starts from."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

import subspace_jax as ss
from experiments.data.augment import NORMALIZATIONS, RANDOM_RESIZED_CROP
from experiments.data.decode import Pictures, is_lazy
from experiments.data.loader import Loader, Options
from experiments.data.sets import Dataset
from experiments.system import hosts
from experiments.system.errors import UserError
from experiments.training import models, placement, starting, weights
from experiments.training.methods import Hyperparameters, Method, make_method, num_averaged_inits
from experiments.training.model import Model, first, init_params, on_cpu
from experiments.training.schedules import Length

# A call of several steps lasts seconds at the most, so that signals are answered promptly.
_ACCELERATOR_STEPS_PER_CALL = 500


@dataclasses.dataclass(frozen=True)
class Program:
    """All that decides what is compiled; hashable, a static argument."""

    model: Model
    method: Method
    length: Length

    @property
    def num_steps(self) -> int:
        return self.length.num_steps


class Run(NamedTuple):
    """One training run: a program and what it is called with."""

    program: Program
    hyper: Hyperparameters
    images: jax.Array | Pictures  # uint8 [N, H, W, C], on the device or decoded where indexed
    labels: jax.Array | np.ndarray  # int32 [N]
    seed: int
    num_averaged_inits: int
    batch_size: int
    steps_per_call: int
    loader: Loader | None = None  # of a split that is streamed
    given: ss.tree.PyTree | None = None  # stack of the networks of `method.frozen`, trained before
    start: ss.tree.PyTree | None = None  # stack of one network or all endpoints, maybe headless

    @property
    def crops(self) -> bool:
        """Whether images are cropped at random where they are decoded."""
        return self.program.model.augmentation == RANDOM_RESIZED_CROP


def make_run(config: ml_collections.ConfigDict, data: Dataset, slot: int | None = None) -> Run:
    """Builds everything that a run needs from its config; `slot` is its place in a group."""
    _check(config, data)
    method, hyper = make_method(config)
    network = models.make_network(config.model, data.num_classes)
    model = Model(
        network=network.clone(dropout=float(network.dropout > 0)),
        normalization=config.normalization,
        augmentation=config.augmentation,
        mesh=placement.make_mesh(config, method, slot),
    )
    length = Length(
        num_epochs=config.num_epochs if method.trains else 0,
        warmup_epochs=config.optimizer.warmup_epochs,
        steps_per_epoch=len(data.train.labels) // config.batch_size,
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
    if method.trains:
        method.plan(length)  # it is refused if it does not fit
    run = Run(
        program=Program(model, method, length),
        hyper=hyper,
        images=images,
        labels=labels,
        seed=config.seed,
        num_averaged_inits=num_averaged_inits(config),
        batch_size=config.batch_size,
        steps_per_call=min(steps_per_call, length.steps_per_epoch),
        loader=loader,
    )
    given = _load_given(config, run)
    if given is None and config.init_from:
        n, network = method.subspace.num_endpoints, one_network(run)
        start = starting.load(config.init_from, config.init_head, network, n, config.recipe)
        return run._replace(start=start)
    return run._replace(given=given)


@dataclasses.dataclass(frozen=True, eq=False)
class _Same:
    """An array that is equal to itself alone; it is kept, so that no other gets its id."""

    array: np.ndarray

    def __eq__(self, other):
        return self.array is other.array

    def __hash__(self):
        return id(self.array)


@functools.lru_cache(maxsize=32)  # runs together have their images on devices of their own
def _resident(same: _Same, where: jax.sharding.NamedSharding | None) -> jax.Array:
    return hosts.put(same.array, where)


def _load_given(config, run: Run) -> ss.tree.PyTree | None:
    """The stack of networks that a run starts from, or `None` if it starts from none."""
    sub = config.subspace
    network = one_network(run) if sub.weights else None
    stacks = [weights.load(path, network) for path in sub.weights]
    found = sum(map(ss.tree.num_stacked, stacks))
    wanted = len(sub.given) or (sub.num_endpoints if config.kind == "independent" else 0)
    if found != wanted:
        raise UserError(
            f"config.subspace.weights holds {found} networks but {config.recipe} starts from {wanted}; "
            "name the weights.npz files of as many finished runs, or use experiments.reproduce."
        )
    return weights.concatenate(stacks) if stacks else None


def one_network(run: Run) -> ss.tree.PyTree:
    """The shapes of one network of a run."""
    init = functools.partial(init_params, run.program.model)
    return jax.eval_shape(init, jax.random.key(0), first(run.images))


def _check(config, data) -> None:
    size = len(data.train.labels)
    channels, expected = data.train.images.shape[-1], len(NORMALIZATIONS["cifar"][0])
    if config.batch_size > size:
        raise UserError(
            f"config.batch_size is {config.batch_size} but the training split has {size} examples; "
            f"choose a batch size from 1 to {size}."
        )
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


def learning_rate(run: Run, step: int) -> float:
    """The learning rate of a step."""
    factors = _factors(run.program.method, run.program.length)
    return float(np.asarray(run.hyper.learning_rate) * factors[step])


@functools.cache
def _factors(method: Method, length: Length) -> np.ndarray:
    """The share of the largest learning rate at every step."""
    factor = jax.jit(jax.vmap(method.plan(length).factor))
    return np.asarray(factor(np.arange(length.num_steps, dtype=np.int32)))
