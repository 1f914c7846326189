"""From runs to a table and sentences, on runs whose differences are known."""

import json

import numpy as np
import pytest
import scipy.stats
import synthetic_metrics

from experiments import summary

METHODS = ("standard", "standard_matched", "ema", "line", "layerwise_line")
CLEAN = "With clean labels"


def values(mean, count=8, spread=0.002, seed=0):
    """Numbers whose mean is `mean`, one a seed."""
    deviations = np.random.default_rng(seed).normal(0, spread, count)
    return mean + deviations - deviations.mean()


def runs_of(method, accuracy, *, setting="article", noise=0.0, ends=None, nll=None, ece=None):
    """One run for each entry of `accuracy`; lines have ends, worse unless said otherwise."""
    if "line" in method and ends is None:
        ends = accuracy - values(0.05, len(accuracy), seed=99)

    def record(name, i, accuracy):
        scores = {"nll": nll, "ece": ece}
        return {"name": name, "accuracy": float(accuracy[i])} | {
            key: 0.5 if value is None else float(value[i]) for key, value in scores.items()
        }

    runs = []
    for i in range(len(accuracy)):
        points = [record("midpoint", i, accuracy)]
        ensembles = []
        if ends is not None:
            points = [
                record("endpoint 0", i, ends - 0.01),
                record("", i, 0 * ends),
                *points,
                record("endpoint 1", i, ends + 0.01),
            ]
            ensembles = [
                record("", i, accuracy + shift) | {"average": average}
                for average, shift in (("logit", 9), ("probability", 0.01), ("probability", 5))
            ]
        run = {"setting": setting, "label_noise": noise, "method": method, "seed": i}
        runs.append(run | {"points": points, "ensembles": ensembles})
    return runs


# Table


def test_table_is_that_of_numpy():
    accuracy, ends = values(0.9), values(0.8, seed=1)
    nll, ece = values(0.3, seed=2), values(0.02, seed=3)
    rows = summary.table(runs_of("line", accuracy, ends=ends, nll=nll, ece=ece))
    assert [row["place"] for row in rows] == ["midpoint", "endpoints", "ensemble"]
    expected = [accuracy, ends, accuracy + 0.01]
    for row, accuracies in zip(rows, expected, strict=True):
        assert row.items() >= {"setting": "article", "label_noise": 0.0, "method": "line"}.items()
        assert row["num_seeds"] == 8
        for name, column in (("accuracy", accuracies), ("nll", nll), ("ece", ece)):
            assert row[name]["mean"] == pytest.approx(column.mean())
            assert row[name]["stderr"] == pytest.approx(column.std(ddof=1) / np.sqrt(8))
    json.dumps(rows, allow_nan=False)


def test_table_has_every_method_place_noise_and_setting():
    metrics = synthetic_metrics.suite_metrics(num_seeds=3)
    rows = summary.table(metrics["runs"])

    def key(row):
        return row["setting"], row["label_noise"], row["method"], row["place"]

    ours, theirs = ({key(row): row for row in table} for table in (rows, metrics["table"]))
    assert len(ours) == len(rows)
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():
        for metric in summary.METRICS:
            assert row[metric] == pytest.approx(theirs[name][metric])


def test_one_seed_has_no_standard_error():
    (row,) = summary.table(runs_of("standard", [0.9]))
    assert row["num_seeds"] == 1
    assert row["accuracy"] == {"mean": pytest.approx(0.9), "stderr": None}


def test_no_runs_have_no_rows_and_no_sentences():
    assert summary.table([]) == []
    assert summary.compare([]) == []
    assert summary.verdict([]) == []


# Comparisons


def compared(runs, method, rival, metric="accuracy", **where):
    """The one comparison of two methods."""
    key = {"setting": "article", "label_noise": 0.0} | where
    key |= {"method": method, "rival": rival, "metric": metric}
    (found,) = [c for c in summary.compare(runs) if key.items() <= c._asdict().items()]
    return found


@pytest.mark.parametrize("method", ["line", "layerwise_line"])
@pytest.mark.parametrize("rival", ["standard", "standard_matched", "ema"])
def test_differences_are_paired_by_seed(method, rival):
    ours, theirs = values(0.91, seed=1), values(0.9, seed=2)
    found = compared(runs_of(method, ours) + runs_of(rival, theirs)[::-1], method, rival)
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert found.stderr == pytest.approx((ours - theirs).std(ddof=1) / np.sqrt(8))
    # Holm multiplies by the number of tests at most: these, and that with its own ends.
    p_value = scipy.stats.ttest_rel(ours, theirs).pvalue
    most = len(summary.RIVALS["article", method][rival]) + 1
    assert p_value <= found.p_value * (1 + 1e-9) <= most * p_value * (1 + 2e-9)
    assert found.num_seeds == 8


def test_holm_is_that_of_its_definition():
    rng = np.random.default_rng(0)
    runs = [
        run
        for i, method in enumerate(METHODS)
        for run in runs_of(method, values(rng.uniform(0.9, 0.91), seed=i), ends=values(0.9, seed=9))
    ]
    found = summary.compare(runs)
    corrected = sorted(c.p_value for c in found)
    differences = [[a[c.metric] - b[c.metric] for a, b in pairs_of(runs, c)] for c in found]
    raw = sorted(scipy.stats.ttest_1samp(d, 0).pvalue if any(d) else 1.0 for d in differences)
    k = len(raw)
    assert k == 16
    for i, value in enumerate(corrected):
        expected = max(min(1, (k - j) * raw[j]) for j in range(i + 1))
        assert value == pytest.approx(expected)


def pairs_of(runs, comparison):
    def of(method):
        return {run["seed"]: run for run in runs if run["method"] == method}

    def midpoint(run):
        return next(p for p in run["points"] if p["name"] == "midpoint")

    def ends(run):
        found = [p for p in run["points"] if p["name"].startswith("endpoint")]
        return {m: np.mean([p[m] for p in found]) for m in summary.METRICS}

    ours = of(comparison.method)
    if comparison.rival == "ends":
        return [(midpoint(run), ends(run)) for run in ours.values()]
    return [(midpoint(ours[seed]), midpoint(run)) for seed, run in of(comparison.rival).items()]


def test_every_comparison_is_made_once_and_is_json():
    runs = [
        run
        for noise in (0.0, 0.2)
        for setting in ("article", "tuned")
        for i, method in enumerate(METHODS)
        for run in runs_of(method, values(0.9, seed=i), noise=noise, setting=setting)
    ]
    found = summary.compare(runs)
    # Two methods with two rivals in three metrics and two in accuracy, and one tuned in three.
    assert len({c[:5] for c in found}) == len(found) == 2 * (2 * 8 + 3)
    json.dumps([c._asdict() for c in found], allow_nan=False)


def test_only_seeds_of_both_count():
    runs = runs_of("line", values(0.9, 8)) + runs_of("standard", values(0.9, 5, seed=1))[::-1]
    assert compared(runs, "line", "standard").num_seeds == 5


def test_no_common_seed_is_no_comparison():
    runs = runs_of("line", values(0.9, 1)) + [
        run | {"seed": 9} for run in runs_of("standard", values(0.9, 1))
    ]
    assert [c.rival for c in summary.compare(runs)] == ["ends"]


def test_equal_methods_do_not_differ():
    runs = runs_of("line", values(0.9)) + runs_of("standard", values(0.9))
    found = compared(runs, "line", "standard")
    assert (found.difference, found.stderr, found.p_value) == (0, 0, 1)


def test_settings_and_noise_are_kept_apart():
    runs = []
    for noise, setting, gain in (
        (0.0, "article", 0.01),
        (0.2, "article", 0.02),
        (0.2, "tuned", 0.03),
    ):
        theirs = values(0.9, seed=1)
        options = {"noise": noise, "setting": setting}
        runs += runs_of("layerwise_line", theirs + values(gain, spread=1e-4), **options)
        runs += runs_of("standard", theirs, **options)
        found = compared(runs, "layerwise_line", "standard", setting=setting, label_noise=noise)
        assert found.difference == pytest.approx(gain, abs=1e-3)


@pytest.mark.parametrize("missing", METHODS)
def test_methods_that_are_missing_are_passed_over(missing):
    runs = [
        run
        for method in METHODS
        if method != missing
        for run in runs_of(method, values(0.9, 3, seed=METHODS.index(method)))
    ]
    found = summary.compare(runs)
    assert not any(missing in (c.method, c.rival) for c in found)
    lost = {"ema": 2, "standard": 6, "standard_matched": 6, "line": 8, "layerwise_line": 8}
    assert len(found) == 16 - lost[missing]


# Sentences


@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (0.012, "better in accuracy (+1.20 ± "),
        (-0.012, "worse in accuracy (-1.20 ± "),
        (0.0001, "no significant difference in accuracy and NLL and ECE; "),
    ],
)
def test_known_differences_are_said(gain, says):
    theirs, differences = values(0.9, seed=1), values(gain, seed=2)
    runs = runs_of("line", theirs + differences) + runs_of("standard", theirs)
    (sentence,) = summary.verdict(summary.compare(runs))
    assert sentence.startswith(f"{CLEAN}, the line's midpoint: against standard training {says}")
    assert sentence.endswith("points) (8 seeds).")


def test_less_is_better_in_nll_and_ece():
    ours = {"accuracy": values(0.91), "nll": values(0.30, seed=1), "ece": values(0.05, seed=2)}
    theirs = {"accuracy": values(0.90), "nll": values(0.35, seed=3), "ece": values(0.02, seed=4)}
    runs = runs_of("layerwise_line", **ours, setting="tuned")
    runs += runs_of("standard", **theirs, setting="tuned")
    (sentence,) = summary.verdict(summary.compare(runs))
    accuracy, nll, ece = sentence.split(" against standard training ")[1].split(", ")
    assert "tuned for each" in sentence
    assert accuracy.startswith("better in accuracy (+1.00 ± ")
    assert nll.startswith("better in NLL (-0.050 ± ")
    assert ece.startswith("worse in ECE (+3.00 ± ")


@pytest.mark.parametrize(
    ("metric", "gain", "p_value", "says"),
    [
        ("accuracy", 0.012, 0.049, "better in accuracy (+1.20 ± 0.10 points)"),
        ("accuracy", 0.012, 0.05, "no significant difference in accuracy"),
        ("nll", -0.012, 1e-9, "better in NLL (-0.012 ± 0.001)"),
        ("nll", 0.012, 0.0, "worse in NLL (+0.012 ± 0.001)"),
        ("ece", -0.012, 0.01, "better in ECE (-1.20 ± 0.10 points)"),
    ],
)
@pytest.mark.parametrize(
    ("rival", "name"),
    [
        ("standard", "standard training"),
        ("standard_matched", "its matched control"),
        ("ema", "the EMA of standard training"),
        ("ends", "its own ends"),
    ],
)
def test_a_comparison_is_said_by_its_p_value_and_sign(metric, gain, p_value, says, rival, name):
    found = summary.Comparison("article", 0.2, "line", rival, metric, gain, 0.001, 8, p_value)
    (sentence,) = summary.verdict([found])
    start = f"With 20 % wrong labels, the line's midpoint: against {name} {says}"
    assert sentence.startswith(start)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_seeds_are_too_few(count):
    runs = runs_of("line", np.full(count, 0.92)) + runs_of("standard", np.full(count, 0.9))
    (sentence,) = summary.verdict(summary.compare(runs))
    assert sentence == f"{CLEAN}, the line's midpoint: too few seeds to test anything."


def test_sentences_of_a_whole_suite():
    sentences = summary.verdict(summary.compare(synthetic_metrics.suite_metrics()["runs"]))
    assert len(set(sentences)) == len(sentences) == 2 * 5
    assert sum("20 % wrong labels" in s for s in sentences) == 5
    assert all(s[0].isupper() and s.endswith(" seeds).") for s in sentences)


# Command


def test_the_command_prints_markdown(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    metrics = {
        "table": summary.table(runs_of("line", np.array([0.91234]))),
        "verdict": ["One.", "Two."],
    }
    path.write_text(json.dumps(metrics))
    assert summary.main([str(path)]) == 0
    output = capsys.readouterr().out
    assert "| 91.23 |" in output
    assert output.endswith("\n- One.\n- Two.\n")


@pytest.mark.parametrize("arguments", [[], ["missing.json"], ["a", "b"], ["--help"]])
def test_the_command_says_how_it_is_used(arguments, capsys):
    assert summary.main(arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == "usage: python -m experiments.summary METRICS_JSON\n"
