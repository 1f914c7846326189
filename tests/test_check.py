"""Bounds of values: what each may be, what several may be together, and that a record of old is read."""

import itertools
import math
import re

import pytest
import tiny

from experiments.configs import check, cifar10, digits, imagenet, suites, tiny_imagenet
from experiments.configs.check import BOUNDS, REMOVED, SUITE_BOUNDS, said, without_removed
from experiments.configs.recipes import RECIPES
from experiments.data.augment import AUGMENTATIONS, NORMALIZATIONS
from experiments.data.labels import FILE_MODE, NOISE_MODES
from experiments.evaluation.predict import Settings
from experiments.reproduce import plan
from experiments.system.errors import UserError
from experiments.system.values import flatten
from experiments.training import models
from experiments.training.methods import KINDS, SCHEDULES
from experiments.training.starting import HEADS

NAN = math.nan
# Values outside of a bound of every kind.
OUTSIDE = {
    "kind": ["lines", ""],
    "seed": [-1],
    "batch_size": [0],
    "label_noise.rate": [-0.1, 1.0, NAN],
    "optimizer.learning_rate": [0.0, NAN, math.inf],
    "optimizer.weight_decay": [-1e-4, NAN, math.inf],
    "model.depth": [7, -4],
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


def test_every_recipe_is_allowed_on_every_data_set():
    modules = (digits, cifar10, tiny_imagenet, imagenet)
    pairs = itertools.product(RECIPES, modules)
    assert [(r, m.__name__) for r, m in pairs if sentence_of(m.get_config(r))] == []


TIED = [
    ("line", {"subspace.num_endpoints": 3}, "num_endpoints is 3 but line has 2; .* simplex"),
    ("curve", {"subspace.num_endpoints": 2}, "is 2 but curve has at least 3; use 3 or more"),
    ("spro_1", {"subspace.num_endpoints": 4}, r"simplexes are of the vertices \[0, 1, 2\]; name"),
    ("line", {"subspace.given": (-1,)}, r"given is \(-1,\) but there are 2 endpoints; .*0 to 1"),
    ("line", {"subspace.given": (0, 0)}, r"\(0, 0\) but there are 2 endpoints; use different"),
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
    ("line", {"label_noise.file": "labels.npy"}, "mode is 'uniform_wrong' but .* 'labels.npy'"),
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
