"""Strictness for every test and every docstring example."""

import os
from importlib.util import find_spec

# Tests leave nothing in the user's cache, and compile what they say they compile.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jax

from experiments import compiler

compiler.configure()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# The peers of the benchmarks are of PyTorch, which is optional.
collect_ignore = [] if find_spec("torch") else ["benchmarks/peers.py"]
