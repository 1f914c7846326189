"""From records of runs to a table and sentences, on runs whose differences are known."""

import json
import math
import statistics

import numpy as np
import pytest
from records import place, record, runs_of, shuffled, values

from experiments.configs import recipes
from experiments.results import styles, summary

CLEAN = "clean labels"


# Choosing values


def sweep(nll, accuracy=None, *, recipe="dropout", seeds=3, **where):
    """Runs by the value that was varied; their test metrics are the better the worse validation is."""
    accuracy = accuracy or dict.fromkeys(nll, 0.9)
    return [
        record(
            recipe,
            seed,
            {
                "midpoint": place(1 - loss, -loss)
                | {"validation": {"nll": loss + 0.001 * seed, "accuracy": accuracy[rate]}}
            },
            values={"model.dropout": rate},
            **where,
        )
        for rate, loss in nll.items()
        for seed in range(seeds)
    ]


KEY = ("article", 0.0, "dropout")


def chosen(runs):
    return summary.choose_values(runs)[KEY]["model.dropout"]


def test_the_best_validation_accuracy_wins():
    assert chosen(sweep({0.1: 0.3, 0.2: 0.2}, {0.1: 0.95, 0.2: 0.9})) == 0.1


def test_nll_decides_between_equals():
    assert chosen(sweep({0.1: 0.3, 0.2: 0.2, 0.3: 0.4})) == 0.2


def test_means_over_seeds_decide():
    runs = sweep({0.1: 0.3, 0.2: 0.3}, {0.1: 0.9, 0.2: 0.91})
    for run, accuracy in zip(runs[:3], (0.99, 0.99, 0.5), strict=True):
        run["places"]["midpoint"]["validation"]["accuracy"] = accuracy
    assert chosen(runs) == 0.2


def test_equal_means_in_another_order_are_equal():
    runs = sweep({0.1: 0.3, 0.2: 0.2})
    for run, accuracy in zip(runs, (0.1, 0.2, 0.3, 0.3, 0.2, 0.1), strict=True):
        run["places"]["midpoint"]["validation"]["accuracy"] = accuracy
    assert chosen(runs) == 0.2


class Poisoned(dict):
    """A place of which nothing but the validation metrics may be read."""

    def __getitem__(self, name):
        assert name == "validation", f"{name} was read"
        return super().__getitem__(name)

    def get(self, name, default=None):
        assert name == "validation", f"{name} was read"
        return super().get(name, default)

    def items(self):
        raise AssertionError("all was read")

    values = __iter__ = items


def test_the_test_split_is_never_read():
    runs = sweep({0.1: 0.3, 0.2: 0.2, 0.3: 0.4})
    for run in runs:
        midpoint = Poisoned(run["places"]["midpoint"])
        run["places"] = {"midpoint": midpoint, "ensemble": Poisoned(), "endpoints": Poisoned()}
    assert chosen(runs) == 0.2


@pytest.mark.parametrize("poison", [None, math.nan, math.inf, -1e9, 1e9])
def test_no_test_metric_changes_the_choice(poison):
    runs = sweep({0.1: 0.3, 0.2: 0.2, 0.3: 0.4})
    for run in runs:
        if run["values"]["model.dropout"] != 0.2 or poison != -1e9:
            run["places"]["midpoint"] |= dict.fromkeys(("accuracy", "nll", "ece"), poison)
    assert chosen(runs) == 0.2


@pytest.mark.parametrize("places", [{}, None])
def test_values_with_a_run_that_diverged_never_win(places):
    runs = sweep({0.1: 0.3, 0.2: 0.2})
    runs[-1].pop("places")
    if places is not None:
        runs[-1]["places"] = places
    assert chosen(runs) == 0.1


def test_values_that_lack_a_seed_or_a_number_never_win():
    runs = sweep({0.1: 0.3, 0.2: 0.2})
    assert chosen(runs[:-1]) == 0.1
    runs[-1]["places"]["midpoint"]["validation"]["nll"] = None
    assert chosen(runs) == 0.1


def test_where_nothing_can_win_nothing_is_chosen():
    runs = sweep({0.1: 0.3, 0.2: 0.2})
    for run in runs:
        del run["places"]["midpoint"]["validation"]
    assert summary.choose_values(runs) == {}
    assert summary.table(runs) == []


def test_what_was_not_varied_needs_no_validation():
    runs = runs_of("line", [0.9, 0.8])
    assert summary.choose_values(runs) == {("article", 0.0, "line"): {}}
    assert summary.choose_values([record("line", 0, {})]) == {("article", 0.0, "line"): {}}


def test_values_that_went_through_json_are_the_same():
    runs = runs_of("line", [0.9, 0.8], values={"model.widths": (1, 2)})
    runs[1] = json.loads(json.dumps(runs[1]))
    (row,) = summary.table(runs)
    assert row["num_seeds"] == 2


def test_sweeps_are_kept_apart_and_the_order_of_runs_changes_nothing():
    runs = sweep({0.1: 0.3, 0.2: 0.2}) + sweep({0.1: 0.2, 0.2: 0.3}, noise=0.2)
    runs += sweep({0.1: 0.1, 0.2: 0.3}, setting="tuning") + sweep({0.4: 0.1}, recipe="line")
    found = summary.choose_values(runs)
    rates = {key: entry["model.dropout"] for key, entry in found.items()}
    assert rates == {
        ("article", 0.0, "dropout"): 0.2,
        ("article", 0.0, "line"): 0.4,
        ("article", 0.2, "dropout"): 0.1,
        ("tuning", 0.0, "dropout"): 0.1,
    }
    for seed in range(5):
        assert summary.choose_values(shuffled(runs, seed)) == found


# Table


def test_table_is_that_of_numpy():
    accuracy, nll, ece = values(0.9), values(0.3, seed=2), values(0.02, seed=3)
    (row,) = summary.table(runs_of("standard", accuracy, nll=nll, ece=ece))
    expected = {"setting": "article", "label_noise": 0.0, "method": "standard"}
    expected |= {"place": "midpoint", "num_seeds": 8, "values": {}}
    expected |= {"training_cost": 1.0, "inference_passes": 1}
    assert row.items() >= expected.items()
    for name, column in (("accuracy", accuracy), ("nll", nll), ("ece", ece)):
        assert row[name]["mean"] == pytest.approx(column.mean())
        assert row[name]["stderr"] == pytest.approx(column.std(ddof=1) / np.sqrt(8))
    json.dumps(row, allow_nan=False)


def test_a_product_is_read_at_its_place():
    places = {"midpoint": place(0.9), "mc ensemble": place(0.92, passes=10)}
    rows = summary.table([record("dropout", 0, places)], ["mc_dropout"])
    assert [(row["method"], row["place"]) for row in rows] == [("mc_dropout", "mc ensemble")]
    assert rows[0]["accuracy"] == {"mean": 0.92, "stderr": None}
    assert rows[0]["inference_passes"] == 10


def test_subspaces_have_rows_for_their_ends():
    places = {
        name: place(passes=2) for name in ("ensemble", "endpoints", "midpoint", "chosen point")
    }
    runs = [record(recipe, 0, places) for recipe in ("line", "curve", "swa_cyclic_5")]
    rows = [(row["method"], row["place"]) for row in summary.table(runs)]
    assert rows == [
        ("swa_cyclic_5", "midpoint"),
        ("line", "midpoint"),
        ("line", "endpoints"),
        ("curve", "midpoint"),
        ("curve", "endpoints"),
        ("curve", "ensemble"),
        ("line_ensemble", "ensemble"),
    ]
    rows = [(row["method"], row["place"]) for row in summary.table(runs, ["line"])]
    assert rows == [("line", "midpoint"), ("line", "endpoints"), ("line", "ensemble")]


def test_of_several_names_for_one_thing_the_first_is_used():
    runs = runs_of("swa_cyclic_5", [0.9])
    for names in (["swa_cyclic", "swa_cyclic_5"], ["swa_cyclic_5", "swa_cyclic"]):
        assert [row["method"] for row in summary.table(runs, names)] == names[:1]


def test_every_product_can_be_in_the_table():
    runs = [
        record(recipe, 0, {place_name: place() for place_name in recipes.places_of(recipe)})
        for recipe in recipes.RECIPES
    ]
    found = {recipes.product_of(row["method"]) for row in summary.table(runs)}
    assert found == set(recipes.PRODUCTS.values())


def test_only_the_article_and_tuned_settings_are_shown():
    runs = [
        run
        for setting in ("tuned", "tuning", "partner", "article")
        for run in runs_of("line", [0.9], setting=setting)
    ]
    assert [row["setting"] for row in summary.table(runs)] == ["article", "tuned"]


def test_only_what_a_sweep_chose_is_shown():
    (row,) = summary.table(sweep({0.1: 0.3, 0.2: 0.2}))
    assert row["values"] == {"model.dropout": 0.2}
    assert row["num_seeds"] == 3
    assert row["accuracy"]["mean"] == pytest.approx(0.8)


def test_runs_that_diverged_are_left_out():
    (row,) = summary.table([*runs_of("line", [0.9, 0.8]), record("line", 2, {})])
    assert row["num_seeds"] == 2
    assert summary.table([record("line", 0, {})]) == []


def test_metrics_are_named_by_their_paths():
    found = place(brier=0.1, scaled={"ece": 0.01}, temperature=1.5, num_bins=20)
    found |= {"validation": {"nll": 9.0}, "reliability": {"weight": [1.0]}, "coords": 0.5}
    found |= {"corruptions": {"snow": {"3": {"accuracy": 0.7}}}, "ood": {"noise": {"auroc": 0.8}}}
    (row,) = summary.table([record("standard", 0, {"midpoint": found})])
    known = {"setting", "label_noise", "method", "place", "num_seeds", "values", "training_cost"}
    assert row.keys() - known - {"inference_passes"} == {
        *styles.METRICS,
        "brier",
        "temperature",
        "scaled.ece",
        "corruptions.snow.3.accuracy",
        "ood.noise.auroc",
    }
    assert row["corruptions.snow.3.accuracy"]["mean"] == 0.7


def test_missing_metrics_are_left_out_and_infinite_ones_are_null():
    runs = runs_of("standard", [0.9, 0.8])
    del runs[0]["places"]["midpoint"]["ece"]
    runs[1]["places"]["midpoint"]["nll"] = None
    (row,) = summary.table(runs)
    assert "ece" not in row
    assert row["nll"] == {"mean": None, "stderr": None}
    assert row["num_seeds"] == 2


def test_costs_are_relative_to_standard_training():
    runs = runs_of("standard", [0.9, 0.9], passes=500.0) + runs_of("sam", [0.9], passes=1000.0)
    runs += runs_of("sam", [0.9], passes=1000.0, setting="tuned", noise=0.2)
    costs = {row["method"]: row["training_cost"] for row in summary.table(runs)}
    assert costs == {"standard": 1.0, "sam": 2.0}
    (row,) = summary.table(runs_of("sam", [0.9]))
    assert row["training_cost"] is None
    del runs[2]["cost"]
    assert [row["training_cost"] for row in summary.table(runs)] == [1.0, None, 2.0]


def test_the_order_of_runs_changes_no_table():
    runs = sweep({0.1: 0.3, 0.2: 0.2}) + runs_of("standard", values(0.9), noise=0.2)
    runs += runs_of("line", values(0.9)) + runs_of("line", values(0.9), setting="tuned")
    assert summary.table(shuffled(runs)) == summary.table(runs)


def test_no_runs_have_no_rows():
    assert summary.table([]) == summary.survival([]) == []
    assert summary.choose_values([]) == {}


# What is left of a gain


def gains(untuned, matched=None, tuned=None, *, method="line", metric="accuracy", count=8):
    """Runs whose midpoint is so much better than standard training, its control, and when tuned."""
    sign = 1 if metric == "accuracy" else -1
    theirs = values(0.8, count, seed=1)
    rest = [values(0, count, spread=5e-4, seed=seed) for seed in (2, 3, 4)]
    ours = theirs + sign * untuned + rest[0]
    columns = {("article", "standard"): theirs, ("article", method): ours}
    if matched is not None:
        columns["article", summary.MATCHED[method]] = ours - sign * matched + rest[1]
    if tuned is not None:
        columns["tuned", "standard"] = theirs
        columns["tuned", method] = theirs + sign * tuned + rest[2]
    runs = []
    for (setting, recipe), column in columns.items():
        metrics = {"accuracy": np.full(count, 0.9)} | {metric: column}
        runs += runs_of(recipe, setting=setting, **metrics)
    return runs


def survived(runs, metric="accuracy"):
    (entry,) = [e for e in summary.survival(runs) if e["metric"] == metric]
    return entry


@pytest.mark.parametrize("metric", styles.METRICS)
def test_gains_are_positive_where_the_midpoint_is_better(metric):
    entry = survived(gains(0.02, 0.01, 0.005, metric=metric), metric)
    for name, gain in (("untuned", 0.02), ("matched", 0.01), ("tuned", 0.005)):
        assert entry[name]["gain"] == pytest.approx(gain)
        assert entry[name]["num_seeds"] == 8
    assert entry["share"]["mean"] == pytest.approx(0.25)


def test_the_error_of_the_share_is_that_of_many_suites():
    shares, errors = [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        theirs = rng.normal(0.8, 0.01, 8)
        common = rng.normal(0, 0.002, 8)
        ours = {"article": theirs + 0.02 + common + rng.normal(0, 0.001, 8)}
        ours["tuned"] = theirs + 0.01 + common + rng.normal(0, 0.001, 8)
        runs = [
            run
            for setting, column in ours.items()
            for recipe, values_ in (("line", column), ("standard", theirs))
            for run in runs_of(recipe, values_, setting=setting)
        ]
        share = survived(runs)["share"]
        shares.append(share["mean"])
        errors.append(share["stderr"])
    assert statistics.fmean(shares) == pytest.approx(0.5, abs=0.01)
    assert statistics.fmean(errors) == pytest.approx(statistics.stdev(shares), rel=0.15)


@pytest.mark.parametrize("untuned", [0.0, -0.02])
def test_without_a_significant_gain_there_is_no_share(untuned):
    entry = survived(gains(untuned, 0.01, 0.01))
    assert entry["share"] is None
    assert "no significant untuned gain that could survive tuning" in entry["sentence"]


def test_with_two_seeds_there_is_no_share():
    entry = survived(gains(0.02, 0.01, 0.01, count=2))
    assert entry["share"] is None
    assert entry["untuned"]["p_value"] is None
    assert "too few seeds to test" in entry["sentence"]


def test_a_gain_that_survives_is_said():
    sentence = survived(gains(0.02, 0.01, 0.005))["sentence"]
    assert sentence.startswith(
        f"Line, {CLEAN}, accuracy: better by 2.00 ± 0.02 points than standard training by the "
        "article's recipe; better by 1.00 ± 0.02 points than its matched control; better by 0.50 ± "
    )
    assert "; 25 ± 1 % of the gain survives tuning." in sentence
    assert "The tuned midpoint" not in sentence


@pytest.mark.parametrize(
    ("tuned", "says"), [(-0.005, "is not better than"), (1e-6, "is not shown better than")]
)
def test_a_tuned_midpoint_that_is_not_better_is_said_in_a_sentence_of_its_own(tuned, says):
    sentence = survived(gains(0.02, 0.01, tuned))["sentence"]
    assert sentence.endswith(f". The tuned midpoint {says} tuned standard training.")


def test_what_was_not_run_is_left_out():
    entry = survived(gains(0.02))
    assert entry["matched"] is entry["tuned"] is entry["share"] is None
    assert entry["sentence"].endswith("points than standard training by the article's recipe.")
    assert summary.survival(runs_of("line", values(0.9))) == []
    assert summary.survival(runs_of("standard", values(0.9))) == []


def test_values_that_are_not_finite_have_no_gain():
    runs = gains(0.02, 0.01, 0.01)
    for run in runs:
        run["places"]["midpoint"]["accuracy"] = None
    entry = survived(runs)
    assert entry["tuned"]["gain"] is None
    assert "a value is not finite" in entry["sentence"]


def test_every_subspace_metric_and_noise_has_an_entry():
    runs = [
        run
        for noise in (0.2, 0.0)
        for recipe in ("standard", "line", "curve", "simplex_4", "ema")
        for run in runs_of(recipe, values(0.9, seed=len(recipe)), noise=noise)
    ]
    entries = summary.survival(runs)
    keys = [(e["method"], e["label_noise"], e["metric"]) for e in entries]
    assert keys == [
        (method, noise, metric)
        for method in ("line", "curve", "simplex_4")
        for noise in (0.0, 0.2)
        for metric in styles.METRICS
    ]
    assert len({e["sentence"] for e in entries}) == len(entries)
    assert summary.survival(shuffled(runs)) == entries
    json.dumps(entries, allow_nan=False)


def test_controls_are_recipes():
    for subspace, matched in summary.MATCHED.items():
        assert subspace in styles.SUBSPACES
        assert recipes.RECIPES[matched]["kind"] == "standard_matched"


# Mean corruption errors


def with_errors(recipe, seed, errors, **where):
    """A run whose midpoint has error rates by corruption and severity."""
    corruptions = {
        name: {str(i + 1): {"accuracy": 1 - error} for i, error in enumerate(by)}
        for name, by in errors.items()
    }
    return record(recipe, seed, {"midpoint": place(corruptions=corruptions)}, **where)


def test_mce_is_relative_to_standard_training_of_the_same_seed_and_noise():
    runs = [
        with_errors("standard", 0, {"snow": [0.2, 0.4], "fog": [0.1, 0.1]}),
        with_errors("line", 0, {"snow": [0.1, 0.2], "fog": [0.1, 0.2]}),
        with_errors("line", 1, {"snow": [0.1, 0.2], "fog": [0.1, 0.2]}),
        with_errors("line", 0, {"snow": [0.1, 0.2], "fog": [0.1, 0.2]}, noise=0.2),
    ]
    standard, line, *alone = summary.with_mce(runs)
    mce = standard["places"]["midpoint"]["corruptions_mce"]
    assert mce == {"raw": pytest.approx(0.2), "standard": pytest.approx(1.0)}
    mce = line["places"]["midpoint"]["corruptions_mce"]
    assert mce["standard"] == pytest.approx((0.3 / 0.6 + 0.3 / 0.2) / 2)
    for run in alone:
        mce = run["places"]["midpoint"]["corruptions_mce"]
        assert mce == {"raw": pytest.approx((0.15 + 0.15) / 2)}


def test_an_error_of_zero_normalises_nothing():
    runs = [with_errors("standard", 0, {"snow": [0.0]}), with_errors("line", 0, {"snow": [0.1]})]
    for run, raw in zip(summary.with_mce(runs), (0.0, 0.1), strict=True):
        assert run["places"]["midpoint"]["corruptions_mce"] == {"raw": pytest.approx(raw)}
