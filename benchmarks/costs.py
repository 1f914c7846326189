"""What a run costs besides its steps: memory, the start of the program, evaluation."""

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.contestants import images_and_labels
from benchmarks.rounds import spread
from experiments.configs import cifar10
from experiments.data.sets import Dataset, Split
from experiments.evaluation import predict
from experiments.evaluation.points import layout
from experiments.training import steps
from experiments.training.memory import memory_report
from experiments.training.run import Run, make_run

SIZES = {"standard": 1, "line": 2, "simplex_6": 6}

_IMPORT = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"
_FIRST_STEP = """
from experiments.system import xla
xla.configure()
from types import SimpleNamespace
from benchmarks.contestants import CONTESTANTS
options = SimpleNamespace(device="", threads=0, batch_size=128, steps=1)
CONTESTANTS["line"](options)()
"""


def _run(recipe: str, batch_size: int, num_train: int, num_test: int):
    images, labels = images_and_labels()
    config = cifar10.get_config(recipe)
    config.batch_size = batch_size
    parts = [Split(images[:n], labels[:n]) for n in (num_train, 0, num_test)]
    return config, make_run(config, Dataset("random", *parts, 10)), parts[-1]


def memory(batch_size: int) -> dict:
    """Bytes of a step, as XLA plans them, for 1, 2 and 6 endpoints.

    `excess_bytes` is what a step needs beyond an ordinary one and the weights and optimizer states of
    the endpoints that it has more; 0 or less is as planned.
    """
    found = {}
    for recipe, size in SIZES.items():
        _, run, _ = _run(recipe, batch_size, 10 * batch_size, 10)
        state = steps.init_state(run)
        report = memory_report(steps.compiled_call(run, state), state)
        found[recipe] = {
            "num_endpoints": size,
            "step_bytes": report and report.total,
            "state_bytes": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)),
        }
    one = found["standard"]
    for record in found.values():
        if record["step_bytes"] is not None:
            more = record["state_bytes"] - one["state_bytes"]
            record["excess_bytes"] = record["step_bytes"] - one["step_bytes"] - more
    return found


def start(quick: bool) -> dict:
    """Seconds to import the library, and from the start of a process to the end of its first step.

    The first step is that of a line of cResNet20; `cold` compiles, `warm` finds its programs in the
    cache that the experiments keep.
    """
    times = 1 if quick else 5
    imports = {
        module: [float(_python(_IMPORT.format(module))[1]) for _ in range(times)]
        for module in ("jax", "optax", "subspace_jax")
    }
    cold, warm = [], []
    for _ in range(1 if quick else 3):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(_python(_FIRST_STEP, XDG_CACHE_HOME=folder)[0])
            warm.append(_python(_FIRST_STEP, XDG_CACHE_HOME=folder)[0])
    return {
        "import_seconds": {name: spread(values) for name, values in imports.items()},
        "first_step_seconds": {"cold": spread(cold), "warm": spread(warm)},
    }


def _python(code: str, **environment: str) -> tuple[float, str]:
    """Wall seconds of a process, and what it printed."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return time.perf_counter() - begin, done.stdout


# What a process runs that evaluates points of a line by PyTorch: it prints the seconds of them all.
_PYTORCH = """
import time
from benchmarks import peers
points = peers.evaluate_line({alphas}, {num_train}, {num_test}, loader={loader!r},
                             batch_size=128, device={device!r}, threads={threads})
begin = time.perf_counter()
for _ in points:
    pass
print(time.perf_counter() - begin)
"""


def _at_once(run: Run, networks, settings: predict.Settings) -> dict[str, dict[str, float]]:
    """Seconds of a batch's moments of networks, so many of them vectorised together."""
    found = {}
    for count in (1, 2, 8):
        given = run, networks, settings._replace(at_once=count)
        jax.block_until_ready(predict.recalibrated(*given)[0])  # compiles
        seconds = []
        for _ in range(3):
            begin = time.perf_counter()
            jax.block_until_ready(predict.recalibrated(*given)[0])
            seconds.append(time.perf_counter() - begin)
        found[str(count)] = spread(seconds)
    return found


def evaluation(options: SimpleNamespace, quick: bool) -> dict:
    """Seconds to predict with the points of a line, with statistics measured for each, in turns.

    `one pass` is the experiments' way: all points together, every batch loaded once. `point by
    point` is the same one point after another, compiled before. `PyTorch` is the article's way, two
    passes a point with a data loader; it also has the images on the device instead. Both are one
    process, whose start does not count, timed for every third point.
    """
    points, num_train, num_test = (3, 512, 128) if quick else (21, 2560, 1000)
    config, run, test = _run("line", options.batch_size, num_train, num_test)
    config.evaluation.num_points = points
    settings = predict.make_settings(config, run)
    plan = layout(run, settings)
    stack = run.program.method.trained(steps.init_state(run), jax.random.key(0))
    networks = predict.mixtures(stack, jnp.asarray(plan.weights))

    def timed(groups, run=run):
        begin = time.perf_counter()
        for group in groups:
            logits, _, _ = predict.predict_networks(
                run, networks_of(group), {"test": test}, settings
            )
            jax.block_until_ready(logits)
        return time.perf_counter() - begin

    def networks_of(group):
        return jax.tree.map(lambda x: x[np.asarray(group)], networks)

    def pytorch(loader):
        code = _PYTORCH.format(
            alphas=[i / points for i in range(0, points, 3)],
            **{"num_train": num_train, "num_test": num_test, "loader": loader},
            **{"device": options.device, "threads": options.threads},
        )
        return 3 * float(_python(code)[1])

    together, single = [list(range(points))], [[i] for i in range(points)]
    size = settings.recalibration_batch_size
    one_batch = run._replace(images=run.images[:size], labels=run.labels[:size])
    for groups in (together, single[:1]):
        timed(groups, one_batch)  # compiles
    ways = {"one pass": lambda: timed(together), "point by point": lambda: timed(single)}
    if find_spec("torch") is not None:
        ways["PyTorch"] = lambda: pytorch("workers")
        ways["PyTorch, images on the device"] = lambda: pytorch("resident")
    seconds = {name: [] for name in ways}
    for _ in range(1 if quick else 3):
        for name, way in ways.items():
            seconds[name].append(way())
    several = jax.tree.map(lambda x: x[: min(points, 8)], networks)
    return {
        "at_once": predict.networks_at_once(settings, networks, size * run.images[0].size),
        "at_once_seconds": _at_once(one_batch, several, settings),
        "num_points": points,
        "num_training_images": num_train,
        "num_test_images": num_test,
        "seconds": {name: spread(values) for name, values in seconds.items()},
    }
