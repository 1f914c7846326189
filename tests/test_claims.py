"""Claims, and what made-up runs and those of the digits say of them."""

import json
import math

import pytest
import scipy.stats
from records import committed, record, runs_of, shuffled, values

from experiments.configs import recipes
from experiments.results import claims, significance
from experiments.results.claims import ARTICLE, CONTROLS, TUNED, claim_of

EVERY = [*ARTICLE, *CONTROLS, *TUNED]
OPPOSITE = {"agree": "disagree", "disagree": "agree"}


def one(runs, claim=None):
    (verdict,) = claims.check([claim or claim_of("fig3", "line", "standard")], runs)
    return verdict


def of(line=(), standard=(), **where):
    return runs_of("line", line, **where) + runs_of("standard", standard, **where)


def test_claims_are_of_recipes_each_once():
    compared = [(frozenset({c.ours, c.theirs}), *c[3:]) for c in EVERY]
    assert len(set(compared)) == len(EVERY)
    for claim in EVERY:
        assert claim.ours != claim.theirs
        assert {claim.ours[0], claim.theirs[0]} <= recipes.RECIPES.keys()
        assert claim.better == ("higher" if "accuracy" in claim.metric else "lower")


@pytest.mark.parametrize("name", ["digits", "cifar10-small"])
def test_committed_verdicts_are_of_todays_claims_in_the_same_words(name):
    stored = committed(name)["claims"]
    verdicts = claims.from_json(stored)
    assert [verdict.claim for verdict in verdicts] == EVERY
    assert [claim.text for claim in EVERY] == [entry["text"] for entry in stored]
    written = json.loads(json.dumps(claims.to_json(verdicts), allow_nan=False))
    assert [entry | new for entry, new in zip(stored, written, strict=True)] == stored


@pytest.mark.parametrize(
    ("gain", "outcome"), [(0.01, "agree"), (-0.01, "disagree"), (0.0, "not significant")]
)
def test_a_claim_is_tested_by_a_paired_t_test_over_common_seeds(gain, outcome):
    theirs = values(0.9, seed=1)
    ours = theirs[:6] + gain + values(0, 6, spread=1e-3, seed=2)
    verdict = one(of(ours, theirs)[::-1])
    assert (verdict.outcome, verdict.num_seeds) == (outcome, 6)
    assert verdict.difference == pytest.approx(gain)
    assert verdict.p_value == pytest.approx(scipy.stats.ttest_rel(ours, theirs[:6]).pvalue)


def test_what_cannot_be_tested_has_no_p_value():
    theirs = values(0.9, seed=1)
    assert one(of(theirs, theirs))[4:] == (1.0, "not significant")
    assert one(of(theirs + 0.02, theirs))[4:] == (None, "not significant")  # the same in all seeds
    assert one(of([0.99] * 2, [0.1] * 2))[4:] == (None, "too few seeds")
    assert one(of([*theirs[1:], math.nan], theirs))[1:] == (None, None, 8, None, "not finite")


@pytest.mark.parametrize(
    "runs",
    [
        of(values(0.9)),
        of(values(0.9), setting="tuned") + of(standard=values(0.9)),
        of(values(0.9), noise=0.2) + of(standard=values(0.9)),
        [record(recipe, 0, places) for recipe in ("line", "standard") for places in ({}, None)],
    ],
)
def test_without_runs_of_both_sides_nothing_is_run(runs):
    verdict = one(runs)
    assert verdict[1:] == (None, None, 0, None, "not run")
    assert claims.counts_said([verdict]) == "No claim has runs. Without runs: 1."


def test_only_chosen_values_count_at_the_place_of_the_rival():
    runs = runs_of("line", values(0.9))
    for rate, accuracy in ((0.1, values(0.95, seed=1)), (0.3, values(0.5, seed=2))):
        swept = runs_of("dropout", accuracy, values={"model.dropout": rate})
        for run in swept:
            run["places"]["midpoint"]["validation"] = {"nll": 1 / rate, "accuracy": 0.5}
            run["places"]["mc ensemble"] = {"accuracy": 0.97 + 0.001 * run["seed"]}
        runs += swept
    assert one(runs, claim_of("fig5", "line", "dropout")).outcome == "agree"
    assert one(runs, claim_of("fig5", "line", "mc_dropout")).outcome == "disagree"


def test_swapped_sides_have_the_opposite_outcome_and_the_order_of_runs_none():
    runs = committed("digits")["runs"]
    verdicts = claims.check(CONTROLS, runs)
    assert {v.outcome for v in verdicts} == {*OPPOSITE, "not significant", "not run"}
    swapped = [c._replace(ours=c.theirs, theirs=c.ours) for c in CONTROLS]
    for before, after in zip(verdicts, claims.check(swapped, shuffled(runs)), strict=True):
        assert after.outcome == OPPOSITE.get(before.outcome, before.outcome)
        assert after.p_value == before.p_value
    # They are corrected for those that have runs.
    run = [v for v in verdicts if v.outcome != "not run"]
    alone = [one(runs, v.claim).p_value for v in run]
    assert significance.holm(alone) == pytest.approx([v.p_value for v in run])
