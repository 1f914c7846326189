"""CIFAR-10 by the article's recipe; `--config.validation_size=0` is the article's protocol."""

import ml_collections

from experiments.configs.base import base_config


def get_config(recipe: str = "line") -> ml_collections.ConfigDict:
    """The config of one recipe."""
    config = base_config(recipe)
    config.dataset = "cifar10"
    config.validation_size = 5000
    # As in the article, which normalises CIFAR-10 with the moments of ImageNet; or "cifar".
    config.normalization = "imagenet"
    config.augmentation = "crop_and_flip"
    # The architecture.
    config.model.name = "cifar_resnet"
    # Layers of a CIFAR ResNet, 6 n + 2.
    config.model.depth = 20
    # Channels of its first stage; the others have two and four times as many.
    config.model.width = 16
    return config
