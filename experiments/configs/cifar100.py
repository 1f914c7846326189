"""CIFAR-100 by the recipe of CIFAR-10."""

import ml_collections

from experiments.configs import cifar10


def get_config(recipe: str = "line") -> ml_collections.ConfigDict:
    """The config of one recipe."""
    config = cifar10.get_config(recipe)
    config.dataset = "cifar100"
    return config
