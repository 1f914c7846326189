"""What is timed: training steps of this project and of PyTorch, under one interface.

A contestant is `function(options) -> unit`: a function without arguments that does one unit of work,
waits for its end and returns how many images it trained on. Nothing is compiled or loaded in a unit
after the first one. All train the same network, cResNet20 on 50,000 images like CIFAR-10's, padded,
cropped and flipped.
"""

import functools
import itertools
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np

NUM_IMAGES = 50_000
Unit = Callable[[], int]


@functools.cache
def images_and_labels() -> tuple[np.ndarray, np.ndarray]:
    """Random uint8 images: the time of a step does not depend on what is on them."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, 10, NUM_IMAGES, dtype=np.int32)


def make_run(options: SimpleNamespace, *, recipe: str, dtype: str = "float32", seed: int = 0):
    """A run of the experiments on CIFAR-10, with random images."""
    from experiments.configs import cifar10
    from experiments.data.sets import Dataset, Split
    from experiments.training import run as run_of

    config = cifar10.get_config(recipe)
    config.update(batch_size=options.batch_size, seed=seed, num_epochs=10_000)  # it never ends
    config.model.dtype = dtype
    split = Split(*images_and_labels())
    return run_of.make_run(config, Dataset("random", split, split, split, 10))


def training(options: SimpleNamespace, *runs) -> Unit:
    """The experiments' own loop: batches drawn on the device, several steps a call."""
    from experiments.training import groups, steps
    from experiments.training.history import History

    calls = -(-options.steps // runs[0].steps_per_call)
    histories = [History(run) for run in runs]
    begin = [steps.init_state(run) for run in runs]
    if len(runs) == 1:
        states = ([state] for state in steps.fit(runs[0], begin[0], histories[0]))
    else:
        states = groups.fit(list(map(groups.Member, runs, begin, histories)))

    def unit():
        begun = sum(history.num_dispatched for history in histories)
        for latest in itertools.islice(states, calls):
            last = latest
        last[-1].step.block_until_ready()
        taken = sum(history.num_dispatched for history in histories) - begun
        return int(taken) * runs[0].batch_size

    return unit


def ours(options: SimpleNamespace, **choices) -> Unit:
    """One run; `choices` are those of `make_run`."""
    return training(options, make_run(options, **choices))


def several(options: SimpleNamespace, *, num_runs: int, **choices) -> Unit:
    """Runs of several seeds in one program."""
    return training(options, *(make_run(options, seed=seed, **choices) for seed in range(num_runs)))


def peer(options: SimpleNamespace, *, method: str, loader: str, **choices) -> Unit:
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
        return options.steps * options.batch_size

    return unit


def plain_convolution(options: SimpleNamespace, **choices) -> Unit:
    """The experiments' training with the convolution of `jax.lax`, as Flax layers have it."""
    import jax

    from experiments.training import models

    models.conv_general_dilated = jax.lax.conv_general_dilated
    return ours(options, **choices)


_resident = functools.partial(peer, loader="resident")
_tuned = functools.partial(_resident, channels_last=True)
_half = {"dtype": "bfloat16"}
_eight = functools.partial(several, recipe="line", num_runs=8)
CONTESTANTS = {
    "standard": functools.partial(ours, recipe="standard"),
    "line": functools.partial(ours, recipe="line"),
    "layerwise line": functools.partial(ours, recipe="layerwise_line"),
    "simplex of 6": functools.partial(ours, recipe="simplex_6"),
    "standard, bfloat16": functools.partial(ours, recipe="standard", **_half),
    "PyTorch standard": functools.partial(_resident, method="standard"),
    "PyTorch line": functools.partial(_resident, method="line"),
    "PyTorch line, loader": functools.partial(peer, method="line", loader="workers"),
    "PyTorch standard, channels last": functools.partial(_tuned, method="standard"),
    "PyTorch standard, channels last, glibc's memory": functools.partial(_tuned, method="standard"),
    "PyTorch standard, channels last, bfloat16": functools.partial(
        _tuned, method="standard", **_half
    ),
    "PyTorch line, compiled": functools.partial(_tuned, method="line", compiled=True),
}
# What an accelerator is for: more in bfloat16, compiled peers, and runs of several seeds vectorised.
ACCELERATED = {
    "line, bfloat16": functools.partial(ours, recipe="line", **_half),
    "simplex of 6, bfloat16": functools.partial(ours, recipe="simplex_6", **_half),
    "8 lines at once": _eight,
    "8 lines at once, bfloat16": functools.partial(_eight, **_half),
    "PyTorch standard, compiled, bfloat16": functools.partial(
        _tuned, method="standard", compiled=True, **_half
    ),
    "PyTorch line, compiled, bfloat16": functools.partial(
        _tuned, method="line", compiled=True, **_half
    ),
}
# Standard training without one of the things that make it fast on a CPU.
ABLATIONS = {
    "standard, plain convolution": functools.partial(plain_convolution, recipe="standard"),
    "standard, glibc's memory": functools.partial(ours, recipe="standard"),
    "standard, XLA's flags": functools.partial(ours, recipe="standard"),
    "standard, none of these": functools.partial(plain_convolution, recipe="standard"),
}
CONTESTANTS |= ACCELERATED | ABLATIONS
# What else their processes find in their environment; with XLA_FLAGS, the commands' are not set.
ENVIRONMENTS = {
    "standard, glibc's memory": {"GLIBC_TUNABLES": ""},
    "PyTorch standard, channels last, glibc's memory": {"GLIBC_TUNABLES": ""},
    "standard, XLA's flags": {"XLA_FLAGS": ""},
    "standard, none of these": {"GLIBC_TUNABLES": "", "XLA_FLAGS": ""},
}
