"""What every command does alike: flags, help, one sentence and exit code 2 for a mistake, signals."""

import argparse
import difflib
import errno
import functools
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from experiments.system import xla
from experiments.system.errors import KILLED, Interrupted, UserError
from experiments.system.values import flatten

_CONFIGS = Path(__file__).parents[1] / "configs"
_NONE: Mapping[str, tuple] = {}
_KEY = re.compile(r"--?(?:no)?config\.([\w.]+)")


def run(
    main: Callable[[SimpleNamespace], None],
    *,
    argv: Sequence[str] | None = None,
    description: str,
    default_config: str,
    default_workdir: str | None = None,
    define: Callable[[flags.FlagValues], None] = lambda values: None,
    said: Callable[[str], str] = lambda name: "",  # what a value of the config may be
    removed: Mapping[str, tuple] = _NONE,  # values that are no more, what replaces them last
) -> int:
    """Runs a command whose config comes from a file and flags; returns its exit code.

    `main` takes the options `config` (locked), `given` (names of its values that flags set), `workdir`,
    `overwrite` and those of `define`.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    asked = [argument for argument in argv if argument in ("-h", "-help", "--help")]

    def command() -> None:
        values = _LastCounts()
        define(values)
        own = ["workdir", "overwrite", *values]
        flags.DEFINE_string(
            "workdir",
            default_workdir,
            "Folder for the results; made if needed.",
            flag_values=values,
        )
        flags.DEFINE_bool(
            "overwrite", False, "Delete what the workdir holds, and start anew.", flag_values=values
        )
        rest = _parse(values, [a for a in argv if a not in asked], default_config, removed)
        if asked:
            print(_help(description, values, default_config, said), flush=True)
            return
        if rest:
            raise UserError(f"Unexpected argument {rest[0]!r}; flags look like --config.seed=1.")
        if not values.workdir:
            raise UserError(
                "--workdir is not given; name a folder for the results: --workdir runs/line."
            )
        xla.configure()
        given = frozenset(values["config"].override_values)
        named = {name: values[name].value for name in own}
        main(SimpleNamespace(config=values.config, given=given, **named))

    return exit_code(command)


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m MODULE`, whose help keeps the lines of its texts."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def exit_code(command: Callable[[], None]) -> int:
    """Runs a command: 0, 75 or 130 if a signal stopped it, 2 after a sentence if one can mend it."""
    try:
        command()
    except UserError as error:
        return fail(error)
    except Interrupted as stopped:
        return stopped.code
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return KILLED
    except BrokenPipeError:  # a program such as `head` has read enough; Python flushes once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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


class _LastCounts(flags.FlagValues):
    """Flags of which the last one counts, those of tuples too, which would be joined."""

    def __setitem__(self, name: str, flag: flags.Flag) -> None:
        super().__setitem__(name, flag)
        if isinstance(flag, flags.MultiFlag):
            parse = flag.parse

            def parse_alone(text):
                flag.present = 0
                parse(text)

            flag.parse = parse_alone


def _parse(values: flags.FlagValues, argv, default_config, removed) -> list[str]:
    """Sets the flags, the config's among them, and returns what is no flag."""
    try:
        _define_config(values, argv, default_config)
        rest = values(["", *argv])[1:]
        values.config.lock()  # fails if the file couldn't be loaded
        return rest
    except (AttributeError, KeyError) as error:
        raise UserError(_unknown_key(argv, default_config, removed)) from error
    except Exception as error:  # whatever the code of a config raises
        raise _reason(error) from error


def _define_config(values: flags.FlagValues, argv: Sequence[str], default: str) -> None:
    text = "FILE:KIND; override any value with --config.NAME=VALUE."
    config_flags.DEFINE_config_file(
        "config", default, text, flag_values=values, sys_argv=["", *argv]
    )


def _unknown_key(argv: Sequence[str], default_config: str, removed: Mapping[str, tuple]) -> str:
    """Which key of the command line the config has not, and which one is meant or in its place."""
    given = [(argument, _KEY.match(argument)) for argument in argv]
    values, others = flags.FlagValues(), [argument for argument, key in given if not key]
    _define_config(values, others, default_config)
    try:
        values(["", *others], known_only=True)
    except Exception as error:  # of the file itself, whatever the flags are
        raise _reason(error) from error
    known = [name.removeprefix("config.") for name, _ in flatten(values.config.to_dict())]
    for name in (key[1] for _, key in given if key):
        if any(f"{one}.".startswith(f"{name}.") for one in known):
            continue
        own = name.removeprefix("run.")
        if own in removed:
            return f"config.{name} is no more: {removed[own][-1]}."
        leaf = name.rpartition(".")[2]
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        close += [other for other in known if other.rpartition(".")[2] == leaf]
        meant = f", did you mean --config.{close[0]}?" if close else ";"
        return f"The config has no key {name!r}{meant} --help lists its keys."
    return "The config has not all of the keys that are given; --help lists its keys."


def _reason(error) -> UserError:
    """The sentence of a failure to parse: of the first `UserError` below it, or its own first line."""
    first, cause = None, error
    while cause is not None:
        first = cause if isinstance(cause, UserError) else first
        cause = cause.__cause__ or cause.__context__
    if first:
        return first
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    if isinstance(error, flags.Error | ValueError | TypeError):
        return UserError(f"{lines[0]}; --help lists the flags.")
    return UserError(f"The config can't be loaded: {lines[-1]}; give --config FILE.py:KIND.")


def _help(description: str, values: flags.FlagValues, default_config: str, said) -> str:
    """The description, the flags, then every value of the config with what it is and may be."""
    width = min(shutil.get_terminal_size().columns, 100)
    wrap = functools.partial(
        textwrap.fill, width=width, break_long_words=False, break_on_hyphens=False
    )
    indent = " " * 6
    lines = [description, "", "Flags:"]
    for name in sorted(name for name in values if "." not in name):
        flag = values[name]
        shown = f"--[no]{name}" if flag.boolean else f"--{name}"
        value = default_config if name == "config" else flag.default
        value = str(value or "").removeprefix(f"{os.getcwd()}{os.sep}")
        default = value and f" (default: {value})"
        text = f"  {shown}: {' '.join(flag.help.split())}{default}"
        lines.append(wrap(text, subsequent_indent=indent))
    lines += ["", "The config's values, as flags, with what each may be in brackets:"]
    order, previous = list(comments()), None
    found = [(comment_of(name), name, value) for name, value in flatten(values.config.to_dict())]
    for comment, name, value in sorted(found, key=lambda row: (order.index(row[0].of), row[1])):
        if previous is None or comment.group != previous.group:
            lines += ["", f"{comment.group}:", ""]
        sentence = "" if comment == previous else comment.text
        bounds = f"[{said(name)}]" if said(name) else ""
        lines.append(wrap(f"  --{name}={value!r}", subsequent_indent=indent))
        if text := f"{sentence} {bounds}".strip():
            lines.append(wrap(text, initial_indent=indent, subsequent_indent=indent))
        previous = comment
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
    groups = list(dict.fromkeys(comment.group for comment in found.values()))
    return dict(sorted(found.items(), key=lambda item: groups.index(item[1].group)))


def comment_of(name: str) -> Comment:
    """The comment of a value, or of the group of values that it is in."""
    name = name.replace("config.run.", "config.")
    while name not in comments():
        name, dot, _ = name.rpartition(".")
        if not dot:
            raise KeyError(name)
    return comments()[name]


def config_differences(old: dict, new: ConfigDict, ignore: Sequence[str]) -> list[str]:
    """`name is OLD there and NEW here` for every value that differs."""
    old, new = (dict(flatten(c)) for c in (old, new.to_dict()))
    return [
        f"{name} is {old.get(name)!r} there and {new.get(name)!r} here"
        for name in sorted(old.keys() | new.keys())
        if name not in ignore and old.get(name) != new.get(name)
    ]
