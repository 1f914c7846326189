"""The fields that every experiment's config has. Data sets' configs set the values."""

import ml_collections

from experiments.methods import default_num_endpoints


def base_config(kind: str) -> ml_collections.ConfigDict:
    """All knobs, with the values that the article gives for CIFAR-10 where it gives any."""
    config = ml_collections.ConfigDict()
    config.kind = kind
    config.seed = 0
    config.num_epochs = 160
    config.batch_size = 128
    # Steps per compiled call; 0: up to 500 on accelerators, one step on a CPU. Calls end with the epoch.
    config.steps_per_call = 0

    config.dataset = ""
    # Where TFDS keeps its data ("": TFDS_DATA_DIR or ~/tensorflow_datasets), or a file ending in .npz.
    config.data_dir = ""
    # Examples held out of the training split for every choice; 0 in the article.
    config.validation_size = 0
    config.split_seed = 0
    config.normalization = "none"
    config.augmentation = "none"

    config.label_noise = ml_collections.ConfigDict()
    # The share of training labels that are replaced, in [0, 1).
    config.label_noise.rate = 0.0
    # "uniform_wrong": never the true label; "uniform_any": may be the true one (the authors' code).
    config.label_noise.mode = "uniform_wrong"
    config.label_noise.seed = 0

    config.model = ml_collections.ConfigDict()

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.learning_rate = 0.1
    config.optimizer.momentum = 0.9
    # On every parameter of every endpoint, batch norm included.
    config.optimizer.weight_decay = 1e-4
    config.optimizer.warmup_epochs = 5

    config.subspace = ml_collections.ConfigDict()
    # Of simplexes and curves; for standard_matched, the number of endpoints that it is matched to.
    config.subspace.num_endpoints = default_num_endpoints(kind)
    # beta, the factor of the cosine penalty (Eq. 3); 0 for none.
    config.subspace.penalty = 0.0 if kind in ("standard", "standard_matched") else 1.0
    # "random": one random pair of endpoints per step, as in the article; "all": their mean.
    config.subspace.penalty_pairs = "random"
    # Into how many chunks a batch is split, each at its own point (appendix B).
    config.subspace.num_samples = 1

    config.label_smoothing = 0.0
    # Per step; the averaged endpoints are evaluated in place of the trained ones. 0 for none.
    config.ema_decay = 0.0

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.num_points = 21
    # Equal-width bins of the calibration errors; 20 in the article.
    config.evaluation.num_bins = 20
    config.evaluation.batch_size = 500
    config.evaluation.recalibration_batch_size = 128
    # Training images that recalibration passes over; 0 for all.
    config.evaluation.recalibration_examples = 0
    # The article recalibrates on augmented images.
    config.evaluation.recalibration_augment = True
    # Networks evaluated vectorised together; 0: one after another (right on a CPU).
    config.evaluation.at_once = 0

    # Seconds between checkpoints; there is always one at the end of training.
    config.checkpoint_seconds = 60.0
    return config
