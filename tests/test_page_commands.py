"""Commands that pages print work as printed: all are parsed and their values checked, some are run."""

import argparse
import contextlib
import importlib
import json
import re
import shlex
import subprocess
import sys

import pytest
from records import ROOT

from experiments.configs.check import check as check_run
from experiments.reproduce import plan
from experiments.system import cli

PAGES = ("first_line", "runs", "reproducing", "results")
TINY = [f"--config.{value}" for value in ("num_epochs=2", "model.widths=(4,8)")]


def commands(page: str) -> list[str]:
    text = (ROOT / ("README.md" if page == "README" else f"docs/{page}.md")).read_text()
    blocks = re.findall(r"\n\n```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"((?:^    .*\n)+)", text, re.MULTILINE)
    lines = [line.strip() for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    return [line for line in lines if line.startswith("python -m experiments.")]


class Parsed(Exception):
    """The command line is one that the command takes; nothing was done yet."""


@pytest.fixture
def up_to_the_work(monkeypatch):
    """Commands stop when their flags are read and the values of their configs checked."""
    run, parse = cli.run, argparse.ArgumentParser.parse_args

    def check(options, *_, **__):
        if "suite" in options.config:
            plan.check(options.config)
            entries = plan.entries(options.config, plan.figures_of(options.only))
            configs = [entry.config for entry in entries]
        else:
            configs = [options.config]
        assert configs
        for config in configs:
            check_run(config)

    def parse_args(*args, **kwargs):
        parse(*args, **kwargs)
        raise Parsed

    monkeypatch.setattr(cli, "run", lambda main, **kwargs: run(check, **kwargs))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)


def call(command: str) -> int:
    """The exit code of a command, in this process; a pipe into a file is left out."""
    module, *arguments = shlex.split(command.split(" > ")[0])[2:]
    found = importlib.import_module(module)
    if hasattr(found, "__path__"):
        found = importlib.import_module(f"{module}.__main__")
    return found.main(arguments)


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_accepted(page, up_to_the_work, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert commands(page)
    for command in dict.fromkeys(commands(page)):
        with contextlib.suppress(Parsed):
            assert call(command) == 0, command


def test_the_first_line(tmp_path, monkeypatch, capsys):
    """Word for word, but for a smaller network and less training: train, export, load."""
    line, single, export = (
        command.replace(" runs/", f" {tmp_path}/")
        for command in commands("first_line")
        if " runs/" in command
    )
    monkeypatch.chdir(ROOT)
    for command in (line, single):
        assert call(" ".join([command, *map(shlex.quote, TINY)])) == 0
    assert call(export) == 0
    assert len(list(tmp_path.glob("*/report.html"))) == 2
    folder = tmp_path / "layerwise_line" / "export" / "midpoint-safetensors"
    assert json.loads((folder / "model_card.json").read_text())
    page = (ROOT / "docs" / "first_line.md").read_text()
    (program,) = re.findall(r"(?:^    import numpy.*\n)(?:^    .*\n|\n)+", page, re.MULTILINE)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    capsys.readouterr()
    exec(re.sub(r"^    ", "", program, flags=re.MULTILINE), {})
    printed = capsys.readouterr().out
    assert re.fullmatch(r"\[\d \d \d \d\]\n", printed)


def test_the_command_of_the_readme(tmp_path):
    """In a fresh process, shortened."""
    small = ("seeds=(0,)", "products=('standard','layerwise_line')", "run.num_epochs=2")
    small += ("run.model.widths=(4,8)", "run.evaluation.num_points=3")
    small += ("run.evaluation.corruptions=('snow',)", "run.evaluation.severities=(1,)")
    (command,) = commands("README")
    arguments = [*shlex.split(command)[1:], "--workdir", str(tmp_path)]
    arguments += [f"--config.{value}" for value in small]
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "figures" / "fig7.png").exists()
    assert (tmp_path / "report.html").exists()
