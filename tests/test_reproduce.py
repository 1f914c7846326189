"""The command that makes every figure, shortened, and the committed records of its real runs."""

import itertools
import json
import shlex
import signal
import threading
import time

import pytest
from records import SUITES, committed

from experiments import cifar, plane
from experiments.doctor import __main__ as doctor
from experiments.export import __main__ as export
from experiments.reproduce import __main__ as reproduce
from experiments.reproduce.records import run_folder, weights_path
from experiments.results import claims
from experiments.runs import finished, job, workdir

PRODUCTS = ("standard", "line", "ensemble", "dropout")
SHORT = [
    *("--config.run.num_epochs=2", "--config.run.model.widths=(4, 8)"),
    *("--config.run.steps_per_call=1", "--config.run.evaluation.num_points=3"),
    *("--config.run.evaluation.corruptions=('snow',)", "--config.run.evaluation.severities=(1,)"),
    "--config.run.evaluation.outside=('noise',)",
    *("--config.sweeps.dropout.values=(0.1, 0.2)", "--config.landscape.seeds=()"),
    *("--config.tuning.recipes=('line',)", "--config.tuning.seeds=(100,)"),
    *("--config.tuning.learning_rate=(0.1, 1e30)", "--config.tuning.weight_decay=(1e-4,)"),
]
ALL = "fig3,fig5,fig7,tuned,rivals"


def command_line(folder, *arguments, only=ALL, seeds=(0, 1), products=PRODUCTS):
    chosen = [f"--config.seeds={seeds}", f"--config.products={products}", f"--only={only}"]
    return ["digits", "--workdir", str(folder), *SHORT, *chosen, *arguments]


def run(*arguments, **choices):
    return reproduce.main(command_line(*arguments, **choices))


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    """A suite whose tuning with an infinite learning rate fails, is named and never chosen."""
    folder = tmp_path_factory.mktemp("digits") / "all"
    assert run(folder) == 1
    return folder


@pytest.fixture(scope="module")
def metrics(suite):
    return metrics_of(suite)


def test_every_product_is_in_the_table_with_every_seed_and_all_runs_are_of_one_machine(metrics):
    names = ("setting", "label_noise", "method", "num_seeds")
    rows = {tuple(row[name] for name in names) for row in metrics["table"]}
    assert {("article", noise, name, 2) for name in PRODUCTS for noise in (0.0, 0.2)} <= rows
    assert ("tuned", 0.2, "line", 2) in rows
    record = metrics["provenance"]
    (made,) = record["made"]
    names = ("commit", "versions", "device", "cpu", "precision")
    assert {name: made[name] for name in names} == {name: record[name] for name in names}
    assert made["num_runs"] == record["num_runs"] == len(metrics["runs"])
    assert {run["made"] for run in metrics["runs"]} == {0}


def test_tuning_that_diverges_is_named_and_never_chosen(metrics):
    assert len(metrics["failed"]) == 2  # noise rates
    assert all("learning_rate=1e+30" in failure["id"] for failure in metrics["failed"])
    rates = {cell["values"].get("optimizer.learning_rate") for cell in metrics["chosen"]}
    assert rates == {None, 0.1}


def test_figures_their_data_and_the_report_are_written(suite):
    names = {path.name for path in (suite / "figures").iterdir()}
    kinds = itertools.product(ALL.split(","), ("png", "pdf", "json"))
    assert {f"{name}.{kind}" for name, kind in kinds} <= names
    assert (suite / "report.html").exists()
    assert "Line" in (suite / "table.md").read_text()


def test_running_it_again_trains_nothing_and_says_the_same(suite, metrics, monkeypatch, capsys):
    monkeypatch.setattr(job.steps, "fit", lambda *_: pytest.fail("something was trained"))
    before = {path: path.read_bytes() for path in (suite / "runs").rglob("*.json")}
    assert run(suite, "--check") == 1
    printed = capsys.readouterr()
    assert metrics["counts"] in printed.out
    assert "Failed: tuning/" in printed.err
    assert run(suite, "--draw_only") == 1
    again = metrics_of(suite)
    assert set(again["provenance"].pop("drawn")) == {"command", "commit", "date"}
    assert again == metrics
    assert before == {path: path.read_bytes() for path in (suite / "runs").rglob("*.json")}


def test_every_run_is_the_folder_of_one(suite, tmp_path, monkeypatch, capsys):
    """For the commands that take a run's folder, and for that which trains one."""
    line, network = (run_folder(suite, f"article/{m}/noise0/seed0") for m in ("line", "standard"))
    for number, folder in enumerate((line, run_folder(suite, "article/ensemble/noise20/seed1"))):
        output = tmp_path / str(number)
        assert export.main([str(folder), "--format=npz", f"--output={output}"]) == 0
        assert "Exported" in capsys.readouterr().out
    assert doctor.main(["--workdir", str(line)]) == 0
    assert "metrics.json is reproduced" in capsys.readouterr().out
    before = (line / "metrics.json").read_bytes()
    assert plane.main([str(line), "--resolution=3", "--beside", str(network)]) == 0
    assert workdir.landscape(line)["slice"]["kind"] == "line"
    assert "</html>" in (line / "report.html").read_text()
    assert (line / "metrics.json").read_bytes() == before
    capsys.readouterr()
    monkeypatch.setattr(job.steps, "fit", lambda *_: pytest.fail("something was trained"))
    assert cifar.main(shlex.split(finished.command_of(line))[3:]) == 0
    assert "nothing to do" in capsys.readouterr().out
    tuning = next((suite / "runs" / "tuning").rglob("metrics.json")).parent
    hot = next((suite / "runs" / "tuning").rglob("diverged.json")).parent
    for folder, said in (
        (tuning, "has no weights.npz; delete"),
        (hot, "holds a run that diverged: The"),
        (suite, "holds a suite of runs"),
    ):
        assert export.main([str(folder), f"--output={tmp_path / 'none'}"]) == 2
        assert said in capsys.readouterr().err


def test_a_figure_alone_takes_its_runs_alone(tmp_path, monkeypatch, capsys):
    choices = {"seeds": (0,), "products": ("standard", "line")}
    assert run(tmp_path, only="fig3", **choices) == 0
    assert {r["label_noise"] for r in metrics_of(tmp_path)["runs"]} == {0.0}
    # Its runs are done, those of another figure are not.
    before = (tmp_path / "metrics.json").read_bytes()
    assert run(tmp_path, "--draw_only", only="fig7", **choices) == 2
    assert (tmp_path / "metrics.json").read_bytes() == before
    # Of all figures some runs are done: these are drawn, and the others named.
    assert run(tmp_path, "--draw_only", only="fig3,tuned", **choices) == 0
    found = metrics_of(tmp_path)
    assert "tuning/line" in " ".join(found["missing"])
    assert f"{len(found['missing'])} runs are missing: " in capsys.readouterr().out
    assert "Runs that are missing" in (tmp_path / "report.html").read_text()
    assert {r["id"] for r in found["runs"]} == {r["id"] for r in json.loads(before)["runs"]}


def test_sigterm_saves_and_the_same_command_goes_on(suite, tmp_path, monkeypatch, capsys):
    arguments = ["--config.num_threads=1"]  # so that the second run comes after the first
    choices = {"only": "fig3", "products": ("line",)}
    fit = job.steps.fit

    def signalled(*given):
        begun = bool(list((tmp_path / "runs").rglob("metrics.json")))
        for number, latest in enumerate(fit(*given)):
            if begun and number == 3:  # as the kernel does: to the thread that waits for all others
                signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM)
                time.sleep(0.1)
            yield latest

    with monkeypatch.context() as patched:
        patched.setattr(job.steps, "fit", signalled)
        assert run(tmp_path, *arguments, **choices) == 75
    assert "run the same command again" in capsys.readouterr().out
    (first,) = (tmp_path / "runs").rglob("metrics.json")
    kept = first.read_bytes()
    assert list((tmp_path / "runs").rglob("checkpoints"))
    assert run(tmp_path, *arguments, **choices) == 0
    assert first.read_bytes() == kept
    assert not list((tmp_path / "runs").rglob("checkpoints"))
    for seed in (0, 1):
        name = f"article/line/noise0/seed{seed}"
        ours, theirs = (metrics_of(run_folder(folder, name)) for folder in (tmp_path, suite))
        assert ours["points"] == theirs["points"]


def test_a_seed_is_added_to_known_runs_and_then_a_method(suite, metrics, tmp_path, capsys):
    choices = {"seeds": (1, 2), "products": ("standard", "ensemble")}
    assert run(tmp_path, f"--known_runs={suite / 'metrics.json'}", only="fig5", **choices) == 0
    assert "2 runs are known, 2 of 4 are to be done." in capsys.readouterr().out
    found = metrics_of(tmp_path)
    runs, theirs = ({run["id"]: run for run in m["runs"]} for m in (found, metrics))
    old = "article/standard/noise0/seed1"
    assert runs[old] | {"made": 0} == theirs[old] | {"made": 0}
    assert sum(group["num_runs"] for group in found["provenance"]["made"]) == 4
    assert not weights_path(tmp_path, old).exists()
    # An ensemble starts from networks, which a results file has not.
    assert run(tmp_path, only="fig3", **choices) == 0
    assert "1 runs have a record but no weights" in capsys.readouterr().out
    assert weights_path(tmp_path, old).exists()
    again = metrics_of(tmp_path)
    assert {"article/ensemble/noise0/seed1", old} <= {run["id"] for run in again["runs"]}
    # A file that would be deleted is refused.
    assert run(tmp_path, "--overwrite", f"--known_runs={tmp_path / 'metrics.json'}") == 2
    assert "which --overwrite would delete; give another" in capsys.readouterr().err
    assert metrics_of(tmp_path) == again


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("mnist", "Unknown suite 'mnist'; choose one of digits, cifar10"),
        ("cifar10 --scale=huge", "--scale is 'huge' but cifar10 has few, small, full"),
        ("digits --only=fig2 --config.products=('line',)", "no method of it"),
        ("digits --only=fig3 --draw_only", "0 of 64 runs are done"),
        ("tiny_imagenet", "set it to the unpacked Tiny-ImageNet"),
        ("digits --known_runs=/nowhere/y.json", "No such file or directory: /nowhere/y.json; mend"),
        ("digits --draw_only --overwrite", "--overwrite deletes all; give one of them"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_leaves_nothing(
    tmp_path, capsys, arguments, sentence
):
    assert reproduce.main([*arguments.split(), "--workdir", str(tmp_path / "bad")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert sentence in said
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("name", SUITES)
def test_committed_claims_are_those_of_the_runs(name):
    found = committed(name)
    assert found["failed"] == []
    stored = claims.from_json(found["claims"])
    for group in (claims.ARTICLE, claims.CONTROLS, claims.TUNED):
        again = claims.check(group, found["runs"])
        assert [v.outcome for v in stored if v.claim in group] == [v.outcome for v in again]
