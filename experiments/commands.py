"""What can be run, read from the source: names, what each is for, and its flags."""

import ast
import functools
import re
from pathlib import Path

FOLDER = Path(__file__).parent


def sentences(folder: Path = FOLDER) -> dict[str, str]:
    """Module -> one sentence, of all modules in a package's folder that are commands."""
    return {
        name: re.sub(r";? ?see `[^`]*`", "", ast.get_docstring(tree).splitlines()[0])
        for name, tree in _trees(folder).items()
    }


def flags(name: str, folder: Path = FOLDER) -> list[str]:
    """The flags of a command, with those that all commands of its kind share."""
    tree = _trees(folder)[name]
    found = _defined(tree)
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    if calls & {"job.command", "cli.run"}:
        found += _defined(_parse(FOLDER / "cli.py")) + ["--config"]
    if "job.command" in calls:
        found += _defined(_parse(FOLDER / "hosts.py"))
    # `--scale` is read before the others.
    found += ["--scale"] if name == "reproduce" else []
    return sorted({*found, "--help"})


def comments(path: Path = FOLDER / "configs" / "base.py") -> dict[str, str]:
    """What the comment above a value of the configs says of it, by the value's dotted name.

    Example:
      >>> comments()["config.sharpness.rho"]
      'Radius of sharpness-aware minimisation; 0 for none.'
    """
    found, comment = {}, []
    for line in map(str.strip, path.read_text().splitlines()):
        if line.startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        if (value := re.match(r"(config[\w.]+) = ", line)) and comment:
            found.setdefault(value[1], " ".join(comment))
        comment = []
    return found


def table(package: str, folder: Path) -> str:
    """What `python -m PACKAGE` prints.

    Args:
      package: its name.
      folder: where its modules are.
    """
    found = sentences(folder)
    width = max(map(len, found))
    lines = "\n".join(f"  {name:{width}}  {text}" for name, text in found.items())
    return (
        f"The commands, each run as `python -m {package}.NAME`; --help says more of one.\n\n{lines}"
    )


@functools.cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@functools.cache
def _trees(folder: Path) -> dict[str, ast.Module]:
    paths = {path.stem: path for path in folder.glob("*.py")}
    paths |= {path.parent.name: path for path in folder.glob("*/__main__.py")}
    found = {name: _parse(path) for name, path in sorted(paths.items())}
    return {
        name: tree
        for name, tree in found.items()
        if name != "__main__"
        and any(
            isinstance(node, ast.If) and "__main__" in ast.unparse(node.test) for node in tree.body
        )
    }


def _defined(tree: ast.Module) -> list[str]:
    """The flags that calls in a module define, by argparse or absl."""
    found = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        first = node.args[0]
        if not (isinstance(first, ast.Constant) and isinstance(first.value, str)):
            continue
        if node.func.attr == "add_argument" and first.value.startswith("--"):
            found.append(first.value)
        elif node.func.attr in ("DEFINE_bool", "DEFINE_string", "DEFINE_integer", "DEFINE_float"):
            found.append(f"--{first.value}")
    return found
