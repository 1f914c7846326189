"""Which folder may import which, and that nothing goes in a circle: read from the source."""

import ast
import graphlib
import subprocess

from records import ROOT

# Folder -> the folders that it imports, each of which lies on a lower floor. "" are the commands
# beside the folders, which nothing imports.
BASE = {"system", "subspace_jax"}
MAY = {
    "subspace_jax": set(),
    "system": {"subspace_jax"},
    "configs": BASE,
    "data": {"configs", *BASE},
    "training": {"data", "configs", *BASE},
    "results": {"configs", *BASE},
    "evaluation": {"training", "data", "configs", *BASE},
    "report": {"results", "configs", *BASE},
    "import_weights": {"training", "data", "configs", *BASE},
}
MAY["runs"] = {"report", "results", "evaluation", "training", "data", "configs", *BASE}
MAY["reproduce"] = MAY["doctor"] = {"runs", *MAY["runs"]}
MAY["export"] = {"import_weights", *MAY["doctor"]}
MAY[""] = set(MAY)


MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in ("subspace_jax", "experiments")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def _imports(module: str) -> set[str]:
    """The modules of the two packages that a module imports, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in MODULES else node.module for name in full}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & MODULES.keys() - {module}


def _folder(module: str) -> str:
    package, *parts = module.split(".")
    if package == "subspace_jax":
        return package
    return parts[0] if len(parts) > 1 or MODULES[module].name == "__init__.py" and parts else ""


def test_folders_import_only_what_the_table_allows():
    wrong = [
        f"{module} -> {other}"
        for module in MODULES
        for other in _imports(module)
        if _folder(module) != _folder(other)
        and other != "experiments"
        and _folder(other) not in MAY[_folder(module)]
    ]
    assert wrong == []
    order = graphlib.TopologicalSorter({name: MAY[name] - {name} for name in MAY if name})
    order.prepare()
    floors = 0
    while order.is_active():
        order.done(*order.get_ready())
        floors += 1
    assert floors <= 8


def test_modules_import_in_no_circle():
    graphlib.TopologicalSorter({module: _imports(module) for module in MODULES}).prepare()


def test_git_hides_no_module():
    paths = [str(path) for path in MODULES.values()]
    done = subprocess.run(["git", "check-ignore", *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == ""
