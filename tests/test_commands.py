"""What can be run, as the source says it; and its completion by a real shell."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks
from experiments import cifar, commands, completion, recipes, reproduce
from experiments.configs import base

ROOT = Path(commands.__file__).parent.parent
BENCHMARKS = Path(benchmarks.__file__).parent


def test_every_command_has_a_sentence():
    for folder in (commands.FOLDER, BENCHMARKS):
        found = commands.sentences(folder)
        assert found
        assert all(len(text) > 10 for text in found.values())
        assert not any("see `" in text for text in found.values())
    assert {"cifar", "doctor", "reproduce", "completion"} <= commands.sentences().keys()
    assert "errors" not in commands.sentences()  # nothing to run


def test_the_list_of_commands_is_printed():
    for package in ("experiments", "benchmarks"):
        done = subprocess.run(
            [sys.executable, "-m", package], cwd=ROOT, capture_output=True, text=True, check=True
        )
        for name, text in commands.sentences(ROOT / package).items():
            assert f"  {name} " in done.stdout
            assert text in done.stdout


def test_flags_are_those_of_the_command():
    assert {"--workdir", "--config", "--overwrite", "--only", "--check", "--scale"} <= set(
        commands.flags("reproduce")
    )
    assert "--distributed" in commands.flags("cifar")
    assert "--distributed" not in commands.flags("reproduce")
    assert commands.flags("doctor") == [
        *("--config", "--data_dir", "--dataset", "--help", "--quick", "--workdir")
    ]


def test_comments_are_those_of_values_that_exist():
    names = {name for name, _ in completion.cli.flatten(base.base_config("line").to_dict())}
    values = {name for name in commands.comments() if name in names}
    assert len(values) > 30
    assert commands.comments()["config.num_classes"].startswith("How many classes")
    assert "config.seed" not in commands.comments()  # what is said of the recipe isn't of the seed


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """What bash's function answers to a line."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    path = tmp_path_factory.mktemp("completion") / "script"
    path.write_text(completion.script("bash"))

    def run(line: str) -> list[str]:
        ask = (
            f"source {path}; COMP_LINE=$1; COMP_POINT=${{#1}}; COMP_WORDBREAKS=' =:'; "
            '_subspace_jax; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            [bash, "--norc", "-c", ask, "bash", line], capture_output=True, text=True, check=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    return run


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m experiments.doc", ["experiments.doctor"]),
        ("python -m experiments.cifar --over", ["--overwrite"]),
        ("python -m experiments.cifar --config.optimizer.mom", ["--config.optimizer.momentum="]),
        ("python -m experiments.reproduce tiny", ["tiny_imagenet"]),
        ("python -m experiments.reproduce digits --only tun", ["tuned"]),
        ("python -m experiments.reproduce cifar10 --scale sm", ["small"]),
        (
            "python -m experiments.cifar --config experiments/configs/digits.py:curve_",
            ["curve_finding"],
        ),
        (
            "python -m experiments.cifar --config=experiments/configs/digits.py:curve_",
            ["curve_finding"],
        ),
        ("python -m experiments.reproduce --config experiments/configs/suites.py:dig", ["digits"]),
        ("python3 -m experiments.completion --he", ["--help"]),
        ("python -m http.server ", []),
        ("python script.py --over", []),
    ],
)
def test_bash_completes_real_words(complete, line, expected):
    assert complete(line) == expected


def test_all_recipes_follow_the_colon(complete):
    found = complete("python -m experiments.cifar --config experiments/configs/cifar10.py:")
    assert found == list(recipes.RECIPES)


def test_help_says_what_values_mean_and_shows_no_folders_of_this_machine(capsys):
    assert cifar.main(["--help"]) == 0
    assert "Radius of sharpness-aware minimisation" in capsys.readouterr().out
    assert reproduce.main(["digits", "--help"]) == 0
    out = capsys.readouterr().out
    assert "Where TFDS keeps its data" in out
    assert f"{commands.FOLDER}/reproduce.py" not in out
    assert out.index("  --only: ") < out.index("  --config.noise_rates=")
