"""Strictness for every test and every docstring example."""

import os

# Tests leave nothing in the user's cache, and compile what they say they compile.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jax

from experiments import compiler

compiler.configure()
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
