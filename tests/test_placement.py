"""Runs of a group, each on devices of its own, are what they are alone."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.configs.suites import get_config
from experiments.reproduce import plan
from experiments.system.errors import UserError
from experiments.training import placement, steps
from tests import compilations, test_together
from tests.test_together import train_together, trained


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
