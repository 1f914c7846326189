"""Commands: flags, help, sentences for mistakes, exit codes, signals."""

import errno
import re
import signal
from pathlib import Path

import ml_collections
import pytest
from absl import flags

from experiments.configs import check, cifar10, digits, imagenet, suites, tiny_imagenet
from experiments.system import cli
from experiments.system.cli import Stop, config_differences
from experiments.system.errors import UserError

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
        assert len(options) == (code == 0)
        return code, *options, *capsys.readouterr()

    return run


def flat(config):
    return dict(_flatten(config.to_dict()))


def _flatten(values, prefix="config"):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def other_value(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (*value[1:], value[0], value[0]) if value else (1,)
    return f"{value}x" if isinstance(value, str) else value + 1


# What is passed on


def test_the_options_are_config_workdir_and_overwrite(command):
    code, options, out, err = command()
    assert (code, out, err) == (0, "", "")
    assert vars(options).keys() == {"config", "workdir", "overwrite"}
    assert options.config.to_dict() == cifar10.get_config("line").to_dict()
    assert (options.workdir, options.overwrite) == ("runs/x", False)
    _, options, *_ = command("--workdir", "there", "--overwrite", "--config.seed=7")
    assert (options.workdir, options.overwrite, options.config.seed) == ("there", True, 7)


def test_the_config_is_locked(command):
    _, options, *_ = command()
    with pytest.raises(AttributeError, match="locked"):
        options.config.lr = 1
    with pytest.raises(AttributeError, match="locked"):
        options.config.optimizer.lr = 1


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("cifar10.py:curve", cifar10.get_config("curve")),
        ("suites.py:digits", suites.get_config("digits")),
        ("suites.py:cifar10-full", suites.get_config("cifar10-full")),
    ],
)
def test_every_value_can_be_overridden(command, file, expected):
    changed = {name: other_value(value) for name, value in flat(expected).items()}
    arguments = [f"--{name}={value}" for name, value in changed.items()]
    _, options, *_ = command(f"--config={CONFIGS / file}", *arguments)
    assert flat(options.config) == changed
    _, options, *_ = command(f"--config={CONFIGS / file}")
    assert flat(options.config) == flat(expected)


def test_a_command_can_have_flags_of_its_own(command):
    def define(values):
        flags.DEFINE_string("only", "all", "Which.", flag_values=values)

    _, options, *_ = command("--only=some", define=define)
    assert vars(options).keys() == {"config", "workdir", "overwrite", "only"}
    assert options.only == "some"
    _, options, *_ = command(define=define)
    assert options.only == "all"


def test_a_later_command_forgets_an_earlier_one(command):
    command("--config.seed=3", "--overwrite")
    _, options, *_ = command()
    assert (options.config.seed, options.overwrite) == (0, False)


# Help


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--config.seed=1234", "--help"]])
def test_help_is_on_standard_output(capsys, arguments):
    assert cli.run(pytest.fail, argv=arguments, description="D.", default_config=CIFAR10) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert output.out.startswith("D.\n")
    for text in (
        "--config",
        "--workdir",
        "--[no]overwrite",
        "--config.optimizer.weight_decay=0.0001",
    ):
        assert text in output.out
    assert ("--config.seed=1234" in output.out) == (len(arguments) == 2)


def test_every_value_has_a_sentence_and_its_bounds_in_the_help(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    modules = (cifar10, digits, tiny_imagenet, imagenet)
    configs = [module.get_config("line") for module in modules]
    configs += [suites.get_config(name) for name in ("digits", "cifar10-full", "imagenet-full")]
    names = {name for config in configs for name in flat(config)}
    without = [name for name in names if not cli.comment_of(name).text.endswith(".")]
    assert without == []
    for file in ("cifar10.py:line", "suites.py:digits"):
        argv = [f"--config={CONFIGS / file}", "--help"]
        options = {"description": "D.", "default_config": CIFAR10, "said": check.said}
        assert cli.run(pytest.fail, argv=argv, **options) == 0
        output = capsys.readouterr().out
        assert max(map(len, output.splitlines())) <= 70
        words = " ".join(output.split())
        of_suite = file.startswith("suites")
        config = suites.get_config("digits") if of_suite else cifar10.get_config("line")
        for name in flat(config):
            assert f"--{name}=" in output
            assert check.said(name) in words
        headings = [line for line in output.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
        assert headings[0] == "Flags:"
        assert len(set(headings)) == len(headings) == 7 + of_suite
        assert output.index("num_epochs") < output.index("model.depth" if not of_suite else "bins")


# Mistakes

MISTAKES = {
    # keys
    "--config.seeed=1": r"The config has no key 'seeed', did you mean --config\.seed\?",
    "--config.optimizr.momentum=1": "has no key 'optimizr.momentum', did you mean --config.optimizer",
    "--config.optimizer.momentun=1": "has no key 'optimizer.momentun', did you mean --config.optim",
    "--config.zzz=1": "The config has no key 'zzz'; --help lists its keys",
    "--config.optimizer.zzz=1": "The config has no key 'optimizer.zzz';",
    "--config.learning_rate=1": "no key 'learning_rate', did you mean --config.optimizer.learning",
    "--config.split_seed=1": "config.split_seed is no more: the split is the same for all runs",
    "--config.seed.zzz=1": r"The config has no key 'seed\.zzz';",
    # values
    "--config.seed=abc": "flag --config.seed=abc: .*'abc'; --help lists the flags",
    "--config.seed=1.5": "flag --config.seed=1.5: .*'1.5'",
    "--config.optimizer.momentum=x": "flag --config.optimizer.momentum=x: .*'x'",
    "--config.evaluation.recalibration_augment=2": "recalibration_augment=2: ",
    "--config.optimizer=1": "flag --config.optimizer=1: ",
    "--overwrite=maybe": "flag --overwrite=maybe: .*boolean",
    # files and kinds
    f"--config={CONFIGS}/cifar10.py:lines": "Unknown method 'lines', did you mean 'line'; choose",
    f"--config={CONFIGS}/suites.py:lines": "Unknown suite 'lines'; choose one of digits, cifar10-",
    f"--config={CONFIGS}/missing.py:line": r"can't be loaded: .*missing\.py.*; give --config FILE",
    f"--config={CONFIGS}:line": "The config can't be loaded: .*Is a directory",
    "--config=": "The config can't be loaded: .*empty",
    # flags
    "--bad=1": "Unknown command line flag 'bad'; --help lists the flags",
    "--workdr=x": "Unknown command line flag 'workdr'. Did you mean: workdir",
    "--seed=1": "Unknown command line flag 'seed'",
    "--workdir": "Missing value for flag --workdir",
    "--workdir=": "--workdir is not given; name a folder for the results",
    "line": r"Unexpected argument 'line'; flags look like --config\.seed=1",
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistake_is_one_sentence_and_exit_code_2(command, argument):
    code, out, err = command(argument)
    assert (code, out) == (2, "")
    assert re.match(f"error: .*{MISTAKES[argument]}", err)
    assert err.count("\n") == 1
    assert err.endswith("\n")


def test_a_mistake_is_a_mistake_with_help_too(command):
    code, out, err = command("--help", "--bad")
    assert (code, out) == (2, "")
    assert err.startswith("error: Unknown command line flag 'bad'")


def test_a_workdir_must_be_given_where_there_is_none_by_default(command):
    code, out, err = command(default_workdir=None)
    assert (code, out) == (2, "")
    assert err.startswith("error: --workdir is not given; name a folder for the results")


def raising(error):
    def main(options):
        raise error

    return main


def test_an_error_of_the_user_is_one_sentence(command):
    code, out, err = command(main=raising(UserError("Two\n  lines  of it; mend\tthat.")))
    assert (code, out, err) == (2, "", "error: Two lines of it; mend that.\n")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_takes_nothing_is_an_error_of_the_user(command, number):
    code, _, err = command(main=raising(OSError(number, "?", "runs/x/config.json")))
    assert code == 2
    assert re.fullmatch(
        r"error: \?: runs/x/config\.json; mend that and run the same command .*\n",
        err,
    )


def test_a_full_disk_is_one_without_a_name_too(command):
    code, _, err = command(main=raising(OSError(errno.ENOSPC, "No space left on device")))
    assert (code, err[:30]) == (2, "error: No space left on device")


@pytest.mark.parametrize(
    "error", [RuntimeError("bug"), ValueError("bug"), OSError(errno.EIO, "bug"), KeyError("bug")]
)
def test_other_errors_keep_their_traceback(command, error):
    with pytest.raises(type(error), match="bug"):
        command(main=raising(error))


def test_an_interruption_has_the_exit_code_of_one(command):
    code, out, err = command(main=raising(KeyboardInterrupt()))
    assert (code, out, err) == (130, "", "\nInterrupted.\n")


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_a_second_one_interrupts(number):
    with Stop() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


@pytest.mark.parametrize("error", [None, UserError, KeyboardInterrupt])
def test_handlers_are_restored(error):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def stopped():
        with Stop():
            assert signal.getsignal(signal.SIGTERM) not in before
            assert signal.getsignal(signal.SIGINT) not in before
            if error:
                raise error("why")

    if error:
        with pytest.raises(error, match="why"):
            stopped()
    else:
        stopped()
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


# Differences


def test_a_config_does_not_differ_from_what_json_makes_of_it():
    config = suites.get_config("digits")
    assert config_differences(config.to_dict(), config, ()) == []
    as_lists = ml_collections.ConfigDict({"a": {"b": (1, 2)}, "c": (0.1,)}, convert_dict=True)
    assert config_differences({"a": {"b": [1, 2]}, "c": [0.1]}, as_lists, ()) == []


def test_differences_are_named_in_order_but_for_those_ignored():
    old = {"z": 1, "a": {"b": [1, 2], "same": 3}, "gone": "x", "where": "here"}
    new = ml_collections.ConfigDict({"z": 2, "a": {"b": (1, 3), "same": 3}, "where": "there"})
    assert config_differences(old, new, ["config.where"]) == [
        "config.a.b is [1, 2] there and [1, 3] here",
        "config.gone is 'x' there and None here",
        "config.z is 1 there and 2 here",
    ]
