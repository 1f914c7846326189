"""Runs of a group, each on devices of its own, are what they are alone."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.suites import get_config
from experiments.evaluation import predict
from experiments.reproduce import plan
from experiments.reproduce.records import Entry
from experiments.system.errors import UserError
from experiments.training import placement, steps
from subspace_jax import for_each
from tests import compilations, test_together, tiny
from tests.test_together import run_all, train_together, trained


def make_run(slot, mesh="run=8"):
    return test_together.make_run("line", slot or 0, slot, mesh=mesh, batch_size=8)


@pytest.mark.parametrize(
    ("mesh", "slots", "devices"),
    [
        ("run=8", range(3), 1),  # fewer than the axis: on fewer devices
        ("run=2,data=2,endpoint=2", range(4), 4),  # two on the same devices
    ],
)
def test_runs_are_what_they_are_alone(mesh, slots, devices):
    runs = [make_run(slot, mesh) for slot in slots]
    with compilations.noted() as names:
        together = train_together(runs)
    assert sum("train_apart" in name for name in names) == 1
    assert "jit(train_call)" not in names
    places = set()
    for run, (state, epochs) in zip(runs, together, strict=True):
        expected, history = trained(make_run(run.seed, mesh=""))
        chex.assert_trees_all_close(state, expected, rtol=2e-3, atol=2e-4)
        losses = ([epoch["loss"] for epoch in found] for found in (epochs, history))
        np.testing.assert_allclose(*losses, rtol=1e-3)
        for leaf in jax.tree.leaves(state):
            assert leaf.sharding.device_set == set(run.program.model.mesh.devices.flat)
        assert len(state.step.sharding.device_set) == devices
        places.add(frozenset(state.step.sharding.device_set))
    assert len(places) == min(len(runs), 2 if "run=2" in mesh else 8)


def compiled(mesh, count):
    """The text of the program of a group's calls."""
    runs = [make_run(slot, mesh) for slot in range(count)]
    whole = placement.beside([run.program.model.mesh for run in runs])
    states = placement.joined(whole, [[steps.init_state(run)] for run in runs])
    index = jnp.arange(8).reshape(1, 8)
    others = placement.joined(
        whole, [[(run.hyper, jax.random.key(0), run.labels, index)] for run in runs]
    )
    images = placement.shared(whole, [run.images for run in runs])
    program = runs[0].program
    program = dataclasses.replace(program, model=dataclasses.replace(program.model, mesh=whole))
    lowered = steps.train_apart.lower(states, others, images, program=program, unroll=True)
    return lowered.compile().as_text()


COLLECTIVE = r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("


@pytest.mark.parametrize(("mesh", "count", "found"), [("run=8", 8, 0), ("run=2,data=4", 2, 1)])
def test_what_a_run_communicates_stays_with_its_devices(mesh, count, found):
    text = compiled(mesh, count)
    assert "f32[3,3,1,4]" in text  # it is the program of training
    assert set(re.findall(COLLECTIVE, text)) == ({"all-reduce"} if found else set())
    own = ("{{0,1,2,3},{4,5,6,7}}", "[2,4]<=[8]")
    assert all(groups in own for groups in re.findall(r"replica_groups=(\S+?), ", text))


def test_a_group_s_record_is_that_of_its_runs_alone(tmp_path):
    data = {"dataset": "tiny", "data_dir": tiny.npz_file(tmp_path / "tiny.npz")}

    def records(mesh, at_once):
        more = {"mesh": mesh, "batch_size": 8, "evaluation__num_points": 3} | data
        configs = [tiny.config("line", seed=seed, **more) for seed in range(2)]
        entries = [Entry("line", "article", 0.0, config.seed, config) for config in configs]
        return run_all(entries, tmp_path / str(at_once), at_once).records

    expected = records("", 1)
    for name, record in records("run=2,data=4", 2).items():
        nll, other = (r["places"]["midpoint"]["nll"] for r in (record, expected[name]))
        assert nll == pytest.approx(other, rel=1e-2)


def test_recalibration_is_split_over_as_many_devices_as_divide_the_batch():
    run = make_run(None, "data=8")
    config = tiny.config("line", batch_size=8, evaluation__recalibration_batch_size=12)
    settings, stack = predict.make_settings(config, run), steps.init_state(run).endpoints
    batch = next(iter(predict.recalibration_batches(run, settings)))
    moments = jax.jit(for_each(predict.moments_fn(run.program.model, False)))
    text = moments.lower(stack, batch).compile().as_text()
    assert {int(n) for n in re.findall(r"f32\[(\d+),8,8,4\]\S* convolution", text)} == {3}


@pytest.mark.parametrize(
    ("mesh", "at_once", "sentence"),
    [
        ("run=8", 12, "8 ways but config.runs_at_once is 12; use --config.runs_at_once=8 or 16"),
        ("run=3", 8, "but there are 8; .*(config.run.mesh)"),
    ],
)
def test_a_suite_s_mesh_splits_its_groups(mesh, at_once, sentence):
    config = get_config("digits")
    config.run.mesh, config.runs_at_once = "run=8", 8
    plan.check(config)
    config.run.mesh, config.runs_at_once = mesh, at_once
    with pytest.raises(UserError, match=sentence):
        plan.check(config)
