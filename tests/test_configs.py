"""Configs: the article's values, and that they can be locked, stored and run."""

import json
import math

import pytest

from experiments.cli import config_differences
from experiments.configs import cifar10, cifar100, digits
from experiments.configs.base import base_config
from experiments.errors import UserError
from experiments.methods import KINDS, make_method
from experiments.models import CifarResNet, make_network

ALL = {
    **{f"cifar10:{kind}": cifar10.get_config(kind) for kind in KINDS},
    **{f"cifar100:{kind}": cifar100.get_config(kind) for kind in KINDS},
    **{f"digits run:{kind}": digits.run_config(kind) for kind in KINDS},
    **{f"digits:{variant}": digits.get_config(variant) for variant in digits.VARIANTS},
}
RUNS = {name: config for name, config in ALL.items() if not name.startswith("digits:")}


@pytest.mark.parametrize("kind", KINDS)
def test_cifar10_is_the_recipe_of_the_article(kind):
    config = cifar10.get_config(kind)
    assert make_network(config.model, 10) == CifarResNet(10, depth=20, width=16)
    assert (config.dataset, config.kind) == ("cifar10", kind)
    assert (config.num_epochs, config.batch_size) == (160, 128)
    assert config.optimizer.to_dict() == {
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "warmup_epochs": 5,
    }
    assert config.subspace.penalty == (0.0 if "standard" in kind else 1.0)
    assert (config.subspace.penalty_pairs, config.subspace.num_samples) == ("random", 1)
    assert (config.augmentation, config.normalization) == ("crop_and_flip", "imagenet")
    assert (config.label_smoothing, config.ema_decay, config.label_noise.rate) == (0, 0, 0)


def test_evaluation_is_that_of_the_article():
    evaluation = cifar10.get_config("line").evaluation
    assert (evaluation.num_points, evaluation.num_bins) == (21, 20)  # alpha = 0, 0.05 .. 1
    assert evaluation.recalibration_examples == 0  # one full pass
    assert evaluation.recalibration_augment


def test_cifar_holds_images_out_for_choices():
    assert cifar10.get_config().validation_size == 5000


@pytest.mark.parametrize("kind", KINDS)
def test_cifar100_is_cifar10_but_for_the_data(kind):
    ours, theirs = cifar100.get_config(kind).to_dict(), cifar10.get_config(kind).to_dict()
    assert ours.pop("dataset") == "cifar100"
    assert theirs.pop("dataset") == "cifar10"
    assert ours == theirs


@pytest.mark.parametrize("name", ALL)
def test_a_config_can_be_locked_and_stored(name):
    config = ALL[name].copy_and_resolve_references().lock()
    stored = json.loads(json.dumps(config.to_dict(), allow_nan=False))
    assert config_differences(stored, config, ignore=()) == []
    with pytest.raises(AttributeError, match="locked"):
        config.something_new = 1


@pytest.mark.parametrize("name", RUNS)
def test_a_config_makes_a_method_and_a_network(name):
    config = RUNS[name].copy_and_resolve_references().lock()
    method, _ = make_method(config)
    assert method.penalty_pairs == ("none" if "standard" in config.kind else "random")
    make_network(config.model, 10)
    assert set(config) == set(base_config("line"))
    assert set(config.evaluation) == set(base_config("line").evaluation)


@pytest.mark.parametrize("get_config", [cifar10.get_config, cifar100.get_config, base_config])
def test_unknown_kinds_are_refused(get_config):
    with pytest.raises(UserError, match="^Unknown kind 'lines'; choose one of standard, "):
        get_config("lines")


@pytest.mark.parametrize("get_config", [cifar10.get_config, cifar100.get_config])
def test_two_configs_share_nothing(get_config):
    one = get_config("line")
    one.optimizer.momentum = 0.0
    assert get_config("line").optimizer.momentum == 0.9


# Digits


@pytest.mark.parametrize("variant", digits.VARIANTS)
def test_what_methods_set_is_not_in_the_runs_config(variant):
    config = digits.get_config(variant)
    assert config.variant == variant
    assert not set(config.run) & set(digits.OF_METHOD)
    assert set(config.run) | set(digits.OF_METHOD) == set(base_config("line"))
    for method in config.methods.values():
        assert method.kind in KINDS
        assert set(method) <= set(digits.OF_METHOD)


def test_digits_are_a_whole_number_of_calls_an_epoch():
    config = digits.get_config("demo").run
    steps, rest = divmod(1797 - 500 - config.validation_size, config.batch_size)
    assert rest == 0
    assert steps % config.steps_per_call == 0


def test_unknown_variants_are_refused():
    with pytest.raises(UserError, match="^Unknown variant 'sweep'; choose one of demo, tune"):
        digits.get_config("sweep")


def test_tuned_values_are_cells_of_the_sweep_one_for_each_noise_rate():
    demo, tune = (digits.get_config(variant) for variant in ("demo", "tune"))
    assert demo.noise_rates == tune.noise_rates
    assert set(demo.tuned) == set(tune.methods)
    for name, tuned in demo.tuned.items():
        assert demo.methods[name].to_dict() == tune.methods[name].to_dict()
        assert set(tuned) == set(tune.grid) == {"learning_rate", "weight_decay"}
        for quantity, values in tuned.items():
            assert len(values) == len(demo.noise_rates)
            assert set(values) <= set(tune.grid[quantity])
    assert demo.run.to_dict() == tune.run.to_dict()


def test_the_sweep_and_the_demo_have_different_seeds():
    seeds = [digits.get_config(variant).seeds for variant in digits.VARIANTS]
    assert not set(seeds[0]) & set(seeds[1])
    assert all(len(set(s)) == len(s) >= 3 for s in seeds)


def test_grids_rise_and_learning_rates_are_positive():
    grid = digits.get_config("tune").grid
    for values in grid.values():
        assert list(values) == sorted(set(values))
        assert 0 <= values[0] < values[-1] < math.inf
    assert grid.learning_rate[0] > 0
