"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: no download.

    python -m experiments.digits
    python -m experiments.digits --config experiments/configs/digits.py:tune --workdir runs/tune

The first is the demo, two minutes on two CPU cores; the second the sweep that chose its tuned values.
"""

import ml_collections

from experiments.configs.base import base_config
from experiments.errors import UserError

VARIANTS = ("demo", "tune")
# Settings of a run that its method, seed and noise set, and not `config.run`.
OF_METHOD = ("kind", "seed", "subspace", "label_smoothing", "ema_decay")


def run_config(kind: str) -> ml_collections.ConfigDict:
    """One run: a small convolutional network, the article's recipe shortened to 30 epochs."""
    config = base_config(kind)
    config.num_epochs = 30
    config.batch_size = 50
    config.steps_per_call = 5
    config.dataset = "digits"
    # Of the 1,297 images that are not test images: 1,000 are left to train on.
    config.validation_size = 297
    config.model.name = "conv_net"
    config.model.widths = (16, 32, 64)
    config.optimizer.warmup_epochs = 1
    config.evaluation.num_points = 11
    config.evaluation.recalibration_batch_size = 50
    config.evaluation.recalibration_augment = False
    return config


def get_config(variant: str = "demo") -> ml_collections.ConfigDict:
    """The suite of runs that is the demo, or the sweep that chose its tuned values."""
    if variant not in VARIANTS:
        raise UserError(f"Unknown variant {variant!r}; choose one of {', '.join(VARIANTS)}.")
    config = ml_collections.ConfigDict()
    config.variant = variant
    # 0: one per CPU core.
    config.num_threads = 0
    # Shares of training labels that are replaced by wrong ones.
    config.noise_rates = (0.0, 0.2)
    config.run = run_config("standard")
    with config.run.unlocked():
        for name in OF_METHOD:
            del config.run[name]
        # The mode stays; validation labels are never replaced, those of the test split neither.
        del config.run.label_noise["rate"], config.run.label_noise["seed"]

    config.methods = ml_collections.ConfigDict()
    if variant == "demo":
        config.seeds = tuple(range(8))
        config.methods.standard = _method("standard")
        config.methods.standard_matched = _method("standard_matched")
        config.methods.ema = _method("standard", ema_decay=0.997)
        config.methods.label_smoothing = _method("standard", label_smoothing=0.1)
        config.methods.line = _method("line")
        config.methods.layerwise_line = _method("layerwise_line")
        config.methods.curve = _method("curve")
        config.methods.simplex = _method("simplex")
        # Chosen on the validation split by the sweep whose record is results/digits_tune/metrics.json:
        # learning rate and weight decay for each of `noise_rates`.
        config.tuned = ml_collections.ConfigDict()
        config.tuned.standard = _tuned((0.3, 3.0), (3e-3, 1e-2))
        config.tuned.layerwise_line = _tuned((1.0, 1.0), (0.0, 3e-3))
    else:
        # Seeds that the demo does not report.
        config.seeds = tuple(range(100, 104))
        config.methods.standard = _method("standard")
        config.methods.layerwise_line = _method("layerwise_line")
        config.grid = ml_collections.ConfigDict()
        config.grid.learning_rate = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
        config.grid.weight_decay = (0.0, 1e-5, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    return config


def _method(kind: str, **values: float) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"kind": kind, **values})


def _tuned(learning_rate: tuple, weight_decay: tuple) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"learning_rate": learning_rate, "weight_decay": weight_decay})
