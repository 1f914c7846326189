"""Imported weights give PyTorch's logits: needs PyTorch, which the project does not."""

import functools

import chex
import jax
import numpy as np
import pytest

import subspace_jax as ss
from experiments import weights
from experiments.import_weights import __main__ as import_weights
from experiments.import_weights import torch_files, torch_names
from experiments.networks import CifarResNet, ImageNetResNet

torch = pytest.importorskip("torch")
nn = torch.nn

CLASSES = 7
IMAGES = np.random.default_rng(0).normal(size=(3, 46, 37, 3)).astype(np.float32)
IMAGES *= np.array([0.3, 1, 3], np.float32)[:, None, None, None]


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


class Block(nn.Module):
    """A residual block by torchvision's names, or by others that a subclass gives."""

    def __init__(self, make, inputs, width, inner, stride):
        super().__init__()
        outputs = 4 * width if inner else width
        sizes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if inner:
            sizes = [(inputs, inner, 1, 1), (inner, inner, 3, stride), (inner, outputs, 1, 1)]
        self.depth = len(sizes)
        for i, size in enumerate(sizes, 1):
            setattr(self, f"conv{i}", conv(make, *size))
            setattr(self, f"bn{i}", make(nn.BatchNorm2d(size[1])))
        short = nn.Sequential()
        if stride > 1 or inputs != outputs:
            one = conv(make, inputs, outputs, 1, stride)
            short = nn.Sequential(one, make(nn.BatchNorm2d(outputs)))
        setattr(self, self.side, short)

    side = "downsample"

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = torch.relu(y) if i < self.depth else y
        return torch.relu(y + getattr(self, self.side)(x))


class CifarBlock(Block):
    side = "shortcut"


class TinyImageNetBlock(nn.Module):
    """The same, in the sequences of the authors' network for Tiny-ImageNet."""

    def __init__(self, make, inputs, width, inner, stride):
        super().__init__()
        block = Block(make, inputs, width, inner, stride)
        layers = []
        for i in range(1, block.depth + 1):
            layers += [getattr(block, f"conv{i}"), getattr(block, f"bn{i}"), nn.ReLU()]
        self.residual_function, self.shortcut = nn.Sequential(*layers[:-1]), block.downsample

    def forward(self, x):
        return torch.relu(self.residual_function(x) + self.shortcut(x))


def conv(make, inputs, outputs, size, stride):
    return make(nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False))


def stages(make, block, width, blocks, widening):
    """The blocks of every stage, and the channels of the output."""
    inputs, made = width, []
    for stage, count in enumerate(blocks):
        own, layer = width * 2**stage, []
        for i in range(count):
            stride = 2 if stage and not i else 1
            layer.append(block(make, inputs, own, widening * own, stride))
            inputs = 4 * own if widening else own
        made.append(layer)
    return made, inputs


class TorchvisionResNet(nn.Module):
    """torchvision's; with `dense` a linear classifier, which the authors replaced."""

    def __init__(self, width, blocks, widening, make=lambda module: module, dense=True):
        super().__init__()
        self.conv1, self.bn1 = conv(make, 3, width, 7, 2), make(nn.BatchNorm2d(width))
        made, outputs = stages(make, Block, width, blocks, widening)
        for i, layer in enumerate(made, 1):
            setattr(self, f"layer{i}", nn.Sequential(*layer))
        self.layers, self.dense = len(made), dense
        self.fc = nn.Linear(outputs, CLASSES) if dense else conv(make, outputs, CLASSES, 1, 1)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        for i in range(1, self.layers + 1):
            x = getattr(self, f"layer{i}")(x)
        x = x.mean((2, 3), keepdim=True)
        return self.fc(x.flatten(1) if self.dense else x).flatten(1)


class AuthorsCifarResNet(nn.Module):
    def __init__(self, depth, width, make):
        super().__init__()
        self.conv, self.bn = conv(make, 3, width, 3, 1), make(nn.BatchNorm2d(width))
        made, outputs = stages(make, CifarBlock, width, 3 * ((depth - 2) // 6,), 0)
        self.blocks = nn.Sequential(*sum(made, []))
        self.fc = conv(make, outputs, CLASSES, 1, 1)

    def forward(self, x):
        x = self.blocks(torch.relu(self.bn(self.conv(x))))
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)


class AuthorsTinyImageNetResNet(nn.Module):
    def __init__(self, width, blocks, widening, make):
        super().__init__()
        first = [conv(make, 3, width, 3, 1), make(nn.BatchNorm2d(width)), nn.ReLU()]
        self.conv1 = nn.Sequential(*first)
        made, outputs = stages(make, TinyImageNetBlock, width, blocks, widening)
        for i, layer in enumerate(made, 2):
            setattr(self, f"conv{i}_x", nn.Sequential(*layer))
        self.layers, self.fc = len(made), conv(make, outputs, CLASSES, 1, 1)

    def forward(self, x):
        x = self.conv1(x)
        for i in range(2, self.layers + 2):
            x = getattr(self, f"conv{i}_x")(x)
        return self.fc(x.mean((2, 3), keepdim=True)).flatten(1)


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
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)


def imported(path, arguments):
    """The network, its stack and its statistics, as the command leaves them."""
    out = path.with_suffix(".imported")
    assert import_weights.main([str(path), str(out), *arguments]) == 0
    return out


@pytest.mark.parametrize("widening", [0, 1, 2], ids=["resnet18", "resnet50", "wide_resnet50_2"])
def test_torchvisions_weights_give_its_logits(widening):
    blocks = (2, 1, 1, 2)
    model = randomised(TorchvisionResNet(4, blocks, widening))
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    network = ImageNetResNet(CLASSES, blocks, widening, width=4, classifier_bias=True)
    variables = first(torch_names.from_torch(network, tensors))
    logits = ours(network, variables["params"], variables["batch_stats"])
    assert_same_logits(logits, theirs(model))
    again = torch_names.to_torch(network, variables)
    model.load_state_dict({name: torch.tensor(array) for name, array in again.items()}, False)
    assert set(again) == {name for name in tensors if "tracked" not in name}
    np.testing.assert_array_equal(again["fc.weight"], tensors["fc.weight"])


ALPHAS = (0.0, 0.5, 1.0)
# How the authors mix what they call weight, weight1, ...
LINE = (2, lambda a: (1 - a, a), ss.line())
CURVE = (3, lambda a: ((1 - a) ** 2, a**2, 2 * a * (1 - a)), ss.bezier(2))


@pytest.mark.parametrize("shape", ["line", "curve"])
def test_the_authors_endpoints_of_cresnet20_give_their_logits(shape, tmp_path):
    count, coefficients, subspace = {"line": LINE, "curve": CURVE}[shape]
    make = functools.partial(Endpoints, count=count)
    model = randomised(AuthorsCifarResNet(20, 4, make))
    # As their code saves it, behind DataParallel.
    tensors = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 160, "state_dicts": [tensors], "best_acc1": 0.0}, tmp_path / "epoch.pt")
    arguments = ["--model", "cifar_resnet", "--depth", "20", "--width", "4", "--shape", shape]
    out = imported(tmp_path / "epoch.pt", arguments)
    network = CifarResNet(CLASSES, depth=20, width=4)
    like = jax.eval_shape(
        functools.partial(network.init, train=False), jax.random.key(0), IMAGES[:1]
    )
    endpoints = weights.load(out / "weights.npz", like["params"])
    stats = first(weights.load(out / "batch_stats.npz", like["batch_stats"]))
    assert ss.tree.num_stacked(endpoints) == count
    for alpha in ALPHAS:
        params = subspace.point(endpoints, np.float32(alpha))
        assert_same_logits(ours(network, params, stats), theirs(model, coefficients(alpha)))
    if shape == "curve":  # the bend is where the authors have it
        swapped = jax.tree.map(lambda leaf: leaf[np.array([0, 2, 1])], endpoints)
        logits = ours(network, subspace.point(swapped, np.float32(0.5)), stats)
        assert np.abs(logits - theirs(model, coefficients(0.5))).max() > 0.1


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_the_authors_other_resnets_give_their_logits(stem):
    blocks, make = (1, 2), functools.partial(Endpoints, count=2)
    if stem == "small":
        model = AuthorsTinyImageNetResNet(4, blocks, 0, make)
    else:
        model = TorchvisionResNet(4, blocks, 1, make, dense=False)
    model = randomised(model)
    tensors = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    network = ImageNetResNet(CLASSES, blocks, int(stem == "imagenet"), stem, width=4)
    variables = torch_names.from_torch(network, tensors, (0, 1))
    stats = first(variables["batch_stats"])
    for alpha in ALPHAS:
        params = ss.line().point(variables["params"], np.float32(alpha))
        assert_same_logits(ours(network, params, stats), theirs(model, (1 - alpha, alpha)))


# Files


def saved(tmp_path, value):
    torch.save(value, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_state_dicts_are_found_where_they_lie(tmp_path, inside):
    tensors = {"a.weight": torch.arange(3, dtype=torch.bfloat16), "n": torch.tensor(7)}
    path = saved(tmp_path, {inside: tensors, "epoch": 3} if inside else tensors)
    (found,) = torch_files.read(path)
    assert {name: array.dtype.name for name, array in found.items()} == {
        "a.weight": "float32",
        "n": "int64",
    }
    assert found["a.weight"].tolist() == [0, 1, 2]


def test_files_that_would_run_code_or_hold_no_tensors_are_refused(tmp_path):
    with pytest.raises(import_weights.UserError, match="weights_only=True refuses it"):
        torch_files.read(saved(tmp_path, {"a": Harmful()}))
    with pytest.raises(import_weights.UserError, match="weights_only=True refuses it"):
        (tmp_path / "w.pth").write_bytes(b"weights")
        torch_files.read(tmp_path / "w.pth")
    with pytest.raises(import_weights.UserError, match="holds no state dict; save one with"):
        torch_files.read(saved(tmp_path, {"epoch": 3}))


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("code of a file was run",))
