"""Learning a line of networks in PyTorch, written from the method's description.

`loader="workers"` is how most PyTorch code trains, the authors' too: worker processes crop, flip and
normalise single images. `loader="resident"` keeps the images on the device and does that to whole
batches. `channels_last`, bfloat16 by autocast and `compiled` (torch.compile; on a GPU with CUDA graphs)
are what a user who cares for speed adds.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

MEAN = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[None, :, None, None]


class Mixed(nn.Module):
    """A layer whose parameters are `(1 - alpha) first + alpha second`, or just one's."""

    def __init__(self, make: Callable[[], nn.Module], line: bool):
        super().__init__()
        self.first = make()
        self.second = make() if line else None
        self.alpha = None

    def mixed(self, name):
        first = getattr(self.first, name)
        if self.second is None:
            return first
        return torch.lerp(first, getattr(self.second, name), self.alpha)


class Conv(Mixed):
    def __init__(self, inputs, outputs, size, stride, line):
        def make():
            conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
            nn.init.kaiming_normal_(conv.weight)
            return conv

        super().__init__(make, line)

    def forward(self, x):
        return F.conv2d(
            x, self.mixed("weight"), stride=self.first.stride, padding=self.first.padding
        )


class Norm(Mixed):
    def __init__(self, width, line):
        super().__init__(lambda: nn.BatchNorm2d(width), line)

    def forward(self, x):
        norm = self.first
        return F.batch_norm(
            x,
            norm.running_mean,
            norm.running_var,
            self.mixed("weight"),
            self.mixed("bias"),
            self.training,
            norm.momentum,
            norm.eps,
        )


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, line):
        super().__init__()
        self.conv1, self.norm1 = Conv(inputs, outputs, 3, stride, line), Norm(outputs, line)
        self.conv2, self.norm2 = Conv(outputs, outputs, 3, 1, line), Norm(outputs, line)
        self.shortcut = nn.Identity()
        if inputs != outputs:
            self.shortcut = nn.Sequential(
                Conv(inputs, outputs, 1, stride, line), Norm(outputs, line)
            )

    def forward(self, x):
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """cResNet20 with a 1x1 convolution as classifier, as the article has it."""

    def __init__(self, line):
        super().__init__()
        widths = [16] * 4 + [32] * 3 + [64] * 3
        blocks = [
            Block(inputs, outputs, 1 if inputs == outputs else 2, line)
            for inputs, outputs in itertools.pairwise(widths)
        ]
        self.stem, self.norm = Conv(3, 16, 3, 1, line), Norm(16, line)
        self.blocks = nn.Sequential(*blocks)
        self.classifier = Conv(64, 10, 1, 1, line)

    def forward(self, x):
        x = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.classifier(x.mean((2, 3), keepdim=True)).flatten(1)


def squared_cosine(network: nn.Module) -> torch.Tensor:
    """The squared cosine between the kernels of a line's ends."""
    inner, first, second = 0.0, 0.0, 0.0
    for layer in network.modules():
        if isinstance(layer, Conv):
            a, b = layer.first.weight, layer.second.weight
            inner, first, second = (
                inner + (a * b).sum(),
                first + a.square().sum(),
                second + b.square().sum(),
            )
    return inner.square() / (first * second)


def training(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    method: str,
    loader: str,
    batch_size: int,
    device: str,
    threads: int,
    channels_last: bool = False,
    compiled: bool = False,
    dtype: str = "float32",
) -> Callable[[], None]:
    """A function that takes one training step: SGD with momentum, weight decay and, of a line,
    a new alpha and the cosine penalty."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    where = torch.device("cuda" if device == "gpu" else "cpu")
    network = ResNet20(method == "line").to(where).train()
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    mixed = [layer for layer in network.modules() if isinstance(layer, Mixed)]
    alpha = torch.zeros((), device=where)
    for layer in mixed:
        layer.alpha = alpha
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    torch.backends.cudnn.benchmark = True  # the fastest convolutions of a GPU

    def objective(x, y):
        with torch.autocast(where.type, torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = F.cross_entropy(network(x), y)
        return loss + squared_cosine(network) if method == "line" else loss

    if compiled:
        mode = "reduce-overhead" if device == "gpu" else "default"  # with CUDA graphs
        objective = torch.compile(objective, mode=mode)
    make = {"workers": worker_batches, "resident": resident_batches}[loader]
    batches = make(images, labels, batch_size, where, threads)

    def step():
        x, y = next(batches)
        alpha.uniform_()
        optimizer.zero_grad(set_to_none=True)
        objective(x.contiguous(memory_format=layout), y).backward()
        optimizer.step()

    return step


def wait(device: str) -> None:
    """Waits for all that was begun."""
    if device == "gpu":
        torch.cuda.synchronize()


def resident_batches(images, labels, batch_size, where, threads) -> Iterator:
    """Batches of images that stay on the device, cropped and flipped as a whole."""
    del threads
    images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(where)
    labels = torch.from_numpy(labels).long().to(where)
    mean, std = MEAN.to(where), STD.to(where)
    grid = torch.arange(32, device=where)
    while True:
        order = torch.randperm(len(images), device=where)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            index = order[start : start + batch_size]
            x = F.pad(images[index], (4, 4, 4, 4))
            top, left = torch.randint(0, 9, (2, batch_size, 1), device=where)
            rows, columns = top + grid, left + grid
            flips = torch.rand(batch_size, 1, device=where) < 0.5
            columns = torch.where(flips, columns.flip(1), columns)
            one = torch.arange(batch_size, device=where)[:, None, None, None]
            channel = torch.arange(3, device=where)[None, :, None, None]
            x = x[one, channel, rows[:, None, :, None], columns[:, None, None, :]]
            yield (x.float() / 255 - mean) / std, labels[index]


class Images(torch.utils.data.Dataset):
    """Single images, normalised, and if `augmented` cropped and flipped, where they are asked for."""

    def __init__(self, images, labels, augmented=True):
        self.images, self.labels, self.augmented = images, labels, augmented

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        x = self.images[i]
        if self.augmented:
            top, left = torch.randint(0, 9, (2,)).tolist()
            x = np.pad(x, ((4, 4), (4, 4), (0, 0)))[top : top + 32, left : left + 32]
            x = np.ascontiguousarray(x[:, ::-1] if torch.rand(()) < 0.5 else x)
        x = torch.from_numpy(x).permute(2, 0, 1).float() / 255
        return (x - MEAN[0]) / STD[0], int(self.labels[i])


def worker_batches(images, labels, batch_size, where, threads) -> Iterator:
    """Batches of a data loader with worker processes."""
    loader = torch.utils.data.DataLoader(
        Images(images, labels),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=threads,
        pin_memory=where.type == "cuda",
        persistent_workers=True,
    )
    while True:
        for x, y in loader:
            yield x.to(where, non_blocking=True), y.to(where, non_blocking=True)


def evaluate_line(
    alphas: Sequence[float],
    num_train: int,
    num_test: int,
    *,
    loader: str,
    batch_size: int,
    device: str,
    threads: int,
) -> Iterator[torch.Tensor]:
    """Logits of points of a line, one after another, as most PyTorch code evaluates them.

    Each takes a pass over the training images, in batches whose statistics batch norm averages, and one
    over the test images. The images are read anew in every pass by the workers of a data loader, or
    stay on the device.
    """
    from benchmarks.contestants import images_and_labels

    torch.set_num_threads(threads)
    where = torch.device("cuda" if device == "gpu" else "cpu")
    images, labels = images_and_labels()
    make = {"workers": worker_batches, "resident": resident_batches}[loader]
    train = make(images[:num_train], labels[:num_train], batch_size, where, threads)
    if loader == "workers":
        held_out = Images(images[:num_test], labels[:num_test], augmented=False)
        test = torch.utils.data.DataLoader(
            held_out, batch_size, num_workers=threads, persistent_workers=True
        )
    else:
        resident = torch.from_numpy(images[:num_test]).permute(0, 3, 1, 2).to(where)
        normal = lambda x: (x.float() / 255 - MEAN.to(where)) / STD.to(where)
        test = [(normal(x), None) for x in resident.split(batch_size)]
    network = ResNet20(True).to(where)

    @torch.no_grad()
    def logits_at(alpha):
        for layer in network.modules():
            if isinstance(layer, Mixed):
                layer.alpha = torch.tensor(alpha, device=where)
            if isinstance(layer, Norm):  # those of the point before
                layer.first.reset_running_stats()
        network.train()
        for x, _ in itertools.islice(train, num_train // batch_size):
            network(x)
        network.eval()
        logits = torch.cat([network(x.to(where)) for x, _ in test])
        wait(device)
        return logits

    return map(logits_at, alphas)
