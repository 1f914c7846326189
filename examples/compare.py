"""Standard training beside lines, with one network, one budget and the same seeds."""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

import subspace_jax as ss
from experiments.system import cli, files, xla
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, provenance

METHODS = {
    "Standard": ss.simplex(1),
    "Line": ss.line(),
    "Layerwise line": ss.layerwise(ss.line()),
}
METRICS = {"accuracy": ("Accuracy [%]", 100, 2), "nll": ("NLL", 1, 3), "ece": ("ECE [%]", 100, 2)}
PASSES = {"ensemble of the ends": 2}  # the other places evaluate one network


class Task(NamedTuple):
    """A network and its data.

    Attributes:
      init_fn: `key -> parameters`.
      apply_fn: `(parameters, x) -> logits [B, K]`.
      train: `x [N, ...]`, float32, and labels `[N]`.
      test: the same of other examples.
    """

    init_fn: Callable[[jax.Array], Any]
    apply_fn: Callable[[Any, jax.Array], jax.Array]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


def main(module: str, description: str, make_task: Callable[[], Task], argv: Sequence[str] | None):
    """A command: trains every method with every seed and prints the table; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=40, help="of each run; default: 40")
    parser.add_argument("--batch_size", type=int, default=64, help="default: 64")
    parser.add_argument("--learning_rate", type=float, default=3e-3, help="of AdamW; default: 3e-3")
    parser.add_argument("--seeds", type=int, default=3, help="how many; default: 3")
    parser.add_argument(
        "--json", type=Path, help="a file for the results; default: none is written"
    )
    options = parser.parse_args(argv)
    xla.configure()

    def command() -> None:
        if options.json:
            options.json.parent.mkdir(parents=True, exist_ok=True)
        record = compare(make_task(), options, provenance(module))
        print(table(record))
        if options.json:
            files.write_atomically(options.json, json.dumps(record, indent=1) + "\n")

    return cli.exit_code(command)


def compare(task: Task, options: argparse.Namespace, origin: dict) -> dict:
    """All methods and seeds, as JSON values.

    Raises:
      UserError: a number of the options is below 1, or a batch is larger than the training data.
    """
    for name in ("epochs", "batch_size", "seeds"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; use at least 1.")
    if not 0 < options.learning_rate < math.inf:
        raise UserError(f"--learning_rate is {options.learning_rate}; use a number above 0.")
    if options.batch_size > len(task.train[0]):
        raise UserError(
            f"--batch_size is {options.batch_size} but there are {len(task.train[0])} training "
            "examples; use at most that."
        )
    begin, results = time.perf_counter(), {name: {} for name in METHODS}
    with tqdm(total=len(METHODS) * options.seeds, file=sys.stderr, unit="run") as progress:
        for name, subspace in METHODS.items():
            train = make_training(task, subspace, options)
            for seed in range(options.seeds):
                places = evaluate(task, subspace, train(jax.random.key(seed)))
                for place, metrics in places.items():
                    for metric, value in metrics.items():
                        found = results[name].setdefault(place, {}).setdefault(metric, [])
                        found.append(value)
                progress.update()
    used = {name: getattr(options, name) for name in ("epochs", "batch_size", "learning_rate")}
    sizes = {"train": len(task.train[0]), "test": len(task.test[0])}
    done = {"seeds": list(range(options.seeds)), "seconds": round(time.perf_counter() - begin, 1)}
    return {
        "provenance": origin | done | finished_now(),
        "options": used,
        "examples": sizes,
        "results": results,
    }


def make_training(task: Task, subspace: ss.Subspace, options: argparse.Namespace) -> Callable:
    """`key -> endpoints [n, ...]`: a whole training with AdamW and a cosine schedule, compiled once."""
    x, y = (jnp.asarray(part) for part in task.train)
    steps = len(x) // options.batch_size
    schedule = optax.cosine_decay_schedule(options.learning_rate, options.epochs * steps)
    optimizer = optax.adamw(schedule)
    penalty = None if subspace.num_endpoints == 1 else lambda ends, key: ss.cosine_penalty(ends)

    def loss_fn(params, key, rows):
        del key
        logits = task.apply_fn(params, x[rows])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[rows]).mean(), {}

    step = ss.make_train_step(subspace, loss_fn, optimizer, penalty=penalty)

    @jax.jit
    def train(key):
        init_key, order_key, train_key = jax.random.split(key, 3)
        state = ss.TrainState.create(subspace.init(init_key, task.init_fn), optimizer)

        def epoch(state, key):
            rows = jax.random.permutation(key, len(x))[: steps * options.batch_size]
            rows = rows.reshape(steps, -1)
            return jax.lax.scan(lambda s, b: (step(s, train_key, b)[0], None), state, rows)

        state, _ = jax.lax.scan(epoch, state, jax.random.split(order_key, options.epochs))
        return state.endpoints

    return train


def evaluate(task: Task, subspace: ss.Subspace, endpoints: Any) -> dict[str, dict[str, float]]:
    """Test metrics of the networks that a method has."""
    x, y = task.test
    of = lambda networks: ss.predict(ss.for_each(task.apply_fn), networks, [jnp.asarray(x)])
    center = of(jax.tree.map(lambda leaf: leaf[None], subspace.midpoint(endpoints)))
    if subspace.num_endpoints == 1:
        return {"network": measure(center, y)}
    ends = of(endpoints)
    each = [measure(logits[None], y) for logits in ends]
    return {
        "midpoint": measure(center, y),
        "ends, their mean": {k: statistics.mean(m[k] for m in each) for k in METRICS},
        "ensemble of the ends": measure(ends, y),
    }


def measure(logits: jax.Array, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL and ECE of the mean of probabilities of `logits [M, N, K]`."""
    log_probs = ss.ensemble(logits)
    probs = jnp.exp(log_probs)
    found = (
        ss.metrics.accuracy(probs, labels),
        ss.metrics.nll(log_probs, labels),
        ss.metrics.ece(probs, labels),
    )
    return dict(zip(METRICS, map(float, found), strict=True))


def table(record: dict) -> str:
    """The results in Markdown: means over seeds, with standard errors if there are several."""
    rows = [["Method", "Place", "Passes", *(title for title, *_ in METRICS.values())]]
    rows.append([":--", ":--", *["--:"] * (1 + len(METRICS))])
    for method, places in record["results"].items():
        for place, found in places.items():
            cells = [_cell(found[metric], *how[1:]) for metric, how in METRICS.items()]
            rows.append([method, place, str(PASSES.get(place, 1)), *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(values, scale, digits):
    mean = f"{scale * statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{mean} ± {scale * error:.{digits}f}"
