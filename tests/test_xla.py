"""XLA's flags and the cache of compiled programs."""

import os
import subprocess
import sys

import pytest

from experiments.system import xla

NAME = "--xla_cpu_experimental_ynn_fusion_type"


def test_flags_are_added_to_those_that_are_given():
    found = xla.cpu_flags("--xla_dump_to=here", "0.10.2")
    assert found.startswith(f"--xla_dump_to=here {NAME}=")
    given = f"{NAME}=LIBRARY_FUSION_TYPE_DOT"
    assert xla.cpu_flags(given, "0.10.2") == given  # the user's stays as it is
    for version in ("0.9.2", "0.11.2", "0.12.0.1", "1.10.0"):  # an unknown flag ends the process
        assert xla.cpu_flags("", version) == ""


def test_other_processors_have_another_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = xla.cache_folder()
    assert here.is_relative_to(tmp_path)
    monkeypatch.setattr(xla, "cpuinfo", lambda: ["model name: another one"])
    assert xla.cache_folder() != here


@pytest.mark.parametrize("chosen", ["", "elsewhere", "off"])
def test_a_command_keeps_what_it_compiled(chosen, tmp_path):
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    del environment["JAX_COMPILATION_CACHE_DIR"]
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    if chosen == "elsewhere":
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "elsewhere")
    if chosen == "off":
        environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    code = """
import jax
from experiments.system import cli, xla  # importing them computes nothing
from jax._src import xla_bridge
assert not xla_bridge._backends
xla.configure()
jax.jit(lambda x: x + 1)(1.0)
"""
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=300)
    ours, theirs = tmp_path / "cache" / "subspace_jax", tmp_path / "elsewhere"
    assert any(ours.rglob("*-cache")) == (chosen == "")
    assert (theirs.exists() and any(theirs.iterdir())) == (chosen == "elsewhere")
