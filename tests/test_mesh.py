"""Runs of the experiments on several devices are those of one, and need the memory that is said."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation import predict
from experiments.runs import job
from experiments.runs.checkpoint import Checkpoints
from experiments.system.errors import UserError
from experiments.training import memory, placement, steps
from experiments.training.history import History
from subspace_jax import sharding
from tests import compilations, tiny
from tests.test_together import trained

LAYOUTS = ["data=8", "data=4,endpoint=2"]


def make_run(mesh, recipe="line", **changes):
    return tiny.run(recipe, batch_size=8, mesh=mesh, **changes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_begins_and_goes_on_as_on_one_device(layout):
    alone, spread = make_run(""), make_run(layout)
    chex.assert_trees_all_equal(steps.init_state(spread), steps.init_state(alone))
    state, _ = trained(spread)
    chex.assert_trees_all_close(state, trained(alone)[0], rtol=2e-3, atol=2e-4)
    shards = 1 if layout == "data=8" else 2
    for leaf in jax.tree.leaves(state.endpoints):
        assert leaf.addressable_shards[0].data.shape[0] == 2 // shards


def test_predictions_are_those_of_one_device():
    """Batches of evaluation need not be divisible."""
    images = tiny.dataset().test.images[:19]
    test = {"test": Split(images, np.zeros(19, np.int32))}

    def logits(run):
        sizes = {"evaluation__batch_size": 7, "evaluation__recalibration_batch_size": 12}
        config = tiny.config("line", batch_size=8, **sizes)
        settings = predict.make_settings(config, run)
        stack = steps.init_state(run).endpoints
        return predict.predict_networks(run, stack, test, settings)[0]["test"]

    np.testing.assert_allclose(
        logits(make_run("data=4,endpoint=2")), logits(make_run("")), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_known_before_the_first_step_and_nothing_is_compiled_twice(layout, capsys):
    run = make_run(layout, model__widths=(5,))  # a program that no other test compiles
    state = steps.init_state(run)
    with compilations.noted() as names:
        report = job.step_report(run, state)
        trained(run, state)
    assert names.count("jit(train_call)") == 1
    shards = 1 if layout == "data=8" else 2
    assert report.endpoints == sum(x.nbytes for x in jax.tree.leaves(state.endpoints)) // shards
    assert report.sentence() in capsys.readouterr().err


def test_a_run_that_will_not_fit_is_refused_before_its_first_step(monkeypatch):
    original = job.memory_report
    limited = lambda *given: original(*given)._replace(limit=1000)
    monkeypatch.setattr(job, "memory_report", limited)
    run = make_run("data=8")
    with pytest.raises(UserError, match="A step needs .* and it has .* GiB; enlarge the axis"):
        job.step_report(run, steps.init_state(run))


def test_a_batch_is_computed_by_all_devices():
    """The convolutions of the compiled call are those of an eighth of the batch."""
    run = make_run("data=4,endpoint=2")
    text = steps.compiled_call(run, steps.init_state(run)).as_text()
    batches = {int(size) for size in re.findall(r"f32\[(\d+),8,8,4\]\S* convolution", text)}
    assert batches == {1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mesh": "endpoint=4"}, "endpoints 4 ways but there are 2 of them; use endpoint=1 or 2"),
        ({"batch_size": 6}, "batch_size is 6 .* over 8 devices and 1 sampled networks; use 8."),
        ({"batch_size": 40, "subspace__num_samples": 2}, "8 devices and 2 .*; use 32 or 48."),
        ({"mesh": "run=2"}, "config.mesh is 'run=2' but a run trains alone"),
    ],
)
def test_bad_input(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        tiny.run("line", **({"batch_size": 8, "mesh": "data=8"} | changes))


def test_a_run_goes_on_from_a_checkpoint_of_another_mesh(tmp_path):
    first, second = make_run("data=4,endpoint=2"), make_run("data=8")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for state in steps.fit(first, steps.init_state(first), History(first)):
        if int(state.step) == 5:
            break
    checkpoints.save(5, state, {})
    checkpoints.close()
    found, _ = Checkpoints(tmp_path / "checkpoints").restore(steps.init_state(second))
    state, _ = trained(second, placement.place(second.program.model.mesh, found))
    chex.assert_trees_all_close(state, trained(make_run(""))[0], rtol=2e-3, atol=2e-4)


# Memory


def test_the_report_is_of_one_device():
    optimizer = optax.chain(optax.sgd(0.1, momentum=0.9), ss.averaging.ema(0.9))
    loss_fn = lambda w, key, x: (jnp.mean(jnp.tanh(x @ w) ** 2), {})
    step = ss.make_train_step(ss.simplex(8), loss_fn, optimizer)
    mesh = sharding.make_mesh("data=2,endpoint=4")
    state = ss.TrainState.create(jnp.ones((8, 32, 32)), optimizer)
    state = jax.device_put(state, sharding.state_shardings(mesh, state))
    batch = jax.device_put(jnp.ones((16, 32)), sharding.batch_sharding(mesh, 16))
    program = jax.jit(step, donate_argnums=0).lower(state, jax.random.key(0), batch).compile()
    report = memory.memory_report(program, state)
    stack = state.endpoints.nbytes
    assert report.endpoints == stack // 4
    assert 2 * stack // 4 <= report.optimizer <= 2 * stack // 4 + 100  # momentum, average, counts
    assert report.gradients == stack // 8
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
