"""What the library may import and call, read from its source."""

import ast
import pathlib

import pytest

import subspace_jax

FOLDER = pathlib.Path(subspace_jax.__file__).parent
# By dotted name below the package; the package itself is "__init__".
TREES = {
    ".".join(path.relative_to(FOLDER).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
        path.read_text()
    )
    for path in sorted(FOLDER.rglob("*.py"))
}
MODULES = set(TREES) - {"__init__"}

# Which of our modules each one may import. A new module needs a line here.
INTERNAL = {
    "tree": set(),
    "partition": {"tree"},
    "metrics": set(),
    "prediction": {"tree"},
    "recalibration": {"tree"},
    "diversity": {"tree"},
    "subspaces": {"tree"},
    "averaging": {"tree"},
    "training": {"tree", "subspaces"},
    "plotting": {"metrics"},
    "sharding": {"tree", "training"},
    "landscape": {"tree", "diversity", "recalibration"},
    "calibration": {"tree", "metrics", "prediction"},
    "detection": {"metrics"},
    "corruptions": {f"corruptions.{name}" for name in ("blur", "digital", "noise", "weather")},
    "corruptions.severities": set(),
    "corruptions.linear": set(),
    "corruptions.noise": {"corruptions.severities"},
    "corruptions.blur": {"corruptions.linear", "corruptions.severities"},
    "corruptions.digital": {"corruptions.linear", "corruptions.severities"},
    "corruptions.weather": {
        "corruptions.blur",
        "corruptions.linear",
        "corruptions.severities",
    },
    "contrib": set(),
    "contrib.alignment": {"tree"},
    "contrib.complexes": {"tree", "diversity", "subspaces"},
    "contrib.lora": {"tree", "diversity", "partition", "subspaces"},
    "contrib.sharpness": {"tree"},
    "contrib.swag": {"averaging", "tree"},
    "__init__": {name for name in MODULES if not name.startswith(("plotting", "contrib"))},
}
STANDARD_LIBRARY = {
    "collections",
    "dataclasses",
    "functools",
    "importlib",
    "inspect",
    "itertools",
    "math",
    "operator",
    "typing",
}
THIRD_PARTY = {"jax", "numpy"}
MORE_THIRD_PARTY = {
    **dict.fromkeys(
        (
            *("training", "averaging", "diversity", "subspaces"),
            *("contrib.sharpness", "contrib.swag"),
        ),
        {"optax"},
    ),
    # SciPy, in the functions that need it. JAX depends on SciPy itself.
    "landscape": {"optax", "scipy"},
    "contrib.alignment": {"scipy"},
    "plotting": {"matplotlib"},
}
FORBIDDEN_NAMES = {
    "__import__",
    "breakpoint",
    "eval",
    "exec",
    "input",
    "open",
    "print",
    "save",
    "load",
}

every_module = pytest.mark.parametrize("module", TREES)


def imports(module):
    """The dotted names that a module imports, inside functions too."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_its_place():
    assert set(INTERNAL) == set(TREES)


@every_module
def test_third_party_imports(module):
    allowed = (
        STANDARD_LIBRARY | THIRD_PARTY | {"subspace_jax"} | MORE_THIRD_PARTY.get(module, set())
    )
    assert {name.split(".")[0] for name in imports(module)} <= allowed


@every_module
def test_imports_of_our_own(module):
    names = [name for name in imports(module) if name.split(".")[0] == "subspace_jax"]
    own = {module_of(name.removeprefix("subspace_jax.")) for name in names}
    assert None not in own, "import from modules, by name"
    assert own <= INTERNAL[module]
    private = [name for name in names if name.split(".")[-1].startswith("_")]
    assert not private, "a name that crosses modules is public"


def module_of(name):
    """The longest part of a dotted name that is a module."""
    parts = name.split(".")
    names = [".".join(parts[:i]) for i in range(len(parts), 0, -1)]
    return next((name for name in names if name in MODULES), None)


@every_module
def test_no_input_or_output(module):
    nodes = list(ast.walk(TREES[module]))
    names = {node.id for node in nodes if isinstance(node, ast.Name)}
    names |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    assert not names & FORBIDDEN_NAMES
