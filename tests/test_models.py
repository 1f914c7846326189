"""Networks: sizes, initialisation, and what batch norm returns."""

import dataclasses
import functools

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from experiments.errors import UserError
from experiments.models import CifarResNet, ConvNet, make_network

NETWORKS = {
    "conv_net": ConvNet(num_classes=3, widths=(4, 8)),
    "cifar_resnet": CifarResNet(num_classes=3, depth=8, width=4),
}
BATCH = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))


def by_path(tree):
    """Leaves by their path of names and indices."""
    paths = {
        jax.tree_util.keystr(p, simple=True, separator="/"): x
        for p, x in jax.tree.leaves_with_path(tree)
    }
    return {tuple(path.split("/")): leaf for path, leaf in paths.items()}


def shapes(network, channels=3):
    images = jnp.zeros((1, 8, 8, channels))
    variables = jax.eval_shape(lambda key: network.init(key, images, train=True), jax.random.key(0))
    return by_path(variables["params"])


@functools.cache
def compiled_init(network):
    fast = {"xla_backend_optimization_level": 0}  # to compile
    init = functools.partial(network.init, train=True)
    return functools.partial(jax.jit(init, compiler_options=fast), x=BATCH[:1])


def initialised(network, seed=0):
    return compiled_init(network)(jax.random.key(seed))


@pytest.fixture(scope="module", params=NETWORKS)
def small(request):
    """A network and its variables."""
    network = NETWORKS[request.param]
    return network, initialised(network)


def resnet_size(depth, width, num_classes):
    """Weights of the convolutions, then scale and bias of every batch norm."""
    blocks = (depth - 2) // 6
    count = 9 * 3 * width + 2 * width
    for stage in range(3):
        w = width * 2**stage
        count += blocks * (2 * 9 * w * w + 4 * w)
        if stage:  # the first convolution of a stage has half as many inputs, and a shortcut
            count += w // 2 * w + 2 * w - 9 * w * (w - w // 2)
    return count + 4 * width * num_classes


@pytest.mark.parametrize(
    ("depth", "width", "num_classes"), [(20, 16, 10), (20, 16, 100), (8, 4, 3), (32, 8, 10)]
)
def test_number_of_parameters_is_that_of_the_formula(depth, width, num_classes):
    leaves = shapes(CifarResNet(num_classes, depth, width))
    assert sum(leaf.size for leaf in leaves.values()) == resnet_size(depth, width, num_classes)


def test_cresnet20_has_0_27_million_parameters():
    assert resnet_size(20, 16, 10) == 272_464


@pytest.mark.parametrize("depth", [8, 14, 20, 32])
def test_depth_counts_the_layers_with_weights(depth):
    leaves = shapes(CifarResNet(10, depth, 4))
    kernels = [path for path in leaves if path[-1] == "kernel" and "shortcut" not in path]
    assert len(kernels) == depth
    assert sum("shortcut" in path for path in leaves) == 2


@pytest.mark.parametrize("widths", [(4,), (4, 8), (2, 4, 6)])
def test_conv_net_has_a_stage_for_every_width(widths):
    leaves = shapes(ConvNet(5, widths), channels=1)
    kernels = [leaf.shape for path, leaf in leaves.items() if path[-1] == "kernel"]
    inputs = (1, *widths[:-1])
    assert kernels == [
        *((3, 3, i, o) for i, o in zip(inputs, widths, strict=True)),
        (widths[-1], 5),
    ]


def test_convolutions_have_no_bias_and_batch_norm_has(small):
    network, variables = small
    modules = {}
    for path in by_path(variables["params"]):
        modules.setdefault(path[:-1], set()).add(path[-1])
    contents = {frozenset(names) for path, names in modules.items() if path != ("Dense_0",)}
    assert contents == {frozenset({"kernel"}), frozenset({"scale", "bias"})}
    assert (("Dense_0",) in modules) == isinstance(network, ConvNet)
    assert modules.get(("classifier",), {"kernel"}) == {"kernel"}


def test_batch_norm_starts_at_scale_1_and_bias_0(small):
    for path, leaf in by_path(small[1]["params"]).items():
        if path[-1] != "kernel":
            chex.assert_trees_all_equal(leaf, jnp.full_like(leaf, path[-1] == "scale"))


@pytest.mark.parametrize("network", [CifarResNet(10, 8, 16), ConvNet(10)], ids=["resnet", "conv"])
def test_kernels_are_normal_with_variance_2_over_fan_in(network):
    for path, leaf in by_path(initialised(network)["params"]).items():
        if path[-1] != "kernel":
            continue
        z = np.asarray(leaf).ravel() / np.sqrt(2 / np.prod(leaf.shape[:-1]))
        assert abs(z.mean()) < 4 / np.sqrt(z.size), path
        assert abs(z.std() - 1) < 4 / np.sqrt(2 * z.size), path
        if z.size > 4000:  # a truncated normal ends at 2.3
            assert np.abs(z).max() > 3, path


def test_kernels_differ_between_keys_and_layers(small):
    network, variables = small
    kernels = [k for path, k in by_path(variables["params"]).items() if path[-1] == "kernel"]
    other = initialised(network, seed=1)
    others = [k for path, k in by_path(other["params"]).items() if path[-1] == "kernel"]
    for kernel, other_kernel in zip(kernels, others, strict=True):
        assert (kernel != other_kernel).all()
    firsts = [float(kernel.ravel()[0] * kernel[..., 0].size ** 0.5) for kernel in kernels]
    assert len(set(firsts)) == len(firsts)


def test_logits_are_float32_of_shape_b_k(small):
    network, variables = small
    for train in (False, True):
        logits, _ = network.apply(variables, BATCH, train=train, mutable="batch_stats")
        chex.assert_shape(logits, (6, 3))
        chex.assert_type(logits, jnp.float32)


def test_training_mode_returns_the_moments_of_the_batch_alone(small):
    network, variables = small
    before = jax.tree.map(lambda x: x + 7, variables["batch_stats"])
    _, updated = network.apply(
        {"params": variables["params"], "batch_stats": before},
        BATCH,
        train=True,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )
    # A module's outputs are a tuple with one entry a call, under the name `__call__`.
    outputs = {path[:-2]: leaf for path, leaf in by_path(updated["intermediates"]).items()}
    convolutions = {"BatchNorm_0": "Conv_0", "BatchNorm_1": "Conv_1", "shortcut_norm": "shortcut"}
    stats = by_path(updated["batch_stats"])
    assert len(stats) == 2 * sum(path[-1] == "scale" for path in by_path(variables["params"]))
    for (*owner, norm, moment), value in stats.items():
        normed = outputs[*owner, convolutions[norm]]
        chex.assert_trees_all_close(value, getattr(normed, moment)((0, 1, 2)), rtol=1e-4, atol=1e-5)


def test_evaluation_mode_uses_the_given_moments(small):
    network, variables = small
    logits, updated = network.apply(variables, BATCH, train=True, mutable="batch_stats")
    variables = {"params": variables["params"], **updated}
    evaluated = network.apply(variables, BATCH, train=False)
    chex.assert_trees_all_close(evaluated, logits, rtol=1e-4, atol=1e-5)
    alone = jnp.concatenate([network.apply(variables, x[None], train=False) for x in BATCH])
    chex.assert_trees_all_close(alone, evaluated, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("config", "network"),
    [
        ({"name": "conv_net", "widths": [4, 8]}, NETWORKS["conv_net"]),
        ({"name": "cifar_resnet", "depth": 8, "width": 4}, NETWORKS["cifar_resnet"]),
    ],
)
def test_a_config_names_a_network(config, network):
    made = make_network(ConfigDict(config), num_classes=3)
    assert made == network
    assert hash(made) == hash(network)


@pytest.mark.parametrize("depth", [-4, 0, 2, 7, 18, 21])
def test_depths_that_do_not_exist_are_refused(depth):
    config = ConfigDict({"name": "cifar_resnet", "depth": depth, "width": 16})
    with pytest.raises(UserError, match=rf"^config\.model\.depth is {depth} but .* use 8, 14, 20"):
        make_network(config, num_classes=10)


def test_unknown_networks_are_refused():
    with pytest.raises(
        UserError, match=r"^config\.model\.name is 'vgg'; .* conv_net, cifar_resnet"
    ):
        make_network(ConfigDict({"name": "vgg"}), num_classes=10)


DROPPING = {
    name: dataclasses.replace(network, dropout=0.5, parent=None)
    for name, network in NETWORKS.items()
}


@pytest.fixture(scope="module", params=NETWORKS)
def dropping(request):
    """A network, the same with dropout, and variables of the first."""
    network = NETWORKS[request.param]
    variables = initialised(network)
    _, updated = network.apply(variables, BATCH, train=True, mutable="batch_stats")
    return network, DROPPING[request.param], {"params": variables["params"], **updated}


def test_dropout_changes_no_parameter(dropping):
    network, with_dropout, _ = dropping
    chex.assert_trees_all_equal(initialised(network), initialised(with_dropout))


def test_a_rate_of_0_leaves_the_program_as_it_is(dropping):
    network, _, variables = dropping

    def program(**options):
        call = functools.partial(network.apply, mutable="batch_stats", **options)
        return str(jax.make_jaxpr(call)(variables, BATCH))

    for train in (False, True):
        assert program(train=train, dropout=not train) == program(train=train)
    assert "random" not in program(train=True)


def test_dropout_acts_in_training_mode_unless_told_otherwise(dropping):
    network, with_dropout, variables = dropping
    rngs = {"dropout": jax.random.key(2)}
    for train in (False, True):
        expected = network.apply(variables, BATCH, train=train, mutable="batch_stats")
        for dropout in (None, False, True):
            drops = train if dropout is None else dropout
            output = with_dropout.apply(
                variables,
                BATCH,
                train=train,
                dropout=dropout,
                rngs=rngs if drops else {},
                mutable="batch_stats",
            )
            if drops:
                assert (output[0] != expected[0]).any()
            else:
                chex.assert_trees_all_equal(output, expected)


def test_dropout_needs_a_key(dropping):
    _, with_dropout, variables = dropping
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        with_dropout.apply(variables, BATCH, train=False, dropout=True)


def test_masks_differ_between_keys_and_agree_for_one(dropping):
    _, with_dropout, variables = dropping

    def logits(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return with_dropout.apply(variables, BATCH, train=False, dropout=True, rngs=rngs)

    chex.assert_trees_all_equal(logits(0), logits(0))
    assert (logits(0) != logits(1)).any()


def test_dropout_comes_before_the_addition_of_a_block():
    block = DROPPING["cifar_resnet"]
    variables = initialised(block)
    _, captured = block.apply(
        variables,
        BATCH,
        train=True,
        rngs={"dropout": jax.random.key(2)},
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=True,
    )
    outputs = {path[:-2]: leaf for path, leaf in by_path(captured["intermediates"]).items()}
    dropped = outputs["BasicBlock_0", "Dropout_0"]
    normed = outputs["BasicBlock_0", "BatchNorm_1"]
    assert 0.4 < float((dropped == 0).mean()) < 0.6
    chex.assert_trees_all_close(dropped, jnp.where(dropped == 0, 0, 2 * normed))
    # The first block's shortcut is its input: the output of the network's first batch norm.
    addend = nn.relu(outputs["BatchNorm_0",])
    chex.assert_trees_all_close(outputs["BasicBlock_0",], nn.relu(addend + dropped), rtol=1e-6)


def test_the_rate_of_dropout_comes_from_the_config():
    config = ConfigDict({"name": "cifar_resnet", "depth": 8, "width": 4, "dropout": 0.25})
    assert make_network(config, 3) == CifarResNet(3, 8, 4, dropout=0.25)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2, float("nan")])
def test_rates_of_dropout_out_of_range_are_refused(rate):
    config = ConfigDict({"name": "conv_net", "widths": [4], "dropout": rate})
    with pytest.raises(UserError, match=rf"^config\.model\.dropout is {rate}; use at least 0"):
        make_network(config, num_classes=10)
