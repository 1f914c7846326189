"""Optax on endpoints: all of it works in a training step, and for each endpoint as for one network."""

import functools
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import subspace_jax as ss
from subspace_jax.contrib import sharpness

KEY = jax.random.key(0)
LINE = ss.line()
BATCH = jax.random.normal(jax.random.key(2), (16, 8))
BY_RATE = """adabelief adagrad adam adamax adamaxw adamw adan amsgrad fromage lamb lars lion nadam nadamw
    noisy_sgd novograd optimistic_adam_v2 optimistic_gradient_descent radam rmsprop rprop sgd sign_sgd
    signum sm3 yogi contrib.acprop contrib.ademamix contrib.adopt contrib.galore contrib.madgrad
    contrib.muon contrib.simplified_ademamix"""
PLAIN = """adadelta adafactor apply_every centralize identity keep_params_nonnegative polyak_sgd
    normalize_by_update_norm scale_by_distance_over_gradients scale_by_param_block_norm zero_nans
    scale_by_param_block_rms scale_by_stddev scale_by_trust_ratio contrib.cocob contrib.dadapt_adamw
    contrib.momo contrib.momo_adam contrib.normalize contrib.prodigy contrib.reduce_on_plateau
    contrib.schedule_free_adamw contrib.schedule_free_sgd"""
SGD, NORMALISED = optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.1))


def of_rank(one, two):
    return lambda params: jax.tree.map(lambda x: two if x.ndim > 1 else one, params)


def _named(name, *arguments):
    return functools.reduce(getattr, name.split("."), optax)(*arguments)


EACH = {  # what an endpoint can have by itself
    **{name: functools.partial(_named, name, 0.01) for name in BY_RATE.split()},
    **{name: functools.partial(_named, name) for name in PLAIN.split()},
    "accumulated": lambda: optax.MultiSteps(optax.adam(0.1), 2),
    "adaptive clip": lambda: optax.adaptive_grad_clip(0.01),
    "add_noise": lambda: optax.add_noise(0.1, 0.5, 0),
    "apply_if_finite": lambda: optax.apply_if_finite(SGD, 3),
    "block clip": lambda: optax.clip_by_block_rms(0.1),
    "clip": lambda: optax.clip(0.1),
    "flatten": lambda: optax.flatten(SGD),
    "global clip": lambda: optax.clip_by_global_norm(0.1),
    "hyperparameters": lambda: optax.inject_hyperparams(optax.adam)(0.1),
    "mask by rank": lambda: optax.masked(optax.add_decayed_weights(1.0), of_rank(False, True)),
    "mask of nothing": lambda: optax.masked(
        ss.per_endpoint(optax.scale_by_trust_ratio()), of_rank(False, False)
    ),
    "mechanize": lambda: optax.contrib.mechanize(SGD),
    "partition": lambda: optax.partition({"a": SGD, "b": optax.adam(0.1)}, of_rank("a", "b")),
    "schedule-free": lambda: optax.contrib.schedule_free(SGD, 0.1),
    "split complex": lambda: optax.contrib.split_real_and_imaginary(SGD),
}
WHOLE = {  # what wants the loss at other points, and so moves all endpoints
    "backtracking": lambda: optax.chain(SGD, optax.scale_by_backtracking_linesearch(5)),
    "lbfgs": optax.lbfgs,
    "sam": lambda: optax.contrib.sam(SGD, NORMALISED, opaque_mode=True),
    "our sam": lambda: optax.chain(sharpness.sam(SGD, 0.05), ss.averaging.ema(0.9)),
    "sam of accumulated": lambda: sharpness.sam(optax.MultiSteps(SGD, 2), 0.05),
    "sophia": lambda: optax.contrib.sophia(0.01),
    "zoom": lambda: optax.chain(SGD, optax.scale_by_zoom_linesearch(5)),
}


@pytest.fixture(autouse=True)
def loose():
    """Optax promotes dtypes and warns of its own deprecations."""
    promotion = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with promotion[0], promotion[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def init_fn(key):
    return {"kernel": jax.random.normal(key, (8, 4)), "bias": jax.random.normal(key, (4,))}


def loss_fn(params, key, x):
    del key
    return jnp.mean((x @ params["kernel"] + params["bias"] - 1) ** 2), {}


@pytest.mark.parametrize("name", [*EACH, *WHOLE])
def test_a_training_step_gives_an_optimizer_what_it_wants(name):
    optimizer = (EACH | WHOLE)[name]()
    step = jax.jit(ss.make_train_step(LINE, loss_fn, optimizer))
    state = ss.TrainState.create(LINE.init(KEY, init_fn), optimizer)
    for _ in range(2):
        state, metrics = step(state, KEY, BATCH)
    chex.assert_tree_all_finite((state.endpoints, metrics))


@pytest.mark.parametrize("name", EACH)
def test_per_endpoint_is_the_optimizer_of_each_network(name):
    endpoints = LINE.init(KEY, init_fn)
    endpoints = jax.tree.map(
        lambda x: x * jnp.array([1.0, 30]).reshape(2, *[1] * (x.ndim - 1)), endpoints
    )
    gradients = jax.tree.map(lambda x: jnp.sin(3 * x), endpoints)

    @functools.partial(jax.jit, static_argnums=0)
    def moved(each, params, gradients):
        optimizer = EACH[name]()
        optimizer = ss.per_endpoint(optimizer) if each else optimizer
        wants = isinstance(optimizer, optax.GradientTransformationExtraArgs)
        state = optimizer.init(params)
        for i in range(2):
            extra = {"value": jnp.float32(1 / (i + 1))} if wants else {}
            grads = jax.tree.map(lambda g, i=i: g * (i + 1), gradients)
            updates, state = optimizer.update(grads, state, params, **extra)
            params = optax.apply_updates(params, updates)
        return params

    alone = [
        moved(False, *jax.tree.map(lambda x, i=i: x[i], (endpoints, gradients))) for i in range(2)
    ]
    chex.assert_trees_all_close(moved(True, endpoints, gradients), ss.stack(alone), rtol=1e-5)


def test_a_decay_mask_sees_leaves_as_one_network_has_them():
    endpoints = LINE.init(KEY, init_fn)
    optimizer = optax.add_decayed_weights(1.0, mask=ss.decay_mask)
    zeros = jax.tree.map(jnp.zeros_like, endpoints)
    decayed, _ = optimizer.update(zeros, optimizer.init(endpoints), endpoints)
    chex.assert_trees_all_equal(decayed, endpoints | {"bias": zeros["bias"]})
    shapes = []
    mask = ss.decay_mask(
        endpoints, lambda path, leaf: shapes.append(leaf.shape) or "bias" in str(path)
    )
    assert mask == {"kernel": False, "bias": True}
    assert shapes == [(4,), (8, 4)]


def test_an_average_behind_multisteps_is_warned_of():
    ema, params = ss.averaging.ema(0.5), np.ones(2, np.float32)
    inside = optax.MultiSteps(optax.chain(SGD, ema), 4)
    ss.averaging.average_of(inside.init(params))
    behind = optax.chain(optax.MultiSteps(SGD, 4).gradient_transformation(), ema)
    with pytest.warns(UserWarning, match="behind MultiSteps .* put it inside"):
        ss.averaging.average_of(behind.init(params))
