"""What a compiled training step needs on each device, and what it says where that is too much."""

import jax
import jax.numpy as jnp
import optax
import pytest

import subspace_jax as ss
from experiments.training import memory
from subspace_jax import sharding

N = 8


def test_the_report_is_of_one_device():
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), ss.averaging.ema(0.9))
    loss_fn = lambda w, key, x: (jnp.mean(jnp.tanh(x @ w) ** 2), {})
    step = ss.make_train_step(ss.simplex(N), loss_fn, optimizer)
    mesh = sharding.make_mesh("data=2,endpoint=4")
    state = ss.TrainState.create(jnp.ones((N, 32, 32)), optimizer)
    state = jax.device_put(state, sharding.state_shardings(mesh, state))
    batch = jax.device_put(jnp.ones((16, 32)), sharding.batch_sharding(mesh, 16))
    program = jax.jit(step, donate_argnums=0).lower(state, jax.random.key(0), batch).compile()
    report = memory.memory_report(program, state)
    stack = state.endpoints.nbytes
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
        ((1, 1, 1, 9, 0), "enlarge the axis data"),
        ((4, 6, 1, 1, 0), "enlarge the axis endpoint"),
        ((1, 1, 1, 1, 8), "keep fewer examples on the device."),
    ],
)
def test_what_does_not_fit_is_said_with_what_helps(sizes, advice):
    report = memory.MemoryReport(*(2**30 * size for size in sizes), limit=2**33)
    assert report.sentence().startswith("A step needs 12.0 GiB on a device (endpoints ")
    assert f"and it has 8.0 GiB; {advice}" in report.sentence()
    assert report._replace(limit=None).fits
    assert report._replace(limit=12 * 2**30).fits
