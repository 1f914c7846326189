"""Configs: the article's values, and that they can be locked, stored and run."""

import itertools
import json

import pytest

from experiments.configs import cifar10, cifar100, digits, imagenet, suites, tiny_imagenet
from experiments.configs.base import base_config
from experiments.configs.recipes import NUM_ENDPOINTS, RECIPES
from experiments.system.cli import config_differences
from experiments.system.errors import UserError
from experiments.system.values import flatten
from experiments.training.methods import make_method
from experiments.training.models import make_network
from experiments.training.networks import CifarResNet, ImageNetResNet
from subspace_jax.corruptions import BENCHMARK

# Data sets: a config, how many images are held out for choices, and whose moments normalise.
DATA = {
    "cifar10": (cifar10, 5000, "imagenet"),
    "cifar100": (cifar100, 5000, "imagenet"),
    "digits": (digits, 297, "none"),
    "tiny_imagenet": (tiny_imagenet, 10_000, "tiny_imagenet"),
    "imagenet": (imagenet, 10_000, "imagenet"),
}
MODULES = [module for module, *_ in DATA.values()]
SUITES = (
    "digits",
    "cifar10-small",
    "cifar10-few",
    "cifar10-full",
    "tiny_imagenet-full",
    "imagenet-full",
)


def flat(config):
    """Values by their names with dots."""
    return {name.removeprefix("config."): value for name, value in flatten(config.to_dict())}


def changed(one, other):
    """Names of values that differ, or that only one has."""
    one, other = flat(one), flat(other)
    return {name for name in one | other if one.get(name) != other.get(name)}


ARTICLE = {
    "num_epochs": 160,
    "batch_size": 128,
    "augmentation": "crop_and_flip",
    "label_smoothing": 0.0,
    "label_noise.rate": 0.0,
    "label_noise.mode": "uniform_wrong",
    "optimizer.learning_rate": 0.1,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 1e-4,
    "optimizer.warmup_epochs": 5,
    "schedule.name": "cosine",
    "average.name": "none",
    "sharpness.rho": 0.0,
    "model.dropout": 0.0,
    "subspace.num_samples": 1,
    "subspace.volume": 0.0,
    "evaluation.num_points": 21,  # alpha = 0, 0.05 .. 1
    "evaluation.num_bins": 20,
    "evaluation.recalibration_examples": 0,  # one full pass
    "evaluation.recalibration_augment": True,
}


def of_the_article(recipe):
    """What the article says of a recipe, but for what the recipe changes."""
    kind, values = RECIPES[recipe].kind, RECIPES[recipe].values
    is_one = kind in ("standard", "standard_matched", "independent")
    own = {"recipe": recipe, "kind": kind, "subspace.num_endpoints": NUM_ENDPOINTS[kind]}
    own |= ARTICLE | {"subspace.penalty": 0.0 if is_one else 1.0} | values
    return {name: flat_value(value) for name, value in own.items()}


def flat_value(value):
    return json.loads(json.dumps(value))  # tuples as lists


def test_configs_have_the_values_of_the_article_but_for_those_of_their_recipes():
    for module, recipe in itertools.product((cifar10, tiny_imagenet), RECIPES):
        values, expected = flat(module.get_config(recipe)), of_the_article(recipe)
        assert {name: values[name] for name in expected} == expected, (recipe, module)
    networks = [make_network(module.get_config().model, 10) for module in (cifar10, tiny_imagenet)]
    small = ImageNetResNet(10, stem="small", width=64)
    assert networks == [CifarResNet(10, depth=20, width=16), small]


def test_a_recipe_changes_the_same_values_on_every_data_set_whose_own_are_the_articles():
    for name, (module, size, normalization) in DATA.items():
        config = module.get_config("standard")
        assert (config.dataset, config.validation_size) == (name, size)
        assert config.normalization == normalization
        for recipe in RECIPES:
            usual = changed(base_config(recipe), base_config("standard"))
            own = {*RECIPES[recipe].values, "recipe", "subspace.num_endpoints", "subspace.penalty"}
            assert changed(module.get_config(recipe), config) == usual <= own, (name, recipe)
    assert changed(cifar100.get_config(), cifar10.get_config()) == {"dataset"}


def test_every_config_can_be_locked_and_stored_and_makes_a_method_and_a_network():
    runs = {(m.__name__, r): m.get_config(r) for m in MODULES for r in RECIPES}
    for name, config in (runs | {name: suites.get_config(name) for name in SUITES}).items():
        locked = config.copy_and_resolve_references().lock()
        stored = json.loads(json.dumps(locked.to_dict(), allow_nan=False))
        assert not config_differences(stored, locked, ignore=()), name
    for name, config in runs.items():
        make_network(config.model, 10)
        assert make_method(config)[0].has_penalty == (config.subspace.penalty > 0), name


def test_unknown_suites_are_refused_with_those_there_are():
    for name in ("", "cifar10", "cifar10-large"):
        names = ", ".join(SUITES)
        with pytest.raises(UserError, match=f"^Unknown suite '{name}'; choose one of {names}\\.$"):
            suites.get_config(name)


def test_two_configs_share_nothing():
    for make, name in [(m.get_config, "line") for m in MODULES] + [(suites.get_config, "digits")]:
        one, usual = make(name), make(name).to_dict()
        (one.run if name == "digits" else one).optimizer.momentum = 0.0
        assert make(name).to_dict() == usual


# Suites


@pytest.mark.parametrize("name", SUITES)
def test_what_recipes_seeds_and_noise_decide_is_not_in_the_runs_config(name):
    suite = suites.get_config(name)
    shared, one = flat(suite.run), flat(suites.run_config(suite.suite, "line"))
    missing = one.keys() - shared.keys()
    assert shared.keys() <= one.keys()
    assert {name for row in RECIPES.values() for name in row.values} <= missing
    assert {name for name in missing if name.split(".")[0] not in suites.OF_RECIPE} == {
        *("label_noise.rate", "label_noise.seed", "label_smoothing", "model.dropout")
    }


@pytest.mark.parametrize("name", SUITES)
def test_grids_and_sweeps_rise_and_hold_the_articles_own_values(name):
    suite = suites.get_config(name)
    tuning, sweeps = suite.tuning, suite.sweeps.items()
    grids = [tuning.learning_rate, tuning.weight_decay, suite.noise_rates, suite.seeds]
    for values in [*grids, *(sweep["values"] for _, sweep in sweeps)]:
        assert list(values) == sorted(set(values))
    for recipe, sweep in sweeps:  # around what makes the recipe
        assert min(sweep["values"]) <= RECIPES[recipe].values[sweep.name] <= max(sweep["values"])
    for recipe in tuning.recipes:
        optimizer = suites.run_config(suite.suite, recipe).optimizer
        assert optimizer.learning_rate in tuning.learning_rate
        assert optimizer.weight_decay in tuning.weight_decay


def test_the_suites_are_one_protocol_at_several_scales():
    few, small, full = map(suites.get_config, ("cifar10-few", "cifar10-small", "cifar10-full"))
    assert full.run.evaluation.corruptions == BENCHMARK
    assert full.run.evaluation.severities == (1, 2, 3, 4, 5)
    for scale, more in ((few, {"batch_size"}), (small, {"model.width"})):
        names = {x for x in changed(scale.run, full.run) if not x.startswith("evaluation.")}
        assert names == {"num_epochs", "train_size", "model.depth"} | more
