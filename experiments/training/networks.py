"""Networks as Flax Linen modules; they need JAX and Flax alone.

`module.apply({"params": p, "batch_stats": s}, images, train=...)` of normalised images `[B, H, W, C]`
returns logits `[B, K]`. Activations have the module's `dtype`, all else is float32, or wider if they
are. Batch norm has momentum 0: in training mode the updated `batch_stats` are the moments of the batch,
which recalibration pools. The argument `dropout=` is that of `train=` unless told.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

# The article's initialisation: normal with variance 2 / fan-in, for every convolution.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
# Of every layer; another function with the same arguments may stand here.
convolution = jax.lax.conv_general_dilated


def widened(x: jax.Array) -> jax.Array:
    """In at least float32."""
    return x if x.dtype.itemsize >= 4 else x.astype(jnp.float32)


def conv(
    x: jax.Array,
    width: int,
    size: int,
    stride: int = 1,
    *,
    padding: int | str | None = None,
    bias: bool = False,
    name: str | None = None,
) -> jax.Array:
    """A square convolution, padded by half its size unless told, in the dtype of `x`."""
    return nn.Conv(
        width,
        (size, size),
        strides=stride,
        padding=size // 2 if padding is None else padding,
        use_bias=bias,
        dtype=x.dtype,
        kernel_init=kaiming_normal,
        conv_general_dilated=convolution,
        name=name,
    )(x)


def batch_norm(x: jax.Array, train: bool, name: str | None = None) -> jax.Array:
    """Batch norm in at least float32, rounded to the dtype of `x`, with PyTorch's epsilon."""
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.0, epsilon=1e-5, name=name)
    return norm(widened(x)).astype(x.dtype)


class Dropout(nn.Module):
    """Flax's, of a rate that may be traced, so that all rates share a program."""

    rate: float | jax.Array

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        keep = jnp.asarray(1 - self.rate, x.dtype)
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, x.shape)
        return jnp.where(kept, x / keep, jnp.zeros_like(x))


def drop(x: jax.Array, rate: float | jax.Array, train: bool, dropout: bool | None) -> jax.Array:
    """Drops single activations if `dropout`, where None means `train`; no key for a rate of 0."""
    if not (train if dropout is None else dropout) or (isinstance(rate, float) and rate == 0):
        return x
    return Dropout(rate)(x)


def add(x: jax.Array, y: jax.Array, stride: int, train: bool) -> jax.Array:
    """The end of a block: `y` and its shortcut, the identity or a strided 1x1 convolution."""
    if x.shape != y.shape:
        x = batch_norm(
            conv(x, y.shape[-1], 1, stride, name="shortcut"), train, name="shortcut_norm"
        )
    return nn.relu(x + y)


class ConvNet(nn.Module):
    """3x3 convolution (after the first with stride 2), batch norm, ReLU per stage; then a classifier."""

    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        x = x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            x = conv(x, width, 3, 1 if i == 0 else 2, padding="SAME")
            x = nn.relu(batch_norm(x, train))
            x = drop(x, self.dropout, train, dropout)
        x = x.mean((1, 2))
        logits = nn.Dense(self.num_classes, dtype=x.dtype, kernel_init=kaiming_normal)(x)
        return widened(logits)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; dropout comes before the shortcut is added."""

    width: int
    stride: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        y = conv(x, self.width, 3, self.stride)
        y = nn.relu(batch_norm(y, train))
        y = conv(y, self.width, 3)
        y = drop(batch_norm(y, train), self.dropout, train, dropout)
        return add(x, y, self.stride, train)


class CifarResNet(nn.Module):
    """The CIFAR residual network of He et al. 2016, with the article's shortcuts and classifier.

    It has `depth = 6 n + 2` layers with weights; the defaults are the article's cResNet20.
    """

    num_classes: int
    depth: int = 20
    width: int = 16
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        x = conv(x.astype(self.dtype), self.width, 3)
        x = nn.relu(batch_norm(x, train))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                width = self.width * 2**stage
                x = BasicBlock(width, stride, self.dropout)(x, train, dropout)
        x = x.mean((1, 2), keepdims=True)
        return widened(conv(x, self.num_classes, 1, name="classifier")[:, 0, 0])


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride) and 1x1 convolutions and a shortcut; dropout as in a basic block."""

    width: int  # a quarter of the channels of the output
    inner: int  # channels between the convolutions; `width` in a ResNet, more in a WideResNet
    stride: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        y = nn.relu(batch_norm(conv(x, self.inner, 1), train))
        y = nn.relu(batch_norm(conv(y, self.inner, 3, self.stride), train))
        y = batch_norm(conv(y, 4 * self.width, 1), train)
        y = drop(y, self.dropout, train, dropout)
        return add(x, y, self.stride, train)


class ImageNetResNet(nn.Module):
    """The ImageNet residual network of He et al. 2016, with the article's classifier.

    That is a 1x1 convolution without bias; with one, and the stem `imagenet`, it is torchvision's.
    """

    num_classes: int
    blocks: Sequence[int] = (2, 2, 2, 2)
    widening: int = 0  # channels inside bottlenecks, in multiples of their width; 0: basic blocks
    # A 7x7 convolution and a max-pool, both with stride 2; or "small", a 3x3 convolution with
    # stride 1, which the article uses for Tiny-ImageNet.
    stem: str = "imagenet"
    width: int = 64
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    classifier_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        x = x.astype(self.dtype)
        if self.stem == "small":
            x = nn.relu(batch_norm(conv(x, self.width, 3), train))
        else:
            x = nn.relu(batch_norm(conv(x, self.width, 7, 2), train))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                if self.widening:
                    inner = self.widening * width
                    module = Bottleneck(width, inner, stride, self.dropout)
                else:
                    module = BasicBlock(width, stride, self.dropout)
                x = module(x, train, dropout)
        x = x.mean((1, 2), keepdims=True)
        logits = conv(x, self.num_classes, 1, bias=self.classifier_bias, name="classifier")
        return widened(logits[:, 0, 0])
