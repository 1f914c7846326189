"""How tests compile, and what JAX compiles meanwhile."""

import contextlib
import os

import jax
import jaxlib

# Tests compile thousands of programs that run once, so that XLA is not to optimise them. Add a version
# only after trying it there: an unknown flag ends the process.
_FAST = {
    "0.10": {
        "xla_backend_optimization_level": 0,
        "xla_cpu_use_fusion_emitters": "false",
        "xla_cpu_parallel_codegen_split_count": 1,
    }
}
FAST = _FAST.get(".".join(jaxlib.__version__.split(".")[:2]), {})
# `compiler_options` of the programs that users get, for tests of these.
USERS = {"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True} if FAST else {}


def users_environment() -> dict[str, str]:
    """The environment of a process that compiles as a user's: for runs that are long."""
    ours = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")
    return {name: value for name, value in os.environ.items() if name not in ours}


@contextlib.contextmanager
def noted():
    """A list to which the name of every function is added that is compiled in the block."""
    names = []

    def listen(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about.get("fun_name"))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
