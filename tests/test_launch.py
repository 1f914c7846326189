"""Huge pages for commands, and for nothing else."""

import os
import subprocess
import sys

from experiments.system import launch

TUNABLES = "GLIBC_TUNABLES"


def run(*arguments, **environment):
    bare = {name: value for name, value in os.environ.items() if name != TUNABLES}
    return subprocess.run(
        [sys.executable, *arguments],
        env=bare | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


def test_what_the_user_says_about_huge_pages_stays():
    given = {TUNABLES: "glibc.malloc.hugetlb=0", "HOME": "/root"}
    assert launch.environment(given) == given


def test_an_import_starts_nothing_anew():
    code = f"import os, experiments; print(os.environ.get({TUNABLES!r}))"
    assert run("-c", code).stdout == "None\n"


def test_a_command_is_started_anew_once_with_its_arguments(tmp_path):
    """The interpreter's own options and the command's survive; so does its exit."""
    package = tmp_path / "commands"
    package.mkdir()
    package.joinpath("__init__.py").write_text(
        "import os\nprint('import', os.getpid(), flush=True)\n"
        "from experiments import launch\nlaunch.with_huge_pages(__name__)\n"
    )
    package.joinpath("show.py").write_text(
        "import os, sys\n"
        f"print(os.getpid(), os.environ[{TUNABLES!r}], sys.flags.optimize, sys.argv[1:])\n"
    )
    path = os.pathsep.join([str(tmp_path), os.getcwd()])
    lines = run("-O", "-m", "commands.show", "a b", "--c=d", PYTHONPATH=path).stdout.splitlines()
    pid = lines[0].removeprefix("import ")
    again = [f"import {pid}"] * (sys.platform == "linux")
    assert lines[:-1] == [f"import {pid}", *again]
    if sys.platform == "linux":
        assert lines[-1] == f"{pid} glibc.malloc.hugetlb=1 1 ['a b', '--c=d']"


def test_the_experiments_commands_work():
    assert "metrics.json" in run("-m", "experiments.markdown", "--help").stdout
