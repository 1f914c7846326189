"""Networks as files of their own: another program, the same logits."""

import ast
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import formats, network_source
from experiments.images import normalize
from experiments.models import CifarResNet, ConvNet, ImageNetResNet
from experiments.quantise import dequantised, quantised

NETWORKS = {
    "conv_net": ConvNet(3, (2, 4, 3)),
    "cifar_resnet": CifarResNet(3, depth=8, width=2),
    "basic": ImageNetResNet(3, (1, 2), 0, "imagenet", 3),
    "bottleneck": ImageNetResNet(3, (1, 2), 2, "small", 2),
}
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 13, 10, 3)).astype(np.uint8)


def variables_of(network):
    """No two numbers alike, moments above zero."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.zeros((1, *IMAGES.shape[1:])), train=False),
        jax.random.key(0),
    )
    return jax.tree.map(
        lambda x: (
            rng.uniform(0.3, 1.5, x.shape) if x.ndim == 1 else rng.normal(0, 0.5, x.shape)
        ).astype(np.float32),
        shapes,
    )


def defined_by(source):
    scope = {}
    exec(source, scope)
    return scope


@pytest.mark.parametrize(
    ("name", "int8"), [*((name, False) for name in NETWORKS), ("conv_net", True)]
)
def test_both_programs_give_the_logits_of_the_module(name, int8):
    network = NETWORKS[name]
    variables = variables_of(network)
    kept, plain = variables, variables
    if int8:
        kept = variables | {"params": quantised(variables["params"])}
        plain = kept | {"params": dequantised(kept["params"])}
    images = normalize(jnp.asarray(IMAGES), "imagenet")
    expected = np.asarray(jax.jit(lambda v, x: network.apply(v, x, train=False))(plain, images))
    with_flax = defined_by(network_source.with_flax(network, "imagenet", int8))["logits"]
    with_numpy = defined_by(network_source.with_numpy(network, "imagenet", int8))["logits"]
    found = [with_flax(kept, IMAGES), with_numpy(formats.flat(kept), IMAGES)]
    assert np.ptp(expected, axis=0).min() > 0.01  # images are told apart
    for logits in found:
        assert (logits.dtype, logits.shape) == (np.float32, (3, 3))
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", NETWORKS)
def test_files_import_no_module_of_this_project(name):
    allowed = {
        network_source.with_flax: {"collections", "flax", "jax"},
        network_source.with_numpy: {"numpy"},
    }
    for write, packages in allowed.items():
        tree = ast.parse(write(NETWORKS[name], "cifar", True))
        names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
        names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        assert {name.split(".")[0] for name in names} <= packages


def test_the_module_of_a_file_has_the_values_of_the_network():
    network = ConvNet(7, (2, 4), dropout=0.25, dtype=jnp.bfloat16, norm_groups=4)
    found = defined_by(network_source.with_flax(network, "none"))["network"]
    wanted = network.clone(norm_groups=1)
    assert type(found) is not ConvNet
    for name in ("num_classes", "widths", "dropout", "dtype", "norm_groups"):
        assert getattr(found, name) == getattr(wanted, name)


def test_definitions_hold_what_they_need_and_no_more():
    """Of what tests and files define, not of what happens to be imported here."""
    source = network_source.definitions(sys.modules["experiments.models"], "BasicBlock")
    names = [
        n.name for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.ClassDef)
    ]
    assert {"conv", "batch_norm", "drop", "BasicBlock"} <= set(names)
    assert not {"Bottleneck", "ConvNet", "make_network"} & set(names)
    assert "kaiming_normal = " in source
