"""The network of a config, by its name and values."""

import flax.linen as nn
import jax.numpy as jnp
import ml_collections

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
HEADS = ("classifier", "Dense_0")  # the last layer's module, of which a network has one


def make_network(config: ml_collections.ConfigDict, num_classes: int) -> nn.Module:
    """The network that `config.model` names, with the convolution that a CPU trains faster."""
    networks.convolution = conv_general_dilated
    dtype = DTYPES[config.get("dtype", "float32")]
    common = {"dropout": config.get("dropout", 0.0), "dtype": dtype}
    if config.name == "conv_net":
        return networks.ConvNet(num_classes, widths=tuple(config.widths), **common)
    if config.name == "cifar_resnet":
        return networks.CifarResNet(num_classes, depth=config.depth, width=config.width, **common)
    blocks, widening = IMAGENET_RESNETS[config.name]
    common["classifier_bias"] = config.get("classifier_bias", False)
    width = config.get("width", 64)
    return networks.ImageNetResNet(num_classes, blocks, widening, config.stem, width, **common)
