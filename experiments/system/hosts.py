"""Several processes that train one run: how they meet and what they agree on.

All run the same command in step; the first writes the files, and each its part of checkpoints.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from experiments.system import cli
from experiments.system.errors import STOPPED, UserError
from subspace_jax.tree import PyTree

# A process that is silent for so long is dead to the others.
_HEARTBEAT_SECONDS = 30
_FLAGS = "--coordinator", "--num_processes", "--process_id"
# Kubeflow sets all of them; JAX itself reads the first alone.
_VARIABLES = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"

DESCRIPTION = """Several processes, each with its own devices, train one run together if all are started
with --distributed (Slurm, Open MPI, TPU, and where JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID are set, as by Kubeflow), or each with --coordinator, --num_processes and --process_id.
They share the workdir, which has to be on a file system that all of them see."""


def define(values: flags.FlagValues) -> None:
    """Defines the flags by which processes meet."""
    known = "Slurm, Open MPI, TPU, or the variables of Kubeflow"
    for make, name, default, text in (
        (flags.DEFINE_bool, "distributed", False, f"Train in a cluster: {known}."),
        (flags.DEFINE_string, "coordinator", None, "HOST:PORT of process 0, elsewhere than there."),
        (flags.DEFINE_integer, "num_processes", None, "Of --coordinator: how many train together."),
        (flags.DEFINE_integer, "process_id", None, "Of --coordinator: which one this is, from 0."),
    ):
        make(name, default, text, flag_values=values)
    text, least = "How long processes wait for each other.", {"lower_bound": 1}
    flags.DEFINE_integer("connect_seconds", 300, text, flag_values=values, **least)


def join(options: SimpleNamespace) -> None:
    """Meets the other processes that the flags speak of, if they do; before anything else of JAX."""
    names, values = _FLAGS, [options.coordinator, options.num_processes, options.process_id]
    given, method = [value is not None for value in values], None
    if not options.distributed and not any(given):
        return
    if options.distributed:
        if any(given):
            raise UserError(
                "--distributed asks the cluster for what --coordinator, --num_processes and "
                "--process_id say; give one or the other."
            )
        names, values = _VARIABLES, [os.environ.get(name) or None for name in _VARIABLES]
        if not any(values[1:]):
            _initialize("the cluster's coordinator", options.connect_seconds)
            _say("JAX knows this cluster")
            return
        method = "deactivate"  # JAX would ask Kubernetes too
    found = f"{names[0]} is {values[0]}, {names[1]} {values[1]} and {names[2]} {values[2]}"
    address, *numbers = map(str, values)
    whole = [int(number) for number in numbers if number.isdecimal()]
    if not re.fullmatch(r".+:\d+", address) or len(whole) < 2 or whole[1] >= whole[0]:
        raise UserError(
            f"{found}; give HOST:PORT, how many processes there are, and which one this is, from 0, or "
            "--distributed alone."
        )
    where = {"coordinator_address": address, "num_processes": whole[0], "process_id": whole[1]}
    _initialize(address, options.connect_seconds, cluster_detection_method=method, **where)
    if options.distributed:
        _say(found)


def _say(found: str) -> None:
    which, devices = f"{jax.process_index()} of {jax.process_count()}", jax.device_count()
    here = f"process {which}, with {jax.local_device_count()} of {devices} devices"
    print(f"--distributed: {found}, and this is {here}.", file=sys.stderr)


# JAX ends a process at once when another one is gone, so that another program has to say why.
_WATCHER = """
import signal, sys
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if not sys.stdin.buffer.read():
    print(f"error: Process {sys.argv[1]} was ended: it was killed, or another one of the run has "
          "stopped; run the same command everywhere again, and training goes on from the last "
          "checkpoint.", file=sys.stderr)
"""
_watcher: subprocess.Popen | None = None


def _initialize(name: str, seconds: int, **settings) -> None:
    global _watcher

    def nobody():
        cli.fail(
            f"Not all processes met at {name} within {seconds} seconds; start all of them, see that "
            "they reach this address, or allow more --connect_seconds."
        )
        os._exit(2)

    # JAX's own time-out ends the process without a sentence.
    alarm = threading.Timer(seconds, nobody)
    alarm.daemon = True
    alarm.start()
    try:
        jax.distributed.initialize(
            initialization_timeout=2 * seconds,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            **settings,
        )
    except (ValueError, TypeError) as error:
        raise UserError(
            f"No cluster is found ({error}); give --coordinator, --num_processes and --process_id."
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"The processes could not meet at {name} ({_short(error)}); use another address or port."
        ) from error
    finally:
        alarm.cancel()
    which = f"{jax.process_index()} of {jax.process_count()}"
    _watcher = subprocess.Popen([sys.executable, "-c", _WATCHER, which], stdin=subprocess.PIPE)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160]


def finish(command: Callable[[], int]) -> int:
    """Runs a command to its exit code; of several processes one that fails waits for no other."""
    try:
        code = command()
    except BaseException:
        if _watcher is None:
            raise
        traceback.print_exc()
        code = 1
    if _watcher is not None:
        _watcher.communicate(b"ended by itself")
        if code not in (0, STOPPED):  # a stop is one of all of them
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def is_first() -> bool:
    """Whether this process writes the files."""
    return jax.process_index() == 0


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Says so if a computation fails since another process is gone."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        # Of a call that fails at once, and not when its result is read, JAX makes a ValueError.
        found = isinstance(error, jax.errors.JaxRuntimeError) or re.match("[A-Z_]+: ", str(error))
        if jax.process_count() == 1 or not found or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise UserError(
            f"Process {jax.process_index()} of {jax.process_count()} stops, since another one has "
            f"stopped ({_short(error)}); run the same command everywhere again, and training goes on "
            "from the last checkpoint."
        ) from error


class Agreement:
    """Flags of which every process learns whether any one raised them, without waiting for it."""

    def __init__(self):
        self._pending = None

    def any(self, *raised: bool) -> tuple[bool, ...]:
        """Which flags any process raised at the last call, which all make as often; of one, at this."""
        if jax.process_count() == 1:
            return raised
        where, over = _any()
        rows = np.array([raised] * jax.local_device_count(), bool)
        rows = jax.make_array_from_process_local_data(where, rows)
        previous, self._pending = self._pending, over(rows)
        return (False,) * len(raised) if previous is None else tuple(np.asarray(previous).tolist())


@functools.cache  # it is called between training calls
def _any() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """Where rows of flags lie, one on each device, and whether any row raises each."""
    mesh = Mesh(np.array(jax.devices()), ("device",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    over = jax.jit(lambda rows: rows.any(axis=0), out_shardings=everywhere)
    return NamedSharding(mesh, PartitionSpec("device")), over


def any_of(*raised: bool) -> tuple[bool, ...]:
    """Which flags any process raises now; waits for all of them."""
    if jax.process_count() == 1:
        return raised
    return tuple(multihost_utils.process_allgather(np.array(raised)).any(axis=0).tolist())


def names_of_all(names: Sequence[str]) -> list[str]:
    """Names that any process has, each once; all have to call it, and wait for each other."""
    if jax.process_count() == 1:
        return list(names)
    text = json.dumps(list(names)).encode()
    longest = multihost_utils.process_allgather(np.int32(len(text))).max()
    row = np.frombuffer(text.ljust(longest), np.uint8)
    found = (json.loads(row.tobytes()) for row in multihost_utils.process_allgather(row))
    return list(dict.fromkeys(itertools.chain.from_iterable(found)))


def fetch(tree: PyTree) -> PyTree:
    """Arrays as whole NumPy arrays in every process, wherever their parts lie."""

    def whole(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
            return np.asarray(x)
        return multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(whole, tree)


def local(tree: PyTree) -> PyTree:
    """Arrays that each process has for itself, on a device of its own."""
    return tree if jax.process_count() == 1 else jax.tree.map(jnp.asarray, fetch(tree))


def put(array: np.ndarray, where: NamedSharding | None) -> jax.Array:
    """An array that every process has, on devices of all of them."""
    if where is None or where.is_fully_addressable:
        return jax.device_put(array, where)
    return jax.make_array_from_callback(array.shape, where, lambda index: array[index])
