"""Claims and what made-up runs say of them."""

import json
import math

import numpy as np
import pytest
import scipy.stats
from records import record, values

from experiments.configs import recipes
from experiments.results import claims, significance, summary
from experiments.results.claims import ARTICLE, CONTROLS, TUNED, Claim, claim_of

EVERY = (*ARTICLE, *CONTROLS, *TUNED)


def runs_of(columns, **where):
    """Runs by recipe; a column is the midpoint's accuracy for every seed, or places with metrics."""
    return [
        record(
            recipe,
            seed,
            {"midpoint": {"accuracy": float(column[seed]), "nll": 0.5, "ece": 0.1}},
            **where,
        )
        for recipe, column in columns.items()
        for seed in range(len(column))
    ]


def one(runs, claim=None):
    (verdict,) = claims.check([claim or claim_of("fig3", "line", "standard")], runs)
    return verdict


# The claims


def test_no_claim_is_made_twice():
    compared = [(frozenset({c.ours, c.theirs}), c.metric, c.label_noise, c.setting) for c in EVERY]
    assert len(set(compared)) == len(EVERY)
    assert len({c.figure + c.text for c in EVERY if c.figure != "control"}) == len(
        {c for c in EVERY if c.figure != "control"}
    )


@pytest.mark.parametrize(
    ("figure", "count"),
    [("fig2", 1), ("fig3", 8), ("fig4", 20), ("fig5", 15), ("fig6", 10), ("fig7", 9)],
)
def test_every_figure_of_the_article_has_its_claims(figure, count):
    assert sum(c.figure == figure for c in ARTICLE) == count


def test_sides_are_recipes():
    for claim in EVERY:
        assert claim.ours != claim.theirs
        for recipe, _ in (claim.ours, claim.theirs):
            assert recipe in recipes.RECIPES


def test_better_is_more_accuracy_and_less_of_all_else():
    for claim in EVERY:
        assert claim.better == ("higher" if "accuracy" in claim.metric else "lower")


def test_texts_are_sentences():
    for claim in EVERY:
        assert claim.text[0].isupper()
        assert claim.text.endswith(".")
        assert ("20 % wrong labels" in claim.text) == (claim.label_noise > 0)
        assert ("both tuned" in claim.text) == (claim.setting == "tuned")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("line", "standard"), "The midpoint of the line is more accurate than standard training."),
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


def test_only_the_gap_that_is_known_is_given():
    (known,) = [c for c in EVERY if c.gap is not None]
    assert (known.ours, known.theirs) == (("line", "midpoint"), ("line", "endpoints"))
    assert known.gap == pytest.approx(0.007)
    assert "91.68" in known.source


# What runs say


@pytest.mark.parametrize(
    ("gain", "outcome"), [(0.01, "agree"), (-0.01, "disagree"), (0.0, "not significant")]
)
def test_outcomes(gain, outcome):
    theirs = values(0.9, seed=1)
    noise = values(0, spread=1e-3, seed=2)
    verdict = one(runs_of({"line": theirs + gain + noise, "standard": theirs}))
    assert verdict.outcome == outcome
    assert verdict.difference == pytest.approx(gain)
    assert verdict.num_seeds == 8


def test_it_is_a_paired_t_test_over_common_seeds():
    ours, theirs = values(0.91, 6, seed=1), values(0.9, 8, seed=2)
    verdict = one(runs_of({"line": ours, "standard": theirs})[::-1])
    assert verdict.num_seeds == 6
    assert verdict.p_value == pytest.approx(scipy.stats.ttest_rel(ours, theirs[:6]).pvalue)
    assert verdict.stderr == pytest.approx((ours - theirs[:6]).std(ddof=1) / math.sqrt(6))


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_seeds_are_never_significant(count):
    verdict = one(runs_of({"line": np.full(count, 0.99), "standard": np.full(count, 0.1)}))
    assert (verdict.outcome, verdict.p_value) == ("too few seeds", None)
    assert verdict.difference == pytest.approx(0.89)
    assert (verdict.stderr is None) == (count == 1)


@pytest.mark.parametrize(
    ("shift", "p_value", "outcome"),
    [(0.0, 1.0, "not significant"), (0.02, None, "not significant")],
)
def test_differences_that_are_all_equal_are_not_tested(shift, p_value, outcome):
    theirs = values(0.9, seed=1)
    verdict = one(runs_of({"line": theirs + shift, "standard": theirs}))
    assert verdict.p_value == p_value
    assert verdict.outcome == outcome


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_not_finite_is_said_to_be(value):
    runs = runs_of({"line": values(0.99), "standard": values(0.1)})
    runs[3]["places"]["midpoint"]["accuracy"] = value
    verdict = one(runs)
    assert verdict[1:] == (None, None, 8, None, "not finite")
    json.dumps(claims.to_json([verdict]), allow_nan=False)
    assert "not finite" in claims.table_text([verdict])
    (sentence,) = claims.sentences([verdict])
    assert "not finite, so not tested, against standard training" in sentence


@pytest.mark.parametrize(
    "runs",
    [
        [],
        runs_of({"line": values(0.9)}),
        runs_of({"standard": values(0.9)}),
        runs_of({"line": values(0.9)}, setting="tuned") + runs_of({"standard": values(0.9)}),
        runs_of({"line": values(0.9)}, noise=0.2) + runs_of({"standard": values(0.9)}),
        [record(recipe, 0, {}) for recipe in ("line", "standard")],
        [record(recipe, 0, None) for recipe in ("line", "standard")],
    ],
)
def test_without_runs_of_both_sides_nothing_is_run(runs):
    verdict = one(runs)
    assert verdict[1:] == (None, None, 0, None, "not run")
    assert claims.sentences([verdict]) == []
    assert claims.table_text([verdict]) == "No claim has runs. Without runs: 1."


def test_a_metric_that_was_not_measured_is_not_run():
    runs = runs_of({"line": values(0.9), "standard": values(0.8)})
    assert {v.outcome for v in claims.check(ARTICLE, runs) if v.claim.figure == "fig6"} == {
        "not run"
    }


def whole_suite(num_seeds=8, seed=0):
    """Runs of every recipe that a claim asks for, with every place and metric."""
    rng = np.random.default_rng(seed)
    runs = []
    keys = sorted({(c.setting, c.label_noise) for c in EVERY})
    places = {side for c in EVERY for side in (c.ours, c.theirs)}
    for setting, noise in keys:
        for recipe in sorted({recipe for recipe, _ in places}):
            level = rng.uniform(0.7, 0.9)
            for i in range(num_seeds):
                found = {
                    place: {
                        "accuracy": level + rng.normal(0, 0.005),
                        "nll": rng.normal(0.5, 0.01),
                        "ece": level / 10 + rng.normal(0, 0.005),
                        "corruptions": {
                            "snow": {
                                str(s): {"accuracy": level + rng.normal()} for s in range(1, 6)
                            }
                        },
                    }
                    for owner, place in sorted(places)
                    if owner == recipe
                }
                runs.append(record(recipe, i, found, setting=setting, noise=noise))
    return runs


SUITE = whole_suite()
VERDICTS = claims.check(EVERY, SUITE)


def test_all_outcomes_occur_in_a_whole_suite():
    assert {v.outcome for v in VERDICTS} == {"agree", "disagree", "not significant"}


def test_the_order_of_runs_changes_nothing():
    shuffled = [SUITE[i] for i in np.random.default_rng(1).permutation(len(SUITE))]
    assert claims.check(EVERY, shuffled) == VERDICTS


def test_swapping_the_sides_swaps_the_outcome():
    swapped = [c._replace(ours=c.theirs, theirs=c.ours) for c in EVERY]
    opposite = {"agree": "disagree", "disagree": "agree", "not significant": "not significant"}
    for before, after in zip(VERDICTS, claims.check(swapped, SUITE), strict=True):
        assert after.outcome == opposite[before.outcome]
        assert after.difference == pytest.approx(-before.difference, abs=1e-15)
        assert after.p_value == pytest.approx(before.p_value)


def test_claiming_the_opposite_swaps_the_outcome():
    other = {"higher": "lower", "lower": "higher"}
    flipped = [c._replace(better=other[c.better]) for c in EVERY]
    opposite = {"agree": "disagree", "disagree": "agree", "not significant": "not significant"}
    for before, after in zip(VERDICTS, claims.check(flipped, SUITE), strict=True):
        assert after.outcome == opposite[before.outcome]
        assert after[1:5] == before[1:5]


def test_claims_are_corrected_for_those_that_have_runs():
    alone = [one(SUITE, v.claim) for v in VERDICTS]
    assert significance.holm([v.p_value for v in alone]) == pytest.approx(
        [v.p_value for v in VERDICTS]
    )
    some = [run for run in SUITE if run["method"] in ("line", "standard")]
    tested = [v for v in claims.check(EVERY, some) if v.outcome != "not run"]
    assert tested == claims.check([v.claim for v in tested], some)


def test_more_claims_never_make_one_more_significant():
    few = claims.check(ARTICLE, SUITE)
    for less, more in zip(few, VERDICTS, strict=False):
        assert less.p_value <= more.p_value


def test_only_chosen_values_count():
    good, bad = values(0.95, seed=1), values(0.5, seed=2)
    runs = runs_of({"line": values(0.9)}) + runs_of({"dropout": good}) + runs_of({"dropout": bad})
    for run, rate in zip(runs[8:], [0.1] * 8 + [0.3] * 8, strict=True):
        run["values"] = {"model.dropout": rate}
        run["places"]["midpoint"]["validation"] = {"nll": 1 / rate, "accuracy": 0.5}
    claim = Claim("fig5", ("line", "midpoint"), ("dropout", "midpoint"), "accuracy", "higher")
    assert one(runs, claim).outcome == "agree"
    key = ("article", 0.0, "dropout")
    chosen = summary.choose_values(runs) | {key: {"model.dropout": 0.1}}
    assert claims.check([claim], runs, chosen)[0].outcome == "disagree"


def test_a_rival_of_another_place_is_looked_up_there():
    runs = runs_of({"layerwise_line": values(0.9)}, noise=0.2)
    runs += runs_of({"standard": values(0.8, seed=3)}, noise=0.2)
    for run in runs[8:]:
        run["places"]["early stopping"] = {"accuracy": 0.95 + 0.001 * run["seed"]}
    by_rival = {v.claim.theirs: v for v in claims.check(ARTICLE, runs)}
    assert by_rival["standard", "early stopping"].outcome == "disagree"


# How it is said


def test_every_claim_with_runs_is_said_and_shown():
    sentences = claims.sentences(VERDICTS)
    assert len(set(sentences)) == len(sentences)
    assert all(s[0].isupper() and s.endswith(" (8 seeds).") for s in sentences)
    groups = {(c.figure, c.label_noise, c.ours) for c in EVERY}
    assert len(sentences) == len(groups)
    lines = claims.table_text(VERDICTS).splitlines()
    assert len(lines) == len(EVERY) + 2 + 1 + 2
    assert lines[0].startswith("Figure")
    assert lines[-1].startswith(f"{len(EVERY)} claims: ")


def test_a_sentence_has_the_amounts_of_what_is_significant():
    base, tiny = values(0.9, seed=1), 1e-6 * values(0.0, seed=2)
    columns = {"line": base, "standard": base - 0.02 + tiny, "curve": base + 0.01 + tiny}
    columns["ema"] = base
    rivals = ("standard", "curve", "ema")
    verdicts = claims.check([claim_of("fig3", "line", rival) for rival in rivals], runs_of(columns))
    assert claims.sentences(verdicts) == [
        "Figure 3, clean labels, the midpoint of the line: accuracy higher than standard training "
        "(+2.00 ± 0.00 points), lower, against the claim, than the midpoint of the curve (-1.00 ± 0.00 "
        "points), not significantly different from the EMA of standard training (8 seeds)."
    ]


def test_severities_with_one_outcome_are_one_clause():
    claim = claim_of("fig6", "line", "standard", "corruptions.snow.1.accuracy")
    verdicts = [
        claims.Verdict(claim._replace(metric=f"corruptions.snow.{s}.accuracy"), *effect)
        for s, effect in enumerate(
            [(0.02, 0.01, 8, 0.01, "agree")] * 2 + [(0.0, 0.01, 8, 1.0, "not significant")] * 3, 1
        )
    ]
    assert claims.sentences(verdicts) == [
        "Figure 6, clean labels, the midpoint of the line: accuracy under snow higher than standard "
        "training at severities 1 and 2 (+2.00 ± 1.00 points and +2.00 ± 1.00 points), not "
        "significantly different from standard training at severities 3, 4 and 5 (8 seeds)."
    ]
    assert (
        "from standard training at any severity"
        in claims.sentences([verdict._replace(outcome="not significant") for verdict in verdicts])[
            0
        ]
    )


def test_too_few_seeds_are_said_with_the_effect():
    verdict = one(runs_of({"line": [0.92], "standard": [0.9]}))
    (sentence,) = claims.sentences([verdict])
    assert (
        "not tested, with so few seeds, against standard training (+2.00 points) (1 seed)."
        in sentence
    )
    assert "too few seeds" in claims.table_text([verdict])


def test_the_table_is_aligned_and_has_the_expected_gap():
    known = next(c for c in ARTICLE if c.gap)
    runs = runs_of({"line": values(0.92, seed=1)})
    for run in runs:
        run["places"]["endpoints"] = {"accuracy": 0.9 + 0.0001 * run["seed"]}
    text = claims.table_text(claims.check([known], runs))
    header, _, row, _, note, counts = text.splitlines()
    assert header.index("Outcome") == row.index("agree")
    assert row.endswith("+0.70 points")
    assert "< 0.001" in row
    assert "91.68" in note
    assert counts == "1 claim: 1 agree."


def test_json_has_everything():
    entries = json.loads(json.dumps(claims.to_json(VERDICTS), allow_nan=False))
    assert len(entries) == len(VERDICTS)
    for entry, verdict in zip(entries, VERDICTS, strict=True):
        assert entry["text"] == verdict.claim.text
        assert entry["ours"] == list(verdict.claim.ours)
        assert entry["outcome"] == verdict.outcome
        assert entry.keys() == {"text", *Claim._fields, *claims.Verdict._fields} - {"claim"}


def test_verdicts_come_back_from_json():
    entries = json.loads(json.dumps(claims.to_json(VERDICTS)))
    assert claims.from_json(entries) == VERDICTS
