"""Runs that were not trained, with networks that are far apart in all their parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tiny

import subspace_jax as ss
from experiments import predict, train


class Untrained(NamedTuple):
    """What evaluation takes: `stack` has leaves `[n, ...]`, as `Method.trained` returns them."""

    run: train.Run
    stack: ss.tree.PyTree
    settings: predict.Settings


def untrained(recipe: str = "line", **changes) -> Untrained:
    config = tiny.config(recipe, **changes)
    run = train.make_run(config, tiny.dataset())
    method, stack = run.program.method, train.init_state(run).endpoints
    kept = {"snapshots": method.num_models, "swag": 1 + method.num_draws}
    if method.average in kept:
        stack = jax.tree.map(lambda x: jnp.repeat(x, kept[method.average], axis=0), stack)
    rng = np.random.default_rng(0)

    def jitter(leaf):  # batch norm too, which starts with equal parameters everywhere
        return leaf + jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype)

    return Untrained(run, jax.tree.map(jitter, stack), predict.make_settings(config, run))
