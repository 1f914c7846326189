"""Landscapes of a linear network with batch norm, against the same done point by point."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from stacks import normal

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation import landscape
from experiments.system.errors import UserError

EPSILON = 1e-5


def hidden(params, x):
    return x @ params["first"]["kernel"]


def head(params, y, mean, var):
    y = (y - mean[None]) * jax.lax.rsqrt(var + EPSILON)[None]
    return jnp.tanh(y + params["first"]["bias"][None]) @ params["last"]["kernel"]


def stats_fn(params, batch):
    y = hidden(params, batch[-1])
    return {"mean": y.mean(0), "var": y.var(0)}


def logits_fn(network, x):
    params, stats = network
    return head(params, hidden(params, x), stats["mean"], stats["var"])


def loss_fn(params, batch):
    x, labels = batch
    y = hidden(params, x)
    return ss.metrics.nll(jax.nn.log_softmax(head(params, y, y.mean(0), y.var(0))), labels)


def networks(n, seed=0):
    kernel, bias, last = (
        jnp.asarray(normal(seed + i, n, *shape)) for i, shape in enumerate([(4, 5), (5,), (5, 3)])
    )
    return {"first": {"kernel": kernel, "bias": bias}, "last": {"kernel": last}}


BATCHES = [(jax.random.key(b), jnp.asarray(normal(10 + b, 8, 4))) for b in range(3)]
SPLIT = Split(normal(20, 11, 4), (np.arange(11) % 3).astype(np.int32))
HESSIAN_BATCHES = [(jnp.asarray(normal(30 + b, 8, 4)), jnp.arange(8) % 3) for b in range(2)]
KEY = jax.random.key(0)


def draw(subspace, stack, logits_fn=logits_fn, **changes):
    options = {"resolution": 5, "batch_size": 4, "key": KEY} | changes
    return landscape.slice_record(subspace, stack, stats_fn, logits_fn, BATCHES, SPLIT, **options)


def expected_at(params):
    """Accuracy and NLL of one network with the statistics of all batches together."""
    stats = stats_fn(params, (None, jnp.concatenate([x for _, x in BATCHES])))
    log_probs = jax.nn.log_softmax(logits_fn((params, stats), jnp.asarray(SPLIT.images)))
    return (
        float(ss.metrics.accuracy(jnp.exp(log_probs), jnp.asarray(SPLIT.labels))),
        float(ss.metrics.nll(log_probs, jnp.asarray(SPLIT.labels))),
    )


@pytest.fixture(scope="module")
def record():
    return draw(ss.simplex(3), networks(3), resolution=7)


def test_every_point_of_a_plane_has_its_own_statistics(record):
    counts = ("num_images", "recalibration_images", "recalibration_batch_size")
    assert [record[name] for name in counts] == [11, 24, 8]
    json.dumps(record, allow_nan=False)
    endpoints = networks(3)
    axes = ss.landscape.plane(endpoints)
    for i, j in ((0, 0), (3, 2), (6, 5)):
        weights = axes.weights([record["x"][j], record["y"][i]])
        found = [record[name][i][j] for name in ("accuracy", "nll")]
        np.testing.assert_allclose(found, expected_at(ss.mix(weights, endpoints)), rtol=1e-4)


def test_means_inside_and_outside_of_the_triangle(record):
    corners = np.asarray(record["corners"])
    x, y = np.meshgrid(record["x"], record["y"])
    points = np.stack([x, y], axis=-1).reshape(-1, 2)
    equations = np.vstack([corners.T, np.ones(3)])
    inside = (np.linalg.solve(equations, np.c_[points, np.ones(len(points))].T) >= 0).all(axis=0)
    steps = np.linspace(0, 1, 2001)[:, None]
    sides = [steps * corners[i] + (1 - steps) * corners[i - 1] for i in range(3)]
    distances = np.linalg.norm(points[:, None] - np.concatenate(sides), axis=-1).min(axis=1)
    beyond = 0.1 * np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1).max()
    np.testing.assert_allclose(record["outside"]["beyond"], beyond)
    for name, region in {"inside": inside, "outside": ~inside & (distances > beyond)}.items():
        assert record[name]["num_points"] == region.sum() > 0
        for metric in ("accuracy", "nll"):
            values = np.ravel(record[metric])[region]
            np.testing.assert_allclose(record[name][metric], values.mean(), rtol=1e-6)
    coarse = draw(ss.simplex(3), networks(3), resolution=2)["inside"]
    assert coarse == {"accuracy": None, "nll": None, "num_points": 0}


def test_directions_go_around_one_network():
    stack = networks(1)
    params = jax.tree.map(lambda x: x[0], stack)
    record = draw(ss.simplex(1), stack)
    found = [record[name][2][2] for name in ("accuracy", "nll")]
    np.testing.assert_allclose(found, expected_at(params), rtol=1e-4)
    norm = np.sqrt(sum(np.sum(np.square(layer["kernel"])) for layer in params.values()))
    np.testing.assert_allclose(record["kernel_norm"], norm, rtol=1e-6)
    np.testing.assert_allclose(record["x"], norm * np.linspace(-1, 1, 5), atol=1e-5)
    assert record["x"] == record["y"]
    assert (record["kind"], record["path"], record["midpoint"]) == ("point", [[0, 0]], [0, 0])


def test_what_is_not_finite_is_null_and_predicts_nothing():
    record = draw(ss.simplex(1), networks(1), lambda network, x: jnp.nan * logits_fn(network, x))
    assert record["nll"] == [[None] * 5] * 5
    assert record["accuracy"] == [[0.0] * 5] * 5


@pytest.mark.parametrize(
    ("subspace", "kind", "num_drawn"),
    [(ss.line(), "line", 65), (ss.bezier(2), "curve", 65), (ss.simplex(3), "simplex", 4)],
)
def test_a_slice_shows_the_subspace_in_its_plane(subspace, kind, num_drawn):
    record = draw(subspace, networks(3))
    path, corners = np.asarray(record["path"]), np.asarray(record["corners"])
    assert (record["kind"], path.shape) == (kind, (num_drawn, 2))
    last = {"line": 1, "curve": 2, "simplex": 0}[kind]
    np.testing.assert_allclose(path[[0, -1]], corners[[0, last]], atol=1e-5)
    middle = {"line": corners[:2].mean(0), "curve": corners.T @ [0.25, 0.5, 0.25]}
    expected = middle.get(kind, corners.mean(0))
    np.testing.assert_allclose(record["midpoint"], expected, atol=1e-4)
    if kind != "simplex":
        np.testing.assert_allclose(path[32], record["midpoint"], atol=1e-4)
    assert record["other"] == (record["corners"][2] if kind == "line" else None)


def point(alpha, nll, accuracy):
    return {"name": "", "coords": alpha, "nll": nll, "accuracy": accuracy}


def curvature(stack, num_iterations=40):
    return landscape.curvature_record(
        stack, loss_fn, HESSIAN_BATCHES, KEY, num_iterations=num_iterations
    )


def test_curvature_is_that_of_the_mean_loss():
    stack = networks(2)
    record = curvature(stack)
    for i in range(2):
        params = jax.tree.map(lambda x, i=i: x[i], stack)
        flat, unravel = ravel_pytree(params)
        mean = lambda x, unravel=unravel: (
            sum(loss_fn(unravel(x), batch) for batch in HESSIAN_BATCHES) / 2
        )
        hessian = np.asarray(jax.hessian(mean)(flat), float)
        scale = np.asarray(ravel_pytree(ss.landscape.filter_norms(params))[0])
        relative = scale[:, None] * hessian * scale
        for name, matrix in {"eigenvalue": hessian, "relative_eigenvalue": relative}.items():
            largest = np.linalg.eigvalsh(matrix)[-1]
            np.testing.assert_allclose(record[name][i], largest, rtol=2e-6)
    assert [record[n] for n in ("num_images", "batch_size", "num_iterations")] == [16, 8, 40]


def along(stack, subspace, points):
    return landscape.path_record(stack, subspace, points, lambda at: curvature(at, 3))


def test_a_path_has_barriers_test_errors_and_curvature():
    points = [point(0.0, 0.3, 0.75), point(1.0, 0.5, None), point(0.5, 0.7, 0.5)]
    stack = networks(2)
    record = along(stack, ss.line(), points)
    assert record["barrier"] == {"nll": 0.3, "error": None}
    expected = {"alphas": [0.0, 0.5, 1.0], "nll": [0.3, 0.7, 0.5], "error": [0.25, 0.5, None]}
    assert record["test"] == expected
    assert record["alphas"] == [0.0, 0.25, 0.5, 0.75, 1.0]
    ends = curvature(stack, num_iterations=3)["eigenvalue"]
    np.testing.assert_allclose(record["curvature"]["eigenvalue"][::4], ends, rtol=1e-3)
    assert along(stack, ss.layerwise(ss.line()), points) == record


def test_one_network_is_a_level():
    record = along(networks(1), ss.simplex(1), [point([1.0], 0.3, 0.75)])
    assert (record["barrier"], record["alphas"]) == (None, None)
    assert record["test"] == {"alphas": None, "nll": [0.3], "error": [0.25]}
    assert len(record["curvature"]["eigenvalue"]) == 1


def test_what_is_no_landscape_is_refused_in_a_sentence():
    stack = jax.tree.map(lambda x: jnp.stack([x[0], x[1], x[:2].mean(0), x[0]]), networks(2))
    with pytest.raises(UserError, match=r"collinear.*height.*; choose one"):
        draw(ss.simplex(3), jax.tree.map(lambda x: x[:3], stack))
    with pytest.raises(UserError, match="4 endpoints lies in no plane; draw one of at most 3"):
        draw(ss.simplex(4), stack)
