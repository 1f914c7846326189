"""The networks of the experiments, as Flax Linen modules.

Every module is called as `module.apply({"params": p, "batch_stats": s}, images, train=...)` on
normalised images `[B, H, W, C]` and returns logits `[B, K]` in float32. Parameters and batch-norm
statistics are float32 too; activations have the module's `dtype`. Batch norm has momentum 0:
in training mode the updated `batch_stats` are the moments of the batch alone, which is what
`subspace_jax.recalibrate` pools. No running average is kept, since no point of a subspace could use it.

With a `dropout` rate above 0, activations are dropped in training mode, which needs
`rngs={"dropout": key}`. The argument `dropout=` of a call separates the two: recalibration calls with
`train=True, dropout=False`, Monte-Carlo dropout with `train=False, dropout=True`.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from experiments.convolution import conv_general_dilated
from experiments.errors import UserError

# The article's initialisation: normal with variance 2 / fan-in, for every convolution.
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
_EPSILON = 1e-5  # of batch norm


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
        conv_general_dilated=conv_general_dilated,
        name=name,
    )(x)


def batch_norm(x: jax.Array, train: bool, groups: int = 1, name: str | None = None) -> jax.Array:
    """Batch norm in float32, rounded to the dtype of `x`; scale 1, bias 0, PyTorch's epsilon.

    Args:
      x: `[B, ..., C]`.
      train: whether it normalises with the statistics of `x`.
      groups: into how many groups of consecutive examples the batch is split, each normalised with
        statistics of its own.
      name: of the module.
    """
    if train and groups > 1:
        return BatchNorm(groups, name=name)(x.astype(jnp.float32)).astype(x.dtype)
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.0, epsilon=_EPSILON, name=name)
    return norm(x.astype(jnp.float32)).astype(x.dtype)


class BatchNorm(nn.Module):
    """Batch norm in training mode with statistics of equal groups of consecutive examples.

    Its variables are those of `nn.BatchNorm`, which has the same name. The `batch_stats` that it leaves
    are the moments of the whole batch, the variance of the groups' means included.

    Attributes:
      groups: how many.
    """

    groups: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size, features = x.shape[0], x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, features)
        bias = self.param("bias", nn.initializers.zeros, features)
        stats_mean = self.variable("batch_stats", "mean", jnp.zeros, features)
        stats_var = self.variable("batch_stats", "var", jnp.ones, features)
        groups = 1 if self.is_initializing() else self.groups
        check_groups(groups, size, "A batch's size")
        grouped = x.reshape(groups, size // groups, *x.shape[1:])
        axes = tuple(range(1, grouped.ndim - 1))
        mean = grouped.mean(axes, keepdims=True)
        var = jnp.maximum(0.0, (grouped**2).mean(axes, keepdims=True) - mean**2)
        if not self.is_initializing():
            means, variances = (v.reshape(groups, *features) for v in (mean, var))
            stats_mean.value = means.mean(0)
            stats_var.value = variances.mean(0) + means.var(0)
        wide = (1,) * (grouped.ndim - 1) + features
        grouped = (grouped - mean) * (jax.lax.rsqrt(var + _EPSILON) * scale.reshape(wide))
        return (grouped + bias.reshape(wide)).reshape(x.shape)


def check_groups(groups: int, size: int, name: str, chunks: int = 1) -> None:
    """Refuses a batch that batch norm's groups do not divide.

    Args:
      groups: `config.model.batch_norm_groups`.
      size: of the batch.
      name: of the setting that says so.
      chunks: into how many the batch is split before, one for each sampled network.

    Raises:
      UserError: with sizes that would do.
    """
    least = groups * chunks
    if rest := size % least:
        below, many = size - rest, f"{chunks} sampled networks and " if chunks > 1 else ""
        raise UserError(
            f"{name} is {size} but is to be split over {many}{groups} groups of batch norm "
            f"(config.model.batch_norm_groups); use {f'{below} or ' if below else ''}{below + least}."
        )


def drop(x: jax.Array, rate: float, train: bool, dropout: bool | None) -> jax.Array:
    """Drops single activations if `dropout`, where None means `train`; no key for a rate of 0."""
    return nn.Dropout(rate)(x, deterministic=not (train if dropout is None else dropout))


class ConvNet(nn.Module):
    """A small plain network: 3x3 convolution, batch norm, ReLU per stage; then a linear classifier.

    Attributes:
      num_classes: `K`.
      widths: channels of the stages; every stage but the first halves the resolution.
      dropout: rate of dropout at the end of every stage.
      dtype: of the activations.
      norm_groups: groups of the batch that batch norm normalises apart in training mode.
    """

    num_classes: int
    widths: Sequence[int] = (16, 32, 64)
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    norm_groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        x = x.astype(self.dtype)
        for i, width in enumerate(self.widths):
            x = conv(x, width, 3, 1 if i == 0 else 2, padding="SAME")
            x = nn.relu(batch_norm(x, train, self.norm_groups))
            x = drop(x, self.dropout, train, dropout)
        x = x.mean((1, 2))
        logits = nn.Dense(self.num_classes, dtype=x.dtype, kernel_init=kaiming_normal)(x)
        return logits.astype(jnp.float32)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the identity, or a strided 1x1 convolution.

    Dropout comes after the second batch norm, before the shortcut is added.
    """

    width: int
    stride: int
    dropout: float = 0.0
    norm_groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        y = conv(x, self.width, 3, self.stride)
        y = nn.relu(batch_norm(y, train, self.norm_groups))
        y = conv(y, self.width, 3)
        y = drop(batch_norm(y, train, self.norm_groups), self.dropout, train, dropout)
        if x.shape != y.shape:
            x = conv(x, self.width, 1, self.stride, name="shortcut")
            x = batch_norm(x, train, self.norm_groups, name="shortcut_norm")
        return nn.relu(x + y)


class CifarResNet(nn.Module):
    """The CIFAR residual network of He et al. 2016, with the article's shortcuts and classifier.

    Three stages of basic blocks with `width`, `2 width`, `4 width` channels; projection shortcuts
    are 1x1 convolution and batch norm; the classifier is a 1x1 convolution without bias.

    Attributes:
      num_classes: `K`.
      depth: number of layers with weights, `6 n + 2`; 20 is the article's cResNet20.
      width: channels of the first stage; 16 in the article.
      dropout: rate of dropout in every block.
      dtype: of the activations.
      norm_groups: groups of the batch that batch norm normalises apart in training mode.
    """

    num_classes: int
    depth: int = 20
    width: int = 16
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    norm_groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        x = conv(x.astype(self.dtype), self.width, 3)
        x = nn.relu(batch_norm(x, train, self.norm_groups))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                width = self.width * 2**stage
                x = BasicBlock(width, stride, self.dropout, self.norm_groups)(x, train, dropout)
        x = x.mean((1, 2), keepdims=True)
        return conv(x, self.num_classes, 1, name="classifier")[:, 0, 0].astype(jnp.float32)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut; the stride is that of the 3x3 convolution.

    Dropout comes after the last batch norm, before the shortcut is added.

    Attributes:
      width: a quarter of the channels of the output.
      inner: channels between the convolutions; `width` in a ResNet, more in a WideResNet.
      stride: of the 3x3 convolution and the shortcut.
      dropout: rate.
      norm_groups: as in a network.
    """

    width: int
    inner: int
    stride: int
    dropout: float = 0.0
    norm_groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        y = nn.relu(batch_norm(conv(x, self.inner, 1), train, self.norm_groups))
        y = nn.relu(batch_norm(conv(y, self.inner, 3, self.stride), train, self.norm_groups))
        y = batch_norm(conv(y, 4 * self.width, 1), train, self.norm_groups)
        y = drop(y, self.dropout, train, dropout)
        if x.shape != y.shape:
            x = conv(x, 4 * self.width, 1, self.stride, name="shortcut")
            x = batch_norm(x, train, self.norm_groups, name="shortcut_norm")
        return nn.relu(x + y)


class ImageNetResNet(nn.Module):
    """The ImageNet residual network of He et al. 2016, with the article's classifier.

    The widths of the stages are `width`, `2 width`, `4 width`, ...; every stage but the first halves
    the resolution. The classifier is a 1x1 convolution without bias; with one, and the stem `imagenet`,
    the network is torchvision's.

    Attributes:
      num_classes: `K`.
      blocks: blocks of every stage.
      widening: channels inside bottleneck blocks, as a multiple of their width; 0 for basic blocks.
      stem: `imagenet`, a 7x7 convolution with stride 2 and a max-pool with stride 2; or `small`, a 3x3
        convolution with stride 1, which the article uses for Tiny-ImageNet.
      width: channels of the stem.
      dropout: rate of dropout in every block.
      dtype: of the activations.
      norm_groups: groups of the batch that batch norm normalises apart in training mode.
      classifier_bias: whether the classifier has a bias.
    """

    num_classes: int
    blocks: Sequence[int] = (2, 2, 2, 2)
    widening: int = 0
    stem: str = "imagenet"
    width: int = 64
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    norm_groups: int = 1
    classifier_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, dropout: bool | None = None) -> jax.Array:
        x = x.astype(self.dtype)
        if self.stem == "small":
            x = nn.relu(batch_norm(conv(x, self.width, 3), train, self.norm_groups))
        else:
            x = nn.relu(batch_norm(conv(x, self.width, 7, 2), train, self.norm_groups))
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for stage, blocks in enumerate(self.blocks):
            width = self.width * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                if self.widening:
                    inner = self.widening * width
                    module = Bottleneck(width, inner, stride, self.dropout, self.norm_groups)
                else:
                    module = BasicBlock(width, stride, self.dropout, self.norm_groups)
                x = module(x, train, dropout)
        x = x.mean((1, 2), keepdims=True)
        logits = conv(x, self.num_classes, 1, bias=self.classifier_bias, name="classifier")
        return logits[:, 0, 0].astype(jnp.float32)


# Blocks of the stages, and widening, by name.
IMAGENET_RESNETS = {
    "resnet18": ((2, 2, 2, 2), 0),
    "resnet50": ((3, 4, 6, 3), 1),
    "wide_resnet50_2": ((3, 4, 6, 3), 2),
}
STEMS = ("imagenet", "small")
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
NAMES = ("conv_net", "cifar_resnet", *IMAGENET_RESNETS)
HEADS = ("classifier", "Dense_0")  # the last layer's module, of which a network has one


def make_network(config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
    """The network that `config.model` names.

    Raises:
      UserError: an unknown name or dtype, or or a depth, stem, rate of dropout or number of groups
        that the network can't have.
    """
    dropout, dtype = config.get("dropout", 0.0), config.get("dtype", "float32")
    if not 0 <= dropout < 1:
        raise UserError(f"config.model.dropout is {dropout}; use at least 0 and less than 1.")
    if dtype not in DTYPES:
        raise UserError(f"config.model.dtype is {dtype!r}; choose {' or '.join(DTYPES)}.")
    groups = config.get("batch_norm_groups", 1)
    if groups < 1:
        raise UserError(
            f"config.model.batch_norm_groups is {groups}; use 1 for statistics of the whole batch."
        )
    common = {"dropout": dropout, "dtype": DTYPES[dtype], "norm_groups": groups}
    if config.name == "conv_net":
        _check_widths(config.widths)
        return ConvNet(num_classes, widths=tuple(config.widths), **common)
    if config.name == "cifar_resnet":
        _check_widths([config.width])
        if config.depth < 8 or config.depth % 6 != 2:
            raise UserError(
                f"config.model.depth is {config.depth} but a CIFAR ResNet has 6 n + 2 layers; "
                "use 8, 14, 20, 32, 44, 56 or 110."
            )
        return CifarResNet(num_classes, depth=config.depth, width=config.width, **common)
    if config.name in IMAGENET_RESNETS:
        if config.stem not in STEMS:
            raise UserError(f"config.model.stem is {config.stem!r}; choose {' or '.join(STEMS)}.")
        width = config.get("width", 64)
        _check_widths([width])
        blocks, widening = IMAGENET_RESNETS[config.name]
        common["classifier_bias"] = config.get("classifier_bias", False)
        return ImageNetResNet(num_classes, blocks, widening, config.stem, width, **common)
    raise UserError(f"config.model.name is {config.name!r}; choose one of {', '.join(NAMES)}.")


def _check_widths(widths: Sequence[int]) -> None:
    if not widths or min(widths) < 1:
        raise UserError(f"The network has widths {list(widths)}; use at least one, each above 0.")
