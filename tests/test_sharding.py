"""A training step on a mesh is that of one device, split: proofs on eight host devices."""

import functools
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import subspace_jax as ss
from subspace_jax import sharding
from subspace_jax.contrib import complexes, lora, sharpness, swag

N, BATCH, STEPS = 8, 16, 10  # endpoints, as many as devices
KEY = jax.random.key(2)
every_layout = pytest.mark.parametrize(
    ("layout", "layers"),
    [
        ("data=8", False),
        ("endpoint=8", False),
        ("run=2,data=2,endpoint=2", False),
        ("data=2,endpoint=4", True),
    ],
)
OPTIMIZER = optax.chain(
    optax.add_decayed_weights(1e-4),
    optax.sgd(0.05, momentum=0.9, nesterov=True),
    ss.averaging.ema(0.9),
)


def init_fn(key):
    """A layer, the scale of its batch norm, and a head."""
    keys, draw = jax.random.split(key), jax.random.normal
    kernel, head = draw(keys[0], (48, 16)) / 7, draw(keys[1], (16, 5)) / 4
    return {"layer": {"kernel": kernel, "scale": jnp.ones(16)}, "head": {"kernel": head}}


def loss_fn(params, key, batch):
    images, labels = batch
    x = jax.nn.standardize(images @ params["layer"]["kernel"], 0)
    logits = jax.nn.relu(x * params["layer"]["scale"][None]) @ params["head"]["kernel"]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    noise = jax.random.uniform(key, losses.shape, losses.dtype)  # differs from device to device
    return (losses * (1 + noise)).mean(), {"noise": noise.mean()}


def start(dtype):
    endpoints = jax.tree.map(lambda x: x.astype(dtype), ss.simplex(N).init(KEY, init_fn))
    return ss.TrainState.create(endpoints, OPTIMIZER)


def data(dtype):
    """Batches, one a step."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(STEPS, BATCH, 48)).astype(dtype)
    return list(zip(images, rng.integers(0, 5, (STEPS, BATCH), np.int32), strict=True))


@functools.cache
def make_step(layers):
    subspace = ss.layerwise(ss.simplex(N)) if layers else ss.simplex(N)
    step = ss.make_train_step(subspace, loss_fn, OPTIMIZER, penalty=ss.cosine_penalty)
    return jax.jit(step, donate_argnums=0)


def placed(mesh, state, batches):
    state = jax.device_put(state, sharding.state_shardings(mesh, state))
    return state, jax.device_put(batches, sharding.batch_sharding(mesh, BATCH))


def train(state, batches, layers):
    for batch in batches:
        state, metrics = make_step(layers)(state, KEY, batch)
    return jax.device_get((state, metrics))


@functools.cache
def alone(dtype, steps, layers):
    return train(start(dtype), data(dtype)[:steps], layers)


def largest_difference(found, expected):
    """Relative to the largest value of a leaf, of all leaves."""
    of = lambda x, y: float(abs(jax.device_get(x) - y).max() / abs(y).max())
    return max(jax.tree.leaves(jax.tree.map(of, found, expected)))


def memory(tree, device):
    shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


@every_layout
def test_steps_in_float64_are_those_of_one_device(layout, layers):
    with jax.enable_x64(True):
        expected = alone(jnp.float64, STEPS, layers)
        split = placed(sharding.make_mesh(layout), start(jnp.float64), data(jnp.float64))
        assert largest_difference(train(*split, layers), expected) < 1e-14


@every_layout
def test_a_step_in_float32_sums_over_devices_and_gathers_no_endpoints(layout, layers):
    """And the state stays where it was put, so that a device keeps what its endpoints need."""
    mesh = sharding.make_mesh(layout)
    state, (batch, *_) = placed(mesh, start(jnp.float32), data(jnp.float32))
    program = make_step(layers).lower(state, KEY, batch).compile()
    assert "all-reduce" in program.as_text()
    assert not re.search(r"all-gather|all-to-all|collective-permute", program.as_text())

    wanted = sharding.state_shardings(mesh, state)
    stays = lambda a, b, x: a.is_equivalent_to(b, x.ndim)
    stay = jax.tree.map(stays, program.output_shardings[0], wanted, state)
    assert all(jax.tree.leaves(stay))

    one = jax.tree.map(lambda x: x[:1] if x.ndim else x, state)
    share = N // mesh.shape["endpoint"] * sum(leaf.nbytes for leaf in jax.tree.leaves(one))
    arguments = program.memory_analysis().argument_size_in_bytes
    inputs = memory(batch, jax.devices()[0])
    after, metrics = program(state, KEY, batch)
    assert arguments - inputs <= 1.1 * share
    assert all(memory(after, device) <= 1.1 * share for device in jax.devices()[:N])
    assert largest_difference((after, metrics), alone(jnp.float32, 1, layers)) < 2e-6


def test_the_optimizer_s_state_lies_as_the_endpoints():
    """And stays there: the compiled step takes what it returns."""
    params = {"w": jnp.zeros((8, 4)), "b": jnp.zeros((8, 2))}
    sgd, mesh = optax.sgd(0.1, momentum=0.9), sharding.make_mesh("data=2,endpoint=4")
    loss = lambda p, key, x: ((p["w"].sum() - p["b"].sum() - x) ** 2, {})
    for optimizer in (
        optax.chain(sgd, ss.averaging.ema(0.9)),
        optax.masked(sgd, {"w": True, "b": False}),
        optax.multi_transform({"slow": sgd, "fast": sgd}, {"w": "slow", "b": "fast"}),
        ss.averaging.snapshots(0, 1, 3),  # keeps networks, on an axis before
    ):
        state = ss.TrainState.create(params, optimizer)
        state = jax.device_put(state, sharding.state_shardings(mesh, state))
        assert state.step.sharding.spec == P()
        step = jax.jit(ss.make_train_step(ss.simplex(8), loss, optimizer))
        step = step.lower(state, KEY, jnp.float32(1)).compile()
        for _ in range(2):
            state, _ = step(state, KEY, jnp.float32(1))
        leaves = [x for x in jax.tree.leaves(state.opt_state) if x.ndim > 1]
        assert leaves
        assert all(x.sharding.spec[x.ndim - 2] == "endpoint" for x in leaves)


def test_data_takes_what_is_left():
    assert dict(sharding.make_mesh("endpoint=2").shape) == {"run": 1, "data": 4, "endpoint": 2}
    assert dict(sharding.make_mesh().shape) == {"run": 1, "data": 8, "endpoint": 1}
    assert dict(sharding.make_mesh("run=4").shape) == {"run": 4, "data": 2, "endpoint": 1}


def test_examples_may_be_on_another_axis():
    where = sharding.batch_sharding(sharding.make_mesh("endpoint=2"), BATCH, axis=1)
    assert where.spec == P(None, ("data", "endpoint"))


# Meshes of users, with explicit axes as JAX makes them


def stepped(optimizer, layers=False):
    def step(endpoints):
        subspace = ss.layerwise(ss.simplex(4)) if layers else ss.simplex(4)
        loss_fn = lambda params, key, x: (
            ((x @ params["kernel"]) ** 2).mean() + params["bias"].sum(),
            {},
        )
        step = ss.make_train_step(subspace, loss_fn, optimizer, penalty=ss.cosine_penalty)
        return step(ss.TrainState.create(endpoints, optimizer), KEY, jnp.ones((8, 8)))[0].endpoints

    return step


def first_moments(params, x):
    x = x @ params["kernel"]
    return {"mean": x.mean(0), "var": x.var(0)}


def classified(stack):
    return jax.nn.softmax(stack["kernel"].sum(1)), jnp.arange(4) % 4


SGD = optax.sgd(0.1)
ON_A_MESH = {
    "midpoint": ss.simplex(4).midpoint,
    "layerwise": lambda stack: ss.layerwise(ss.simplex(4)).sample(KEY, stack),
    "gram": ss.gram,
    "penalty": ss.cosine_penalty,
    "gradient": jax.grad(lambda stack: ss.cosine_penalty(stack, KEY)),
    "volume": complexes.log_volume,
    "along": lambda stack: ss.landscape.along(lambda p: p["kernel"].sum(), stack, jnp.eye(4)),
    "for_each": ss.for_each(lambda params: params["kernel"].sum()),
    "recalibrate": lambda stack: (
        ss.recalibrate(ss.for_each(first_moments), stack, [jnp.ones((6, 8))], check=False).stats
    ),
    "grow": lambda stack: ss.simplex(4).grow([ss.simplex(4).midpoint(stack)], KEY, noise=0.1),
    "filters": lambda stack: ss.landscape.filter_norms(ss.simplex(4).midpoint(stack)),
    "metrics": lambda stack: ss.metrics.ece(*classified(stack)),
    "AUROC": lambda stack: ss.detection.auroc(stack["kernel"].sum((1, 2)), jnp.ones(3)),
    "choice": lambda stack: ss.calibration.choose_point(stack["kernel"], jnp.arange(8) % 4),
    "deltas": lambda stack: lora.gram({"a": stack["kernel"], "b": stack["kernel"][:, :4]}),
    "lora": lambda stack: lora.init(KEY, ss.simplex(4).midpoint(stack), 2),
    "frozen": stepped(optax.chain(optax.adam(0.1), ss.freeze([0]))),
    "averages": stepped(optax.chain(SGD, ss.averaging.ema(0.9), ss.averaging.swa(0, 1))),
    "snapshots": stepped(optax.chain(SGD, ss.averaging.snapshots(0, 1, 3), swag.swag(0, 1, 3))),
    "sam": stepped(sharpness.sam(SGD, 0.05, adaptive=True), layers=True),
    "per endpoint": stepped(ss.per_endpoint(optax.lamb(0.1))),
}


@pytest.mark.parametrize("name", ON_A_MESH)
def test_explicit_axes_change_nothing(name):
    """Whether they split the endpoints or the leaves of each."""
    draw = lambda key: {"kernel": jax.random.normal(key, (8, 4)), "bias": jnp.ones(4)}
    stack = ss.simplex(4).init(KEY, draw)
    mesh = jax.make_mesh((4,), ("x",), devices=jax.devices()[:4])
    function = ON_A_MESH[name] if name == "recalibrate" else jax.jit(ON_A_MESH[name])
    with jax.numpy_dtype_promotion("standard"):  # as Optax's Adam
        expected = jax.device_get(function(stack))
        for spec in (P("x"), P(None, "x")):
            placed = jax.device_put(stack, jax.sharding.NamedSharding(mesh, spec))
            found = jax.device_get(function(placed))
            chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6)
