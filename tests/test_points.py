"""Which points of a stack are evaluated, and which of them are ensembles."""

import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import subspace_jax as ss
from experiments.evaluation import predict
from experiments.evaluation.points import layout, points_of
from experiments.training.run import make_run


def layout_of(recipe, **changes):
    config = tiny.config(recipe, num_epochs=60, **changes)  # long enough for every schedule
    run = make_run(config, tiny.dataset())
    return layout(run, predict.make_settings(config, run))


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("wrap", [lambda s: s, ss.layerwise])
def test_points_of_a_simplex_are_corners_edges_and_the_center(n, wrap):
    subspace, corners = wrap(ss.simplex(n)), np.eye(n, dtype=np.float32)
    pairs = itertools.combinations(range(n), 2) if n > 2 else ()
    expected = {f"endpoint {i}": corners[i] for i in range(n)} if n > 1 else {}
    expected |= {f"edge {i}-{j}": (corners[i] + corners[j]) / 2 for i, j in pairs}
    expected |= {"midpoint": np.full(n, 1 / n, np.float32)}
    found = {point.name: np.asarray(point.coords) for point in points_of(subspace, 21)}
    assert list(found) == list(expected)
    chex.assert_trees_all_close(found, expected, atol=1e-7)


@pytest.mark.parametrize("steps", [6, 12])
def test_a_triangle_has_a_grid_with_each_point_once_and_the_named_ones_first(steps):
    named = points_of(ss.simplex(3), 21)
    points = points_of(ss.simplex(3), 21, steps)
    assert [point.name for point in points[: len(named)]] == [point.name for point in named]
    assert all(point.name == "" for point in points[len(named) :])
    multiples = np.array([steps * point.coords for point in points])
    np.testing.assert_allclose(multiples, np.rint(multiples), atol=1e-4)
    expected = {
        (i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1) if i + j <= steps
    }
    assert sorted(map(tuple, np.rint(multiples).astype(int).tolist())) == sorted(expected)


_ONE = (["midpoint"], [])  # of one network
_PAIRS = [(0, 6), (1, 5), (2, 4)]
_PATH = (["endpoint 0", "", "", "midpoint", "", "", "endpoint 1"], _PAIRS)
_OF_THREE = [*(f"endpoint {i}" for i in range(3)), "edge 0-1", "edge 0-2", "edge 1-2", "midpoint"]
_TRIANGLE = (_OF_THREE, [(0, 1, 2), (0, 1), (0, 2), (1, 2)])
# recipe -> the names of its points and the members of its ensembles.
LAYOUTS = {
    "standard": _ONE,
    "swa_cyclic_3": _ONE,
    "line": _PATH,
    "layerwise_line": _PATH,
    "curve": ([*_PATH[0][:-1], "endpoint 2"], _PAIRS),
    "simplex_3": _TRIANGLE,
    "snapshot": _TRIANGLE,
    "swag": (["midpoint", *(f"sample {i}" for i in range(5))], [(1, 2, 3, 4, 5)]),
}


@pytest.mark.parametrize("recipe", LAYOUTS)
def test_a_method_has_points_that_are_mixtures_and_ensembles_of_them(recipe):
    changes = {"snapshot": {"schedule__num_models": 3}}
    plan = layout_of(recipe, evaluation__num_points=7, **changes.get(recipe, {}))
    names, groups = LAYOUTS[recipe]
    assert ([point.name for point in plan.points], plan.groups) == (names, groups)
    expected = coords = np.stack([point.coords for point in plan.points])
    if coords.ndim == 1:
        np.testing.assert_allclose(coords, np.arange(7) / 6, atol=1e-7)
        subspace = ss.bezier(2) if recipe == "curve" else ss.line()
        expected = np.stack([subspace.weights(jnp.float32(alpha)) for alpha in coords])
    chex.assert_trees_all_close(plan.weights, expected, atol=1e-6)
    ends = [i for i, name in enumerate(names) if name.startswith("endpoint")]
    assert plan.endpoints == tuple(ends)
    assert plan.index("midpoint") == names.index("midpoint")


def test_the_seed_of_a_run_draws_the_networks_of_its_complex_on_its_simplexes(tmp_path):
    files = tuple(tiny.weights_file(tmp_path / f"{i}.npz", seed=i) for i in range(2))
    changes = {"subspace__weights": files, "evaluation__num_samples": 12}
    first, again, other = (layout_of("spro_1", seed=seed, **changes) for seed in (0, 0, 1))
    assert [point.name for point in first.points[-12:]] == [f"sample {i}" for i in range(12)]
    drawn = first.weights[-12:]
    allowed = {(True, False, True), (False, True, True)}  # its simplexes are 0-2 and 1-2
    assert {tuple(row) for row in (drawn > 0).tolist()} == allowed
    assert first.groups == [tuple(range(len(first.points) - 12, len(first.points)))]
    np.testing.assert_array_equal(first.weights, again.weights)
    assert (drawn != other.weights[-12:]).any(axis=1).all()
    np.testing.assert_array_equal(first.weights[:-12], other.weights[:-12])
