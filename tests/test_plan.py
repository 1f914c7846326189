"""From a suite to its runs: figures, seeds, sweeps, tuning, and what starts from what."""

import itertools
import re

import pytest
from records import ROOT

from experiments.configs import recipes, suites
from experiments.reproduce import plan
from experiments.reproduce.records import digest
from experiments.system.errors import UserError
from subspace_jax.corruptions import BENCHMARK

FIGURES = tuple(suites.FIGURES)
# Suites, and how the documents say their command.
COMMANDS = {
    "digits": "`digits`",
    "cifar10-small": "`cifar10 --scale small`",
    "cifar10-few": "`cifar10 --scale few`",
    "cifar10-full": "`cifar10 --scale full`",
    "tiny_imagenet-full": "`tiny_imagenet`",
    "imagenet-full": "`imagenet`",
}


def suite_of(name="digits", **changes):
    config = suites.get_config(name)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def article(*figures, **changes):
    return plan.article_entries(suite_of(**changes), figures)


@pytest.fixture(scope="module")
def everything():
    return article(*FIGURES)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_suite_can_be_planned_and_has_as_many_runs_as_the_documents_say(name):
    config = suite_of(name)
    plan.check(config)
    found = plan.entries(config, FIGURES)
    assert len({entry.id for entry in found}) == len(found)
    pairs = itertools.product(config.noise_rates, config.tuning.recipes)
    tuned = len(plan.tuned_entries(config, {("tuning", *pair): {} for pair in pairs}))
    lines = (ROOT / "docs" / "reproducing.md").read_text().splitlines()
    (row,) = [x for x in lines if COMMANDS[name] in x and re.search(r"\| \d+, \d seeds \|", x)]
    assert f"| {len(found) + tuned}, {len(config.seeds)} seeds |" in row


def test_what_an_entry_needs_comes_before_it_and_learns_from_the_same_labels(everything):
    before = {}
    for entry in everything:
        assert len(entry.needs) == len(recipes.RECIPES[entry.method].needs)
        noises = [before[need].config.label_noise for need in entry.needs]
        assert all(noise == entry.config.label_noise for noise in noises)
        # All networks of a run, partners too, learn from one data set.
        shared = recipes.PARTNER_SEED if entry.setting == "partner" else 0
        assert entry.config.label_noise.seed in (entry.seed, entry.seed - shared)
        assert entry.config.label_noise.rate == entry.label_noise
        assert (entry.config.recipe, entry.config.seed) == (entry.method, entry.seed)
        before[entry.id] = entry


def test_beside_a_line_is_a_network_of_another_initialisation():
    for figures in (("fig1",), ("curvature",), FIGURES):
        found = {entry.id: entry for entry in plan.entries(suite_of(), figures)}
        needs = found["landscape/line/noise0/seed2"].needs
        assert needs == ("article/line/noise0/seed2", "partner/standard/noise0/seed1002")
        assert set(needs) <= found.keys()


def test_a_figure_asks_for_its_products_alone_and_all_together_for_all(everything):
    assert {(e.method, e.label_noise) for e in article("fig2")} == {("simplex_3", 0.0)}
    assert {(e.seed, e.label_noise) for e in article("fig7")} == {(s, 0.2) for s in range(8)}
    ids = {entry.id for entry in everything}
    assert all({entry.id for entry in article(figure)} <= ids for figure in FIGURES)


def test_what_is_for_clean_labels_alone_has_no_run_with_wrong_ones(everything):
    fewer = article(*FIGURES, clean_only=("curve",))
    gone = {entry.id for entry in everything} - {entry.id for entry in fewer}
    assert gone == {e.id for e in everything if e.method == "curve" and e.label_noise}
    # Of all products that are the same run, and of the tuning.
    found = plan.entries(suite_of(clean_only=("line",)), FIGURES)
    assert {entry.label_noise for entry in found if entry.method == "line"} == {0.0}


def test_some_products_have_all_seeds_and_what_else_is_trained_the_first_three():
    config = suite_of("cifar10-few")
    found = plan.entries(config, FIGURES)
    values = {"optimizer.learning_rate": 0.2}
    found += plan.tuned_entries(config, {("tuning", 0.2, "line"): values})
    seeds = {}
    for entry in found:
        seeds.setdefault((entry.setting, entry.method), set()).add(entry.seed)
    few = {0, 1, 2}
    assert seeds["article", "line_lr_m"] == seeds["article", "line"] == {0, 1, 2, 3, 4}
    assert seeds["article", "curve"] == seeds["tuned", "line"] == seeds["corrupted", "line"] == few


def test_midpoints_that_predict_all_corruptions_are_those_of_runs():
    config = suite_of("cifar10-few")
    found = {entry.id: entry for entry in plan.entries(config, ("corruptions",))}
    looking = [entry for entry in found.values() if entry.setting == "corrupted"]
    assert {(e.method, e.label_noise, e.seed) for e in looking} == set(
        itertools.product(config.corrupted, (0.0, 0.2), (0, 1, 2))
    )
    for entry in looking:
        (need,) = (found[name] for name in entry.needs)
        assert need.id == entry.id.replace("corrupted", "article")
        assert entry.config.evaluation.corruptions == BENCHMARK
        assert entry.given == digest(need)
    assert not any(e.setting == "corrupted" for e in plan.entries(config, ("fig6",)))


def test_sweeps_try_every_value_with_every_seed():
    found = [entry for entry in article("fig7") if entry.method == "dropout"]
    tried = {(entry.seed, entry.config.model.dropout) for entry in found}
    assert tried == {(seed, rate) for seed in range(8) for rate in (0.05, 0.15)}
    assert all(e.values == {"model.dropout": e.config.model.dropout} for e in found)
    with pytest.raises(UserError, match="config.sweeps.dropout set model.nosuch but a run's"):
        article("fig7", sweeps__dropout__name="model.nosuch")


def test_tuning_has_seeds_of_its_own_and_the_whole_grid():
    config, tuning = suite_of(), suite_of().tuning
    found = plan.tuning_entries(config, ("tuned",))
    cells = len(tuning.learning_rate) * len(tuning.weight_decay)
    assert len({entry.id for entry in found}) == 2 * 2 * len(tuning.recipes) * cells
    assert {entry.seed for entry in found}.isdisjoint(config.seeds)
    assert plan.tuning_entries(config, ("fig3",)) == []


def test_runs_have_the_chosen_values_those_of_the_suite_and_of_their_recipe():
    values = {"optimizer.learning_rate": 0.5, "optimizer.weight_decay": 0.25}
    chosen = {("tuning", 0.2, "line"): values, ("article", 0.2, "dropout"): {"model.dropout": 0.1}}
    config = suite_of(run__num_epochs=7)
    config.recipes.line = {"evaluation__num_points": 3}
    found = plan.tuned_entries(config, chosen)
    assert [entry.id for entry in found] == [
        f"tuned/line,optimizer.learning_rate=0.5,optimizer.weight_decay=0.25/noise20/seed{seed}"
        for seed in range(8)
    ]
    for entry in found:
        optimizer = entry.config.optimizer
        assert (optimizer.learning_rate, optimizer.weight_decay) == (0.5, 0.25)
        assert entry.config.num_epochs == 7
    for entry in plan.article_entries(config, FIGURES):
        assert (entry.config.evaluation.num_points == 3) == (entry.method == "line")


def test_a_suite_that_cannot_be_planned_is_refused():
    for changes, sentence in (
        ({"sweeps__dropout__values": ("a",)}, r"config.sweeps.dropout.values is \['a'\]"),
        ({"seeds": (0, 1000)}, r"\[1000\], which are seeds of networks that others start"),
        ({"tuning__seeds": (7,)}, r"tuning.seeds has \[7\], which are seeds that are reported"),
        ({"landscape__resolution": 1}, "config.landscape.resolution is 1; use at least 2"),
        ({"products": ("line", "lines")}, "config.products has 'lines'"),
        ({"clean_only": ("lines",)}, "config.clean_only has 'lines'"),
        ({"corrupted": ("lines",)}, "config.corrupted has 'lines'"),
        ({"run__validation_size": 0}, "validation_size is 0 but dropout, label_smoothing, tuning"),
    ):
        with pytest.raises(UserError, match=sentence):
            plan.check(suite_of(**changes))


def test_figures_that_there_are_not_or_that_have_no_networks_are_refused():
    assert plan.figures_of("fig3,fig7") == ("fig3", "fig7")
    assert plan.figures_of("") == FIGURES
    with pytest.raises(UserError, match="--only is 'fig9'; choose among fig1, fig2"):
        plan.figures_of("fig3,fig9")
    plan.check_landscapes([], "")  # nothing was asked for by name
    with pytest.raises(UserError, match="--only has fig2 but .* set config.landscape.seeds"):
        plan.check_landscapes([], "fig2")
