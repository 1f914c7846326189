"""The README is short, and what it shows is true: its program, its table, its commands, its links."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    part.strip()
    for block in re.findall(r"\n\n```\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    for part in line.split("&&")
    if part.strip()
]


# What makes a command small enough for a test; it is appended to the command as it is printed.
def test_it_is_short_and_what_it_links_to_exists():
    assert len(README.split()) <= 900
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


# The rows of the table of results: label noise, setting, metric.
def test_its_numbers_are_those_of_the_record():
    record = json.loads((ROOT / "results" / "digits" / "metrics.json").read_text())
    found = {
        (row["label_noise"], row["setting"], row["method"]): row
        for row in record["table"]
        if row["place"] == "midpoint"
    }

    def said(method, noise, setting, metric):
        value = found[noise, setting, method][metric]
        return f"{100 * value['mean']:.2f} ± {100 * value['stderr']:.2f} %"

    rows = [[c.strip() for c in r.split("|")[2:5]] for r in README.replace("*", "").splitlines()]
    cells = {row[0]: row[1:] for row in rows if row}
    for label, key in {
        "Accuracy, 20 % wrong labels, article's settings": (0.2, "article", "accuracy"),
        "The same, both with tuned settings": (0.2, "tuned", "accuracy"),
        "Calibration error, clean labels, tuned": (0.0, "tuned", "ece"),
        "Accuracy, clean labels, tuned": (0.0, "tuned", "accuracy"),
        "Calibration error, 20 % wrong labels, article's settings": (0.2, "article", "ece"),
    }.items():
        assert cells[label] == [said(name, *key) for name in ("standard", "layerwise_line")], label
    assert len(record["provenance"]["seeds"]) == 8


def test_what_setting_up_costs_is_on_record():
    """Sizes as they were measured; times are promised with room."""
    record = json.loads((ROOT / "results" / "setup" / "setup.json").read_text())
    first, second = record["first_command"], record["second_command"]
    gigabytes = (first["environment_megabytes"] + first["runs_megabytes"]) / 1000
    for said in (f"{first['download_megabytes']} MB", f"fill {gigabytes:.1f} GB"):
        assert said in README
    assert f"{second['more_download_megabytes']} MB more" in README
    for command, least in ((first, "It takes"), (second, "the tests, in")):
        (minutes,) = re.findall(rf"{least} (\d+) minutes", README)
        assert command["seconds"] <= 60 * int(minutes)
        assert all(part in COMMANDS for part in command["command"].split(" && "))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m experiments")])
def test_its_commands_work_as_printed(command, tmp_path):
    """What makes them small enough for a test is appended."""
    small = (
        *("seeds=(0,)", "products=('standard','layerwise_line')", "run.num_epochs=2"),
        *(
            "run.model.widths=(4,8)",
            "run.evaluation.num_points=3",
            "run.evaluation.severities=(1,)",
        ),
    )
    arguments = [*shlex.split(command)[1:], "--workdir", str(tmp_path)]
    arguments += [f"--config.{value}" for value in small]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures" / "fig7.png").exists()
    assert (tmp_path / "report.html").exists()
