"""ImageNet, 1,000 classes, by the article's recipe."""

import ml_collections

from experiments.configs.base import base_config


def get_config(recipe: str = "line") -> ml_collections.ConfigDict:
    """The config of one recipe."""
    config = base_config(recipe)
    config.dataset = "imagenet"
    config.num_classes = 1000
    # 64 for networks that are compared on Tiny-ImageNet-C at its own resolution.
    config.image_size = 224
    config.validation_size = 10_000
    config.normalization = "imagenet"
    config.augmentation = "random_resized_crop"
    config.num_epochs = 200
    config.batch_size = 256
    config.optimizer.weight_decay = 5e-5
    config.model.name = "wide_resnet50_2"
    config.model.stem = "imagenet"
    config.model.width = 64
    # Whether the classifier has a bias, as torchvision's has and the article's has not.
    config.model.classifier_bias = False
    config.model.dtype = "bfloat16"
    config.max_corrupt = 100
    # alpha = 0, 0.1 .. 1: the logits of all points are kept, 200 MB each.
    config.evaluation.num_points = 11
    config.evaluation.grid_steps = 0  # each point is a pass over the training images
    config.evaluation.batch_size = 256
    config.evaluation.recalibration_batch_size = 256
    # Of 1.27 million, so that recalibration takes no longer than the test images.
    config.evaluation.recalibration_examples = 51_200
    config.checkpoint_seconds = 600.0
    return config
