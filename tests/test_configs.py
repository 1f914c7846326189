"""Configs: the article's values, and that they can be locked, stored and run."""

import itertools
import json
import math

import pytest

from experiments.configs import cifar10, cifar100, digits, imagenet, suites, tiny_imagenet
from experiments.configs.base import base_config
from experiments.configs.recipes import PRODUCTS, RECIPES, default_num_endpoints, product_of
from experiments.reproduce import plan
from experiments.system.cli import config_differences
from experiments.system.errors import UserError
from experiments.training.methods import KINDS, make_method
from experiments.training.models import make_network
from experiments.training.networks import CifarResNet, ImageNetResNet
from subspace_jax.corruptions import BENCHMARK

DATA = {
    "cifar10": cifar10,
    "cifar100": cifar100,
    "digits": digits,
    "tiny_imagenet": tiny_imagenet,
    "imagenet": imagenet,
}
SUITES = ("digits", "cifar10-small", "cifar10-full", "tiny_imagenet-full", "imagenet-full")
NETWORKS = {
    "cifar10": CifarResNet(10, depth=20, width=16),
    "tiny_imagenet": ImageNetResNet(10, stem="small", width=64),
}


def flat(config, prefix=""):
    """Values by their names with dots."""
    found = {}
    for name, value in config.to_dict().items():
        nested = getattr(config[name], "to_dict", None)
        found |= flat(config[name], f"{prefix}{name}.") if nested else {f"{prefix}{name}": value}
    return found


def changed(one, other):
    """Names of values that differ, or that only one has."""
    one, other = flat(one), flat(other)
    return {name for name in one | other if one.get(name) != other.get(name)}


# Runs


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


def of_the_article(module, recipe):
    """What the article says of a recipe on a data set."""
    kind = RECIPES[recipe].kind
    is_one = kind in ("standard", "standard_matched", "independent")
    return ARTICLE | {
        "recipe": recipe,
        "kind": kind,
        "dataset": module.__name__.rsplit(".", 1)[1],
        "subspace.num_endpoints": default_num_endpoints(kind),
        "subspace.penalty": 0.0 if is_one else 1.0,
        **RECIPES[recipe].values,
    }


def test_configs_have_the_values_of_the_article_but_for_those_of_their_recipes():
    failures = []
    for module, recipe in itertools.product((cifar10, tiny_imagenet), RECIPES):
        config, usual = module.get_config(recipe), module.get_config("standard")
        expected = of_the_article(module, recipe)
        values = flat(config)
        same_model = not {n for n in changed(config, usual) if n.startswith("model.")} - {
            "model.dropout"
        }
        if {name: values[name] for name in expected} != expected or not same_model:
            failures.append(f"{recipe} on {module.__name__}")
    assert failures == []
    for module in (cifar10, tiny_imagenet):
        config = module.get_config("standard")
        assert make_network(config.model, 10) == NETWORKS[config.dataset]


def test_a_recipe_changes_the_same_values_on_every_data_set():
    failures = []
    for recipe in RECIPES:
        usual = changed(base_config(recipe), base_config("standard"))
        own = {*RECIPES[recipe].values, "recipe", "subspace.num_endpoints", "subspace.penalty"}
        for name, module in DATA.items():
            found = changed(module.get_config(recipe), module.get_config("standard"))
            if found != usual or not found <= own:
                failures.append(f"{recipe} on {name}")
    assert failures == []


@pytest.mark.parametrize(
    ("module", "size"),
    [
        (cifar10, 5000),
        (cifar100, 5000),
        (digits, 297),
        (tiny_imagenet, 10_000),
        (imagenet, 10_000),
    ],
)
def test_images_are_held_out_for_choices(module, size):
    assert module.get_config().validation_size == size


def test_cifar100_is_cifar10_but_for_the_data():
    for recipe in RECIPES:
        ours, theirs = cifar100.get_config(recipe), cifar10.get_config(recipe)
        assert changed(ours, theirs) == {"dataset"}
        assert ours.dataset == "cifar100"


@pytest.mark.parametrize("normalization", ["imagenet", "tiny_imagenet"])
def test_images_are_normalized_as_in_the_article(normalization):
    modules = [m for m in DATA.values() if m.get_config().normalization == normalization]
    both = {"imagenet": [cifar10, cifar100, imagenet], "tiny_imagenet": [tiny_imagenet]}
    assert modules == both[normalization]


def test_digits_are_a_whole_number_of_calls_an_epoch():
    config = digits.get_config("line")
    steps, rest = divmod(1797 - 500 - config.validation_size, config.batch_size)
    assert rest == 0
    assert steps % config.steps_per_call == 0


ALL = {
    **{f"{name}:{r}": m.get_config(r) for name, m in DATA.items() for r in RECIPES},
    **{f"suite:{name}": suites.get_config(name) for name in SUITES},
}


def test_every_config_can_be_locked_and_stored():
    failures = []
    for name, config in ALL.items():
        locked = config.copy_and_resolve_references().lock()
        stored = json.loads(json.dumps(locked.to_dict(), allow_nan=False))
        if config_differences(stored, locked, ignore=()):
            failures.append(name)
        with pytest.raises(AttributeError, match="locked"):
            locked.something_new = 1
    assert failures == []


def test_every_config_makes_a_method_and_a_network():
    base, failures = base_config("line"), []
    for name, config in ALL.items():
        if name.startswith("suite"):
            continue
        method, _ = make_method(config)
        make_network(config.model, 10)
        checks = (
            method.has_penalty == (config.subspace.penalty > 0),
            config.kind in KINDS,
            set(config) == set(base),
            set(config.evaluation) == set(base.evaluation),
        )
        if not all(checks):
            failures.append(name)
    assert failures == []


@pytest.mark.parametrize(
    "get_config", [*(module.get_config for module in DATA.values()), base_config]
)
def test_unknown_recipes_are_refused(get_config):
    with pytest.raises(UserError, match="^Unknown method 'lines', did you mean 'line'; choose one"):
        get_config("lines")


@pytest.mark.parametrize("module", DATA.values(), ids=DATA)
def test_two_configs_share_nothing(module):
    one = module.get_config("line")
    one.optimizer.momentum = 0.0
    one.recipe = "mine"
    assert module.get_config("line").optimizer.momentum == 0.9
    assert module.get_config("line").recipe == "line"


# Suites


@pytest.fixture(params=SUITES)
def suite(request):
    return suites.get_config(request.param)


def test_a_suite_has_its_name_and_its_scale():
    names = [(config.suite, config.scale) for config in map(suites.get_config, SUITES)]
    assert names == [
        ("digits", "digits"),
        ("cifar10", "small"),
        ("cifar10", "full"),
        ("tiny_imagenet", "full"),
        ("imagenet", "full"),
    ]


@pytest.mark.parametrize("name", ["", "cifar10", "cifar10-large"])
def test_unknown_suites_are_refused_with_those_there_are(name):
    names = ", ".join(SUITES)
    with pytest.raises(UserError, match=f"^Unknown suite '{name}'; choose one of {names}\\.$"):
        suites.get_config(name)


def test_what_recipes_seeds_and_noise_decide_is_not_in_the_runs_config(suite):
    one = suites.run_config(suite.suite, "line")
    missing = set(flat(one)) - set(flat(suite.run))
    assert not set(flat(suite.run)) - set(flat(one))
    of_recipes = {name for row in RECIPES.values() for name in row.values}
    assert of_recipes <= missing
    assert {name for name in missing if name.split(".")[0] not in suites.OF_RECIPE} == {
        "label_noise.rate",
        "label_noise.seed",
        "label_smoothing",
        "model.dropout",
    }


def test_a_suite_can_be_planned_and_looks_at_seeds_that_are_trained(suite):
    plan.check(suite)
    assert set(suite.products) <= set(PRODUCTS)
    assert not set(suite.seeds) & set(suite.tuning.seeds)
    assert set(suite.landscape.seeds) <= set(suite.seeds)
    shown = {product for products, _, _ in suites.FIGURES.values() for product in products}
    assert set(suite.products) <= shown


def test_values_of_single_recipes_are_values_of_their_configs(suite):
    trained = {product_of(product)[0] for product in suite.products}
    for recipe, values in suite.recipes.items():
        assert recipe in RECIPES  # trained, or what --config.products may add
        names = {name.replace("__", ".") for name in values}
        assert names <= set(flat(suites.run_config(suite.suite, recipe)))
    for recipe, sweep in suite.sweeps.items():
        assert recipe in trained
        # A sweep varies what makes the recipe, around its own value.
        assert min(sweep["values"]) <= RECIPES[recipe].values[sweep.name] <= max(sweep["values"])
    assert set(suite.tuning.recipes) <= trained


def test_the_oracle_looks_at_the_test_set_where_it_is_shown(suite):
    looks = suite.recipes.get("standard", {}).get("evaluation__oracle_epochs", 0)
    assert (looks > 0) == ("early_stopping" in suite.products)


def test_grids_and_sweeps_rise_and_noise_starts_at_none(suite):
    tuning = suite.tuning
    grids = [tuning.learning_rate, tuning.weight_decay, suite.noise_rates, suite.seeds]
    for values in [*grids, *(sweep["values"] for sweep in suite.sweeps.values())]:
        assert list(values) == sorted(set(values))
        assert 0 <= values[0] <= values[-1] < math.inf
    assert tuning.learning_rate[0] > 0
    assert suite.noise_rates == ((0.0,) if suite.suite == "imagenet" else (0.0, 0.2))
    assert len(suite.seeds) >= 3


def test_tuned_recipes_can_be_given_the_articles_own_values(suite):
    for recipe in suite.tuning.recipes:
        optimizer = suites.run_config(suite.suite, recipe).optimizer
        assert optimizer.learning_rate in suite.tuning.learning_rate
        assert optimizer.weight_decay in suite.tuning.weight_decay


def test_the_full_suites_are_one_protocol():
    full = [suites.get_config(name) for name in ("cifar10-full", "tiny_imagenet-full")]
    assert changed(*full) == {
        *("suite", "run.dataset", "run.validation_size", "run.normalization"),
        *(f"run.model.{name}" for name in ("name", "stem", "depth", "width", "classifier_bias")),
    }


def test_the_full_suites_average_over_the_corruptions_of_the_benchmarks():
    for name in ("cifar10-full", "tiny_imagenet-full"):
        evaluation = suites.get_config(name).run.evaluation
        assert evaluation.corruptions == BENCHMARK
        assert len(BENCHMARK) == 15
        assert evaluation.severities == (1, 2, 3, 4, 5)


def test_the_small_suite_is_cifar10_at_a_smaller_scale():
    small, full = (suites.get_config(f"cifar10-{scale}").run for scale in ("small", "full"))
    names = {name for name in changed(small, full) if not name.startswith("evaluation.")}
    assert names == {"num_epochs", "train_size", "model.depth", "model.width"}


def test_suites_evaluate_no_maps(suite):
    assert suite.run.evaluation.grid_steps == 0


def test_two_suites_share_nothing(suite):
    name = next(n for n in SUITES if suites.get_config(n) == suite)
    suite.run.optimizer.momentum = 0.0
    suite.tuning.recipes = ()
    suite.landscape.resolution = 3
    assert suites.get_config(name).run.optimizer.momentum == 0.9
    assert suites.get_config(name).landscape.resolution == 21


@pytest.mark.parametrize("figure", suites.FIGURES)
def test_figures_show_products_each_once_with_some_labels(figure):
    products, clean, noisy = suites.FIGURES[figure]
    assert set(products) <= set(PRODUCTS)
    assert len(set(products)) == len(products)
    assert clean or noisy
