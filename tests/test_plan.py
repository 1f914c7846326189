"""From a suite to its runs: figures, seeds, sweeps, tuning, and what starts from what."""

import functools
import re
from pathlib import Path

import pytest

from experiments.configs import recipes, suites
from experiments.reproduce import plan
from experiments.system.errors import UserError

NAMES = ("digits", "cifar10-small", "cifar10-full")


def suite_of(name="digits", **changes):
    config = suites.get_config(name)
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


@functools.cache
def ids_of_the_digits(*figures):
    return frozenset(entry.id for entry in entries(suite_of(), *figures))


def entries(config, *figures):
    return plan.article_entries(config, figures or tuple(suites.FIGURES))


@pytest.mark.parametrize("name", NAMES)
def test_every_suite_can_be_planned_and_ids_are_unique(name):
    config = suite_of(name)
    plan.check(config)
    found = entries(config)
    assert len({entry.id for entry in found}) == len(found)
    for entry in found:
        assert entry.config.seed == entry.seed
        # All networks of a run, partners too, learn from one data set.
        shared = recipes.PARTNER_SEED if entry.setting == "partner" else 0
        assert entry.config.label_noise.seed in (entry.seed, entry.seed - shared)
        assert entry.config.label_noise.rate == entry.label_noise
        assert entry.config.recipe == entry.method


def test_the_documents_say_how_many_runs_a_suite_has():
    text = (Path(__file__).resolve().parent.parent / "docs" / "reproducing.md").read_text()
    rows = [line for line in text.splitlines() if re.search(r"\| \d+, \d seeds \|", line)]
    suites_said = {
        "digits": "`digits`",
        "cifar10-small": "`cifar10 --scale small`",
        "cifar10-full": "`cifar10 --scale full`",
        "tiny_imagenet-full": "`tiny_imagenet`",
        "imagenet-full": "`imagenet`",
    }
    for name, said in suites_said.items():
        config, figures = suite_of(name), tuple(suites.FIGURES)
        kinds = (plan.article_entries, plan.tuning_entries, plan.landscape_entries)
        tuned = len(config.tuning.recipes) * len(config.noise_rates) * len(config.seeds)
        count = sum(len(of_kind(config, figures)) for of_kind in kinds) + tuned
        (row,) = [line for line in rows if said in line]
        assert f"| {count}, {len(config.seeds)} seeds |" in row


@pytest.mark.parametrize("name", NAMES)
def test_what_an_entry_needs_is_there(name):
    found = entries(suite_of(name))
    ids = {entry.id for entry in found}
    for entry in found:
        assert set(entry.needs) <= ids
        assert len(entry.needs) == len(recipes.RECIPES[entry.method].needs)


def test_partners_have_no_network_in_common():
    found = entries(suite_of(), "rivals")
    pairs = [entry.needs for entry in found if entry.method == "ensemble" and not entry.label_noise]
    networks = [need for pair in pairs for need in pair]
    assert len(pairs) == 8
    assert len(set(networks)) == len(networks)


def test_networks_that_predict_together_learn_from_the_same_labels():
    by_id = {entry.id: entry for entry in entries(suite_of())}
    for entry in by_id.values():
        for need in entry.needs:
            assert by_id[need].config.label_noise.seed == entry.config.label_noise.seed
            assert by_id[need].config.label_noise.rate == entry.config.label_noise.rate


def test_beside_a_line_is_a_network_of_another_initialisation():
    config = suite_of()
    for figures in (("fig1",), ("curvature",), tuple(suites.FIGURES)):
        (line,) = (
            entry
            for entry in plan.landscape_entries(config, figures)
            if (entry.method, entry.seed) == ("line", 2)
        )
        own, other = line.needs
        assert (own, other) == ("article/line/noise0/seed2", "partner/standard/noise0/seed1002")
        assert {own, other} <= {entry.id for entry in entries(config, *figures)}


def test_a_figure_asks_for_its_products_alone():
    found = entries(suite_of(), "fig2")
    assert {(entry.method, entry.label_noise) for entry in found} == {("simplex_3", 0.0)}
    noisy = entries(suite_of(), "fig7")
    assert {entry.label_noise for entry in noisy} == {0.2}
    assert {entry.seed for entry in noisy} == set(range(8))


def test_what_is_for_clean_labels_alone_has_no_run_with_wrong_ones():
    whole, fewer = (entries(suite_of(clean_only=left_out)) for left_out in ((), ("curve",)))
    gone = {entry.id for entry in whole} - {entry.id for entry in fewer}
    assert gone == {e.id for e in whole if e.method == "curve" and e.label_noise}
    assert len(gone) == 8
    # Of all products that are the same run, and of the tuning.
    config = suite_of(clean_only=("line",))
    found = [*entries(config), *plan.tuning_entries(config, ("tuned",))]
    assert {entry.label_noise for entry in found if entry.method == "line"} == {0.0}


@pytest.mark.parametrize("figure", suites.FIGURES)
def test_all_figures_together_have_what_one_has(figure):
    assert ids_of_the_digits(figure) <= ids_of_the_digits()


def test_sweeps_try_every_value_with_every_seed():
    found = [e for e in entries(suite_of(), "fig7") if e.method == "dropout"]
    assert {(e.seed, e.config.model.dropout) for e in found} == {
        (seed, rate) for seed in range(8) for rate in (0.05, 0.15)
    }
    for entry in found:
        assert entry.values == {"model.dropout": entry.config.model.dropout}


def test_tuning_has_seeds_of_its_own_and_the_whole_grid():
    config = suite_of()
    found = plan.tuning_entries(config, ("tuned",))
    tuning = config.tuning
    cells = len(tuning.learning_rate) * len(tuning.weight_decay)
    assert len(found) == 2 * len(tuning.seeds) * len(tuning.recipes) * cells
    assert {entry.seed for entry in found}.isdisjoint(config.seeds)
    assert plan.tuning_entries(config, ("fig3",)) == []


def test_tuned_runs_have_the_chosen_values():
    values = {"optimizer.learning_rate": 0.5, "optimizer.weight_decay": 0.25}
    chosen = {("tuning", 0.2, "line"): values, ("article", 0.2, "dropout"): {"model.dropout": 0.1}}
    found = plan.tuned_entries(suite_of(), chosen)
    assert {(e.method, e.setting, e.label_noise) for e in found} == {("line", "tuned", 0.2)}
    assert [e.seed for e in found] == list(range(8))
    for entry in found:
        optimizer = entry.config.optimizer
        assert (optimizer.learning_rate, optimizer.weight_decay) == (0.5, 0.25)


def test_values_of_the_suite_reach_every_run_and_those_of_a_recipe_its_own():
    config = suite_of(run__num_epochs=7)
    config.recipes.ema = {"average__decay": 0.5}
    for entry in entries(config):
        assert entry.config.num_epochs == 7
        assert (entry.config.average.decay == 0.5) == (entry.method == "ema")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": (0, 0)}, "config.seeds is"),
        ({"seeds": ()}, "config.seeds is"),
        ({"noise_rates": (0.2, 0.2)}, "config.noise_rates is"),
        ({"noise_rates": (0.2, 0.204)}, "config.noise_rates has 0.204 but .* percents; use 0.2,"),
        ({"noise_rates": (0.001,)}, "config.noise_rates has 0.001"),
        ({"sweeps__dropout__values": ()}, r"config.sweeps.dropout.values is \(\); give"),
        ({"sweeps__dropout__values": ("a",)}, r"config.sweeps.dropout.values is \('a',\)"),
        ({"tuning__learning_rate": ()}, r"config.tuning.learning_rate is \(\)"),
        ({"tuning__seeds": ()}, r"config.tuning.seeds is \(\)"),
        ({"tuning__learning_rate": (0.1, 0.1)}, r"learning_rate is \(0.1, 0.1\); give each once"),
        ({"tuning__recipes": ("line", "line")}, "config.tuning.recipes is .*; give each once"),
        ({"seeds": (0.5,), "landscape__seeds": ()}, r"use 0, 1, 2"),
        (
            {"seeds": (0, 1, 2, 1000)},
            r"Seeds \[1000\] are those of networks that others start from",
        ),
        ({"landscape__resolution": 1}, "config.landscape.resolution is 1; use at least 2"),
        ({"landscape__hessian_batch_size": 0}, "hessian_batch_size is 0; use at least 1"),
        ({"num_threads": -1}, "config.num_threads is -1"),
        ({"products": ("line", "lines")}, "config.products has 'lines'"),
        ({"clean_only": ("lines",)}, "config.clean_only has 'lines'"),
        ({"tuning__seeds": (7,)}, r"share \[7\]"),
    ],
)
def test_a_suite_that_cannot_be_planned_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        plan.check(suite_of(**changes))


def test_a_sweep_of_a_value_that_no_run_has_is_refused():
    config = suite_of(sweeps__dropout__name="model.nosuch")
    with pytest.raises(
        UserError, match="config.sweeps.dropout set model.nosuch but a run's config"
    ):
        entries(config, "fig7")


def test_an_unknown_figure_is_refused():
    assert plan.figures_of("fig3,fig7") == ("fig3", "fig7")
    assert plan.figures_of("") == tuple(suites.FIGURES)
    with pytest.raises(UserError, match="--only is 'fig9'; choose among fig1, fig2"):
        plan.figures_of("fig3,fig9")


def test_landscapes_that_are_asked_for_must_have_networks():
    config = suites.get_config("digits")
    entries = plan.landscape_entries(config, ("fig2",))
    plan.check_landscapes(entries, "fig2,fig3")
    for only in ("fig1", "fig2"):
        with pytest.raises(UserError, match=f"--only has {only} but .* set config.landscape.seeds"):
            plan.check_landscapes([], only)
    plan.check_landscapes([], "")  # nothing was asked for by name
