"""XLA's flags and the cache of compiled programs; tuned memory for commands, and for nothing else."""

import os
import subprocess
import sys

from records import ROOT

from experiments.system import launch, xla

NAME = "--xla_cpu_experimental_ynn_fusion_type"
TUNABLES = "GLIBC_TUNABLES"
COMMANDS = ("cifar", "tiny_imagenet", "imagenet", "plane", "reproduce.__main__")


def test_flags_are_added_to_those_that_are_given():
    found = xla.cpu_flags("--xla_dump_to=here", "0.10.2")
    assert found.startswith(f"--xla_dump_to=here {NAME}=")
    given = f"{NAME}=LIBRARY_FUSION_TYPE_DOT"
    assert xla.cpu_flags(given, "0.10.2") == given  # the user's stays as it is
    assert "onednn" in xla.cpu_flags("", "0.12.0.1")
    for version in ("0.9.2", "0.13.0", "1.10.0"):  # an unknown flag ends the process
        assert xla.cpu_flags("", version) == ""
    given = {TUNABLES: "glibc.malloc.hugetlb=0", "HOME": "/root"}
    found = launch.environment(given)
    assert found["HOME"] == "/root"
    assert found[TUNABLES].startswith(given[TUNABLES] + ":")
    assert found[TUNABLES].count("hugetlb") == 1
    assert launch.environment(found) == found
    assert launch.environment({}, threads=True) == {TUNABLES: "glibc.malloc.hugetlb=1"}


def test_other_processors_have_another_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = xla.cache_folder()
    assert here.is_relative_to(tmp_path)
    monkeypatch.setattr(xla, "_cpuinfo", lambda: ["model name: another one"])
    assert xla.cache_folder() != here


def run(*arguments, without, **environment):
    bare = {name: value for name, value in os.environ.items() if name != without}
    command, environment = [sys.executable, *arguments], bare | environment
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_command_keeps_what_it_compiled(tmp_path):
    code = """
import jax
from experiments.system import cli, xla  # importing them computes nothing
from jax._src import xla_bridge
assert not xla_bridge._backends
xla.configure()
jax.jit(lambda x: x + 1)(1.0)
"""
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    run("-c", code, without="JAX_COMPILATION_CACHE_DIR", **environment)
    assert any((tmp_path / "subspace_jax").rglob("*-cache"))


def test_commands_that_are_imported_start_nothing_and_load_no_jax():
    names = ", ".join(f"experiments.{name}" for name in COMMANDS)
    show = f"print(os.environ.get({TUNABLES!r}), 'jax' in sys.modules)"
    code = f"import os, sys, benchmarks, {names}; {show}"
    assert run("-c", code, without=TUNABLES) == "None False\n"


def test_a_command_is_started_anew_once_with_its_arguments(tmp_path):
    """The interpreter's own options and the command's survive; so does its number."""
    tmp_path.joinpath("show.py").write_text(
        "import os, sys\nfrom experiments.system import launch\n"
        "print('begun', os.getpid(), flush=True)\nlaunch.with_tuned_memory()\n"
        f"print(os.getpid(), os.environ[{TUNABLES!r}], sys.flags.optimize, sys.argv[1:])\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    said = run("-O", "-m", "show", "a b", "--c=d", without=TUNABLES, PYTHONPATH=path)
    *begun, last = said.splitlines()
    pid = begun[0].removeprefix("begun ")
    assert begun == [f"begun {pid}"] * (1 + (sys.platform == "linux"))
    if sys.platform == "linux":
        tunables = launch.environment({})[TUNABLES]
        assert last == f"{pid} {tunables} 1 ['a b', '--c=d']"
