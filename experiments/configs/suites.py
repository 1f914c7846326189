"""Suites: which methods are trained how often on what, for `python -m experiments.reproduce`."""

from types import ModuleType

import ml_collections

from experiments.configs import cifar10, digits, imagenet, tiny_imagenet
from experiments.configs.recipes import PRODUCTS, SHOWN, SIZED, TIMES_M
from experiments.system.errors import UserError
from subspace_jax import corruptions

# What the article's figures compare.
_FIRST = SHOWN["article"]
_ALL = tuple(name for name in PRODUCTS if name not in TIMES_M)
# The first of the seeds, where some products have more of them than the others.
NUM_FIRST_SEEDS = 3
_MODULES = {
    module.__name__.rpartition(".")[2]: module
    for module in (digits, cifar10, tiny_imagenet, imagenet)
}
# Settings of a run that its recipe, seed and noise decide, and not `config.run`.
OF_RECIPE = ("recipe", "kind", "seed", "subspace", "schedule", "average", "sharpness")


def get_config(name: str = "digits") -> ml_collections.ConfigDict:
    """The suite of a name, with its scale after a hyphen where it has several."""
    if name not in _SUITES:
        raise UserError(f"Unknown suite {name!r}; choose one of {', '.join(_SUITES)}.")
    config = _SUITES[name]()
    config.suite, _, scale = name.partition("-")
    config.scale = scale or name
    return config


def plain(suite: str) -> ml_collections.ConfigDict:
    """A suite on a data set, without what its scales choose."""
    return _suite(run_config(suite, "standard"))


def run_config(suite: str, recipe: str) -> ml_collections.ConfigDict:
    """One run of a suite before `config.run` and `config.recipes` change it."""
    return _MODULES[suite].get_config(recipe)


def _suite(run: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()
    ## The suite
    # What is trained: the first argument of the command.
    config.suite = ""
    # How large it is: --scale.
    config.scale = ""
    # Of the runs; every method is trained with each.
    config.seeds = (0, 1, 2)
    # Shares of training labels that are replaced by wrong ones; the mode is in `run`.
    config.noise_rates = (0.0, 0.2)
    # Runs that train at a time; 0: one per CPU core.
    config.num_threads = 0
    # Runs of one method that train as one program, vectorised: for accelerators that one run leaves
    # idle. On a CPU it is slower than threads. With config.run.mesh="run=8" they are split over eight
    # devices.
    config.runs_at_once = 1
    # What is compared, by names of the table of methods.
    config.products = _FIRST
    # Products whose runs are not trained with wrong labels, nor tuned with them.
    config.clean_only = ()
    # Products whose runs have all seeds: others, and what was tuned, have the first three. (): all have.
    config.all_seeds = ()
    # Products whose midpoints predict images of all corruptions of the benchmark, in the first three
    # seeds, where evaluation.corruptions are fewer.
    config.corrupted = ()
    # Every run's values, but for what the recipe, seed and noise decide.
    config.run = run
    config.run.evaluation.grid_steps = 0  # maps of triangles are for single runs
    with config.run.unlocked():
        for name in OF_RECIPE:
            del config.run[name]
        del config.run.label_noise["rate"], config.run.label_noise["seed"]
        del config.run["label_smoothing"], config.run.model["dropout"]
    # Values of single recipes, by their names in the config with two underscores for the dot.
    config.recipes = ml_collections.ConfigDict()
    # Values of which the best on validation data is shown: recipe -> name and values.
    config.sweeps = ml_collections.ConfigDict()
    config.tuning = ml_collections.ConfigDict()
    # Recipes whose learning rate and weight decay are chosen on validation data.
    config.tuning.recipes = ()
    # Of the runs of that choice, other ones than those that are reported.
    config.tuning.seeds = (100,)
    # The learning rates to choose among.
    config.tuning.learning_rate = (0.1,)
    # The weight decays to choose among.
    config.tuning.weight_decay = (1e-4,)
    config.landscape = ml_collections.ConfigDict()
    # Seeds whose landscapes are drawn, of the first one all slices.
    config.landscape.seeds = (0,)
    # Points along each axis of a slice.
    config.landscape.resolution = 21
    # Training images that the Hessian of the loss is measured on.
    config.landscape.hessian_images = 500
    # How many of them at a time.
    config.landscape.hessian_batch_size = 50
    # How often the Hessian is multiplied.
    config.landscape.hessian_iterations = 20
    return config


def _digits() -> ml_collections.ConfigDict:
    run = digits.get_config("standard")
    run.evaluation.corruptions = ("snow",)
    run.evaluation.outside = ("noise", "shuffled")
    config = _suite(run)
    config.seeds = tuple(range(8))
    config.products = _ALL
    config.recipes.standard = ml_collections.ConfigDict({"evaluation__oracle_epochs": 3})
    config.sweeps.dropout = _sweep("model.dropout", (0.05, 0.15))
    config.sweeps.label_smoothing = _sweep("label_smoothing", (0.05, 0.15))
    config.tuning.recipes = (
        *("standard", "ema", "sam", "label_smoothing"),
        *("line", "layerwise_line", "layerwise_line_ema"),
    )
    config.tuning.seeds = (100, 101)
    config.tuning.learning_rate = (0.1, 0.5, 2.0)
    config.tuning.weight_decay = (1e-4, 3e-3)
    config.landscape.seeds = (0, 1, 2)
    return config


def _cifar10_small() -> ml_collections.ConfigDict:
    """A ResNet-8 of width 8 on 10,000 images: what two cores can train in four hours."""
    run = cifar10.get_config("standard")
    run.num_epochs = 60
    run.model.depth, run.model.width = 8, 8
    run.train_size = 10_000
    run.evaluation.num_points = 5
    run.evaluation.recalibration_examples = 5_000
    run.evaluation.corruptions = ("snow",)
    config = _suite(run)
    # The article's first figures and their control.
    config.products = (
        *("standard", "standard_matched", "early_stopping", "line", "layerwise_line", "curve"),
        *("line_ensemble", "layerwise_line_ensemble"),
    )
    config.clean_only = ("standard_matched", "curve")
    config.recipes.standard = ml_collections.ConfigDict({"evaluation__oracle_epochs": 3})
    config.landscape.seeds = ()
    return config


def _cifar10_few() -> ml_collections.ConfigDict:
    """Few images, which networks learn by heart, as the article's do: for two cores and a day."""
    run = cifar10.get_config("standard")
    run.num_epochs, run.batch_size, run.train_size = 100, 64, 3_000
    run.model.depth = 8
    run.evaluation.num_points = 5
    run.evaluation.corruptions = ("snow",)
    config = _suite(run)
    config.seeds = tuple(range(5))
    sizes = (
        *("standard_matched", "simplex", "layerwise_simplex"),
        *("simplex_lr_m", "layerwise_simplex_lr_m"),
    )
    config.clean_only = tuple(f"{name}_{m}" for name in sizes for m in (3, 4, 5))
    config.all_seeds = FIGURES["learning_rate"][0]
    config.products = (
        *(*_FIRST, "line_lr_m", "layerwise_line_lr_m", "curve_lr_m", "line_label_smoothing"),
        *("ensemble", "line_ensemble", "layerwise_line_ensemble", *config.clean_only),
    )
    config.corrupted = ("standard", "standard_matched", "line", "layerwise_line")
    config.recipes.standard = ml_collections.ConfigDict({"evaluation__oracle_epochs": 5})
    config.recipes.ema = ml_collections.ConfigDict({"average__decay": 0.9995})
    config.tuning.recipes = ("standard", "ema", "line", "layerwise_line")
    config.tuning.learning_rate = (0.1, 0.2, 0.4)
    config.tuning.weight_decay = (1e-4, 1e-3)
    config.landscape.resolution = 13
    return config


def _full(module: ModuleType) -> ml_collections.ConfigDict:
    """The article's protocol on one of its data sets, with all corruptions that mCE averages over."""
    run = module.get_config("standard")
    run.evaluation.corruptions = corruptions.BENCHMARK
    config = _suite(run)
    config.products = _ALL
    config.recipes.ema = ml_collections.ConfigDict({"average__decay": 0.9995})
    config.recipes.layerwise_line_ema = ml_collections.ConfigDict({"average__decay": 0.9995})
    config.recipes.standard = ml_collections.ConfigDict({"evaluation__oracle_epochs": 4})
    config.sweeps.dropout = _sweep("model.dropout", (0.05, 0.1, 0.2))
    config.sweeps.label_smoothing = _sweep("label_smoothing", (0.05, 0.1, 0.2))
    config.tuning.recipes = ("standard", "ema", "line", "layerwise_line")
    config.tuning.learning_rate = (0.05, 0.1, 0.2, 0.4)
    config.tuning.weight_decay = (1e-4, 3e-4, 1e-3)
    return config


def _imagenet_full() -> ml_collections.ConfigDict:
    """The article's Figure 6 and what it needs: each run takes days of an accelerator."""
    run = imagenet.get_config("standard")
    run.evaluation.corruptions = ("snow",)
    config = _suite(run)
    config.products = ("standard", "standard_matched", "line", "layerwise_line")
    config.noise_rates = (0.0,)
    config.num_threads = 1
    config.landscape.seeds = ()
    return config


_SUITES = {
    "digits": _digits,
    "cifar10-small": _cifar10_small,
    "cifar10-few": _cifar10_few,
    "cifar10-full": lambda: _full(cifar10),
    "tiny_imagenet-full": lambda: _full(tiny_imagenet),
    "imagenet-full": _imagenet_full,
}


def _sweep(name: str, values: tuple) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict({"name": name, "values": values})


_LINES = ("line", "layerwise_line")
_COMPARED = tuple(name for name in _FIRST if name in (*SHOWN["path"], *SHOWN["level"]))
# figure -> (its products, whether it shows clean labels, whether it shows wrong ones).
FIGURES: dict[str, tuple[tuple[str, ...], bool, bool]] = {
    "fig1": (SHOWN["slice"], True, False),
    "fig2": (("simplex_3",), True, False),
    "fig3": ((*_COMPARED, "ensemble"), True, False),
    "fig4": (("standard", "line", "layerwise_line", "standard_matched", *SIZED), True, False),
    "fig5": ((*_FIRST, "line_label_smoothing"), True, True),
    "fig6": (_FIRST, True, False),
    "fig7": (_FIRST, False, True),
    "learning_rate": (
        ("standard", "standard_matched", "ema", *_LINES, *(f"{name}_lr_m" for name in _LINES)),
        *(True, True),
    ),
    "corruptions": (("standard", "standard_matched", *_LINES), True, True),
    "rivals": (tuple(name for name in PRODUCTS if name not in SIZED), True, True),
    "tuned": (("standard", "standard_matched", "ema", "line", "layerwise_line"), True, True),
    "curvature": (_COMPARED, True, False),
}
