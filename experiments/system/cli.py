"""What every command does alike: flags, help, one sentence and exit code 2 for a mistake, signals."""

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.system import xla
from experiments.system.errors import UserError

_CONFIGS = Path(__file__).parents[1] / "configs"


def run(
    main: Callable[[SimpleNamespace], None],
    *,
    argv: Sequence[str] | None = None,
    description: str,
    default_config: str,
    default_workdir: str | None = None,
    define: Callable[[flags.FlagValues], None] = lambda values: None,
) -> int:
    """Runs a command.

    Args:
      main: takes the options `config` (locked), `workdir`, `overwrite` and those of `define`.
      argv: without the program's name; `sys.argv[1:]` by default.
      description: the first part of the help text.
      default_config: file of the config, with the kind after a colon.
      default_workdir: `None` if one must be given.
      define: defines more flags.

    Returns:
      The exit code: 0, or 2 after a sentence on standard error if the user can mend the failure.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    def command() -> None:
        options = _parse(argv, description, default_config, default_workdir, define)
        if options is not None:
            xla.configure()
            main(options)

    return exit_code(command)


def parser(module: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, whose help keeps the lines of its texts."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0, or 2 after a sentence on standard error if the user can mend the failure."""
    try:
        command()
    except UserError as error:
        return fail(error)
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130
    except OSError as error:
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        place = f": {error.filename}" if error.filename else ""
        return fail(f"{error.strerror}{place}; mend that and run the same command again.")
    return 0


def fail(error: object) -> int:
    """Prints a mistake as one sentence on standard error; returns the exit code 2."""
    sentence = " ".join(str(error).split())
    print(f"error: {sentence}", file=sys.stderr)
    return 2


def _parse(argv, description, default_config, default_workdir, define) -> SimpleNamespace | None:
    values = flags.FlagValues()
    define(values)
    more = list(values)
    flags.DEFINE_string(
        "workdir", default_workdir, "Folder for the results; made if needed.", flag_values=values
    )
    flags.DEFINE_bool(
        "overwrite", False, "Delete what the workdir holds, and start anew.", flag_values=values
    )
    if {"-h", "-help", "--help"} & set(argv):
        argv, wants_help = [a for a in argv if a not in ("-h", "-help", "--help")], True
    else:
        wants_help = False
    try:
        config_flags.DEFINE_config_file(
            "config",
            default_config,
            "FILE:KIND; override any value with --config.NAME=VALUE.",
            flag_values=values,
            sys_argv=["", *argv],
        )
        rest = values(["", *argv])[1:]
        config = values.config
        config.lock()  # fails if the file couldn't be loaded
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(error)) from error
    except (flags.Error, OSError, ValueError, TypeError, SyntaxError, ImportError) as error:
        raise _reason(error) from error
    if wants_help:
        _print(_help(description, values, config, default_config))
        return None
    if rest:
        raise UserError(f"Unexpected argument {rest[0]!r}; flags look like --config.seed=1.")
    if not values.workdir:
        raise UserError(
            "--workdir is not given; name a folder for the results: --workdir runs/line."
        )
    own = {name: values[name].value for name in ("workdir", "overwrite", *more)}
    return SimpleNamespace(config=config, **own)


def _help(
    description: str, values: flags.FlagValues, config: ConfigDict, default_config: str
) -> str:
    """The description, the flags, then every value of the config with what is said of it there."""
    lines = [description, "", "Flags:"]
    for name in sorted(name for name in values if "." not in name):
        flag = values[name]
        shown = f"--[no]{name}" if flag.boolean else f"--{name}"
        value = default_config if name == "config" else flag.default
        default = "" if value in (None, "", False) else f" (default: {_shown(value)})"
        lines += [f"  {shown}: {' '.join(flag.help.split())}{default}"]
    lines += ["", "The config's values, as flags:", ""]
    comments = _comments()
    for name, value in flatten(config.to_dict()):
        comment = comments.get(name.replace("config.run.", "config."), "")
        lines += [f"  --{name}={value!r}", *([f"      {comment}"] if comment else [])]
    return "\n".join(lines)


def _comments() -> dict[str, str]:
    """What the comment above a value of the configs says of it, by the value's dotted name."""
    found, comment = {}, []
    for line in map(str.strip, (_CONFIGS / "base.py").read_text().splitlines()):
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        if (value := re.match(r"(config[\w.]+) = ", line)) and comment:
            found.setdefault(value[1], " ".join(comment))
        comment = []
    return found


def _print(text: str) -> None:
    """Prints, also to a program such as `head` that reads a part of it."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # for what Python flushes last


def _shown(default: object) -> str:
    """A default, its path as it is from here."""
    return str(default).removeprefix(f"{os.getcwd()}{os.sep}")


def _unknown_key(error) -> str:
    if typo := re.search(r'Did you mean "(\w+)" instead of "(\w+)"', str(error)):
        right, wrong = typo.groups()
        return f"The config has no key {wrong!r}, did you mean {right!r}? --help lists its keys."
    key = re.search(r"lookup: ([\w.]+)", str(error)) or re.search(r"(\w+)", str(error))
    return f"The config has no key {key[1]!r}; --help lists its keys."


def _reason(error) -> UserError:
    """The sentence of a failure to parse: of the first `UserError` below it, or its own first line."""
    first, cause = None, error
    while cause is not None:
        first = cause if isinstance(cause, UserError) else first
        cause = cause.__cause__ or cause.__context__
    if first:
        return first
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, OSError | SyntaxError | ImportError):
        return UserError(f"The config can't be loaded: {lines[-1]}; give --config FILE.py:KIND.")
    return UserError(f"{lines[0]}; --help lists the flags.")


class Stop:
    """Remembers that SIGTERM or Ctrl-C came, so that the work can stop where nothing is lost."""

    def __init__(self):
        self.requested = False
        self._previous = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame):
        del number, frame
        if self.requested:  # a second one stops at once
            raise KeyboardInterrupt
        self.requested = True


def config_differences(old: dict, new: ConfigDict, ignore: Sequence[str]) -> list[str]:
    """`name is OLD there and NEW here` for every value that differs."""
    old, new = (dict(flatten(c)) for c in (old, new.to_dict()))
    return [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if name not in ignore and old.get(name) != new.get(name)
    ]


def flatten(config: dict, prefix: str = "config") -> Iterator[tuple[str, Any]]:
    """The values of a nested config by their dotted names.

    Example:
      >>> list(flatten({"seed": 0, "model": {"widths": (4, 8)}}))
      [('config.seed', 0), ('config.model.widths', [4, 8])]
    """
    for name, value in config.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", _lists(value)


def _lists(value):
    """A value as JSON has it, tuples inside tuples included."""
    return [_lists(item) for item in value] if isinstance(value, list | tuple) else value
