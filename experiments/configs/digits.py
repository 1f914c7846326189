"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: no download."""

import ml_collections

from experiments.configs.base import base_config


def get_config(recipe: str = "line") -> ml_collections.ConfigDict:
    """One run: a small convolutional network, the article's recipe shortened to 20 epochs."""
    config = base_config(recipe)
    config.num_epochs = 20
    config.batch_size = 50
    config.steps_per_call = 2
    config.dataset = "digits"
    # Of the 1,297 images that are not test images: 1,000 are left to train on.
    config.validation_size = 297
    config.model.name = "conv_net"
    # Channels of the layers of a convolutional network.
    config.model.widths = (16, 32, 64)
    config.optimizer.warmup_epochs = 1
    # Of 400 steps: 0.999 would average nearly all of them alike.
    config.average.decay = 0.99
    config.evaluation.num_points = 11
    config.evaluation.recalibration_batch_size = 50
    config.evaluation.recalibration_augment = False
    return config
