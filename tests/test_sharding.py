"""A training step on a mesh is that of one device, split: proofs on eight host devices."""

import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import subspace_jax as ss
from subspace_jax import sharding

N, BATCH = 8, 16  # endpoints, as many as devices
LAYOUTS = [
    *("data=8", "data=4,endpoint=2", "data=2,endpoint=4", "endpoint=8"),
    *("run=2,data=2,endpoint=2", "run=8"),
]
every_layout = pytest.mark.parametrize("layout", LAYOUTS)
either_subspace = pytest.mark.parametrize("layers", [False, True], ids=["global", "layerwise"])


class Network(nn.Module):
    """Convolutions with batch norm, in the dtype of the images."""

    @nn.compact
    def __call__(self, x):
        for width in (8, 16):
            x = nn.Conv(width, (3, 3), use_bias=False, dtype=x.dtype, param_dtype=x.dtype)(x)
            norm = nn.BatchNorm(
                False,
                momentum=0.0,
                force_float32_reductions=False,
                dtype=x.dtype,
                param_dtype=x.dtype,
            )
            x = nn.relu(norm(x))
        return nn.Dense(5, dtype=x.dtype, param_dtype=x.dtype)(x.mean((1, 2)))


OPTIMIZER = optax.chain(
    optax.add_decayed_weights(1e-4),
    optax.sgd(0.05, momentum=0.9, nesterov=True),
    ss.averaging.ema(0.9),
)


@functools.cache
def data(dtype, steps):
    """Batches, one a step."""
    rng = np.random.default_rng(1)
    images = rng.normal(size=(steps, BATCH, 8, 8, 3)).astype(dtype)
    return list(zip(images, rng.integers(0, 5, (steps, BATCH), np.int32), strict=True))


@functools.cache
def make_init(dtype):
    images = jnp.zeros((1, 8, 8, 3), dtype)
    init = functools.partial(
        ss.simplex(N).init, init_fn=lambda key: Network().init(key, images)["params"]
    )
    return jax.jit(lambda key: ss.TrainState.create(init(key), OPTIMIZER))


def start(dtype):
    return make_init(dtype)(jax.random.key(0))


def loss_fn(params, key, batch):
    images, labels = batch
    stats = {
        f"BatchNorm_{i}": {name: jnp.zeros(width, images.dtype) for name in ("mean", "var")}
        for i, width in enumerate((8, 16))
    }
    variables = {"params": params, "batch_stats": stats}
    logits, _ = Network().apply(variables, images, mutable="batch_stats")
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    noise = jax.random.uniform(key, losses.shape, losses.dtype)  # differs from device to device
    return (losses * (1 + noise)).mean(), {"noise": noise.mean()}


@functools.cache
def make_step(layers=False):
    subspace = ss.layerwise(ss.simplex(N)) if layers else ss.simplex(N)
    step = ss.make_train_step(subspace, loss_fn, OPTIMIZER, penalty=ss.cosine_penalty)
    return jax.jit(step, donate_argnums=0)


def placed(layout, state, batches, **options):
    mesh = sharding.make_mesh(layout)
    state = jax.device_put(state, sharding.state_shardings(mesh, state, **options))
    return state, jax.device_put(batches, sharding.batch_sharding(mesh, BATCH))


@functools.cache
def compiled(layout, layers, **options):
    state, (batch,) = placed(layout, start(jnp.float32), data(jnp.float32, 1), **options)
    return make_step(layers).lower(state, jax.random.key(2), batch).compile()


def compiled_step(layout, layers=False, **options):
    """A state and a batch as `layout` says, and the program of a step, compiled once."""
    state, (batch,) = placed(layout, start(jnp.float32), data(jnp.float32, 1), **options)
    return state, batch, compiled(layout, layers, **options)


def train(state, batches, layers):
    step, key = make_step(layers), jax.random.key(2)
    for batch in batches:
        state, metrics = step(state, key, batch)
    return state, metrics


@functools.cache
def alone(dtype, steps, layers):
    return train(start(dtype), data(dtype, steps), layers)


def largest_difference(found, expected):
    """Relative to the largest value of a leaf, of all leaves."""

    def of(x, y):
        return float(abs(jax.device_get(x) - jax.device_get(y)).max() / abs(y).max())

    return max(jax.tree.leaves(jax.tree.map(of, found, expected)))


def memory(tree, device):
    return sum(
        shard.data.nbytes
        for leaf in jax.tree.leaves(tree)
        for shard in leaf.addressable_shards
        if shard.device == device
    )


@pytest.mark.parametrize(
    ("layout", "layers"),
    [*((layout, False) for layout in LAYOUTS), ("data=2,endpoint=4", True)],
)
def test_twenty_steps_in_float64_are_those_of_one_device(layout, layers):
    with jax.enable_x64(True):
        expected = alone(jnp.float64, 20, layers)
        found = train(*placed(layout, start(jnp.float64), data(jnp.float64, 20)), layers)
        assert largest_difference(found, expected) < 1e-9


@every_layout
def test_a_step_in_float32_is_that_of_one_device(layout):
    state, batch, program = compiled_step(layout)
    found = program(state, jax.random.key(2), batch)
    assert largest_difference(found, alone(jnp.float32, 1, False)) < 1e-5


def test_split_leaves_change_nothing():
    with jax.enable_x64(True):
        state = start(jnp.float64)
        split = placed("data=4,endpoint=2", state, data(jnp.float64, 20), split_leaves=True)
        found = train(*split, False)
        assert largest_difference(found, alone(jnp.float64, 20, False)) < 1e-9


@either_subspace
@pytest.mark.parametrize("layout", LAYOUTS[:4])
def test_no_endpoints_are_gathered(layout, layers):
    """A sum over devices is all that a step sends: nothing of the stack."""
    *_, program = compiled_step(layout, layers)
    text = program.as_text()
    assert "all-reduce" in text
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)


def test_split_leaves_are_gathered_after_the_endpoints_are_mixed():
    """The largest thing that is gathered is a leaf of one network."""
    *_, program = compiled_step("data=4,endpoint=2", split_leaves=True)
    shapes = re.findall(r"f32\[([\d,]*)\]\S* all-gather", program.as_text())
    sizes = [size_of(shape) for shape in shapes]
    largest = max(leaf[0].size for leaf in jax.tree.leaves(start(jnp.float32).endpoints))
    assert sizes
    assert max(sizes) <= largest


def size_of(shape):
    return functools.reduce(lambda a, b: a * int(b), filter(None, shape.split(",")), 1)


@either_subspace
def test_a_device_keeps_what_one_network_needs(layers):
    """Endpoints and optimizer state of eight endpoints on eight devices; after a step, too."""
    state, batch, program = compiled_step("endpoint=8", layers)
    one = jax.tree.map(lambda x: x[:1] if x.ndim else x, start(jnp.float32))
    network = sum(leaf.nbytes for leaf in jax.tree.leaves(one))
    after, _ = program(state, jax.random.key(2), batch)
    for device in jax.devices()[:N]:
        assert memory(after, device) <= 1.1 * network
    arguments = program.memory_analysis().argument_size_in_bytes
    inputs = sum(leaf.nbytes for leaf in jax.tree.leaves(batch)) // N
    assert arguments - inputs <= 1.1 * network


@every_layout
def test_a_state_stays_where_it_is_put(layout):
    state, _, program = compiled_step(layout)
    wanted = sharding.state_shardings(sharding.make_mesh(layout), state)
    found = program.output_shardings[0]
    same = jax.tree.map(lambda a, b, x: a.is_equivalent_to(b, x.ndim), found, wanted, state)
    chex.assert_trees_all_equal(same, jax.tree.map(lambda _: True, state))


def test_the_optimizer_s_state_lies_as_the_endpoints():
    state = start(jnp.float32)
    mesh = sharding.make_mesh("data=2,endpoint=4")
    found = sharding.state_shardings(mesh, state, split_leaves=True)
    specs = jax.tree.map(lambda x: x.spec, found.endpoints)
    kernel = specs["Conv_1"]["kernel"]
    assert kernel == P("endpoint", None, None, None, "data")  # of [8, 3, 3, 8, 16]
    assert specs["BatchNorm_1"]["bias"] == P("endpoint", "data")
    assert found.step.spec == P()
    kept = [
        jax.tree.map(lambda x: x.spec, part)
        for part in jax.tree.leaves(found.opt_state, is_leaf=lambda x: isinstance(x, dict))
        if isinstance(part, dict)
    ]
    assert kept == [specs, specs]  # momentum, and the average


def test_networks_that_an_average_keeps_are_split_over_their_endpoints():
    optimizer = ss.averaging.snapshots(0, 1, 3)
    state = ss.TrainState.create({"w": jnp.zeros((4, 6))}, optimizer)
    found = sharding.state_shardings(sharding.make_mesh("data=4,endpoint=2"), state)
    shapes = {x.shape for x in jax.tree.leaves(state.opt_state)}
    assert (3, 4, 6) in shapes
    specs = {
        x.shape: s.spec
        for x, s in zip(
            jax.tree.leaves(state.opt_state), jax.tree.leaves(found.opt_state), strict=True
        )
    }
    assert specs[(3, 4, 6)] == P(None, "endpoint")


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (
            "data=3",
            "The mesh 'data=3' is for 3 devices but there are 8; choose sizes of 1, 2, 4, 8",
        ),
        ("endpoint=3", "The mesh 'endpoint=3' is for 3 devices but there are 8;"),
        ("model=2", "'model=2' in the mesh 'model=2' is no axis and size;"),
        ("data=2,data=4", "'data=4' in the mesh 'data=2,data=4' is no axis and size;"),
        ("data=0", "'data=0' in the mesh"),
        ("data", "'data' in the mesh"),
    ],
)
def test_layouts_that_do_not_fit(layout, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sharding.make_mesh(layout)


def test_data_takes_what_is_left():
    assert dict(sharding.make_mesh("endpoint=2").shape) == {"run": 1, "data": 4, "endpoint": 2}
    assert dict(sharding.make_mesh().shape) == {"run": 1, "data": 8, "endpoint": 1}


def test_more_shards_than_endpoints():
    mesh = sharding.make_mesh("endpoint=8")
    with pytest.raises(ValueError, match="8 ways but there are 6 of them; use endpoint=1 or 2."):
        sharding.stack_shardings(mesh, jnp.zeros((6, 2)))


@pytest.mark.parametrize(("size", "sizes"), [(20, "16 or 24"), (4, "8")])
def test_a_batch_that_does_not_divide(size, sizes):
    mesh = sharding.make_mesh("data=4,endpoint=2")
    sentence = (
        f"{size} examples can't be split over 8 devices (data x endpoint); "
        f"use a batch size of {sizes}."
    )
    with pytest.raises(ValueError, match=re.escape(sentence)):
        sharding.batch_sharding(mesh, size)


def test_masked_and_labelled_optimizers_lie_as_the_endpoints():
    """And stay there: the compiled step takes what it returns."""
    params = {"w": jnp.zeros((8, 4)), "b": jnp.zeros((8, 2))}
    sgd = optax.sgd(0.1, momentum=0.9)
    for optimizer in (
        optax.masked(sgd, {"w": True, "b": False}),
        optax.multi_transform({"slow": sgd, "fast": sgd}, {"w": "slow", "b": "fast"}),
    ):
        state = ss.TrainState.create(params, optimizer)
        mesh = sharding.make_mesh("endpoint=8")
        state = jax.device_put(state, sharding.state_shardings(mesh, state))
        step = ss.make_train_step(
            ss.simplex(8), lambda p, key, x: ((p["w"].sum() - p["b"].sum() - x) ** 2, {}), optimizer
        )
        compiled = jax.jit(step).lower(state, jax.random.key(0), jnp.float32(1)).compile()
        for _ in range(2):
            state, _ = compiled(state, jax.random.key(0), jnp.float32(1))
        momenta = [x for x in jax.tree.leaves(state.opt_state) if x.ndim == 2]
        assert momenta
        assert all(x.sharding.spec[0] == "endpoint" for x in momenta)


def test_the_report_is_of_one_device():
    state, _, program = compiled_step("data=2,endpoint=4")
    report = sharding.memory_report(program, state)
    stack = sum(x.nbytes for x in jax.tree.leaves(state.endpoints))
    assert report.endpoints == stack // 4
    assert 2 * stack // 4 <= report.optimizer <= 2 * stack // 4 + 100  # momentum, average, counts
    assert report.gradients == stack // N
    found = program.memory_analysis()
    used = found.argument_size_in_bytes + found.output_size_in_bytes
    expected = used - found.alias_size_in_bytes + found.temp_size_in_bytes
    assert report.total == pytest.approx(expected, rel=0.01)
    assert report.limit is None  # host devices say nothing
    assert "GiB on a device" in report.sentence()
    assert "enlarge" not in report.sentence()


@pytest.mark.parametrize(
    ("sizes", "advice"),
    [
        ((1, 1, 1, 9, 0), "enlarge the axis data, which splits the activations"),
        ((6, 4, 1, 1, 0), "enlarge the axis endpoint, which splits endpoints"),
        ((4, 6, 1, 1, 0), "enlarge the axis endpoint, which splits endpoints"),
        ((1, 1, 1, 1, 8), "keep fewer examples on the device."),
        ((1, 1, 8, 1, 1), "train a smaller network."),
    ],
)
def test_what_does_not_fit_is_said_with_what_helps(sizes, advice):
    report = sharding.MemoryReport(*(2**30 * size for size in sizes), limit=2**33)
    assert report.sentence().startswith("A step needs 12.0 GiB on a device (endpoints ")
    assert f"and it has 8.0 GiB; {advice}" in report.sentence()


def test_memory_that_fits():
    report = sharding.MemoryReport(1, 1, 1, 1, 1, limit=5)
    assert report.fits
    assert report._replace(limit=None).fits
    assert not report._replace(limit=4).fits
