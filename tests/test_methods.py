"""What a kind of method trains, with what numbers, and what is refused."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny

import subspace_jax as ss
from experiments import methods, train
from experiments.errors import UserError
from experiments.methods import KINDS, Hyperparameters, make_method

SUBSPACES = {
    "standard": ss.simplex(1),
    "standard_matched": ss.simplex(1),
    "line": ss.line(),
    "layerwise_line": ss.layerwise(ss.line()),
    "curve": ss.bezier(2),
    "simplex": ss.simplex(3),
    "layerwise_simplex": ss.layerwise(ss.simplex(3)),
}
OPEN = ("standard_matched", "curve", "simplex", "layerwise_simplex")


def hyperparameters(**changes):
    values = dict.fromkeys(Hyperparameters._fields, 0.0) | changes
    return Hyperparameters(**{name: jnp.float32(value) for name, value in values.items()})


# Subspaces


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_subspace(kind):
    assert make_method(tiny.config(kind))[0].subspace is SUBSPACES[kind]


@pytest.mark.parametrize("kind", OPEN)
@pytest.mark.parametrize("n", [3, 4])
def test_a_kind_has_the_endpoints_that_are_asked_for(kind, n):
    subspace = make_method(tiny.config(kind, subspace__num_endpoints=n))[0].subspace
    expected = {
        "standard_matched": ss.simplex(1),
        "curve": ss.bezier(n - 1),
        "simplex": ss.simplex(n),
        "layerwise_simplex": ss.layerwise(ss.simplex(n)),
    }
    assert subspace is expected[kind]
    assert subspace.num_endpoints == (1 if kind == "standard_matched" else n)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_do_not_change_what_is_compiled(kind):
    numbers = {"optimizer__learning_rate": 0.3, "optimizer__weight_decay": 0.2, "seed": 5}
    numbers |= {"optimizer__momentum": 0.1, "label_smoothing": 0.1, "label_noise__rate": 0.2}
    if "standard" not in kind:
        numbers["subspace__penalty"] = 3.0
    method, hyper = make_method(tiny.config(kind, ema_decay=0.5))
    other_method, other_hyper = make_method(tiny.config(kind, ema_decay=0.9, **numbers))
    assert method == other_method
    assert hash(method) == hash(other_method)
    chex.assert_trees_all_equal_shapes_and_dtypes(hyper, other_hyper)
    assert all(x.dtype == jnp.float32 and x.shape == () for x in hyper)


def test_hyperparameters_are_those_of_the_config():
    changes = {"learning_rate": 0.3, "weight_decay": 0.2, "momentum": 0.1}
    config = tiny.config(
        **{f"optimizer__{name}": value for name, value in changes.items()},
        subspace__penalty=3.0,
        subspace__num_samples=3,
        label_smoothing=0.4,
        ema_decay=0.5,
    )
    method, hyper = make_method(config)
    expected = hyperparameters(**changes, penalty=3.0, label_smoothing=0.4, ema_decay=0.5)
    chex.assert_trees_all_equal(hyper, expected)
    assert (method.num_samples, method.has_ema, method.penalty_pairs) == (3, True, "random")


# The matched control


@pytest.mark.parametrize("m", [2, 3, 6])
def test_matched_training_has_a_share_of_the_learning_rate_and_m_decays(m):
    config = tiny.config("standard_matched", subspace__num_endpoints=m)
    _, hyper = make_method(config)
    optimizer = config.optimizer
    assert float(hyper.learning_rate) == pytest.approx(optimizer.learning_rate / m)
    assert float(hyper.weight_decay) == pytest.approx(optimizer.weight_decay * m)
    assert float(hyper.momentum) == pytest.approx(optimizer.momentum)
    assert methods.num_averaged_inits(config) == m


@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if kind not in ("standard_matched", "curve")]
)
def test_others_have_one_initialisation_an_endpoint(kind):
    assert methods.num_averaged_inits(tiny.config(kind)) == 1


@pytest.mark.parametrize(
    ("kind", "m"), [("line", 2), ("layerwise_line", 2), ("simplex", 2), ("simplex", 3)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_matched_training_starts_at_the_mean_of_the_endpoints_that_it_is_matched_to(kind, m, seed):
    config = {"subspace__num_endpoints": m, "seed": seed}
    start = train.init_state(tiny.run("standard_matched", **config)).endpoints
    endpoints = train.init_state(tiny.run(kind, **config)).endpoints
    chex.assert_tree_shape_prefix(endpoints, (m,))
    mean = jax.tree.map(lambda leaf: np.asarray(leaf).mean(0, keepdims=True), endpoints)
    chex.assert_trees_all_close(start, mean, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("kind", "m"), [("line", 2), ("layerwise_line", 2), ("simplex", 3), ("layerwise_simplex", 4)]
)
def test_where_the_gradient_is_the_same_everywhere_matched_training_is_the_midpoint(kind, m):
    def slope_loss(params, key, slope):
        products = jax.tree.map(lambda x, s: (x * s[0]).sum(), params, slope)
        return sum(jax.tree.leaves(products)), {}

    def trajectory(kind, endpoints):
        config = tiny.config(kind, subspace__num_endpoints=m)
        config.subspace.penalty = 0.0
        config.optimizer.weight_decay = 0.1
        method, hyper = make_method(config)
        optimizer = method.optimizer(hyper, lambda step: 1 / (1.0 + step.astype(jnp.float32)))
        step = ss.make_train_step(method.subspace, slope_loss, optimizer)
        state, points = ss.TrainState.create(endpoints, optimizer), []
        for i in range(5):
            keys = jax.random.split(jax.random.key(100 + i))
            slope = {
                "a": {"w": jax.random.normal(keys[0], (1, 4))},
                "b": {"w": jax.random.normal(keys[1], (1, 2))},
            }
            state, _ = step(state, jax.random.key(7), slope)
            points.append(method.subspace.midpoint(state.endpoints))
        return points

    draw = functools.partial(jax.random.normal, jax.random.key(0))
    endpoints = {"a": {"w": draw((m, 4))}, "b": {"w": draw((m, 2))}}
    mean = jax.tree.map(lambda leaf: leaf.mean(0, keepdims=True), endpoints)
    chex.assert_trees_all_close(
        trajectory("standard_matched", mean), trajectory(kind, endpoints), rtol=1e-5, atol=1e-6
    )


# Optimizer


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_optimizer_is_sgd_as_in_pytorch(ema_decay):
    config = tiny.config(optimizer__weight_decay=0.3, ema_decay=ema_decay)
    method, hyper = make_method(config)
    factors = np.array([0.5, 1.0, 0.7, 0.1], np.float32)
    optimizer = method.optimizer(hyper, lambda step: jnp.asarray(factors)[step])

    rng = np.random.default_rng(0)
    weights = {"kernel": rng.normal(size=(2, 3)), "scale": rng.normal(size=2)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)
    state = ss.TrainState.create(params, optimizer)
    opt_state, buffers, average = state.opt_state, dict.fromkeys(weights, 0.0), dict(weights)
    for factor in factors:
        grads = {name: rng.normal(size=x.shape) for name, x in weights.items()}
        for name, grad in grads.items():
            # Decay joins the gradient of every parameter; plain momentum, no dampening.
            buffers[name] = 0.9 * buffers[name] + (grad + 0.3 * weights[name])
            weights[name] = weights[name] - 0.1 * factor * buffers[name]
            average[name] = ema_decay * average[name] + (1 - ema_decay) * weights[name]
        grads = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), grads)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        chex.assert_trees_all_close(params, weights, rtol=1e-5, atol=1e-6)
    trained = method.trained(ss.TrainState(jnp.int32(4), params, opt_state))
    chex.assert_trees_all_close(trained, average, rtol=1e-5, atol=1e-6)


def test_without_an_average_the_trained_endpoints_are_those_of_the_state():
    method, hyper = make_method(tiny.config())
    optimizer = method.optimizer(hyper, lambda step: jnp.float32(1))
    state = ss.TrainState.create(jnp.ones((2, 3)), optimizer)
    assert method.trained(state) is state.endpoints


# Penalty


@pytest.mark.parametrize("n", [2, 4])
def test_penalty_is_beta_times_one_pair_or_the_mean_of_all(n):
    endpoints = {"kernel": jax.random.normal(jax.random.key(0), (n, 3, 5))}
    cosines = np.asarray(ss.squared_cosines(endpoints))[np.triu_indices(n, 1)]

    def penalties(pairs):
        config = tiny.config(
            "simplex",
            subspace__num_endpoints=n,
            subspace__penalty=2.0,
            subspace__penalty_pairs=pairs,
        )
        method, hyper = make_method(config)
        keys = jax.random.split(jax.random.key(1), 60)
        return np.asarray(jax.vmap(lambda key: method.penalty(hyper)(endpoints, key))(keys))

    np.testing.assert_allclose(penalties("all"), 2 * cosines.mean(), rtol=1e-5)
    distances = np.abs(penalties("random")[:, None] - 2 * cosines)
    assert distances.min(1).max() < 1e-6
    assert set(distances.argmin(1)) == set(range(len(cosines)))


@pytest.mark.parametrize("pairs", ["random", "all"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_penalty_is_none(kind, pairs):
    config = tiny.config(kind, subspace__penalty=0.0, subspace__penalty_pairs=pairs)
    method, hyper = make_method(config)
    assert method.penalty(hyper) is None
    assert method == make_method(tiny.config(kind, subspace__penalty=0.0))[0]


# What is refused


@pytest.mark.parametrize("kind", ["", "Line", "lines"])
def test_unknown_kinds_are_refused(kind):
    with pytest.raises(
        UserError, match=f"^Unknown kind '{kind}'; choose one of standard, .*simplex"
    ):
        methods.default_num_endpoints(kind)
    config = tiny.config()
    config.kind = kind
    with pytest.raises(UserError, match=f"^Unknown kind '{kind}'"):
        make_method(config)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("simplex", {"subspace__num_endpoints": 0}, r"num_endpoints is 0; use at least 1\.$"),
        ("line", {"subspace__num_endpoints": 3}, "num_endpoints is 3 but line has 2; .* simplex"),
        ("layerwise_line", {"subspace__num_endpoints": 1}, "is 1 but layerwise_line has 2"),
        ("standard", {"subspace__num_endpoints": 2}, "is 2 but standard has 1"),
        (
            "curve",
            {"subspace__num_endpoints": 2},
            "is 2 but a curve has at least 3; use the kind line",
        ),
        ("line", {"subspace__num_samples": 0}, "num_samples is 0, which does not divide .* of 6"),
        ("line", {"subspace__num_samples": 4}, "num_samples is 4, which does not divide .* of 6"),
        ("line", {"subspace__penalty_pairs": "some"}, "is 'some'; use 'random' or 'all'"),
        ("line", {"ema_decay": 1.0}, r"ema_decay is 1\.0; use a value in \[0, 1\)"),
        ("line", {"ema_decay": -0.1}, r"ema_decay is -0\.1; use"),
        ("line", {"ema_decay": float("nan")}, "ema_decay is nan; use"),
        ("line", {"label_smoothing": 1.0}, r"label_smoothing is 1\.0; use a value in \[0, 1\)"),
        ("line", {"label_smoothing": -0.5}, r"label_smoothing is -0\.5"),
        ("standard", {"subspace__penalty": 1.0}, r"penalty is 1\.0 but standard has 1 endpoint"),
        ("simplex", {"subspace__num_endpoints": 1}, "but simplex has 1 endpoint and so no pair"),
    ],
)
def test_what_a_kind_cannot_have_is_refused(kind, changes, sentence):
    with pytest.raises(UserError, match=rf"^config\..*{sentence}"):
        make_method(tiny.config(kind, **changes))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "optimizer__learning_rate",
            0.0,
            "config.optimizer.learning_rate is 0.0; use a value above 0",
        ),
        ("optimizer__learning_rate", float("nan"), "config.optimizer.learning_rate is nan"),
        (
            "optimizer__weight_decay",
            -1e-4,
            "config.optimizer.weight_decay is -0.0001; use a value of 0",
        ),
        ("optimizer__momentum", 1.0, "config.optimizer.momentum is 1.0; use a value in"),
        ("subspace__penalty", -1.0, "config.subspace.penalty is -1.0; use a value of 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        methods.make_method(tiny.config("line", **{name: value}))


def test_a_matched_control_of_one_network_or_with_a_penalty_is_refused():
    with pytest.raises(UserError, match="num_endpoints is 1 but standard_matched"):
        methods.make_method(tiny.config("standard_matched", subspace__num_endpoints=1))
    with pytest.raises(UserError, match="standard_matched has 1 endpoint and so no pair"):
        methods.make_method(tiny.config("standard_matched", subspace__penalty=1.0))
