"""From records of runs to a table and gains, on runs whose differences are known."""

import json
import math
import statistics

import numpy as np
import pytest
from records import SUITES, committed, flat, place, record, runs_of, shuffled, values

from experiments.configs import recipes
from experiments.results import styles, summary

# Choosing values


def sweep(nll, accuracy=None, *, recipe="dropout", seeds=3, **where):
    """Runs by the value that was varied; their test metrics are the better the worse validation is."""
    accuracy = accuracy or dict.fromkeys(nll, 0.9)
    runs = []
    for rate, loss in nll.items():
        for seed in range(seeds):
            found = {"nll": loss + 0.001 * seed, "accuracy": accuracy[rate]}
            places = {"midpoint": place(1 - loss, -loss, validation=found)}
            runs.append(record(recipe, seed, places, values={"model.dropout": rate}, **where))
    return runs


def chosen(runs):
    return summary.choose_values(runs)["article", 0.0, "dropout"]["model.dropout"]


def test_the_best_mean_validation_accuracy_wins_and_nll_decides_between_equals():
    assert chosen(sweep({0.1: 0.3, 0.2: 0.2}, {0.1: 0.95, 0.2: 0.9})) == 0.1
    assert chosen(sweep({0.1: 0.3, 0.2: 0.2, 0.3: 0.4})) == 0.2
    runs = sweep({0.1: 0.3, 0.2: 0.2})
    for run, accuracy in zip(runs, (0.1, 0.2, 0.3, 0.3, 0.2, 0.1), strict=True):
        run["places"]["midpoint"]["validation"]["accuracy"] = accuracy
    assert chosen(runs) == 0.2  # equal, but for rounding


def test_the_test_split_is_never_read():
    runs = sweep({0.1: 0.3, 0.2: 0.2, 0.3: 0.4})
    for run in runs:
        validation = run["places"]["midpoint"]["validation"]
        run["places"] = {"midpoint": {"validation": validation}}
    assert chosen(runs) == 0.2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda runs: runs.pop(),
        lambda runs: runs[-1].pop("places"),
        lambda runs: runs[-1]["places"]["midpoint"]["validation"].update(nll=None),
    ],
)
def test_values_that_lack_a_seed_or_a_number_never_win(spoil):
    runs = sweep({0.1: 0.3, 0.2: 0.2})
    assert chosen(runs) == 0.2
    spoil(runs)
    assert chosen(runs) == 0.1


def test_where_nothing_can_win_nothing_is_chosen_and_without_a_choice_nothing_is_needed():
    runs = [record("dropout", 0, {}, values={"model.dropout": rate}) for rate in (0.1, 0.2)]
    assert summary.choose_values(runs) == {}
    assert summary.table(runs) == summary.table([]) == summary.gains([]) == []
    assert summary.choose_values(runs[:1]) == {("article", 0.0, "dropout"): runs[0]["values"]}


def test_sweeps_are_kept_apart_and_the_order_of_runs_changes_nothing():
    runs = sweep({0.1: 0.3, 0.2: 0.2}) + sweep({0.1: 0.2, 0.2: 0.3}, noise=0.2)
    runs += sweep({0.1: 0.1, 0.2: 0.3}, setting="tuning") + sweep({0.4: 0.1}, recipe="line")
    found = summary.choose_values(runs)
    assert {key: entry["model.dropout"] for key, entry in found.items()} == {
        ("article", 0.0, "dropout"): 0.2,
        ("article", 0.0, "line"): 0.4,
        ("article", 0.2, "dropout"): 0.1,
        ("tuning", 0.0, "dropout"): 0.1,
    }
    assert summary.choose_values(shuffled(runs)) == found


# Table


@pytest.mark.parametrize("name", SUITES)
def test_tables_and_gains_of_committed_suites_are_those_of_their_runs(name):
    """In any order of the runs, of which six digits are stored and not every metric."""
    found = committed(name)
    runs = shuffled(found["runs"])
    tables = summary.table(runs, found["config"]["products"]), summary.gains(runs)
    for ours, theirs in zip(tables, (found["table"], found["gains"]), strict=True):
        assert len(ours) == len(theirs)
        for entry, stored in zip(map(flat, ours), map(flat, theirs), strict=True):
            assert {f"{m}.mean" for m in styles.METRICS} & stored.keys() <= entry.keys()
            stored = {key: stored[key] for key in entry}
            for key, value in entry.items():
                exact = not isinstance(value, float)
                assert stored[key] == (value if exact else pytest.approx(value, 1e-3, 2e-5)), key


def test_products_are_read_at_their_places():
    every = [
        record(recipe, 0, dict.fromkeys(recipes.places_of(recipe), place()))
        for recipe in recipes.RECIPES
    ]
    found = {recipes.PRODUCTS[row["method"]] for row in summary.table(every)}
    assert found == set(recipes.PRODUCTS.values())
    for names in (["swa_cyclic", "swa_cyclic_5"], ["swa_cyclic_5", "swa_cyclic"]):  # of one thing
        rows = summary.table(runs_of("swa_cyclic_5", [0.9]), names)
        assert [row["method"] for row in rows] == names[:1]


def test_what_counts_is_chosen_finished_and_of_a_setting_that_is_shown():
    (row,) = summary.table(sweep({0.1: 0.3, 0.2: 0.2}))
    assert (row["values"], row["num_seeds"]) == ({"model.dropout": 0.2}, 3)
    assert row["accuracy"]["mean"] == pytest.approx(0.8)
    runs = runs_of("line", [0.9, 0.8], values={"model.widths": (1, 2)})
    runs[1]["values"] = {"model.widths": [1, 2]}  # as it is read from JSON
    (row,) = summary.table([*runs, record("line", 2, {}, values=runs[0]["values"])])
    assert row["num_seeds"] == 2
    settings = ("tuned", "tuning", "partner", "article")
    runs = [run for setting in settings for run in runs_of("line", [0.9], setting=setting)]
    assert [row["setting"] for row in summary.table(runs)] == ["article", "tuned"]


def test_metrics_are_null_where_a_seed_has_no_number_and_left_out_where_it_has_none():
    found = place(brier=0.1) | {"corruptions": {"snow": {"3": {"accuracy": 0.7}}}}
    other = json.loads(json.dumps(found)) | {"nll": None}
    del other["ece"]
    runs = [record("standard", seed, {"midpoint": p}) for seed, p in enumerate((found, other))]
    (row,) = summary.table(runs)
    assert row["corruptions.snow.3.accuracy"]["mean"] == 0.7
    assert row["nll"] == {"mean": None, "stderr": None}
    assert "ece" not in row


def test_costs_are_relative_to_standard_training():
    runs = runs_of("standard", [0.9, 0.9], passes=500.0) + runs_of("sam", [0.9], passes=1000.0)
    runs += runs_of("sam", [0.9], passes=1000.0, setting="tuned", noise=0.2)
    assert [row["training_cost"] for row in summary.table(runs)] == [1.0, 2.0, 2.0]
    del runs[2]["cost"]
    assert [row["training_cost"] for row in summary.table(runs)] == [1.0, None, 2.0]
    assert summary.table(runs[3:])[0]["training_cost"] is None


# Gains


def gaining(untuned, matched=None, tuned=None, *, metric="accuracy", count=8):
    """Runs whose midpoint is so much better than standard training, its control, and when tuned."""
    sign = 1 if metric == "accuracy" else -1
    theirs = values(0.8, count, seed=1)
    rest = [values(0, count, spread=5e-4, seed=seed) for seed in (2, 3, 4)]
    ours = theirs + sign * untuned + rest[0]
    columns = [("article", "standard", theirs), ("article", "line", ours)]
    if matched is not None:
        columns += [("article", summary.MATCHED["line"], ours - sign * matched + rest[1])]
    if tuned is not None:
        columns += [
            ("tuned", "standard", theirs),
            ("tuned", "line", theirs + sign * tuned + rest[2]),
        ]
    runs = []
    for setting, recipe, column in columns:
        metrics = {"accuracy": np.full(count, 0.9)} | {metric: column}
        runs += runs_of(recipe, setting=setting, **metrics)
    return runs


def gain_of(runs, metric="accuracy"):
    (entry,) = [e for e in summary.gains(runs) if e["metric"] == metric]
    return entry


@pytest.mark.parametrize("metric", styles.METRICS)
def test_gains_are_positive_where_the_midpoint_is_better(metric):
    entry = gain_of(gaining(0.02, 0.01, 0.005, metric=metric), metric)
    for name, gain in (("untuned", 0.02), ("matched", 0.01), ("tuned", 0.005)):
        assert entry[name]["gain"] == pytest.approx(gain)
        assert entry[name]["num_seeds"] == 8
    assert entry["share"]["mean"] == pytest.approx(0.25)


def test_the_error_of_the_share_is_that_of_many_suites():
    shares = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        theirs, common = rng.normal(0.8, 0.01, 8), rng.normal(0, 0.002, 8)
        runs = []
        for setting, gain in (("article", 0.02), ("tuned", 0.01)):
            ours = theirs + gain + common + rng.normal(0, 0.001, 8)
            runs += runs_of("line", ours, setting=setting)
            runs += runs_of("standard", theirs, setting=setting)
        shares.append(gain_of(runs)["share"])
    means, errors = ([share[name] for share in shares] for name in ("mean", "stderr"))
    assert statistics.fmean(means) == pytest.approx(0.5, abs=0.01)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(means), rel=0.15)


def test_what_is_not_significant_not_run_or_not_finite_has_no_share_or_gain():
    for untuned, count in ((0.0, 8), (-0.02, 8), (0.02, 2)):
        assert gain_of(gaining(untuned, 0.01, 0.01, count=count))["share"] is None
    entry = gain_of(gaining(0.02))
    assert entry["matched"] is entry["tuned"] is entry["share"] is None
    assert summary.gains(runs_of("line", values(0.9))) == []
    entry = gain_of(gaining(0.02, 0.01, math.nan))
    assert entry["tuned"]["gain"] is entry["share"] is None


# Mean corruption errors


def test_mce_is_relative_to_standard_training_of_the_same_seed_and_noise():
    def run(recipe, seed, snow, fog, noise=0.0, setting="article"):
        errors = {"snow": snow, "fog": fog}
        corruptions = {
            name: {str(i + 1): {"accuracy": 1 - error} for i, error in enumerate(by)}
            for name, by in errors.items()
        }
        places = {"midpoint": place(corruptions=corruptions)}
        return record(recipe, seed, places, noise=noise, setting=setting)

    ours = [0.1, 0.2], [0.1, 0.2]
    runs = [
        run("standard", 0, [0.2, 0.4], [0.1, 0.1]),
        run("standard", 1, [0.0, 0.0], [0.1, 0.1]),  # normalises nothing
        *(run("line", seed, *ours) for seed in (0, 1, 2)),
        run("line", 0, *ours, noise=0.2),
        run("standard", 0, *ours, setting="corrupted"),
        run("line", 0, [0.2, 0.4], [0.1, 0.2], setting="corrupted"),
    ]
    found = [run["places"]["midpoint"]["corruptions_mce"] for run in summary.with_mce(runs)]
    assert found[:2] == [{"raw": pytest.approx(0.2), "standard": 1}, {"raw": pytest.approx(0.05)}]
    assert found[2]["standard"] == pytest.approx((0.3 / 0.6 + 0.3 / 0.2) / 2)
    assert found[3] == found[4] == found[5] == {"raw": pytest.approx((0.15 + 0.15) / 2)}
    assert [mce["standard"] for mce in found[6:]] == [1, pytest.approx((2 + 1) / 2)]
