"""The README is short, and what it shows is true: its program, its table, its commands, its links."""

import configparser
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
TINY = {
    "experiments.reproduce": [
        "--config.seeds=(0,)",
        "--config.products=('standard','layerwise_line')",
        "--config.run.num_epochs=2",
        "--config.run.model.widths=(4,8)",
        "--config.run.evaluation.num_points=3",
        "--config.run.evaluation.severities=(1,)",
    ]
}


def tables() -> list[list[str]]:
    found = re.findall(r"((?:^\|.*\n)+)", README, re.MULTILINE)
    return [table.splitlines()[2:] for table in found]  # below the header and its rule


def test_it_is_short_and_what_it_links_to_exists():
    assert len(README.split()) <= 900
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


# The rows of the table of results: label noise, setting, metric.
ROWS = {
    "Accuracy, 20 % wrong labels, article's settings": (0.2, "article", "accuracy"),
    "The same, both with tuned settings": (0.2, "tuned", "accuracy"),
    "Calibration error, clean labels, tuned": (0.0, "tuned", "ece"),
    "Accuracy, clean labels, tuned": (0.0, "tuned", "accuracy"),
    "Calibration error, 20 % wrong labels, article's settings": (0.2, "article", "ece"),
}


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

    (table,) = (table for table in tables() if "87.48" in "".join(table))
    cells = {row.split("|")[2].strip(): row.replace("*", "").split("|")[3:5] for row in table}
    for label, key in ROWS.items():
        expected = [said(method, *key) for method in ("standard", "layerwise_line")]
        assert [cell.strip() for cell in cells[label]] == expected, label
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
    module, *arguments = shlex.split(command)[2:]
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments, "--workdir", str(tmp_path), *TINY[module]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures" / "fig7.png").exists()
    assert (tmp_path / "report.html").exists()


def test_installing_names_extras_that_exist():
    setup = configparser.ConfigParser(interpolation=None)
    setup.read(ROOT / "setup.cfg")
    wanted = re.findall(r"-e '\.\[(\w+)\]'", " ".join(COMMANDS))
    assert wanted
    assert set(wanted) <= set(setup["options.extras_require"])
