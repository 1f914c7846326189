"""What a kind of method trains, with what numbers, and what is refused."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import subspace_jax as ss
from experiments.training import methods
from experiments.training.methods import KINDS, Length, make_method
from experiments.training.steps import init_state

# kind -> a recipe that has it
OF_KIND = {kind: kind for kind in KINDS} | {
    "simplex": "simplex_3",
    "layerwise_simplex": "layerwise_simplex_3",
    "complex": "spro_1",
    "independent": "ensemble",
}
SUBSPACES = {
    "standard": ss.simplex(1),
    "standard_matched": ss.simplex(1),
    "line": ss.line(),
    "layerwise_line": ss.layerwise(ss.line()),
    "curve": ss.bezier(2),
    "simplex": ss.simplex(3),
    "layerwise_simplex": ss.layerwise(ss.simplex(3)),
    "complex": ss.contrib.complexes.simplicial_complex(((0, 2), (1, 2))),
    "independent": ss.simplex(2),
}
# Learning rates of half the largest, all, all and half of it.
LENGTH, FACTORS = Length(4, 2, 1), np.array([0.5, 1.0, 1.0, 0.5], np.float32)


def config_of(kind, **changes):
    return tiny.config(OF_KIND[kind], **changes)


# Subspaces


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_subspace(kind):
    method, hyper = make_method(config_of(kind, subspace__penalty=0.0))
    assert method.subspace is SUBSPACES[kind]
    assert method.gradients_per_step == 1
    assert bool(method.simplexes) == (kind == "complex")
    assert method.trains == (kind != "independent")
    assert method.penalty(hyper) is None


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_do_not_change_what_is_compiled(kind):
    numbers = ["optimizer__learning_rate", "optimizer__weight_decay", "optimizer__momentum"]
    numbers += ["label_smoothing", "average__decay", "sharpness__rho", "subspace__penalty"]
    numbers += ["subspace__volume", "label_noise__rate", "model__dropout"]
    made = [make_method(config_of(kind, **dict.fromkeys(numbers, x))) for x in (0.1, 0.2)]
    (method, hyper), (other_method, other_hyper) = made
    assert method == other_method
    assert hash(method) == hash(other_method)
    chex.assert_trees_all_equal_shapes_and_dtypes(hyper, other_hyper)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in hyper)
    assert all(x != y for x, y in zip(hyper, other_hyper, strict=True))


@pytest.mark.parametrize(
    ("kind", "m"), [("line", 2), ("layerwise_line", 2), ("simplex", 2), ("simplex", 3)]
)
def test_matched_training_starts_at_the_mean_of_the_endpoints_that_it_is_matched_to(kind, m):
    config = {"subspace__num_endpoints": m, "seed": 1}
    start = init_state(tiny.run("standard_matched", **config)).endpoints
    endpoints = init_state(tiny.run(OF_KIND[kind], **config)).endpoints
    chex.assert_tree_shape_prefix(endpoints, (m,))
    mean = jax.tree.map(lambda leaf: np.asarray(leaf).mean(0, keepdims=True), endpoints)
    chex.assert_trees_all_close(start, mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("average", "ema_decay"), [("none", 0.0), ("ema", 0.0), ("ema", 0.9)])
def test_optimizer_is_sgd_as_in_pytorch(average, ema_decay):
    config = tiny.config("standard", optimizer__weight_decay=0.3)
    config.average.name, config.average.decay = average, ema_decay
    method, hyper = make_method(config)
    optimizer = method.optimizer(hyper, LENGTH)

    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(size=(1, 3)), "scale": rng.normal(size=1)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)
    state = ss.TrainState.create(params, optimizer)
    opt_state, buffers, mean = state.opt_state, *(dict.fromkeys(weights, 0.0) for _ in range(2))
    for factor in FACTORS:
        grads = {name: rng.normal(size=x.shape) for name, x in weights.items()}
        for name, grad in grads.items():
            # Decay joins the gradient of every parameter; plain momentum, no dampening.
            buffers[name] = 0.9 * buffers[name] + (grad + 0.3 * weights[name])
            weights[name] = weights[name] - 0.1 * factor * buffers[name]
            mean[name] = ema_decay * mean[name] + (1 - ema_decay) * weights[name]
        grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        chex.assert_trees_all_close(params, weights, rtol=1e-5, atol=1e-6)
    trained = method.trained(ss.TrainState(jnp.int32(4), params, opt_state))
    mean = {name: x / (1 - ema_decay ** len(FACTORS)) for name, x in mean.items()}
    chex.assert_trees_all_close(trained, mean, rtol=1e-5, atol=1e-6)


QUADRATIC = jnp.array([[1.0, 4.0, 0.5]])


def trajectory(config, num_steps, length, start=((3.0, 1.0, -2.0),), curvature=QUADRATIC):
    """Endpoints after every step on a noisy quadratic, the start first, and the last state."""

    def loss_fn(params, key, noise):
        return 0.5 * (curvature[0] * params**2).sum() + (noise[0] * params).sum(), {}

    method, hyper = make_method(config)
    optimizer = method.optimizer(hyper, length)
    step = ss.make_train_step(method.subspace, loss_fn, optimizer)

    def body(state, noise):
        state, _ = step(state, jax.random.key(2), noise)
        return state, state.endpoints

    state = ss.TrainState.create(jnp.array(start), optimizer)
    noises = jax.random.normal(jax.random.key(1), (num_steps, 1, 3))
    last, path = jax.jit(functools.partial(jax.lax.scan, body))(state, noises)
    return np.concatenate([state.endpoints[None], path]), last, method


@pytest.mark.parametrize(("kind", "m"), [("line", 2), ("simplex", 3), ("layerwise_simplex", 4)])
@pytest.mark.parametrize(
    ("times_m", "control", "decay"), [(False, "standard_matched", 0.1), (True, "standard", 0.0)]
)
def test_where_the_gradient_is_the_same_everywhere_the_midpoint_moves_as_its_control(
    kind, m, times_m, control, decay
):
    changes = {
        "subspace__num_endpoints": m,
        "subspace__penalty": 0.0,
        "optimizer__weight_decay": decay,
    }
    start = jax.random.normal(jax.random.key(0), (m, 3))
    own = {"subspace__lr_times_m": times_m}
    alone = {"subspace__num_endpoints": 1} if control == "standard" else {}
    paths = [
        trajectory(
            config_of(each, **(changes | more)), 5, Length(5, 2, 1), at, curvature=jnp.zeros((1, 3))
        )[0]
        for each, more, at in (
            (kind, own, start),
            (control, alone, start.mean(0, keepdims=True)),
        )
    ]
    chex.assert_trees_all_close(paths[0].mean(1), paths[1][:, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", ["sam", "asam"])
def test_sharpness_aware_recipes_step_along_the_gradient_nearby(recipe):
    config = tiny.config(recipe)
    start = 3 * jax.random.normal(jax.random.key(0), (1, 3))
    path, _, method = trajectory(config, 1, LENGTH, start)
    assert method.gradients_per_step == 2
    gradient = lambda w: QUADRATIC * w + jax.random.normal(jax.random.key(1), (1, 1, 3))[0]
    size = jnp.abs(start) + 0.01 if recipe == "asam" else jnp.ones_like(start)
    scaled = size * gradient(start)
    worst = start + config.sharpness.rho * size * scaled / jnp.linalg.norm(scaled)
    update = 0.1 * FACTORS[0] * (gradient(worst) + 1e-4 * start)
    chex.assert_trees_all_close(path[1], start - update, rtol=1e-5, atol=1e-6)


# Averages


AVERAGED = Length(24, 1, 10)


@pytest.mark.parametrize(
    "recipe",
    [*(f"swa_{name}_{m}" for name in ("constant", "cyclic") for m in (2, 5, 6)), "snapshot", "fge"],
)
def test_averages_and_snapshots_are_those_of_the_visited_networks(recipe):
    config = tiny.config(recipe)
    m = config.schedule.num_models
    path, state, method = trajectory(config, AVERAGED.num_steps, AVERAGED)
    plan = method.plan(AVERAGED)
    visited = np.concatenate([path[plan.start_step + i * plan.every] for i in range(m)])
    assert len(np.unique(visited, axis=0)) == m
    trained = method.trained(state)
    if config.average.name == "snapshots":
        np.testing.assert_array_equal(trained, visited)
    else:
        chex.assert_trees_all_close(trained, visited.mean(0, keepdims=True), rtol=1e-5, atol=1e-6)


def test_swag_evaluates_its_mean_and_networks_drawn_around_it():
    config = tiny.config("swag")
    path, state, method = trajectory(config, AVERAGED.num_steps, AVERAGED)
    plan = method.plan(AVERAGED)
    visited = np.concatenate(path[plan.start_step :: plan.every])
    assert len(visited) == config.schedule.num_models == 20
    stack, others = (method.trained(state, jax.random.key(seed)) for seed in (3, 4))
    assert stack.shape == (1 + methods.SWAG_DRAWS, 3)
    np.testing.assert_allclose(stack[0], visited.mean(0), rtol=1e-4, atol=1e-6)
    assert (stack[1:] != others[1:]).all()
    assert len(np.unique(stack, axis=0)) == len(stack)


# Penalty


def test_the_volume_of_the_whole_complex_is_rewarded_and_one_pair_is_penalised():
    config = tiny.config("spro", subspace__volume=0.3, subspace__penalty=2.0)
    method, hyper = make_method(config)
    assert method.simplexes == ((0, 2, 3), (1, 2, 3))
    endpoints = {"kernel": jax.random.normal(jax.random.key(0), (4, 3, 5))}
    flat = np.asarray(endpoints["kernel"], np.float64).reshape(4, -1)

    def log_volume(simplex):
        edges = flat[list(simplex[1:])] - flat[simplex[0]]
        return 0.5 * np.log(np.linalg.det(edges @ edges.T)) - np.log(2)  # 2 is 2!

    reward = 0.3 * np.log(sum(np.exp(log_volume(simplex)) for simplex in method.simplexes))
    cosines = np.asarray(ss.squared_cosines(endpoints))[np.triu_indices(4, 1)]
    found = method.penalty(hyper)(endpoints, jax.random.key(1))
    assert np.abs(found - (2 * cosines - reward)).min() < 1e-5
