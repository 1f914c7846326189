"""What JAX compiles meanwhile."""

import contextlib

import jax


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
