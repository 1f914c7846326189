"""Imported weights give PyTorch's logits: needs PyTorch, which the project does not."""

import functools

import chex
import jax
import numpy as np
import pytest

import subspace_jax as ss
from experiments.import_weights import __main__ as import_weights
from experiments.import_weights import torch_files, torch_names
from experiments.system.errors import UserError
from experiments.training import weights
from experiments.training.networks import CifarResNet, ImageNetResNet

torch = pytest.importorskip("torch")
nn = torch.nn

CLASSES = 7
IMAGES = np.random.default_rng(0).normal(size=(3, 46, 37, 3)).astype(np.float32)
IMAGES *= np.array([0.3, 1, 3], np.float32)[:, None, None, None]
# Their modules: stem, a block, convolutions and batch norms within it, its shortcut.
LAYOUTS = {
    "torchvision": (
        ("conv1", "bn1"),
        lambda stage, block, index: f"layer{stage}.{block}",
        ("conv1 bn1", "conv2 bn2", "conv3 bn3"),
        ("downsample.0", "downsample.1"),
    ),
    "cifar": (
        ("conv", "bn"),
        lambda stage, block, index: f"blocks.{index}",
        ("conv1 bn1", "conv2 bn2"),
        ("shortcut.0", "shortcut.1"),
    ),
    "tiny_imagenet": (
        ("conv1.0", "conv1.1"),
        lambda stage, block, index: f"conv{stage + 1}_x.{block}",
        tuple(f"residual_function.{i} residual_function.{i + 1}" for i in (0, 3, 6)),
        ("shortcut.0", "shortcut.1"),
    ),
}


class Endpoints(nn.Module):
    """A convolution or batch norm with `weight`, `weight1`, ... mixed by `coefficients`."""

    def __init__(self, plain, count):
        super().__init__()
        self.plain, self.count, self.coefficients = [plain], count, None
        for name, value in plain.named_parameters():
            for i in range(count):
                self.register_parameter(f"{name}{i or ''}", nn.Parameter(value.detach().clone()))
        for name, value in plain.named_buffers():
            self.register_buffer(name, value)

    def forward(self, x):
        self.plain[0].train(self.training)
        mixed = {
            name: sum(
                c * getattr(self, f"{name}{i or ''}") for i, c in enumerate(self.coefficients)
            )
            for name, _ in self.plain[0].named_parameters()
        }
        return torch.func.functional_call(self.plain[0], mixed | dict(self.named_buffers()), x)


class ResNet(nn.Module):
    """torchvision's network or one of the authors', by the names of its modules."""

    def __init__(self, layout, width, blocks, widening=0, count=0):
        super().__init__()
        self.make = functools.partial(Endpoints, count=count) if count else lambda module: module
        stem, block_name, inside, shortcut = LAYOUTS[layout]
        self.pool, self.dense = layout == "torchvision", not count
        self.stem = self.pair(stem, 3, width, *((7, 2) if self.pool else (3, 1)))
        self.rest, inputs = [], width
        names = [(stage, i) for stage, n in enumerate(blocks, 1) for i in range(n)]
        for index, (stage, i) in enumerate(names):
            own, stride = width * 2 ** (stage - 1), 2 if stage > 1 and not i else 1
            outputs, inner = (4 * own, widening * own) if widening else (own, own)
            sizes = [(inputs, own, 3, stride), (own, own, 3, 1)]
            if widening:
                sizes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
            at = block_name(stage, i, index)
            layers = [
                self.pair([f"{at}.{name}" for name in both.split()], *size)
                for both, size in zip(inside, sizes, strict=False)
            ]
            short = nn.Identity()
            if stride > 1 or inputs != outputs:
                short = self.pair([f"{at}.{name}" for name in shortcut], inputs, outputs, 1, stride)
            self.rest.append((layers, short))
            inputs = outputs
        last = (
            nn.Linear(inputs, CLASSES) if self.dense else nn.Conv2d(inputs, CLASSES, 1, bias=False)
        )
        self.fc = last if self.dense else self.make(last)

    def pair(self, names, inputs, outputs, size, stride):
        """A convolution and its batch norm, put where their names say."""
        conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
        both = [self.make(conv), self.make(nn.BatchNorm2d(outputs))]
        for name, module in zip(names, both, strict=True):
            node, (*parents, last) = self, name.split(".")
            for parent in parents:
                if not hasattr(node, parent):
                    node.add_module(parent, nn.Module())
                node = getattr(node, parent)
            node.add_module(last, module)
        return lambda x: both[1](both[0](x))

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = nn.functional.max_pool2d(x, 3, 2, 1) if self.pool else x
        for (*layers, last), short in self.rest:
            y = x
            for layer in layers:
                y = torch.relu(layer(y))
            x = torch.relu(last(y) + short(x))
        x = x.mean((2, 3), keepdim=True)
        return self.fc(x.flatten(1) if self.dense else x).flatten(1)


def randomised(model):
    """The model in evaluation mode; all scales, biases and running statistics random."""
    generator = torch.Generator().manual_seed(0)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        drawn = torch.rand(value.shape, generator=generator)
        if value.ndim <= 1 and value.is_floating_point():
            value.data = drawn - 0.5 if "bias" in name or "mean" in name else drawn + 0.5
        elif value.is_floating_point():
            fan_in = value[0].numel()
            value.data = torch.randn(value.shape, generator=generator) * (2 / fan_in) ** 0.5
    return model.eval()


def theirs(model, coefficients=None):
    for module in model.modules():
        if isinstance(module, Endpoints):
            module.coefficients = coefficients
    with torch.no_grad():
        return model(torch.from_numpy(IMAGES.transpose(0, 3, 1, 2))).numpy()


@functools.partial(jax.jit, static_argnums=0)
def ours(network, params, stats):
    return network.apply({"params": params, "batch_stats": stats}, IMAGES, train=False)


def assert_same_logits(found, expected):
    assert np.ptp(expected, axis=0).min() > 1e-2 * np.abs(expected).max()  # images tell apart
    chex.assert_trees_all_close(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


ALPHAS = (0.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("layout", "widening", "count"),
    [
        *(("torchvision", widening, 0) for widening in (0, 1, 2)),
        *(("torchvision", 1, 2), ("tiny_imagenet", 0, 2)),
    ],
)
def test_torchvisions_weights_and_the_authors_lines_give_their_logits(layout, widening, count):
    model = randomised(ResNet(layout, 4, (1, 2), widening, count=count))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    stem = "imagenet" if layout == "torchvision" else "small"
    network = ImageNetResNet(CLASSES, (1, 2), widening, stem, 4, classifier_bias=not count)
    variables = torch_names.from_torch(network, tensors, tuple(range(count or 1)))
    stats = first(variables["batch_stats"])
    for alpha in ALPHAS[: 3 if count else 1]:
        shares = np.float32([1 - alpha, alpha])[: count or 1]
        params = ss.mix(shares, variables["params"])
        assert_same_logits(ours(network, params, stats), theirs(model, shares.tolist()))


# How the authors mix what they call weight, weight1, ...
LINE = (2, lambda a: (1 - a, a), ss.line())
CURVE = (3, lambda a: ((1 - a) ** 2, a**2, 2 * a * (1 - a)), ss.bezier(2))


@pytest.mark.parametrize("shape", ["line", "curve"])
def test_the_authors_endpoints_of_cresnet20_give_their_logits(shape, tmp_path):
    count, coefficients, subspace = {"line": LINE, "curve": CURVE}[shape]
    model = randomised(ResNet("cifar", 4, (3, 3, 3), count=count))
    # As their code saves it, behind DataParallel.
    tensors = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 160, "state_dicts": [tensors], "best_acc1": 0.0}, tmp_path / "epoch.pt")
    arguments = ["--model", "cifar_resnet", "--depth", "20", "--width", "4", "--shape", shape]
    out = tmp_path / "out"
    assert import_weights.main([str(tmp_path / "epoch.pt"), str(out), *arguments]) == 0
    network = CifarResNet(CLASSES, depth=20, width=4)
    init = functools.partial(network.init, train=False)
    like = jax.eval_shape(init, jax.random.key(0), IMAGES[:1])
    endpoints = weights.load(out / "weights.npz", like["params"])
    stats = first(weights.load(out / "batch_stats.npz", like["batch_stats"]))
    assert ss.tree.num_stacked(endpoints) == count
    for alpha in ALPHAS:
        params = subspace.point(endpoints, np.float32(alpha))
        assert_same_logits(ours(network, params, stats), theirs(model, coefficients(alpha)))


# Files


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))


def test_names_of_wrappers_are_left_out_and_said(tmp_path, capsys):
    plain = {
        name: torch.full((1,), i) for i, name in enumerate(("conv.weight", "blocks.0.bn.bias"))
    }
    counter = {"n_averaged": torch.tensor(5)}

    def named(*fronts):
        return {".".join([*fronts, name]): x for name, x in plain.items()}

    compiled = {"conv.weight": plain["conv.weight"], "blocks._orig_mod.0.bn.bias": torch.ones(1)}
    for state, sentence in (
        (named(), ""),
        (named("module"), "module.conv.weight is read as conv.weight."),
        ({"state_dict": named("model"), "epoch": 3}, "model.conv.weight is read as"),
        (named("module", "_orig_mod", "model") | counter, "module._orig_mod.model.conv.weight is"),
        (compiled, "blocks._orig_mod.0.bn.bias is read as blocks.0.bn.bias."),
    ):
        torch.save(state, tmp_path / "w.pt")
        for found in torch_files.read(tmp_path / "w.pt"):
            assert found == {name: x.numpy() for name, x in plain.items()}, state
        said = capsys.readouterr().err
        assert sentence in said
        assert bool(said) == bool(sentence)


def test_state_dicts_are_found_where_they_lie(tmp_path):
    tensors = {"a.weight": torch.arange(3, dtype=torch.bfloat16), "n": torch.tensor(7)}
    for content in (tensors, *({x: tensors, "epoch": 3} for x in ("state_dict", "model"))):
        torch.save(content, tmp_path / "w.pth")
        (found,) = torch_files.read(tmp_path / "w.pth")
        dtypes = {name: x.dtype.name for name, x in found.items()}
        assert dtypes == {"a.weight": "float32", "n": "int64"}
        assert found["a.weight"].tolist() == [0, 1, 2]


def test_files_that_would_run_code_or_hold_no_tensors_are_refused(tmp_path):
    torch.save({"a": Harmful()}, tmp_path / "harmful.pth")
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"weights")
    for name, sentence in (
        ("harmful.pth", "weights_only=True refuses it"),
        ("damaged.pth", "weights_only=True refuses it"),
        ("other.pth", "holds no state dict; save one with"),
    ):
        with pytest.raises(UserError, match=sentence):
            torch_files.read(tmp_path / name)
