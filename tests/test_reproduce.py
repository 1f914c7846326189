"""The command that makes every figure, shortened, and the committed records of its real runs."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.configs import suites
from experiments.report import pages
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce import scheduler
from experiments.reproduce.records import weights_path
from experiments.results import claims, summary
from experiments.system import provenance

ROOT = Path(__file__).resolve().parent.parent
PRODUCTS = ("standard", "standard_matched", "ema", "line", "ensemble", "dropout")
SHORT = [
    "--config.run.num_epochs=2",
    "--config.run.model.widths=(4, 8)",
    "--config.run.steps_per_call=1",
    "--config.run.evaluation.num_points=3",
    "--config.run.evaluation.severities=(1, 5)",
    "--config.run.evaluation.outside=('noise',)",
    "--config.sweeps.dropout.values=(0.1, 0.2)",
    "--config.tuning.recipes=('standard', 'line')",
    "--config.tuning.seeds=(100,)",
    "--config.tuning.learning_rate=(0.1, 1e30)",
    "--config.tuning.weight_decay=(1e-4,)",
    "--config.landscape.seeds=()",
]


FEW = ("standard", "line")
ALL = "fig3,fig5,fig6,fig7,tuned,rivals"


def command_line(workdir, *arguments, only=ALL, seeds=(0, 1, 2), products=PRODUCTS):
    arguments = [f"--config.seeds={seeds}", f"--config.products={products}", *arguments]
    return ["digits", "--workdir", str(workdir), f"--only={only}", *SHORT, *arguments]


def run(*arguments, **choices):
    return reproduce.main(command_line(*arguments, **choices))


def start(arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.reproduce", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "all"
    # The tuning with an infinite learning rate fails, is named and never chosen.
    process = start(command_line(folder))
    output, _ = process.communicate()
    assert process.returncode == 1, output
    return folder


@pytest.fixture(scope="module")
def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def test_every_product_is_in_the_table_with_every_seed(metrics):
    rows = {
        (row["setting"], row["label_noise"], row["method"]): row["num_seeds"]
        for row in metrics["table"]
    }
    for product in PRODUCTS:
        for noise in (0.0, 0.2):
            assert rows["article", noise, product] == 3
    for recipe in ("standard", "line"):
        assert rows["tuned", 0.2, recipe] == 3
    costs = {row["method"]: row["training_cost"] for row in metrics["table"]}
    assert costs["standard"] == costs["line"] == 1
    assert costs["ensemble"] == 2


def test_how_the_runs_were_made_is_said_once_for_all_of_one_machine(metrics):
    (made,) = metrics["provenance"]["made"]
    record = metrics["provenance"]
    for name in ("commit", "versions", "device", "cpu", "precision"):
        assert made[name] == record[name]
    assert made["num_runs"] == record["num_runs"] == len(metrics["runs"])
    assert made["images_per_second"] > 0
    assert {run["made"] for run in metrics["runs"]} == {0}


def test_what_is_said_follows_from_the_runs(metrics):
    chosen = summary.choose_values(metrics["runs"])
    stored = claims.from_json(metrics["claims"])
    verdicts = claims.check(claims.CONTROLS, metrics["runs"], chosen)
    again = [v for v in stored if v.claim in claims.CONTROLS]
    assert [v.outcome for v in again] == [v.outcome for v in verdicts]
    assert {cell["method"] for cell in metrics["chosen"]} == {"dropout", "standard", "line"}


def test_tuning_that_diverges_is_named_and_never_chosen(metrics):
    assert len(metrics["failed"]) == 2 * 2  # methods and noise rates
    for failure in metrics["failed"]:
        assert "learning_rate=1e+30" in failure["id"]
        assert "learning rate" in failure["error"]
    for cell in metrics["chosen"]:
        assert cell["values"].get("optimizer.learning_rate", 0.1) == 0.1


def test_a_results_file_that_would_be_deleted_is_refused(workdir, capsys):
    before = (workdir / "metrics.json").read_bytes()
    assert run(workdir, "--overwrite", f"--known_runs={workdir / 'metrics.json'}") == 2
    assert "which --overwrite would delete; give another" in capsys.readouterr().err
    assert (workdir / "metrics.json").read_bytes() == before


def test_figures_their_data_and_the_report_are_written(workdir):
    names = {path.name for path in (workdir / "figures").iterdir()}
    for figure in ("fig3", "fig5", "fig6", "fig7", "tuned", "rivals"):
        for kind in ("png", "pdf", "json"):
            assert f"{figure}.{kind}" in names
    page = (workdir / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"]?https?:", page)
    assert "Line" in (workdir / "table.md").read_text()


def test_running_it_again_trains_nothing_and_says_the_same(workdir, metrics, monkeypatch, capsys):
    monkeypatch.setattr(scheduler.steps, "fit", lambda *_: pytest.fail("something was trained"))
    assert run(workdir, "--check") == 1
    printed = capsys.readouterr()
    assert metrics["counts"] in printed.out
    assert "not significant" in printed.out
    assert "Failed: tuning/" in printed.err
    again = json.loads((workdir / "metrics.json").read_text())
    assert again["table"] == metrics["table"]


def test_what_is_known_to_diverge_does_not_keep_figures_from_being_drawn(workdir):
    assert run(workdir, "--draw_only") == 1


def test_a_figure_alone_takes_its_runs_alone(tmp_path, monkeypatch):
    assert run(tmp_path / "w", only="fig3", seeds=(0,), products=FEW) == 0
    metrics = json.loads((tmp_path / "w" / "metrics.json").read_text())
    assert {r["label_noise"] for r in metrics["runs"]} == {0.0}
    assert {claim["outcome"] for claim in metrics["claims"]} == {"too few seeds", "not run"}
    # Its runs are done, those of another figure are not. Numbers are from where they were from.
    # A signal that comes while figures are drawn waits for them.
    draw = pages.suite_figures.draw
    (tmp_path / "w" / "report.html").unlink()

    def signalled(*arguments):
        signal.raise_signal(signal.SIGTERM)
        return draw(*arguments)

    monkeypatch.setattr(pages.suite_figures, "draw", signalled)
    assert run(tmp_path / "w", "--draw_only", only="fig3", seeds=(0,), products=FEW) == 0
    assert (tmp_path / "w" / "report.html").exists()
    drawn = json.loads((tmp_path / "w" / "metrics.json").read_text())
    assert set(drawn["provenance"].pop("drawn")) == {"command", "commit", "date"}
    assert drawn == metrics
    before = (tmp_path / "w" / "metrics.json").read_bytes()
    assert run(tmp_path / "w", "--draw_only", only="fig7", seeds=(0,), products=FEW) == 2
    assert (tmp_path / "w" / "metrics.json").read_bytes() == before


def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, workdir):
    arguments = ["digits", "--workdir", str(tmp_path / "w"), "--only=fig3", *SHORT]
    arguments += ["--config.seeds=(0, 1)", "--config.products=('line',)"]
    arguments += ["--config.num_threads=1"]  # so that the second run is to come after the first
    process = start(arguments)
    records = tmp_path / "w" / "runs" / "article"
    while process.poll() is None and not list(records.rglob("*.json")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "run the same command again" in output
    kept = {path: path.read_bytes() for path in records.rglob("*.json")}
    assert kept
    process = start(arguments)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    for path, content in kept.items():
        assert path.read_bytes() == content
        theirs = json.loads((workdir / "runs" / "article" / path.relative_to(records)).read_text())
        assert json.loads(content)["points"] == theirs["points"]


# Runs that a results file has


def test_known_runs_give_the_same_results_and_train_nothing(workdir, metrics, tmp_path):
    # Without the tuning that diverged, which a results file does not have.
    line = command_line(tmp_path / "w", f"--known_runs={workdir / 'metrics.json'}", "--draw_only")
    line = [part for part in line if "tuning.learning_rate" not in part]
    assert reproduce.main([*line, "--config.tuning.learning_rate=(0.1,)"]) == 0
    found = json.loads((tmp_path / "w" / "metrics.json").read_text())
    for name in set(metrics) - {"config", "provenance", "failed"}:
        assert found[name] == metrics[name]
    assert found["provenance"]["made"] == metrics["provenance"]["made"]


def test_a_seed_is_added_to_known_runs_and_then_a_method(workdir, metrics, tmp_path, capsys):
    choices = {"seeds": (2, 3), "products": ("standard", "ensemble")}
    assert run(tmp_path, f"--known_runs={workdir / 'metrics.json'}", only="fig5", **choices) == 0
    assert "2 runs are known, 2 of 4 are to be done." in capsys.readouterr().out
    found = json.loads((tmp_path / "metrics.json").read_text())
    runs, theirs = ({run["id"]: run for run in m["runs"]} for m in (found, metrics))
    old = "article/standard/noise0/seed2"
    made, theirs_made = (
        provenance.of_a_run(m["provenance"]["made"][run["made"]])
        for m, run in ((found, runs[old]), (metrics, theirs[old]))
    )
    assert made | {"date": ""} == theirs_made | {"date": ""}
    assert runs[old] | {"made": 0} == theirs[old] | {"made": 0}
    assert sum(group["num_runs"] for group in found["provenance"]["made"]) == 4
    assert not weights_path(tmp_path, old).exists()
    # An ensemble starts from networks, which a results file has not.
    assert run(tmp_path, only="fig3", **choices) == 0
    assert "1 runs have a record but no weights" in capsys.readouterr().out
    assert weights_path(tmp_path, old).exists()
    again = json.loads((tmp_path / "metrics.json").read_text())
    assert {"article/ensemble/noise0/seed2", old} <= {run["id"] for run in again["runs"]}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["mnist"], "Unknown suite 'mnist'; choose one of digits, cifar10"),
        ([], "The first argument names no suite; choose one of digits, cifar10"),
        (["--check", "digits"], "The first argument names no suite"),
        (["cifar10", "--scale=huge"], "--scale is 'huge' but cifar10 has small, full"),
        (["digits", "--scale", "full"], "--scale is 'full' but digits has digits"),
        (["digits", "--only=fig9"], "--only is 'fig9'; choose among fig1"),
        (["digits", "--only=fig2", "--config.products=('line',)"], "no method of it"),
        (["digits", "--only=fig2", "--config.landscape.seeds=()"], "set config.landscape.seeds"),
        (["digits", "--only=fig3", "--draw_only"], "0 of 64 runs are done"),
        (["tiny_imagenet"], "set it to the unpacked Tiny-ImageNet"),
        (["digits", "--config.run.batch_size=5000"], "batch_size is 5000"),
        (["digits", "--config.noise_rates=(1.5,)"], "1.5"),
        (["digits", "--config.run.evaluation.corruptions=('rain',)"], "rain"),
        (["digits", "--config.run.evaluation.severities=(6,)"], "6"),
        (["digits", "--config.run.validation_size=0"], "validation_size"),
        (["cifar10", "--config.run.data_dir=/nowhere/x.npz"], "/nowhere/x.npz"),
        (["digits", "--known_runs=/nowhere/y.json"], "'/nowhere/y.json', which can't be read"),
        (["digits", "--draw_only", "--overwrite"], "--overwrite deletes all; give one of them"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_leaves_nothing(
    tmp_path, capsys, arguments, sentence
):
    assert reproduce.main([*arguments, "--workdir", str(tmp_path / "bad")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert sentence in said
    assert not (tmp_path / "bad").exists()


# The committed records


def committed(name):
    return json.loads((ROOT / "results" / name / "metrics.json").read_text())


@pytest.mark.parametrize("name", ["digits", "cifar10-small"])
def test_committed_results_are_those_of_the_suite(name):
    found = committed(name)
    config = suites.get_config(name)
    assert found["config"]["seeds"] == list(config.seeds)
    assert found["config"]["products"] == list(config.products)
    assert found["config"]["run"]["num_epochs"] == config.run.num_epochs
    assert "dirty" not in found["provenance"]["commit"]
    assert found["provenance"]["seconds_of_all_runs"] > 0
    assert found["failed"] == []


@pytest.mark.parametrize(
    "name",
    ["digits", "digits-bfloat16", "cifar10-small", "cifar10-small-30", "cifar10-small-pilot"],
)
def test_committed_results_agree_with_their_own_runs(name):
    found = committed(name)
    chosen = summary.choose_values(found["runs"])
    table = summary.table(found["runs"], found["config"]["products"], chosen)
    assert len(table) == len(found["table"])
    for ours, theirs in zip(table, found["table"], strict=True):
        assert ours["method"] == theirs["method"]
        if "accuracy" in ours:
            np.testing.assert_allclose(ours["accuracy"]["mean"], theirs["accuracy"]["mean"], 1e-4)
    stored = claims.from_json(found["claims"])
    for group in (claims.ARTICLE, claims.CONTROLS, claims.TUNED):
        again = claims.check(group, found["runs"], chosen)
        kept = [v.outcome for v in stored if v.claim in group]
        assert kept == [v.outcome for v in again]
