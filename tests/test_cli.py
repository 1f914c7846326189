"""Commands: flags, help, sentences for mistakes, exit codes, signals."""

import errno
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from absl import flags

from experiments import __main__ as commands
from experiments.configs import check, cifar10, digits, imagenet, suites, tiny_imagenet
from experiments.reproduce.command import SUITES
from experiments.system import cli, progress
from experiments.system.errors import Interrupted, UserError
from experiments.system.values import flatten

CONFIGS = Path(suites.__file__).parent
CIFAR10 = f"{CONFIGS / 'cifar10.py'}:line"


@pytest.fixture
def command(capsys):
    """Runs a command; returns its exit code, the options that it got, and what it printed."""

    def run(*argv, default_workdir="runs/x", main=None, **more):
        options = []
        code = cli.run(
            main or options.append,
            argv=argv,
            description="Trains something.",
            default_config=CIFAR10,
            default_workdir=default_workdir,
            removed=check.REMOVED,
            **more,
        )
        assert not options or code == 0
        return code, *options, *capsys.readouterr()

    return run


def flat(config):
    return dict(flatten(config.to_dict()))


def other_value(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value[1:], value[0], value[0]] if value else [1]
    return f"{value}x" if isinstance(value, str) else value + 1


def test_the_options_are_a_locked_config_workdir_overwrite_and_those_of_the_command(command):
    def define(values):
        flags.DEFINE_string("only", "all", "Which.", flag_values=values)

    given = ("--workdir", "there", "--overwrite", "--config.seed=7", "--only=some")
    _, options, *_ = command(*given, define=define)
    assert (options.workdir, options.overwrite, options.config.seed) == ("there", True, 7)
    assert (options.only, options.given) == ("some", {"seed"})
    code, options, out, err = command(define=define)  # it has forgotten the one before
    assert (code, out, err) == (0, "", "")
    assert vars(options).keys() == {"config", "given", "workdir", "overwrite", "only"}
    assert options.config.to_dict() == cifar10.get_config("line").to_dict()
    assert (options.workdir, options.overwrite, options.only) == ("runs/x", False, "all")
    with pytest.raises(AttributeError, match="locked"):
        options.config.optimizer.lr = 1


@pytest.mark.parametrize("file", ["cifar10.py:curve", "suites.py:cifar10-full"])
def test_every_value_can_be_overridden(command, file):
    _, options, *_ = command(f"--config={CONFIGS / file}")
    changed = {name: other_value(value) for name, value in flat(options.config).items()}
    arguments = [
        f"--{name}={tuple(value) if isinstance(value, list) else value}"
        for name, value in changed.items()
    ]
    _, options, *_ = command(f"--config={CONFIGS / file}", *arguments)
    assert flat(options.config) == changed


def test_the_last_of_flags_that_are_given_twice_counts(command):
    for name, *given, expected in (
        ("seed", "1", "2", 2),
        ("evaluation.severities", "(1, 2)", "(3, 4)", [3, 4]),
        ("evaluation.severities", "(1, 2)", "()", []),
        ("evaluation.outside", "noise", "shuffled", ["shuffled"]),
    ):
        together = [f"--config.{name}={value}" for value in given]
        apart = [word for value in given for word in (f"--config.{name}", value)]
        for arguments in (together, apart):
            _, options, *_ = command(*arguments)
            assert flat(options.config)[f"config.{name}"] == expected


def test_help_has_every_value_with_a_sentence_and_its_bounds(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    modules = (cifar10, digits, tiny_imagenet, imagenet)
    configs = [module.get_config("line") for module in modules]
    configs += [suites.get_config(name) for name in ("digits", "cifar10-full", "imagenet-full")]
    names = {name for config in configs for name in flat(config)}
    assert [name for name in names if not cli.comment_of(name).text.endswith(".")] == []
    for file, config, value in (
        ("cifar10.py:line", cifar10.get_config("line"), "--config.seed=1234"),
        ("suites.py:digits", suites.get_config("digits"), "--config.num_threads=1234"),
    ):
        given = (f"--config={CONFIGS / file}", value, "--help")
        code, out, err = command(*given, main=pytest.fail, said=check.said)
        assert (code, err) == (0, "")
        assert value in out
        assert max(map(len, out.splitlines())) <= 70
        words = " ".join(out.split())
        assert all(f"--{name}=" in words and check.said(name) in words for name in flat(config))


MISTAKES = {
    "--config.seeed=1": r"The config has no key 'seeed', did you mean --config\.seed\?",
    "--config.learning_rate=1": "no key 'learning_rate', did you mean --config.optimizer.learning",
    "--config.split_seed=1": "config.split_seed is no more: the split is the same for all runs",
    "--config.seed.zzz=1": r"The config has no key 'seed\.zzz';",
    "--config.seed=abc": "flag --config.seed=abc: .*'abc'; --help lists the flags",
    f"--config={CONFIGS}/cifar10.py:lines": "Unknown method 'lines', did you mean 'line'; choose",
    f"--config={CONFIGS}/missing.py:line": r"can't be loaded: .*missing\.py.*; give --config FILE",
    "--config=": "The config can't be loaded: .*empty",
    "--bad=1": "Unknown command line flag 'bad'; --help lists the flags",
    "--workdir": "Missing value for flag --workdir",
    "--workdir=": "--workdir is not given; name a folder for the results",
    "line": r"Unexpected argument 'line'; flags look like --config\.seed=1",
}


def test_a_mistake_is_one_sentence_and_exit_code_2(command):
    for argument, said in MISTAKES.items():
        code, out, err = command(argument)
        assert (code, out) == (2, "")
        assert re.fullmatch(f"error: .*{said}.*\n", err)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UserError("Two\n  lines  of it; mend\tthat."), 2, "error: Two lines of it; mend that.\n"),
        (OSError(errno.EACCES, "?", "x/y.json"), 2, r"error: \?: x/y\.json; mend that .*\n"),
        (OSError(errno.ENOSPC, "No space left"), 2, "error: No space left; mend that .*\n"),
        (KeyboardInterrupt(), 130, "\nInterrupted.\n"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence(error, code, said, capsys):
    assert cli.exit_code(mock.Mock(side_effect=error)) == code
    assert re.fullmatch(said, capsys.readouterr().err)


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EIO, "bug"), KeyError("bug")])
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error), match="bug"):
        cli.exit_code(mock.Mock(side_effect=error))


@pytest.mark.parametrize(
    ("number", "alone", "code"),
    [(signal.SIGTERM, True, 75), (signal.SIGINT, True, 130), (signal.SIGINT, False, 75)],
)
def test_a_signal_is_remembered_and_decides_the_exit_code(number, alone, code, capsys):
    before = signal.getsignal(number)

    def command():
        with progress.Stop(alone) as stop:
            assert not stop.requested
            signal.raise_signal(number)
            assert stop.requested
            raise Interrupted

    assert cli.exit_code(command) == code
    assert signal.getsignal(number) == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "Stopping after " in capsys.readouterr().err


WORK = """
import sys, time
from experiments.system import progress
with progress.Stop():
    for _ in progress.batches([0] * 9, "predict snow"):
        print("begun", file=sys.stderr, flush=True)
        time.sleep(60)
"""


def test_the_first_signal_is_answered_and_a_second_one_ends_the_process():
    command = [sys.executable, "-c", WORK]
    waits = (("begun", signal.SIGINT), ("Stopping after compiling", signal.SIGTERM))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for wanted, number in waits:
            while wanted not in process.stderr.readline():
                assert process.poll() is None
            process.send_signal(number)
    assert process.returncode == 130


def test_what_is_no_command_is_answered_by_the_one_that_is_meant(capsys):
    for given, meant in (
        ("digits --only fig3", "`python -m experiments.reproduce digits --only fig3`?"),
        ("cifra", "`python -m experiments.cifar`?"),
        ("zzz", "without arguments it lists all."),
    ):
        assert commands.main(given.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith(f"{meant}\n")
    assert {name.removeprefix("reproduce ") for name in commands._SUITES} <= SUITES.keys()
