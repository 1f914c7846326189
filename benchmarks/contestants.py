"""What is timed: training steps of this project and of PyTorch, under one interface.

A contestant is `function(options) -> (unit, images)`: a function without arguments that does one unit
of work and waits for its end, and how many images that unit trains on. Nothing is compiled or
loaded in a unit after the first one. All train the same network, cResNet20 on 50,000 images like
CIFAR-10's, padded, cropped and flipped.
"""

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

NUM_IMAGES = 50_000
Contestant = tuple[Callable[[], None], int]


@functools.cache
def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 images: the time of a step does not depend on what is on them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, 10, NUM_IMAGES, dtype=np.int32)


def ours(options: SimpleNamespace, *, recipe: str) -> Contestant:
    """Training by the experiments' own loop: batches drawn on the device, several steps a call."""
    from experiments import train
    from experiments.configs import cifar10
    from experiments.data import Dataset, Split

    config = cifar10.get_config(recipe)
    config.batch_size = options.batch_size
    split = Split(*images_and_labels())
    run = train.make_run(config, Dataset("random", split, split, split, 10))
    calls = -(-options.steps // run.steps_per_call)
    history = train.History(run)
    states = train.fit(run, train.init_state(run), history)

    def unit():
        for state in itertools.islice(states, calls):
            last = state
        last.step.block_until_ready()

    return unit, calls * run.steps_per_call * options.batch_size


def peer(options: SimpleNamespace, *, method: str, loader: str, **choices) -> Contestant:
    """Training by PyTorch; see `benchmarks.peers`."""
    from benchmarks import peers

    images, labels = images_and_labels()
    step = peers.training(
        images,
        labels,
        method=method,
        loader=loader,
        batch_size=options.batch_size,
        device=options.device,
        threads=options.threads,
        **choices,
    )

    def unit():
        for _ in range(options.steps):
            step()
        peers.wait(options.device)

    return unit, options.steps * options.batch_size


def plain_convolution(options: SimpleNamespace, *, recipe: str) -> Contestant:
    """The experiments' training with the convolution of `jax.lax`, as Flax layers have it."""
    import jax

    from experiments import models

    models.conv_general_dilated = jax.lax.conv_general_dilated
    return ours(options, recipe=recipe)


CONTESTANTS = {
    "standard": functools.partial(ours, recipe="standard"),
    "line": functools.partial(ours, recipe="line"),
    "layerwise line": functools.partial(ours, recipe="layerwise_line"),
    "simplex of 6": functools.partial(ours, recipe="simplex_6"),
    "PyTorch standard": functools.partial(peer, method="standard", loader="resident"),
    "PyTorch line": functools.partial(peer, method="line", loader="resident"),
    "PyTorch line, loader": functools.partial(peer, method="line", loader="workers"),
    "PyTorch standard, channels last": functools.partial(
        peer, method="standard", loader="resident", channels_last=True
    ),
    "PyTorch line, tuned": functools.partial(
        peer, method="line", loader="resident", channels_last=True, compiled=True
    ),
}

# The same training without one of the things that make it fast, on a CPU.
ABLATIONS = {
    "standard, plain convolution": functools.partial(plain_convolution, recipe="standard"),
    "standard, small pages": functools.partial(ours, recipe="standard"),
    "standard, XLA's flags": functools.partial(ours, recipe="standard"),
    "standard, none of these": functools.partial(plain_convolution, recipe="standard"),
}
CONTESTANTS |= ABLATIONS
# What else their processes find in their environment.
_SMALL_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
ENVIRONMENTS = {
    "standard, small pages": _SMALL_PAGES,
    "standard, none of these": _SMALL_PAGES,
}
# These do without the flags that the commands set.
WITHOUT_FLAGS = ("standard, XLA's flags", "standard, none of these")
