"""The examples train, compare and say what they did; the page shows what was recorded."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from records import ROOT

from examples import compare, tabular, vit
from subspace_jax import line

MODULES = {"vit": vit, "tabular": tabular}
TINY = argparse.Namespace(epochs=1, batch_size=64, learning_rate=3e-3)


@pytest.fixture(autouse=True)
def _promotion_of_users():
    """Optax and Flax promote, as their users let them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def nll(task, endpoints):
    return compare.evaluate(task, line(), endpoints)["midpoint"]["nll"]


def test_a_line_of_transformers_learns():
    task = vit.make_task(depth=1)
    endpoints = compare.make_training(task, line(), TINY)(jax.random.key(0))
    untrained = jax.jit(lambda key: line().init(key, task.init_fn))(jax.random.key(0))
    assert jax.tree.map(jnp.shape, endpoints) == jax.tree.map(jnp.shape, untrained)
    assert nll(task, endpoints) < nll(task, untrained)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """That of a whole command with two seeds."""
    path = tmp_path_factory.mktemp("examples") / "tabular.json"
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert tabular.main(["--epochs=2", "--seeds=2", f"--json={path}"]) == 0
    return json.loads(path.read_text())


def test_metrics_are_those_of_the_networks(record):
    """A seed's numbers are those of training it alone."""
    task = tabular.make_task()
    train = compare.make_training(task, line(), argparse.Namespace(**record["options"]))
    found = compare.evaluate(task, line(), train(jax.random.key(1)))
    for place, metrics in found.items():
        recorded = record["results"]["Line"][place]
        assert {name: values[1] for name, values in recorded.items()} == pytest.approx(metrics)
    # Of two networks the NLL of the mean prediction is at most their mean NLL.
    assert found["ensemble of the ends"]["nll"] <= found["ends, their mean"]["nll"]


def test_a_table_has_means_and_standard_errors(record):
    accuracy = 100 * np.array(record["results"]["Standard"]["network"]["accuracy"])
    error = accuracy.std(ddof=1) / 2**0.5
    lines = compare.table(record).splitlines()
    assert f"| Standard | network | 1 | {accuracy.mean():.2f} ± {error:.2f} |" in lines[2]
    assert len(lines) == 2 + 1 + 3 + 3


@pytest.mark.parametrize("name", MODULES)
def test_committed_tables_are_those_of_their_records(name):
    path = ROOT / "results" / "examples" / f"{name}.json"
    found = json.loads(path.read_text())
    assert found["provenance"]["command"].startswith(f"python -m examples.{name} --json")
    assert path.with_suffix(".md").read_text() == compare.table(found) + "\n"
