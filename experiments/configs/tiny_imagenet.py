"""Tiny-ImageNet, 200 classes of 64 x 64 pixels, by the article's recipe."""

import ml_collections

from experiments.configs.base import base_config


def get_config(recipe: str = "line") -> ml_collections.ConfigDict:
    """The config of one recipe."""
    config = base_config(recipe)
    config.dataset = "tiny_imagenet"
    config.validation_size = 10_000
    config.normalization = "tiny_imagenet"
    config.augmentation = "crop_and_flip"
    config.model.name = "resnet18"
    # The first layer of a ResNet: 7x7 with stride 2 and pooling (imagenet), or 3x3 with stride 1.
    config.model.stem = "small"
    config.model.width = 64
    # Whether the classifier has a bias, as torchvision's has and the article's has not.
    config.model.classifier_bias = False
    return config
