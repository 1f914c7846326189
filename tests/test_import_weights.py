"""Weights by PyTorch's names: all of them come in bit for bit, or none does and all are named.

`test_import_torch.py` compares logits with PyTorch's, where that is installed.
"""

import functools
import json
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from safetensors.numpy import save_file

from experiments.data.sets import Dataset, Split
from experiments.import_weights import __main__ as import_weights
from experiments.import_weights import torch_files, torch_names
from experiments.system.errors import UserError
from experiments.training import run, steps, weights
from experiments.training.networks import CifarResNet, ImageNetResNet
from experiments.training.starting import without_head

CIFAR = CifarResNet(3, depth=8, width=2)
BASIC = ImageNetResNet(3, (2, 1), width=2, classifier_bias=True)
NETWORKS = {
    "basic": BASIC,
    "bottleneck": ImageNetResNet(3, (1, 2), widening=1, width=2, classifier_bias=True),
    "wide": ImageNetResNet(3, (1, 1), widening=2, width=2),
    "tiny_imagenet": ImageNetResNet(3, (1, 2), widening=1, width=2, stem="small"),
    "cifar": CIFAR,
}
MODEL = ["--model", "cifar_resnet", "--depth", "8", "--width", "2"]


@functools.cache
def shapes(network):
    init = functools.partial(network.init, train=False)
    return dict(jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def drawn(network, seed=0):
    """Random variables of a network, all leaves different."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes(network)
    )


def named(network, count=1):
    """The tensors of `count` networks as the authors name endpoints, and their variables."""
    many = [drawn(network, seed) for seed in range(count)]
    tensors = torch_names.to_torch(network, many[0])
    for i, variables in enumerate(many[1:], 1):
        more = torch_names.to_torch(network, variables)
        tensors |= {f"{name}{i}": x for name, x in more.items() if "running" not in name}
    return tensors, many


def stacked(tree):
    return jax.tree.map(lambda leaf: leaf[None], tree)


# Names and layouts


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_what_is_exported_is_imported_bit_for_bit(network):
    """Counters of batches are passed over; half-precision numbers become float32."""
    tensors, (variables,) = named(network)
    again = torch_names.from_torch(network, tensors | {"bn.num_batches_tracked": np.int64(7)})
    chex.assert_trees_all_equal(again, stacked(variables))
    halves = {name: x.astype(np.float16) for name, x in tensors.items()}
    expected = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), again)
    found = torch_names.from_torch(network, halves)
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal_dtypes(found, variables)


# Entries of torchvision's state dicts without the counters of batches.
@pytest.mark.parametrize(
    ("blocks", "widening", "last", "count"),
    [((2, 2, 2, 2), 0, "layer4.1.bn2", 102), ((3, 4, 6, 3), 1, "layer4.2.bn3", 267)],
)
def test_names_are_those_of_torchvision(blocks, widening, last, count):
    tensors, _ = named(ImageNetResNet(3, blocks, widening, width=1, classifier_bias=True))
    some = {"conv1.weight", "bn1.bias", "layer2.0.downsample.0.weight", "fc.weight", "fc.bias"}
    assert some | {f"{last}.running_var"} <= set(tensors)
    assert len(tensors) == count


def test_kernels_are_transposed_and_a_dense_classifier_is_a_1x1_convolution():
    tensors, (variables,) = named(BASIC)
    kernel = variables["params"]["Conv_0"]["kernel"]
    assert tensors["conv1.weight"][1, 2, 3, 4] == kernel[3, 4, 2, 1]
    kernel = variables["params"]["classifier"]["kernel"]
    np.testing.assert_array_equal(tensors["fc.weight"], kernel[0, 0].T)


def test_endpoints_come_in_the_order_of_their_shape():
    for count, shape, order in (
        (1, None, (0,)),
        (3, "curve", (0, 2, 1)),
        (4, None, (0, 1, 2, 3)),
    ):
        tensors, many = named(CIFAR, count)
        assert import_weights.endpoint_order(tensors, shape) == order
        found = torch_names.from_torch(CIFAR, tensors, order)
        ordered = jax.tree.map(lambda *x: np.stack(x), *(many[i]["params"] for i in order))
        chex.assert_trees_all_equal(found["params"], ordered)
        chex.assert_trees_all_equal(found["batch_stats"], stacked(many[0]["batch_stats"]))
    with pytest.raises(UserError, match="3 endpoints, of a curve or of a simplex; say which"):
        import_weights.endpoint_order(named(CIFAR, 3)[0], None)


# What does not fit


def test_all_that_does_not_fit_is_in_one_sentence():
    tensors, _ = named(BASIC, 2)
    del tensors["conv1.weight1"]
    for name in [name for name in tensors if "layer1" in name]:
        del tensors[name]
    tensors["layer9.conv.weight"] = np.zeros((1, 1, 1, 1), np.float32)
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :, 1:]
    tensors["fc.bias"] = tensors["fc.bias"] * np.nan
    tensors["bn1.bias"] = np.zeros(2, np.int32)
    with pytest.raises(UserError) as caught:
        torch_names.from_torch(BASIC, tensors, order=(0, 1))
    for part in (
        "The file does not hold this network: it lacks 33 tensors (conv1.weight1, ",
        "and 28 more) and it has, but the network lacks, 1 tensor (layer9.conv.weight) and",
        "are 1 tensor (conv1.weight [2, 3, 6, 7] for [2, 3, 7, 7])",
        "no finite floating-point numbers are in 2 tensors (bn1.bias, fc.bias); choose",
    ):
        assert part in str(caught.value)


# The command


def command(*arguments):
    return import_weights.main([str(argument) for argument in arguments])


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "w.npz", **named(CIFAR)[0])
    return tmp_path / "w.npz"


def test_a_file_of_either_kind_becomes_a_folder(tmp_path, npz, capsys):
    tensors, (variables,) = named(CIFAR)
    save_file({f"module.{name}": x for name, x in tensors.items()}, tmp_path / "w.safetensors")
    for name in ("w.npz", "w.safetensors"):
        out = tmp_path / "made" / name
        assert command(tmp_path / name, out, *MODEL) == 0
        for file, kind in (("weights.npz", "params"), ("batch_stats.npz", "batch_stats")):
            stack = weights.load(out / file, variables[kind])
            chex.assert_trees_all_equal(stack, stacked(variables[kind]))
        record = json.loads((out / "import.json").read_text())
        assert record["model"] == {"name": "cifar_resnet", "depth": 8, "width": 2}
        assert (record["num_networks"], record["num_classes"]) == (1, 3)
        flags = "--config.model.depth=8 --config.model.name=cifar_resnet --config.model.width=2"
        assert f"  --config.init_from={out}/weights.npz {flags}\n" in capsys.readouterr().out


def test_classifiers_are_as_the_file_has_them_or_left_out(tmp_path):
    tensors, (variables,) = named(CIFAR)
    (biased, _), resnet = named(ImageNetResNet(3, width=1, classifier_bias=True)), "resnet18"
    for name, given, arguments, expected in (
        ("as it is", biased, ["--model", resnet, "--width", 1], (True, 3)),
        ("new", tensors, [*MODEL, "--head", "new"], (None, None)),
    ):
        np.savez(tmp_path / "w.npz", **given)
        assert command(tmp_path / "w.npz", tmp_path / name, *arguments) == 0
        record = json.loads((tmp_path / name / "import.json").read_text())
        assert (record["model"].get("classifier_bias"), record["num_classes"]) == expected
    stack = weights.load(tmp_path / "new" / "weights.npz", without_head(variables["params"]))
    assert set(stack) == set(variables["params"]) - {"classifier"}


def test_what_does_not_fit_is_refused_and_nothing_written(npz, capsys):
    before, out = sorted(npz.parent.rglob("*")), npz.parent / "out"
    for folder, arguments, sentence in (
        (out, ["--model", "resnet18"], "it lacks 100 tensors (bn1.bias, bn1.running_mean, "),
        (out, [*MODEL, "--shape", "line"], "holds 1 endpoint but --shape line has 2"),
        (npz.parent, MODEL, "exists; name a new folder"),
    ):
        assert command(npz, folder, *arguments) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert sentence in said
        assert sorted(npz.parent.rglob("*")) == before


def test_files_of_something_else_are_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name, content, sentence in (
        ("w.h5", b"", r"ends in '\.h5'; use a file in \.safetensors, "),
        ("w.npz", b"weights", "can't be read as tensors by name"),
        ("w.safetensors", b"weights", r"can't be read as safetensors \("),
        ("w.pth", b"", r"PyTorch .* not installed; .* safetensors\.torch\.save_file\(.*\.$"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=sentence):
            torch_files.read(tmp_path / name)


def test_a_run_starts_from_what_was_imported(tmp_path, npz):
    assert command(npz, tmp_path / "out", *MODEL) == 0
    splits = [Split(np.repeat(s.images, 3, -1), s.labels) for s in tiny.dataset()[1:4]]
    config = tiny.config("line", init_from=str(tmp_path / "out" / "weights.npz"))
    with config.unlocked():
        config.model = {"name": "cifar_resnet", "depth": 8, "width": 2}
    endpoints = steps.init_state(run.make_run(config, Dataset("tiny", *splits, 3))).endpoints
    params = drawn(CIFAR)["params"]
    chex.assert_trees_all_equal(endpoints, jax.tree.map(lambda x: np.stack([x, x]), params))
