"""Strictness for every test and every docstring example."""

import gc
import os
from importlib.util import find_spec

# Devices for meshes; all else uses the first. How many there are decides how XLA splits sums.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import jax

from experiments.system import xla
from tests import compilations

# What tests compile is kept from one run of them to the next, beside what commands compile and apart
# from it: all clones on this machine share it, and deleting it costs the next run some minutes.
_COMPILED = str(xla.cache_folder().with_name("tests-" + xla.cache_folder().name))
os.environ["JAX_COMPILATION_CACHE_DIR"] = _COMPILED
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
jax.config.update("jax_compilation_cache_dir", _COMPILED)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
xla.configure()
# Inherited by the processes that tests start, so that all compute the same bits.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), *(f"--{k}={v}" for k, v in compilations.FAST.items())]
).strip()
# Thousands of compiled programs stay alive: looking through them for garbage is slow.
gc.set_threshold(200_000, 50, 1000)
# With 64 bits JAX's own functions mix dtypes, and so tests of them do.
jax.config.update(
    "jax_numpy_dtype_promotion", "standard" if jax.config.jax_enable_x64 else "strict"
)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The peers of the benchmarks are of PyTorch, which is optional.
collect_ignore = [] if find_spec("torch") else ["benchmarks/peers.py"]


# The files that take longest. They start first, so that at the end no core is left without work.
LONGEST = """hosts reproduce documents job notebooks optimizers benchmarks dtypes sharding page_commands
    export corruptions placement"""


def pytest_xdist_auto_num_workers():
    """One more than there are cores, since files that start processes wait for them."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}.py": i for i, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def pytest_configure(config):
    # Of a program that another process is writing, or was when it was killed: it is compiled here then.
    config.addinivalue_line(
        "filterwarnings", "ignore:Error reading persistent compilation cache entry"
    )
