"""From runs to a table and sentences, on runs whose differences are known."""

import json

import numpy as np
import pytest
import synthetic_metrics

from experiments import summary

METHODS = ("standard", "standard_matched", "ema", "line", "layerwise_line")
NAMES = {
    "standard": "standard",
    "standard_matched": "standard (matched)",
    "ema": "ema",
    "line": "line",
    "layerwise_line": "layerwise line",
}
CLEAN, NOISY = "With clean labels", "With 20 % wrong labels"
TUNED = ", learning rate and weight decay tuned for each"


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


def sentences_about(runs, method, rival, where=CLEAN):
    start = f"{where}, the {method}'s midpoint against {rival} training: "
    return [s.removeprefix(start) for s in summary.verdict(runs) if s.startswith(start)]


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
    assert summary.verdict([]) == []


# Sentences


@pytest.mark.parametrize("method", ["line", "layerwise_line"])
@pytest.mark.parametrize("rival", ["standard", "standard_matched", "ema"])
@pytest.mark.parametrize(
    ("gain", "says"),
    [
        (0.012, "better in accuracy (+1.20"),
        (-0.012, "worse in accuracy (-1.20"),
        (0.0001, "no significant difference in accuracy (+0.01"),
    ],
)
def test_known_differences_in_accuracy_are_said(method, rival, gain, says):
    theirs, differences = values(0.9, seed=1), values(gain, seed=2)
    runs = runs_of(method, theirs + differences) + runs_of(rival, theirs)
    stderr = 100 * differences.std(ddof=1) / np.sqrt(8)
    assert sentences_about(runs, NAMES[method], NAMES[rival]) == [
        f"{says} ± {stderr:.2f} points) (8 seeds)."
    ]


def test_seeds_are_paired():
    theirs = values(0.9, spread=0.1)  # between seeds far more than between methods
    ours = theirs + values(0.005, spread=0.001, seed=1)
    runs = runs_of("line", ours) + runs_of("standard", theirs)
    assert sentences_about(runs, "line", "standard")[0].startswith("better in accuracy (+0.50 ±")
    runs = runs_of("line", ours) + runs_of("standard", theirs[::-1])
    assert sentences_about(runs, "line", "standard")[0].startswith("no significant difference")


def test_only_seeds_of_both_count():
    runs = runs_of("line", values(0.9, 8)) + runs_of("standard", values(0.9, 5, seed=1))[::-1]
    assert sentences_about(runs, "line", "standard")[0].endswith("(5 seeds).")


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_seeds_are_too_few(count):
    runs = runs_of("line", np.full(count, 0.92)) + runs_of("standard", np.full(count, 0.9))
    (sentence,) = sentences_about(runs, "line", "standard")
    assert sentence == f"accuracy +2 points (too few seeds for a test) ({count} seeds)."


def test_equal_methods_do_not_differ():
    runs = runs_of("line", values(0.9)) + runs_of("standard", values(0.9))
    (sentence,) = sentences_about(runs, "line", "standard")
    assert sentence.startswith("no significant difference in accuracy (+0.00 ± 0.00 points)")


def test_the_midpoint_is_compared_with_the_mean_of_its_ends():
    runs = runs_of("line", values(0.92), ends=values(0.9, seed=1))
    (sentence,) = summary.verdict(runs)
    start = f"{CLEAN}, the line's midpoint against its own ends: better in accuracy (+2.00 ± "
    assert sentence.startswith(start)


def test_tuned_methods_are_compared_in_every_metric():
    ours = {"accuracy": values(0.91), "nll": values(0.30, seed=1), "ece": values(0.05, seed=2)}
    theirs = {"accuracy": values(0.90), "nll": values(0.35, seed=3), "ece": values(0.02, seed=4)}
    runs = runs_of("layerwise_line", **ours, setting="tuned")
    runs += runs_of("standard", **theirs, setting="tuned")
    (sentence,) = sentences_about(runs, "layerwise line", "standard", CLEAN + TUNED)
    accuracy, nll, ece = sentence.split("; ")
    assert accuracy.startswith("better in accuracy (+1.00 ± ")
    assert nll.startswith("better in NLL (-0.050 ± ")
    assert ece.startswith("worse in ECE (+0.030 ± ")


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
    for where, gain in ((CLEAN, "1"), (NOISY, "2"), (NOISY + TUNED, "3")):
        (sentence,) = sentences_about(runs, "layerwise line", "standard", where)
        assert sentence.startswith(f"better in accuracy (+{gain}.00 ± ")
    assert len(summary.verdict(runs)) == 3


@pytest.mark.parametrize("noises", [(0.0,), (0.2,), (0.0, 0.2)])
def test_every_comparison_is_said_once(noises):
    runs = [
        run
        for noise in noises
        for i, method in enumerate(METHODS)
        for run in runs_of(method, values(0.9, seed=i), noise=noise, ends=values(0.8, seed=9))
    ]
    sentences = summary.verdict(runs)
    assert len(set(sentences)) == len(sentences) == 7 * len(noises)
    for sentence in sentences:
        assert sentence.startswith((CLEAN, NOISY))
        assert sentence.endswith("(8 seeds).")


@pytest.mark.parametrize("missing", METHODS)
def test_methods_that_are_missing_are_passed_over(missing):
    runs = [
        run
        for method in METHODS
        if method != missing
        for run in runs_of(method, values(0.9, 3, seed=METHODS.index(method)))
    ]
    text = " ".join(summary.verdict(runs))
    assert f"the {NAMES[missing]}'s midpoint" not in text
    assert f"against {NAMES[missing]} training" not in text
    assert len(summary.verdict(runs)) == {"line": 3, "layerwise_line": 4}.get(missing, 5)


def test_sentences_of_a_whole_suite():
    sentences = summary.verdict(synthetic_metrics.suite_metrics()["runs"])
    assert len(sentences) == 2 * 7 + 2
    assert all(s[0].isupper() and s.endswith(".") for s in sentences)


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
