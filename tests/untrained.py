"""Runs that were not trained, with networks that are far apart in all their parameters.

Their images differ in brightness and slope, so that networks of any weights tell them apart.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tiny

import subspace_jax as ss
from experiments.data.sets import Dataset, Split
from experiments.evaluation import evaluate, predict
from experiments.training import steps
from experiments.training.run import Run, make_run


class Untrained(NamedTuple):
    """What evaluation takes: `stack` has leaves `[n, ...]`, as `Method.trained` returns them."""

    run: Run
    stack: ss.tree.PyTree
    settings: predict.Settings


def split(seed: int, size: int = tiny.NUM_TEST) -> Split:
    rng = np.random.default_rng(seed)
    at = np.linspace(-1, 1, 8)
    brightness, right, down = rng.uniform([[60], [-50], [-50]], [[190], [50], [50]], (3, size))
    images = (
        brightness[:, None, None] + right[:, None, None] * at + down[:, None, None] * at[:, None]
    )
    images = images + rng.uniform(-10, 10, images.shape)
    labels = rng.integers(0, tiny.NUM_CLASSES, size).astype(np.int32)
    return Split(images.clip(0, 255).astype(np.uint8)[..., None], labels)


TRAIN, TEST, VALIDATION = split(0, tiny.NUM_TRAIN), split(1), split(2)
DATASET = Dataset("smooth", TRAIN, VALIDATION, TEST, tiny.NUM_CLASSES)


@functools.cache  # which tests share
def untrained(recipe: str = "line", **changes) -> Untrained:
    config = tiny.config(recipe, **changes)
    run = make_run(config, DATASET)
    answer, stack = run.program.method.answer, steps.init_state(run).endpoints
    if answer.num_networks > ss.tree.num_stacked(stack):
        stack = jax.tree.map(lambda x: jnp.repeat(x, answer.num_networks, axis=0), stack)
    rng = np.random.default_rng(0)

    def jitter(path, leaf):  # batch norm too, which starts with equal parameters everywhere
        leaf = leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)
        if path[0].key == "Dense_0" and path[1].key == "kernel":
            # Contrasts of the features, which are all positive: no class is always the largest.
            return 2 * (leaf - leaf.mean(axis=1, keepdims=True))
        return leaf

    stack = jax.tree.map_with_path(jitter, stack)
    return Untrained(run, stack, predict.make_settings(config, run))


def evaluated(made: Untrained, splits: dict[str, Split], **options) -> dict:
    return evaluate.evaluate(made.run, made.stack, splits, made.settings, **options)
