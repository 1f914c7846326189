"""Networks: sizes, initialisation, and what batch norm returns."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from experiments.training.models import make_network
from experiments.training.networks import CifarResNet, ConvNet, ImageNetResNet

NETWORKS = {
    "conv_net": ConvNet(num_classes=3, widths=(4, 8)),
    "cifar_resnet": CifarResNet(num_classes=3, depth=8, width=4),
    "wide_resnet": ImageNetResNet(num_classes=3, blocks=(1, 1), widening=2, width=2),
}
BATCH = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))


def shapes(network, channels=3):
    images = jax.ShapeDtypeStruct((1, 8, 8, channels), jnp.float32)
    init = functools.partial(network.init, train=True)
    return flatten_dict(jax.eval_shape(init, jax.random.key(0), images)["params"])


@functools.cache
def initialised(network, seed=0):
    init = jax.jit(functools.partial(network.init, train=True))
    return init(jax.random.key(seed), BATCH[:1])


@functools.partial(jax.jit, static_argnums=0)
def _captured(network, variables):
    return network.apply(
        variables,
        BATCH,
        train=True,
        rngs={"dropout": jax.random.key(2)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )[1]


def captured(network, variables):
    """The outputs of all modules in training mode, by path, and the updated `batch_stats`."""
    updated = _captured(network, variables)
    # A module's outputs are a tuple with one entry a call, under the name `__call__`.
    outputs = {path[:-1]: leaf for path, (leaf,) in flatten_dict(updated["intermediates"]).items()}
    return outputs, updated["batch_stats"]


@pytest.fixture(scope="module", params=NETWORKS)
def small(request):
    """A network and its variables."""
    network = NETWORKS[request.param]
    return network, initialised(network)


# With a dense classifier with bias for 1,000 classes (torchvision); CResNet20's 0.27 million.
PUBLISHED = {"resnet18": 11_689_512, "resnet50": 25_557_032, "wide_resnet50_2": 68_883_240}
CRESNET20 = 272_464


@pytest.mark.parametrize("name", [*PUBLISHED, "cifar_resnet"])
def test_networks_have_the_published_numbers_of_parameters_and_layers(name):
    if name == "cifar_resnet":
        leaves, expected, layers = shapes(CifarResNet(10)), CRESNET20, 20
    else:
        config = ConfigDict({"name": name, "stem": "imagenet"})
        leaves, expected = shapes(make_network(config, 1000)), PUBLISHED[name] - 1000
        layers = 18 if name == "resnet18" else 50
    assert sum(leaf.size for leaf in leaves.values()) == expected
    kernels = [path for path in leaves if path[-1] == "kernel" and "shortcut" not in path]
    assert len(kernels) == layers


@pytest.mark.parametrize(
    ("name", "stem", "first", "width"),
    [("wide_resnet50_2", "imagenet", 56, 256), ("resnet18", "small", 224, 64)],
)
def test_stages_halve_the_resolution_and_double_the_channels(name, stem, first, width):
    network = make_network(ConfigDict({"name": name, "stem": stem}), 200)
    more = {"train": True, "capture_intermediates": True, "mutable": True}
    call = functools.partial(network.init_with_output, **more)
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    logits, variables = jax.eval_shape(call, jax.random.key(0), images)
    chex.assert_shape(logits, (2, 200))
    outputs, names = flatten_dict(variables["intermediates"]), ("BasicBlock", "Bottleneck")
    blocks = {
        x.shape for path, (x,) in outputs.items() if len(path) == 2 and path[0].startswith(names)
    }
    assert blocks == {(2, first >> i, first >> i, width << i) for i in range(4)}


def test_the_imagenet_stem_pools_the_maximum_of_3x3():
    network = NETWORKS["wide_resnet"]
    variables = initialised(network)
    outputs, _ = captured(network, variables)
    x = np.pad(nn.relu(outputs["BatchNorm_0",]), ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2]
    pooled = windows.max((-2, -1))
    kernel = variables["params"]["Bottleneck_0"]["Conv_0"]["kernel"][0, 0]
    chex.assert_trees_all_close(
        outputs["Bottleneck_0", "Conv_0"], pooled @ kernel, rtol=1e-4, atol=1e-5
    )


def test_batch_norm_starts_at_scale_1_and_bias_0_and_convolutions_have_no_bias(small):
    for path, leaf in flatten_dict(small[1]["params"]).items():
        if path[-1] != "kernel":
            chex.assert_trees_all_equal(leaf, jnp.full_like(leaf, path[-1] == "scale"))
            assert path[0] == "Dense_0" or "norm" in path[-2].lower()


@pytest.mark.parametrize("network", [CifarResNet(10, 8, 16), ConvNet(10)], ids=["resnet", "conv"])
def test_kernels_are_normal_with_variance_2_over_fan_in(network):
    for path, leaf in flatten_dict(initialised(network)["params"]).items():
        if path[-1] != "kernel":
            continue
        z = np.asarray(leaf).ravel() / np.sqrt(2 / np.prod(leaf.shape[:-1]))
        assert abs(z.mean()) < 4 / np.sqrt(z.size), path
        assert abs(z.std() - 1) < 4 / np.sqrt(2 * z.size), path
        if z.size > 4000:  # a truncated normal ends at 2.3
            assert np.abs(z).max() > 3, path


def test_training_mode_returns_the_moments_of_the_batch_alone(small):
    network, variables = small
    before = jax.tree.map(lambda x: x + 7, variables["batch_stats"])
    outputs, updated = captured(network, {**variables, "batch_stats": before})
    convolutions = {f"BatchNorm_{i}": f"Conv_{i}" for i in range(3)} | {"shortcut_norm": "shortcut"}
    stats = flatten_dict(updated)
    assert len(stats) == 2 * sum(path[-1] == "scale" for path in flatten_dict(variables["params"]))
    for (*owner, norm, moment), value in stats.items():
        normed = outputs[*owner, convolutions[norm]]
        chex.assert_trees_all_close(value, getattr(normed, moment)((0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_evaluation_mode_uses_the_given_moments(small):
    network, variables = small
    outputs, stats = captured(network, variables)
    logits = outputs["classifier" if "classifier" in variables["params"] else "Dense_0",]
    apply = jax.jit(functools.partial(network.apply, train=False))
    variables = {"params": variables["params"], "batch_stats": stats}
    evaluated = apply(variables, BATCH)
    chex.assert_trees_all_close(evaluated, logits.reshape(6, 3), rtol=1e-4, atol=1e-5)
    alone = jnp.concatenate([apply(variables, x[None]) for x in BATCH])
    chex.assert_trees_all_close(alone, evaluated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "kind", "norm"),
    [("cifar_resnet", "BasicBlock", "BatchNorm_1"), ("wide_resnet", "Bottleneck", "BatchNorm_2")],
)
def test_dropout_comes_before_the_addition_of_a_block(name, kind, norm):
    network, block = NETWORKS[name], f"{kind}_1"
    dropping = dataclasses.replace(network, dropout=0.5, parent=None)
    outputs, _ = captured(dropping, initialised(network))
    dropped, normed = outputs[block, "Dropout_0"], outputs[block, norm]
    assert 0.3 < float((dropped == 0).mean()) < 0.7
    chex.assert_trees_all_close(dropped, jnp.where(dropped == 0, 0, 2 * normed))
    expected = nn.relu(outputs[block, "shortcut_norm"] + dropped)
    chex.assert_trees_all_close(outputs[block,], expected, rtol=1e-6)


def gradient(network, variables):
    def loss(params, stats):
        logits, updated = network.apply(
            {"params": params, "batch_stats": stats}, BATCH, train=True, mutable="batch_stats"
        )
        return -jax.nn.log_softmax(logits)[:, 0].mean(), (logits, updated)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"], variables["batch_stats"])


def test_bfloat16_is_for_activations_alone(small):
    """Weights, gradients, statistics and logits are float32 in both; what is between is rounded."""
    wide, variables = small
    narrow = dataclasses.replace(wide, dtype=jnp.bfloat16)
    chex.assert_trees_all_equal_dtypes(initialised(narrow), variables)
    (grads, (logits, stats)), (found, (rounded, found_stats)) = (
        gradient(network, variables) for network in (wide, narrow)
    )
    chex.assert_trees_all_equal_dtypes(found, grads, variables["params"])
    chex.assert_trees_all_equal_dtypes(found_stats, stats)
    chex.assert_shape((rounded, logits), (6, 3))
    chex.assert_type((rounded, logits), jnp.float32)
    difference = jnp.abs(rounded - logits).max() / jnp.abs(logits).max()
    assert 0 < difference < 0.05
    chex.assert_trees_all_close(found_stats, stats, rtol=0.05, atol=0.02)
