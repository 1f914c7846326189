"""The demo's command, shortened, and the committed record of its real run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import digits, styles, summary
from experiments.configs.digits import get_config

ROOT = Path(__file__).resolve().parent.parent
SHORT = ["--config.run.num_epochs=2", "--config.run.steps_per_call=2"]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "demo"
    assert digits.main(["--workdir", str(folder), "--config.seeds=(0, 1)", *SHORT]) == 0
    return folder


@pytest.fixture(scope="module")
def metrics(workdir) -> dict:
    return json.loads((workdir / "metrics.json").read_text())


def test_every_method_runs_with_every_seed_with_clean_and_wrong_labels(metrics):
    found = {(r["setting"], r["method"], r["label_noise"], r["seed"]) for r in metrics["runs"]}
    methods = [("article", method) for method in get_config().methods]
    methods += [("tuned", method) for method in get_config().tuned]
    assert len(methods) == 10
    expected = {(*m, noise, seed) for m in methods for noise in (0.0, 0.2) for seed in (0, 1)}
    assert found == expected
    assert len(metrics["runs"]) == len(expected)


def test_table_and_verdict_follow_from_the_runs(metrics):
    assert metrics["table"] == summary.table(metrics["runs"])
    assert metrics["verdict"] == summary.verdict(summary.compare(metrics["runs"]))
    assert {row["method"] for row in metrics["table"]} <= styles.METHODS.keys()


def test_pictures_and_report_are_written(workdir):
    pictures = {path.name for path in (workdir / "figures").iterdir()}
    assert pictures == {"path.png", "reliability.png", "noise.png", "tuned.png"}
    page = (workdir / "report.html").read_text()
    assert not re.search(r"(src|href)=['\"]?https?:", page)


def test_running_it_again_shows_the_same_and_runs_nothing(workdir, metrics, capsys):
    before = (workdir / "metrics.json").read_bytes()
    assert digits.main(["--workdir", str(workdir), "--config.seeds=(0, 1)", *SHORT]) == 0
    printed = capsys.readouterr().out
    assert metrics["verdict"][0] in printed
    assert printed.strip().splitlines()[-1] == f"Report: {workdir / 'report.html'}"
    assert (workdir / "metrics.json").read_bytes() == before


def test_a_run_does_not_depend_on_what_runs_beside_it(metrics, tmp_path):
    arguments = ["--config.seeds=(1,)", "--config.num_threads=1", *SHORT]
    assert digits.main(["--workdir", str(tmp_path / "one"), *arguments]) == 0
    alone = json.loads((tmp_path / "one" / "metrics.json").read_text())["runs"]
    beside = [run for run in metrics["runs"] if run["seed"] == 1]
    for ours, theirs in zip(alone, beside, strict=True):
        assert {**ours, "wall_seconds": 0} == {**theirs, "wall_seconds": 0}


def test_the_sweep_chooses_by_validation_accuracy(tmp_path):
    arguments = ["--config", str(ROOT / "experiments/configs/digits.py:tune"), *SHORT]
    arguments += ["--config.seeds=(100,)", "--config.grid.weight_decay=(1e-4,)"]
    arguments += ["--config.grid.learning_rate=(1e-5, 0.1, 1e30)", "--workdir", str(tmp_path / "t")]
    assert digits.main(arguments) == 0
    found = json.loads((tmp_path / "t" / "metrics.json").read_text())
    assert len(found["chosen"]) == 4
    for cell in found["chosen"]:
        rivals = [
            c["accuracy"]
            for c in found["cells"]
            if (c["method"], c["label_noise"]) == (cell["method"], cell["label_noise"])
        ]
        assert len(rivals) == 3
        assert cell["accuracy"] == max(rivals) > 0
        assert cell["learning_rate"] == 0.1
    assert {c["accuracy"] for c in found["cells"] if c["learning_rate"] == 1e30} == {0.0}


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config=experiments/configs/digits.py:bogus", "Unknown variant 'bogus'"),
        ("--config.run.batch_size=5000", "batch_size is 5000 but the training split has 1000"),
        ("--config.run.lr=1", "no key 'lr'"),
        ("--config.run.evaluation.num_bins=0", "num_bins is 0"),
    ],
)
def test_bad_input_is_one_sentence_exit_code_2_and_leaves_nothing(
    tmp_path, capsys, monkeypatch, argument, sentence
):
    monkeypatch.chdir(ROOT)
    assert digits.main(["--workdir", str(tmp_path / "bad"), argument]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def committed(name: str) -> dict:
    return json.loads((ROOT / "results" / name / "metrics.json").read_text())


def test_tuned_values_are_those_that_the_committed_sweep_chose():
    config = get_config()
    for cell in committed("digits_tune")["chosen"]:
        tuned = config.tuned[cell["method"]]
        i = config.noise_rates.index(cell["label_noise"])
        assert tuned.learning_rate[i] == cell["learning_rate"]
        assert tuned.weight_decay[i] == cell["weight_decay"]


def test_sweep_and_demo_share_neither_seeds_nor_data_to_choose_and_report():
    assert not set(get_config("tune").seeds) & set(get_config("demo").seeds)


def test_committed_results_agree_with_their_own_runs():
    found = committed("digits")
    assert found["verdict"] == summary.verdict(summary.compare(found["runs"]))
    table = summary.table(found["runs"])
    assert len(table) == len(found["table"])
    for ours, theirs in zip(table, found["table"], strict=True):
        assert ours["method"] == theirs["method"]
        np.testing.assert_allclose(ours["accuracy"]["mean"], theirs["accuracy"]["mean"])
    assert "dirty" not in found["provenance"]["commit"]


def test_readme_shows_the_committed_table_and_verdict():
    readme = (ROOT / "README.md").read_text()
    assert summary.markdown(committed("digits")) in readme
