"""Configs: the article's values, what values may be, and that they can be locked, stored and run."""

import itertools
import json
import math
import re

import jax.numpy as jnp
import pytest
import tiny

from experiments.configs import check, cifar10, cifar100, digits, imagenet, suites, tiny_imagenet
from experiments.configs.base import base_config
from experiments.configs.check import BOUNDS, REMOVED, SUITE_BOUNDS, said, without_removed
from experiments.configs.recipes import NUM_ENDPOINTS, RECIPES
from experiments.data.augment import AUGMENTATIONS, NORMALIZATIONS
from experiments.data.labels import FILE_MODE, NOISE_MODES
from experiments.evaluation.predict import Settings
from experiments.reproduce import plan
from experiments.system.cli import config_differences
from experiments.system.errors import UserError
from experiments.system.values import flatten
from experiments.training import models
from experiments.training.methods import KINDS, SCHEDULES, make_method
from experiments.training.models import make_network
from experiments.training.networks import CifarResNet, ImageNetResNet
from experiments.training.starting import HEADS

NAN = math.nan
# Values outside of a bound of every kind.
OUTSIDE = {
    "kind": ["lines", ""],
    "seed": [-1],
    "batch_size": [0],
    "optimizer.learning_rate": [0.0, NAN, math.inf],
    "model.depth": [7, -4],
    "label_noise.rate": [-0.1, 1.0, NAN],
    "model.widths": [(), (4, 0), ("a", "b"), (4.5,), ((4, 8),), (True,)],
    "subspace.simplexes": [(0, 1), ("ab",), ((0, "a"),), ((),), (((0,),),)],
    **dict.fromkeys(("subspace.weights", "evaluation.outside"), [(1,), (("a",),)]),
    "evaluation.corruptions": [(1,), ("snow", "snow")],
    "evaluation.num_points": [1, 6],
    "evaluation.grid_steps": [-6, 4],
    "evaluation.severities": [(0,), (1, 6), ("a",), ((1,),)],
}
# The same of a suite.
OUTSIDE_A_SUITE = {
    **dict.fromkeys(("seeds", "tuning.seeds"), [(), ("a",), (0.5,), ((0,),), (1, 1)]),
    "landscape.seeds": [("a",), ((0,),)],
    "noise_rates": [(), ("a",), ((0.0,),), (0.001,)],
    "products": [(), (1,), (("line",),)],
    **dict.fromkeys(("clean_only", "tuning.recipes"), [(1,), (("line",),)]),
    **dict.fromkeys(("tuning.learning_rate", "tuning.weight_decay"), [(), ("a",), ((0.1,),)]),
}


def changed(config, changes):
    config = config.copy_and_resolve_references()
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    return config


def sentence_of(config, check=check.check):
    """Why a config is refused, as one sentence; "" if it is not."""
    try:
        check(config)
    except UserError as error:
        message = str(error)
        assert message.endswith(".")
        assert ". " not in message
        assert "\n" not in message
        return message
    return ""


def test_every_bound_refuses_what_is_outside_and_says_what_may_be():
    failures = []
    for name, values in OUTSIDE.items():
        config = (cifar10 if name == "model.depth" else digits).get_config("line")
        for value in values:
            found = sentence_of(changed(config, {name: value}))
            (_, shown), *_ = flatten({"": value})
            if not (found.startswith(f"config.{name} is {shown!r}") and BOUNDS[name].said in found):
                failures.append((name, value, found))
    for name, values in OUTSIDE_A_SUITE.items():
        for value in values:
            found = sentence_of(changed(suites.get_config("digits"), {name: value}), plan.check)
            if not (found.startswith(f"config.{name} is [") and SUITE_BOUNDS[name].said in found):
                failures.append((name, value, found))
    assert failures == []


def test_every_bound_is_of_a_value_that_some_config_has():
    configs = [module.get_config("line") for module in (digits, cifar10, tiny_imagenet, imagenet)]
    names = {name for config in configs for name, _ in flatten(config.to_dict())}
    assert {f"config.{name}" for name in BOUNDS} <= names
    suite = {name for name, _ in flatten(suites.get_config("digits").to_dict())}
    assert {f"config.{name}" for name in SUITE_BOUNDS} <= suite
    assert not {f"config.{name}" for name in REMOVED} & names
    assert said("config.run.batch_size") == said("config.batch_size") == "at least 1"


def test_names_are_those_that_there_are():
    for key, names in {
        "schedule.name": SCHEDULES,
        "normalization": NORMALIZATIONS,
        "augmentation": AUGMENTATIONS,
        "label_noise.mode": (*NOISE_MODES, FILE_MODE),
        "model.dtype": models.DTYPES,
        "model.stem": models.STEMS,
        "model.name": ("conv_net", "cifar_resnet", *models.IMAGENET_RESNETS),
        "init_head": HEADS,
        "kind": KINDS,
    }.items():
        assert all(map(BOUNDS[key].holds, names)), key
        assert BOUNDS[key].said.count("'") == 2 * len(names), key
    assert {f"evaluation.{name}" for name in Settings._fields} - BOUNDS.keys() == {
        "evaluation.recalibration_augment"
    }


TIED = [
    ("line", {"subspace.num_endpoints": 3}, "num_endpoints is 3 but line has 2; .* simplex"),
    ("spro_1", {"subspace.num_endpoints": 4}, r"simplexes are of the vertices \[0, 1, 2\]; name"),
    ("line", {"subspace.given": (-1,)}, r"given is \(-1,\) but there are 2 endpoints; .*0 to 1"),
    ("line", {"subspace.num_samples": 4}, "num_samples is 4, which does not divide .* of 6; cho"),
    ("standard", {"subspace.penalty": 1.0}, r"penalty is 1\.0 but standard has 1 endpoint and so"),
    ("line", {"average.name": "swag"}, "is 'swag' but line has 2 endpoints; .* 'ema' or 'swa'"),
    (
        "line",
        {"num_epochs": 2, "optimizer.warmup_epochs": 5},
        r"num_epochs is 2 and config\.optimizer\.warmup_epochs is 5, .*; pass "
        r"--config\.optimizer\.warmup_epochs=1, or --config\.num_epochs=6\.$",
    ),
    ("line", {"label_noise.mode": "file"}, "mode is 'file' but config.label_noise.file is ''; use"),
    (
        "line",
        {"evaluation.corruptions": ("snow",), "evaluation.severities": ()},
        "severities is empty but config.evaluation.corruptions has 'snow'; use some of 1 to 5",
    ),
]


def test_values_that_do_not_go_together_are_refused():
    failures = []
    for recipe, changes, sentence in TIED:
        found = sentence_of(changed(tiny.config(recipe), changes))
        if not re.match(rf"config\..*{sentence}", found):
            failures.append((recipe, changes, found))
    assert failures == []


# Records of old


def test_values_that_left_are_dropped_where_they_are_the_usual_ones_and_refused_otherwise():
    for full, (usual, instead) in REMOVED.items():
        *groups, name = full.split(".")
        for value, prefix in itertools.product((usual, "other"), ([], ["run"])):
            stored = {name: value, "kept": 1}
            for group in reversed([*prefix, *groups]):
                stored = {group: stored}
            if value == usual:
                found = str(without_removed(stored))
                assert (name in found, "kept" in found) == (False, True)
                continue
            with pytest.raises(UserError, match=rf"^config\.{full} is 'other' .*{instead}; leave"):
                without_removed(stored)


# Configs


# Data sets: a config, how many images are held out for choices, and whose moments normalise.
DATA = {
    "cifar10": (cifar10, 5000, "imagenet"),
    "cifar100": (cifar100, 5000, "imagenet"),
    "digits": (digits, 297, "none"),
    "tiny_imagenet": (tiny_imagenet, 10_000, "tiny_imagenet"),
    "imagenet": (imagenet, 10_000, "imagenet"),
}
MODULES = [module for module, *_ in DATA.values()]
SUITES = tuple(suites._SUITES)


def flat(config):
    """Values by their names with dots."""
    return {name.removeprefix("config."): value for name, value in flatten(config.to_dict())}


def differing(one, other):
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
    networks = [make_network(m.get_config().model, 10) for m in (cifar10, tiny_imagenet, imagenet)]
    small = ImageNetResNet(10, stem="small", width=64)
    wide = ImageNetResNet(10, (3, 4, 6, 3), 2, dtype=jnp.bfloat16)
    assert networks == [CifarResNet(10, depth=20, width=16), small, wide]


def test_a_recipe_changes_the_same_values_on_every_data_set_whose_own_are_the_articles():
    for name, (module, size, normalization) in DATA.items():
        config = module.get_config("standard")
        assert (config.dataset, config.validation_size) == (name, size)
        assert config.normalization == normalization
        for recipe in RECIPES:
            usual = differing(base_config(recipe), base_config("standard"))
            own = {*RECIPES[recipe].values, "recipe", "subspace.num_endpoints", "subspace.penalty"}
            assert differing(module.get_config(recipe), config) == usual <= own, (name, recipe)
    assert differing(cifar100.get_config(), cifar10.get_config()) == {"dataset"}


def test_every_config_can_be_locked_and_stored_and_makes_a_method_and_a_network():
    runs = {(m.__name__, r): m.get_config(r) for m in MODULES for r in RECIPES}
    for name, config in (runs | {name: suites.get_config(name) for name in SUITES}).items():
        locked = config.copy_and_resolve_references().lock()
        stored = json.loads(json.dumps(locked.to_dict(), allow_nan=False))
        assert not config_differences(stored, locked, ignore=()), name
    for name, config in runs.items():
        make_network(config.model, 10)
        assert make_method(config)[0].has_penalty == (config.subspace.penalty > 0), name
        assert sentence_of(config) == "", name


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
