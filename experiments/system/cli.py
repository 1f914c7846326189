"""What every command does alike: flags, help, one sentence and exit code 2 for a mistake, signals."""

import argparse
import difflib
import errno
import functools
import itertools
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.system import xla
from experiments.system.errors import UserError
from experiments.system.values import flatten

_CONFIGS = Path(__file__).parents[1] / "configs"
_NONE: Mapping[str, tuple] = {}


def run(
    main: Callable[[SimpleNamespace], None],
    *,
    argv: Sequence[str] | None = None,
    description: str,
    default_config: str,
    default_workdir: str | None = None,
    define: Callable[[flags.FlagValues], None] = lambda values: None,
    said: Callable[[str], str] = lambda name: "",
    removed: Mapping[str, tuple] = _NONE,
) -> int:
    """Runs a command.

    Args:
      main: takes the options `config` (locked), `workdir`, `overwrite` and those of `define`.
      argv: without the program's name; `sys.argv[1:]` by default.
      description: the first part of the help text.
      default_config: file of the config, with the kind after a colon.
      default_workdir: `None` if one must be given.
      define: defines more flags.
      said: what a value of the config may be, by its name.
      removed: names of values that are no more; what stands in a value's place is last.

    Returns:
      The exit code: 0, or 2 after a sentence on standard error if the user can mend the failure.
    """
    argv = list(sys.argv[1:] if argv is None else argv)

    def command() -> None:
        options = _parse(argv, description, default_config, default_workdir, define, said, removed)
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


def _parse(
    argv, description, default_config, default_workdir, define, said, removed
) -> SimpleNamespace | None:
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
        raise UserError(_unknown_key(argv, default_config, removed)) from error
    except (flags.Error, OSError, ValueError, TypeError, SyntaxError, ImportError) as error:
        raise _reason(error) from error
    if wants_help:
        _print(_help(description, values, config, default_config, said))
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
    description: str,
    values: flags.FlagValues,
    config: ConfigDict,
    default_config: str,
    said: Callable[[str], str],
) -> str:
    """The description, the flags, then every value of the config with what it is and may be."""
    width = min(shutil.get_terminal_size().columns, 100)
    wrap = functools.partial(
        textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False
    )
    lines = [description, "", "Flags:"]
    for name in sorted(name for name in values if "." not in name):
        flag = values[name]
        shown = f"--[no]{name}" if flag.boolean else f"--{name}"
        value = default_config if name == "config" else flag.default
        default = "" if value in (None, "", False) else f" (default: {_shown(value)})"
        text = f"  {shown}: {' '.join(flag.help.split())}{default}"
        lines += [wrap(text, subsequent_indent="      ")]
    lines += ["", "The config's values, as flags, with what each may be in brackets:"]
    order, previous = list(comments()), ("", "")
    groups = list(dict.fromkeys(comment.group for comment in comments().values()))
    found = {name: (value, comment_of(name)) for name, value in flatten(config.to_dict())}

    def place(name: str) -> tuple:
        comment = found[name][1]
        return groups.index(comment.group), order.index(comment.of), name

    for name in sorted(found, key=place):
        value, comment = found[name]
        if comment.group != previous[0]:
            lines += ["", f"{comment.group}:", ""]
        sentence = "" if (comment.group, comment.text) == previous else comment.text
        bounds = f"[{said(name)}]" if said(name) else ""
        lines += [wrap(f"  --{name}={value!r}", subsequent_indent="      ")]
        if text := f"{sentence} {bounds}".strip():
            lines += [wrap(text, initial_indent="      ", subsequent_indent="      ")]
        previous = comment.group, comment.text
    return "\n".join(lines)


class Comment(NamedTuple):
    """What the configs say of a value: the heading that it stands under, and the comment above it."""

    group: str
    text: str
    of: str


@functools.cache
def comments() -> dict[str, Comment]:
    """The comments of all configs by the values' dotted names, in the order in which they are shown."""
    found: dict[str, Comment] = {}
    for file in ("suites", "base", "cifar10", "digits", "tiny_imagenet"):
        group, lines = "", []
        for line in map(str.strip, (_CONFIGS / f"{file}.py").read_text().splitlines()):
            if line.startswith("## "):
                group, lines = line.removeprefix("## "), []
            elif line.startswith("# "):
                lines.append(line.removeprefix("# "))
            else:
                value = re.match(r"(config[\w.]+) = ", line)
                if value and lines and value[1] not in found:
                    top = ".".join(value[1].split(".")[:2])
                    own = group or next(c.group for n, c in found.items() if n.startswith(top))
                    found[value[1]] = Comment(own, " ".join(lines), value[1])
                lines = []
    return found


def comment_of(name: str) -> Comment:
    """The comment of a value, or of the group of values that it is in.

    Raises:
      KeyError: there is none.
    """
    name = name.replace("config.run.", "config.")
    while name not in comments():
        name, dot, _ = name.rpartition(".")
        if not dot:
            raise KeyError(name)
    return comments()[name]


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


def _unknown_key(argv: Sequence[str], default_config: str, removed: Mapping[str, tuple]) -> str:
    """Which key of the command line the config has not, and which one is meant or in its place."""
    own, pairs = [], itertools.pairwise([*argv, ""])
    for argument, after in pairs:
        if argument.startswith("--config="):
            own.append(argument)
        elif argument == "--config":
            own.append(f"--config={after}")
    known = [name.removeprefix("config.") for name, _ in flatten(_config(own, default_config))]
    groups = {group for name in known for group in itertools.accumulate(name.split("."), _dotted)}
    named = (re.match(r"--?(?:no)?config\.([\w.]+)", argument) for argument in argv)
    for name in (found[1] for found in named if found):
        if name in groups:
            continue
        if name.removeprefix("run.") in removed:
            return f"config.{name} is no more: {removed[name.removeprefix('run.')][-1]}."
        leaf = name.rpartition(".")[2]
        others = [*known, *(group for group in groups if not name.startswith(group))]
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
        close += [other for other in known if other.rpartition(".")[2] == leaf]
        meant = f", did you mean --config.{close[0]}?" if close else ";"
        return f"The config has no key {name!r}{meant} --help lists its keys."
    return "The config has not all of the keys that are given; --help lists its keys."


def _dotted(group: str, name: str) -> str:
    return f"{group}.{name}"


def _config(argv: Sequence[str], default_config: str) -> dict[str, Any]:
    """The config without the values of the command line."""
    values = flags.FlagValues()
    config_flags.DEFINE_config_file(
        "config", default_config, "", flag_values=values, sys_argv=["", *argv]
    )
    values(["", *argv])
    return values.config.to_dict()


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
