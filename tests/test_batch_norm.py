"""Batch norm with statistics of groups of the batch, as devices with statistics of their own have."""

import dataclasses
import functools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import subspace_jax as ss
from experiments import models, predict, train
from experiments.errors import UserError
from experiments.models import CifarResNet, ConvNet, ImageNetResNet
from tests import tiny

NETWORKS = {
    "conv_net": ConvNet(num_classes=3, widths=(4, 8)),
    "cifar_resnet": CifarResNet(num_classes=3, depth=8, width=4),
    "wide_resnet": ImageNetResNet(num_classes=3, blocks=(1, 1), widening=2, width=2),
}
BATCH = jax.random.normal(jax.random.key(1), (12, 8, 8, 3)) + jnp.arange(12.0)[:, None, None, None]
every_network = pytest.mark.parametrize("name", NETWORKS)


def grouped(network, groups):
    return dataclasses.replace(network, norm_groups=groups)


@functools.cache
def variables(network):
    return jax.jit(functools.partial(network.init, train=False))(jax.random.key(0), BATCH[:1])


@functools.partial(jax.jit, static_argnums=0)
def apply(network, given, batch):
    """Logits and moments in training mode."""
    logits, updated = network.apply(given, batch, train=True, mutable="batch_stats")
    return logits, updated["batch_stats"]


@every_network
def test_groups_are_batches_of_their_own(name):
    network = NETWORKS[name]
    given, chunks = variables(network), BATCH.reshape(3, 4, 8, 8, 3)
    found, _ = apply(grouped(network, 3), given, BATCH)
    expected = jax.vmap(lambda chunk: apply(network, given, chunk)[0])(chunks)
    np.testing.assert_allclose(found, expected.reshape(12, -1), rtol=1e-4, atol=1e-4)
    whole, _ = apply(network, given, BATCH)
    assert jnp.abs(found - whole).max() > 0.01


@every_network
def test_variables_do_not_depend_on_groups(name):
    """In training mode, too, where one image can't be split."""
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    shapes = [
        jax.eval_shape(functools.partial(network.init, train=mode), jax.random.key(0), images)
        for network in (NETWORKS[name], grouped(NETWORKS[name], 4))
        for mode in (False, True)
    ]
    for other in shapes[1:]:
        assert other == shapes[0]


def test_one_group_is_the_program_of_before():
    """Flax's own module, and no other operation."""

    class Before(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = nn.BatchNorm(use_running_average=False, momentum=0.0, epsilon=1e-5)
            return norm(x.astype(jnp.float32)).astype(x.dtype)

    class Now(nn.Module):
        @nn.compact
        def __call__(self, x):
            return models.batch_norm(x, True, 1)

    def text(module):
        given = module.init(jax.random.key(0), BATCH)
        return str(jax.make_jaxpr(lambda x: module.apply(given, x, mutable="batch_stats"))(BATCH))

    assert text(Before()) == text(Now())


def test_moments_are_those_of_all_examples():
    """Of the first normalisation, by the law of total variance; so pools of batches are exact."""
    network, given = NETWORKS["conv_net"], variables(NETWORKS["conv_net"])

    def first(groups, batch):
        return apply(grouped(network, groups), given, batch)[1]["BatchNorm_0"]

    chex.assert_trees_all_close(first(3, BATCH), first(1, BATCH), rtol=1e-4, atol=1e-5)

    def stats_fn(params, batch):
        return first(2, batch)

    pooled = ss.recalibrate(stats_fn, None, [BATCH[:4], BATCH[4:]]).stats
    chex.assert_trees_all_close(pooled, first(1, BATCH), rtol=1e-4, atol=1e-5)


def test_predictions_do_not_see_groups():
    network, given = NETWORKS["conv_net"], variables(NETWORKS["conv_net"])
    logits = [grouped(network, groups).apply(given, BATCH[:5], train=False) for groups in (1, 4)]
    np.testing.assert_array_equal(*logits)


def test_bfloat16_has_moments_in_float32():
    network = dataclasses.replace(NETWORKS["conv_net"], norm_groups=3, dtype=jnp.bfloat16)
    logits, stats = apply(network, variables(network), BATCH)
    assert {leaf.dtype for leaf in jax.tree.leaves((logits, stats))} == {jnp.dtype(jnp.float32)}


def make_run(mesh, **changes):
    return tiny.run("line", batch_size=8, mesh=mesh, model__batch_norm_groups=4, **changes)


def trained(run):
    state = train.init_state(run)
    for latest in train.fit(run, state, train.History(run)):
        state = latest
    return state


def test_a_run_is_the_same_on_every_mesh():
    """Eight devices for four groups, and one."""
    alone = trained(make_run(""))
    spread = trained(make_run("data=4,endpoint=2"))
    chex.assert_trees_all_close(spread, alone, rtol=2e-3, atol=2e-4)
    whole = trained(tiny.run("line", batch_size=8))
    gap = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), alone.endpoints, whole.endpoints)
    assert max(jax.tree.leaves(gap)) > 1e-3


@pytest.mark.parametrize(("devices", "summed"), [(8, {"1,4", "1,8"}), (4, set()), (2, set())])
def test_groups_on_devices_of_their_own_need_no_communication(devices, summed):
    """Four groups on eight devices sum one group's moments, at two layers; on four devices nothing."""
    mesh = ss.sharding.make_mesh(f"data={devices}", jax.devices()[:devices])
    network, where = grouped(NETWORKS["conv_net"], 4), ss.sharding.batch_sharding(mesh, 8)
    fn = jax.jit(
        lambda given, x: network.apply(given, x, train=True, mutable="batch_stats")[0],
        in_shardings=(None, where),
        out_shardings=where,
    )
    text = fn.lower(variables(network), BATCH[:8]).compile().as_text()
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)
    lines = [line for line in text.splitlines() if re.search(r" all-reduce(-start)?\(", line)]
    assert {shape for line in lines for shape in re.findall(r"f32\[([\d,]+)\]", line)} == summed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"batch_size": 6, "model__batch_norm_groups": 4},
            "config.batch_size is 6 but is to be split over 4 groups of batch norm "
            "(config.model.batch_norm_groups); use 4 or 8.",
        ),
        (
            {"batch_size": 12, "model__batch_norm_groups": 4, "subspace__num_samples": 2},
            "config.batch_size is 12 but is to be split over 2 sampled networks and 4 groups",
        ),
        ({"model__batch_norm_groups": 0}, "config.model.batch_norm_groups is 0; use 1 for"),
    ],
)
def test_bad_input(changes, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        tiny.run("line", **changes)


def test_recalibration_batches_are_of_groups_too():
    run = make_run("")
    config = tiny.config("line", evaluation__recalibration_batch_size=10)
    sentence = "config.evaluation.recalibration_batch_size is 10 but is to be split over 4 groups"
    with pytest.raises(UserError, match=sentence):
        predict.make_settings(config, run)
