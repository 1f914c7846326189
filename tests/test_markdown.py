"""Results as Markdown, and the command that prints them."""

import json

import numpy as np
import pytest
from records import place, runs_of

from experiments import markdown
from experiments.results import claims, styles, summary, tables


def rows_of(*entries):
    """A row for every `(product, cost, passes, accuracy)`."""
    metrics = {name: {"mean": 0.5, "stderr": 0.01} for name in styles.METRICS}
    return [
        {"setting": "article", "label_noise": 0.0, "method": product, "place": "midpoint"}
        | {"num_seeds": 3, "values": {}, "training_cost": cost, "inference_passes": passes}
        | metrics
        | {"accuracy": {"mean": accuracy, "stderr": 0.001}}
        for product, cost, passes, accuracy in entries
    ]


def test_rows_are_grouped_by_budget_and_sorted_by_the_cost_of_predictions():
    rows = rows_of(
        ("snapshot", 1.01, 5, 0.91),
        ("sam", 2.0, 1, 0.92),
        ("line", 1.0, 1, 0.93),
        ("new", None, 1, 0.94),
        ("standard", 0.99, 1, 0.95),
    )
    text = tables.results({"table": rows, "verdict": ["One.", "Two."]})
    lines = text.splitlines()
    seen = [line.split(" | ")[2] for line in lines if line.startswith("| article")]
    assert seen == ["Standard", "Line", "Snapshot ensemble", "SAM", "new"]
    headings = [line for line in lines if line.startswith("#")]
    assert headings == [
        "#### Training budget: 1 x that of standard training",
        "#### Training budget: 2 x that of standard training",
        "#### Training budget: unknown",
    ]
    assert (
        "| article | 0 % | Line | midpoint | 1 | 93.00 ± 0.10 | 0.500 ± 0.010 | 50.00 ± 1.00 | 3 |"
        in lines
    )
    assert "| article | 0 % | Standard | network | 1 | 95.00 ± 0.10 |" in text
    assert text.endswith("\n- One.\n- Two.")


def test_ends_are_not_in_the_readme_and_missing_metrics_are_empty():
    rows = rows_of(("early_stopping", 1.0, 1, 0.9), ("line", 1.0, 1, 0.8))
    rows[1]["place"] = "endpoints"
    del rows[0]["nll"]
    rows[0]["ece"] = {"mean": None, "stderr": None}
    text = tables.results({"table": rows, "verdict": []})
    assert "Line" not in text
    assert text.splitlines()[-1].endswith("| 90.00 ± 0.10 |  | not finite | 3 |")


def test_tables_have_as_many_cells_in_every_line():
    runs = runs_of("standard", [0.9]) + runs_of("line", [0.9]) + runs_of("line", [0.9], noise=0.2)
    text = tables.results({"table": summary.table(runs), "verdict": []})
    counts = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert counts == {10}


def test_the_command_prints_markdown(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    metrics = {
        "table": summary.table(runs_of("line", np.array([0.91234]))),
        "verdict": ["One.", "Two."],
    }
    path.write_text(json.dumps(metrics))
    assert markdown.main([str(path)]) == 0
    output = capsys.readouterr().out
    assert "| 91.23 |" in output
    assert output.endswith("\n- One.\n- Two.\n")


def test_the_command_prints_the_methods_that_are_asked_for(tmp_path, capsys):
    path = tmp_path / "metrics.json"
    runs = runs_of("standard", [0.9]) + runs_of("line", [0.91]) + runs_of("ema", [0.92])
    for run in runs:
        run["places"]["ensemble"] = place(0.5)
    metrics = {"table": summary.table(runs), "verdict": ["One."], "counts": "2 claims."}
    path.write_text(json.dumps(metrics))
    assert markdown.main([str(path), "--only", "ema,line"]) == 0
    output = capsys.readouterr().out
    assert output.endswith("\n- 2 claims.\n")
    for shown, text in ((True, "91.00"), (True, "92.00"), (False, "90.00"), (False, "50.00")):
        assert (text in output) == shown
    assert markdown.main([str(path), "--only", "ema,lime"]) == 2
    assert "--only has 'lime'; choose among" in capsys.readouterr().err


def test_claims_stand_under_their_figures_with_their_tests(tmp_path, capsys):
    runs = runs_of("standard", [0.9, 0.91, 0.9]) + runs_of("line", [0.95, 0.961, 0.95])
    verdicts = claims.check(claims.ARTICLE, runs)
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"table": [], "claims": claims.to_json(verdicts)}))
    assert markdown.main([str(path), "--claims", "fig3,fig4"]) == 0
    figure, rest = capsys.readouterr().out.split("\n\n#### Figure 4\n\n")
    lines = figure.splitlines()
    assert lines[0] == "#### Figure 3"
    (row,) = [line for line in lines if "line is more accurate than standard" in line]
    assert row.endswith("| +5.03 ± 0.03 points | 3 | < 0.001 | agree |")
    assert {line.count("|") for line in lines if line.startswith("|")} == {6}
    # Those without runs are counted and not shown.
    assert rest == "- No claim has runs. Without runs: 20.\n"
    assert markdown.main([str(path), "--claims", "fig9"]) == 2
    assert "--claims has 'fig9'; choose among fig2, fig3" in capsys.readouterr().err


def test_two_suites_are_compared_by_seed(tmp_path, capsys):
    suites = {
        "ours": runs_of("line", [0.95, 0.96, 0.95, 0.5]) + runs_of("sam", [0.9]),
        "theirs": runs_of("line", [0.949, 0.9592, 0.949], nll=[0.4, 0.6, 0.5])
        + runs_of("standard", [0.9], noise=0.2),
        "others": runs_of("standard", [0.9]),
    }
    suites["ours"] += runs_of("standard", [0.91, 0.93], noise=0.2)
    paths = {name: tmp_path / f"{name}.json" for name in suites}
    for name, path in paths.items():
        path.write_text(json.dumps({"table": [], "runs": suites[name]}))
    ours, theirs, others = map(str, paths.values())
    assert markdown.main([ours, "--against", theirs]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| article | 0 % | Line | 3 | +0.09 ± 0.01 points, p 0.015 | +0.000 ± 0.058 nats, p 1.000 "
        "| +0.00 ± 0.00 points, p 1.000 |",
        "| article | 20 % | Standard | 1 | +1.00 points | +0.000 nats | +0.00 points |",
        "",
        "- The first file minus the second, over the seeds of both.",
    ]
    assert markdown.main([ours, "--against", others]) == 2
    assert "no run of the same method" in capsys.readouterr().err
    other = json.dumps({"table": [], "runs": suites["ours"], "config": {"suite": "cifar10"}})
    paths["others"].write_text(other)
    assert markdown.main([others, "--against", ours]) == 2
    assert "the suites cifar10 and None; compare" in capsys.readouterr().err
    assert markdown.main([ours, "--against", "missing.json"]) == 2
    assert "missing.json can't be read" in capsys.readouterr().err


def test_the_command_names_a_file_that_is_missing(capsys):
    assert markdown.main(["missing.json"]) == 2
    assert capsys.readouterr().err == (
        "error: missing.json can't be read (No such file or directory).\n"
    )


def test_what_was_chosen_is_said_with_what_was_tried():
    rate, decay = "optimizer.learning_rate", "optimizer.weight_decay"
    metrics = {
        "config": {
            "sweeps": {"dropout": {"name": "model.dropout", "values": [0.05, 0.15]}},
            "tuning": {"learning_rate": [0.1, 2.0], "weight_decay": [1e-4]},
        },
        "chosen": [
            {"setting": setting, "label_noise": noise, "method": method, "values": values}
            for setting, noise, method, values in (
                ("article", 0.0, "dropout", {"model.dropout": 0.15}),
                ("tuned", 0.2, "line", {rate: 2.0, decay: 1e-4}),
                ("tuned", 0.2, "ema", {rate: 0.1, decay: 1e-4}),
                ("tuning", 0.2, "ema", {rate: 0.1, decay: 1e-4}),
            )
        ],
    }
    assert tables.chosen_said(metrics) == [
        "Chosen by validation accuracy, article setting, clean labels: Dropout: dropout 0.15. "
        "Tried: dropout 0.05, 0.15.",
        "Chosen by validation accuracy, tuned setting, 20 % wrong labels: Line: learning rate 2, "
        "weight decay 0.0001; EMA: learning rate 0.1, weight decay 0.0001. "
        "Tried: learning rate 0.1, 2; weight decay 0.0001.",
    ]
    assert tables.chosen_said({}) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "is not JSON"),
        ("\udcff", "is not JSON"),
        ("[]", "has no table; give"),
        ('{"runs": []}', "has no table; give"),
    ],
)
def test_the_command_names_a_file_of_something_else(tmp_path, capsys, content, sentence):
    path = tmp_path / "x.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert markdown.main([str(path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {path} {sentence}")
