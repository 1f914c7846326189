"""Strictness for every test and every docstring example."""

import os
from importlib.util import find_spec

# Tests leave nothing in the user's cache, and compile what they say they compile.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
# Devices for meshes; all else uses the first. How many there are decides how XLA splits sums.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax

from experiments import compiler
from tests import compilations

compiler.configure()
# Inherited by the processes that tests start, so that all compute the same bits.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), *(f"--{k}={v}" for k, v in compilations.FAST.items())]
).strip()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The peers of the benchmarks are of PyTorch, which is optional.
collect_ignore = [] if find_spec("torch") else ["benchmarks/peers.py"]
