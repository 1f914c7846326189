"""Huge pages for commands, and for nothing else."""

import os
import subprocess
import sys
from pathlib import Path

from experiments.system import launch

TUNABLES = "GLIBC_TUNABLES"
COMMANDS = ("cifar", "tiny_imagenet", "imagenet", "reproduce", "plane")
ROOT = Path(__file__).resolve().parent.parent


def run(*arguments, **environment):
    bare = {name: value for name, value in os.environ.items() if name != TUNABLES}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=bare | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )


def test_what_the_user_says_about_huge_pages_stays():
    given = {TUNABLES: "glibc.malloc.hugetlb=0", "HOME": "/root"}
    assert launch.environment(given) == given


def test_an_import_starts_nothing_anew_and_of_a_command_s_module_not_even_jax():
    names = ", ".join(f"experiments.{name}" for name in (*COMMANDS, "reproduce.__main__"))
    show = f"print(os.environ.get({TUNABLES!r}), 'jax' in sys.modules)"
    code = f"import os, sys, benchmarks, {names}; {show}"
    assert run("-c", code).stdout == "None False\n"


def test_a_command_is_started_anew_once_with_its_arguments(tmp_path):
    """The interpreter's own options and the command's survive; so does its number."""
    tmp_path.joinpath("show.py").write_text(
        "import os, sys\nfrom experiments.system import launch\n"
        "print('begun', os.getpid(), flush=True)\nlaunch.with_huge_pages()\n"
        f"print(os.getpid(), os.environ[{TUNABLES!r}], sys.flags.optimize, sys.argv[1:])\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    *begun, last = run("-O", "-m", "show", "a b", "--c=d", PYTHONPATH=path).stdout.splitlines()
    pid = begun[0].removeprefix("begun ")
    assert begun == [f"begun {pid}"] * (1 + (sys.platform == "linux"))
    if sys.platform == "linux":
        assert last == f"{pid} glibc.malloc.hugetlb=1 1 ['a b', '--c=d']"


def test_every_command_that_computes_on_networks_asks_for_them_where_it_is_run():
    files = [ROOT / "experiments" / f"{name}.py" for name in COMMANDS if name != "reproduce"]
    files.append(ROOT / "experiments" / "reproduce" / "__main__.py")
    for file in files:
        guarded = file.read_text().partition('if __name__ == "__main__":\n')[2]
        assert guarded.startswith("    launch.with_huge_pages()\n"), file
