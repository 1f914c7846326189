"""Claims, and what made-up runs and those of the digits say of them."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from records import committed, record, runs_of, shuffled, values

from experiments.configs import recipes
from experiments.results import claims, significance, tables
from experiments.results.claims import ARTICLE, CONTROLS, TUNED, claim_of

GROUPS = (ARTICLE, CONTROLS, TUNED)
EVERY = [claim for group in GROUPS for claim in group]
OPPOSITE = {"agree": "disagree", "disagree": "agree"}


def one(runs, claim=None):
    (verdict,) = claims.check([claim or claim_of("fig3", "line", "standard")], runs)
    return verdict


def of(line=(), standard=(), **where):
    return runs_of("line", line, **where) + runs_of("standard", standard, **where)


# The claims


def test_claims_are_of_recipes_each_once_and_said_in_a_sentence():
    compared = [(frozenset({c.ours, c.theirs}), c.metric, c.label_noise, c.setting) for c in EVERY]
    assert len(set(compared)) == len(EVERY)
    for claim in EVERY:
        assert claim.ours != claim.theirs
        assert {claim.ours[0], claim.theirs[0]} <= recipes.RECIPES.keys()
        assert claim.better == ("higher" if "accuracy" in claim.metric else "lower")
        assert claim.text[0].isupper()
        assert claim.text.endswith(".")
        assert ("20 % wrong labels" in claim.text) == (claim.label_noise > 0)
        assert ("both tuned" in claim.text) == (claim.setting == "tuned")


@pytest.mark.parametrize(
    ("figure", "count"),
    [("fig2", 1), ("fig3", 8), ("fig4", 20), ("fig5", 15), ("fig6", 10), ("fig7", 9)],
)
def test_every_figure_of_the_article_has_its_claims(figure, count):
    assert sum(c.figure == figure for c in ARTICLE) == count


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ("line", ("line", "endpoints")),
            "The midpoint of the line is more accurate than its own ends.",
        ),
        (
            ("layerwise_line", "swa_cyclic", "ece", 0.2),
            "With 20 % wrong labels, the midpoint of the layerwise line has lower ECE than "
            "SWA (cyclic lr, 5).",
        ),
        (
            ("simplex_4", "standard_matched_4", "corruptions.snow.2.accuracy"),
            "The midpoint of the simplex (4) has higher accuracy under snow of severity 2 than its "
            "matched control.",
        ),
        (
            ("line_ensemble", "ensemble"),
            "The ensemble of the line's ends is more accurate than two independent networks.",
        ),
        (
            (("simplex_3", "inside the triangle"), ("simplex_3", "outside the triangle")),
            "The networks inside the triangle are more accurate than the networks outside the triangle.",
        ),
    ],
)
def test_text(arguments, text):
    assert claim_of("fig3", *arguments).text == text


# What runs say


@pytest.mark.parametrize(
    ("gain", "outcome"), [(0.01, "agree"), (-0.01, "disagree"), (0.0, "not significant")]
)
def test_a_claim_is_tested_by_a_paired_t_test_over_common_seeds(gain, outcome):
    theirs = values(0.9, seed=1)
    ours = theirs[:6] + gain + values(0, 6, spread=1e-3, seed=2)
    verdict = one(of(ours, theirs)[::-1])
    assert (verdict.outcome, verdict.num_seeds) == (outcome, 6)
    assert verdict.difference == pytest.approx(gain)
    assert verdict.stderr == pytest.approx((ours - theirs[:6]).std(ddof=1) / math.sqrt(6))
    assert verdict.p_value == pytest.approx(scipy.stats.ttest_rel(ours, theirs[:6]).pvalue)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_seeds_are_never_significant(count):
    verdict = one(of(np.full(count, 0.99), np.full(count, 0.1)))
    assert (verdict.outcome, verdict.p_value) == ("too few seeds", None)
    assert verdict.difference == pytest.approx(0.89)


def test_differences_that_are_all_equal_are_not_significant():
    theirs = values(0.9, seed=1)
    assert one(of(theirs, theirs))[4:] == (1.0, "not significant")
    assert one(of(theirs + 0.02, theirs))[4:] == (None, "not significant")


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_finite_is_not_tested(value):
    runs = of(values(0.99), values(0.1))
    runs[3]["places"]["midpoint"]["accuracy"] = value
    verdict = one(runs)
    assert verdict[1:] == (None, None, 8, None, "not finite")
    assert "not finite" in tables.claims_text([verdict])


@pytest.mark.parametrize(
    "runs",
    [
        [],
        of(values(0.9)),
        of(standard=values(0.9)),
        of(values(0.9), setting="tuned") + of(standard=values(0.9)),
        of(values(0.9), noise=0.2) + of(standard=values(0.9)),
        [record(recipe, 0, places) for recipe in ("line", "standard") for places in ({}, None)],
    ],
)
def test_without_runs_of_both_sides_nothing_is_run(runs):
    verdict = one(runs)
    assert verdict[1:] == (None, None, 0, None, "not run")
    assert tables.claims_text([verdict]) == "No claim has runs. Without runs: 1."


def test_only_chosen_values_count():
    runs = runs_of("line", values(0.9))
    for rate, accuracy in ((0.1, values(0.95, seed=1)), (0.3, values(0.5, seed=2))):
        swept = runs_of("dropout", accuracy, values={"model.dropout": rate})
        for run in swept:
            run["places"]["midpoint"]["validation"] = {"nll": 1 / rate, "accuracy": 0.5}
        runs += swept
    claim = claim_of("fig5", "line", "dropout")
    assert one(runs, claim).outcome == "agree"
    chosen = {("article", 0.0, name): {} for name in ("line", "dropout")}
    chosen["article", 0.0, "dropout"] = {"model.dropout": 0.1}
    assert claims.check([claim], runs, chosen)[0].outcome == "disagree"


def test_a_rival_of_another_place_is_looked_up_there():
    runs = of(values(0.9), values(0.8, seed=3), noise=0.2)
    for run in runs[8:]:
        run["places"]["early stopping"] = {"accuracy": 0.95 + 0.001 * run["seed"]}
    claim = claim_of("fig7", "line", "early_stopping", noise=0.2)
    assert one(runs, claim).outcome == "disagree"


@pytest.fixture(scope="module")
def digits():
    """The runs of the digits, and what they say of the claims."""
    runs = committed("digits")["runs"]
    return runs, claims.check(CONTROLS, runs)


def test_the_order_of_runs_changes_nothing(digits):
    runs, verdicts = digits
    assert {v.outcome for v in verdicts} == {*OPPOSITE, "not significant", "not run"}
    assert claims.check(CONTROLS, shuffled(runs)) == verdicts


def test_swapped_sides_and_the_opposite_claim_have_the_opposite_outcome(digits):
    runs, verdicts = digits
    other = {"higher": "lower", "lower": "higher"}
    swapped = [c._replace(ours=c.theirs, theirs=c.ours) for c in CONTROLS]
    opposed = [c._replace(better=other[c.better]) for c in CONTROLS]
    for sign, group in ((-1, swapped), (1, opposed)):
        for before, after in zip(verdicts, claims.check(group, runs), strict=True):
            assert after.outcome == OPPOSITE.get(before.outcome, before.outcome)
            assert after.p_value == before.p_value
            if before.difference is not None:
                assert after.difference == sign * before.difference


def test_claims_are_corrected_for_those_that_have_runs(digits):
    runs, verdicts = digits
    run = [v for v in verdicts if v.outcome != "not run"]
    alone = [one(runs, v.claim).p_value for v in run]
    assert significance.holm(alone) == pytest.approx([v.p_value for v in run])
    assert claims.check([v.claim for v in run], runs) == run


# How it is said


def test_the_table_is_aligned_and_has_the_expected_gap():
    (known,) = [c for c in EVERY if c.gap is not None]
    runs = runs_of("line", values(0.92, seed=1))
    for run in runs:
        run["places"]["endpoints"] = {"accuracy": 0.9 + 0.0001 * run["seed"]}
    text = tables.claims_text(claims.check([known], runs))
    header, _, row, _, note, counts = text.splitlines()
    assert header.index("Outcome") == row.index("agree")
    assert row.endswith("+0.70 points")
    assert "< 0.001" in row
    assert "91.68" in note
    assert counts == "1 claim: 1 agree."


@pytest.mark.parametrize(
    ("difference", "outcome", "said"),
    [
        (0.02, "agree", "is more accurate than standard training, by 2.00 ± 0.40 points."),
        (-0.02, "disagree", "is less accurate than standard training, by 2.00 ± 0.40 points."),
        (0.02, "not significant", "by 2.00 ± 0.40 points (not significant, 8 seeds)."),
        (0.02, "too few seeds", "are not tested for accuracy: there are too few seeds."),
        (None, "not finite", "are not tested for accuracy: a value is not finite."),
    ],
)
def test_one_comparison_in_a_sentence(difference, outcome, said):
    claim = claim_of("fig7", "line", "standard", noise=0.2)
    sentence = claims.plain(claims.Verdict(claim, difference, 0.004, 8, None, outcome))
    assert sentence.startswith("With wrong labels, the midpoint of the line ")
    assert sentence.endswith(said)


def test_verdicts_come_back_from_json(digits):
    _, verdicts = digits
    entries = json.loads(json.dumps(claims.to_json(verdicts), allow_nan=False))
    assert [entry["text"] for entry in entries] == [v.claim.text for v in verdicts]
    assert claims.from_json(entries) == verdicts
