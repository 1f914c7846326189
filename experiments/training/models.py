"""The network of a config, by its name and values."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

from experiments.system.errors import UserError
from experiments.training import networks
from experiments.training.convolution import conv_general_dilated

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
    """The network that `config.model` names, with the convolution that a CPU trains faster.

    Raises:
      UserError: an unknown name or dtype, or a depth, stem or rate of dropout that the network can't
        have.
    """
    networks.convolution = conv_general_dilated
    dropout, dtype = config.get("dropout", 0.0), config.get("dtype", "float32")
    if not 0 <= dropout < 1:
        raise UserError(f"config.model.dropout is {dropout}; use at least 0 and less than 1.")
    if dtype not in DTYPES:
        raise UserError(f"config.model.dtype is {dtype!r}; choose {' or '.join(DTYPES)}.")
    common = {"dropout": dropout, "dtype": DTYPES[dtype]}
    if config.name == "conv_net":
        _check_widths(config.widths)
        return networks.ConvNet(num_classes, widths=tuple(config.widths), **common)
    if config.name == "cifar_resnet":
        _check_widths([config.width])
        if config.depth < 8 or config.depth % 6 != 2:
            raise UserError(
                f"config.model.depth is {config.depth} but a CIFAR ResNet has 6 n + 2 layers; "
                "use 8, 14, 20, 32, 44, 56 or 110."
            )
        return networks.CifarResNet(num_classes, depth=config.depth, width=config.width, **common)
    if config.name in IMAGENET_RESNETS:
        if config.stem not in STEMS:
            raise UserError(f"config.model.stem is {config.stem!r}; choose {' or '.join(STEMS)}.")
        width = config.get("width", 64)
        _check_widths([width])
        blocks, widening = IMAGENET_RESNETS[config.name]
        common["classifier_bias"] = config.get("classifier_bias", False)
        return networks.ImageNetResNet(num_classes, blocks, widening, config.stem, width, **common)
    raise UserError(f"config.model.name is {config.name!r}; choose one of {', '.join(NAMES)}.")


def _check_widths(widths: Sequence[int]) -> None:
    if not widths or min(widths) < 1:
        raise UserError(f"The network has widths {list(widths)}; use at least one, each above 0.")
