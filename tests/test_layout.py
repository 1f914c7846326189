"""Which points of a stack are evaluated, and which of them are ensembles."""

import itertools

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

import subspace_jax as ss
from experiments.evaluation import predict
from experiments.evaluation.points import layout, points_of, short
from experiments.training.run import make_run


def layout_of(recipe, **changes):
    config = tiny.config(recipe, num_epochs=60, **changes)  # long enough for every schedule
    run = make_run(config, tiny.dataset())
    return layout(run, predict.make_settings(config, run))


def names_of(plan):
    return [point.name for point in plan.points]


# Points


@given(st.integers(1, 100), st.sampled_from([ss.line(), ss.bezier(2), ss.layerwise(ss.line())]))
def test_points_of_a_path_are_a_grid_from_end_to_end(half, subspace):
    points = points_of(subspace, 2 * half + 1)
    coords = np.array([point.coords for point in points])
    np.testing.assert_allclose(coords, np.arange(2 * half + 1) / (2 * half), atol=1e-7)
    assert coords.dtype == np.float32
    assert (coords[0], coords[half], coords[-1]) == (0, subspace.center, 1)
    names = {i: point.name for i, point in enumerate(points) if point.name}
    last = f"endpoint {subspace.num_endpoints - 1}"
    assert names == {0: "endpoint 0", half: "midpoint", 2 * half: last}


@pytest.mark.parametrize("n", [1, 2, 3, 5])
@pytest.mark.parametrize("wrap", [lambda s: s, ss.layerwise])
def test_points_of_a_simplex_are_corners_edges_and_the_center(n, wrap):
    subspace = wrap(ss.simplex(n))
    points = {point.name: point.coords for point in points_of(subspace, 21)}
    corners = [f"endpoint {i}" for i in range(n)] if n > 1 else []
    pairs = list(itertools.combinations(range(n), 2)) if n > 2 else []
    assert list(points) == [*corners, *(f"edge {i}-{j}" for i, j in pairs), "midpoint"]
    np.testing.assert_array_equal(points["midpoint"], subspace.center)
    for i, name in enumerate(corners):
        np.testing.assert_array_equal(points[name], np.eye(n)[i])
    for i, j in pairs:
        np.testing.assert_array_equal(points[f"edge {i}-{j}"], np.eye(n)[[i, j]].mean(0))
    for coords in points.values():
        assert coords.shape == (n,)
        assert coords.sum() == pytest.approx(1)


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


@pytest.mark.parametrize("subspace", [ss.line(), ss.bezier(2), ss.simplex(2), ss.simplex(4)])
def test_only_triangles_have_a_grid(subspace):
    assert len(points_of(subspace, 21, 6)) == len(points_of(subspace, 21))


def test_only_trained_triangles_have_a_grid():
    grid = {"evaluation__grid_steps": 6}
    assert len(layout_of("simplex_3", **grid).points) == 28
    assert len(layout_of("layerwise_simplex_3", **grid).points) == 28
    assert len(layout_of("snapshot", schedule__num_models=3, **grid).points) == 7


@given(st.integers(0, 10_000))
def test_coordinates_are_written_as_the_decimals_they_stand_for(k):
    assert short(np.float32(k / 10_000)) == k / 10_000


# Layouts


RECIPES = ["standard", "standard_matched", "line", "layerwise_line", "curve", "simplex_4", "swag"]


@pytest.mark.parametrize("recipe", [*RECIPES, "ema", "sam", "line_sam"])
def test_every_point_is_a_mixture_and_one_is_the_midpoint(recipe):
    plan = layout_of(recipe)
    assert names_of(plan).count("midpoint") == 1
    assert len(plan.points) == len(plan.weights)
    np.testing.assert_allclose(plan.weights.sum(1), 1, atol=1e-6)
    assert plan.weights.dtype == np.float32
    for members in plan.groups:
        assert len(set(members)) == len(members) > 1
        assert set(members) <= set(range(len(plan.points)))


@pytest.mark.parametrize("recipe", ["line", "curve"])
def test_a_path_is_mixed_as_the_subspace_mixes_and_ensembles_are_of_opposite_points(recipe):
    plan = layout_of(recipe, evaluation__num_points=7)
    subspace = {"line": ss.line(), "curve": ss.bezier(2)}[recipe]
    expected = [subspace.weights(jnp.float32(i / 6)) for i in range(7)]
    chex.assert_trees_all_close(plan.weights, np.stack(expected), atol=1e-6)
    assert plan.groups == [(0, 6), (1, 5), (2, 4)]


@pytest.mark.parametrize(
    ("layerwise", "recipe"), [("layerwise_line", "line"), ("layerwise_simplex_3", "simplex_3")]
)
def test_layers_are_evaluated_at_one_point_together(layerwise, recipe):
    chex.assert_trees_all_equal(layout_of(layerwise).weights, layout_of(recipe).weights)
    assert names_of(layout_of(layerwise)) == names_of(layout_of(recipe))


def test_a_simplex_has_ensembles_of_all_corners_and_of_pairs():
    plan = layout_of("simplex_3")
    assert plan.groups == [(0, 1, 2), (0, 1), (0, 2), (1, 2)]
    np.testing.assert_array_equal(plan.weights[:3], np.eye(3))


@pytest.mark.parametrize("recipe", ["standard", "standard_matched", "ema", "swa_cyclic_3"])
def test_one_network_is_one_point_without_an_ensemble(recipe):
    plan = layout_of(recipe)
    assert names_of(plan) == ["midpoint"]
    assert plan.groups == []
    np.testing.assert_array_equal(plan.weights, [[1]])


def test_swag_predicts_with_its_draws_and_not_with_their_mean():
    plan = layout_of("swag", average__num_samples=3)
    assert names_of(plan) == ["midpoint", "sample 0", "sample 1", "sample 2"]
    np.testing.assert_array_equal(plan.weights, np.eye(4))
    assert plan.groups == [(1, 2, 3)]


@pytest.mark.parametrize("recipe", ["snapshot", "fge"])
def test_snapshots_are_the_corners_of_a_simplex_and_their_soup_is_its_midpoint(recipe):
    plan = layout_of(recipe, schedule__num_models=4)
    weights = dict(zip(names_of(plan), plan.weights, strict=True))
    np.testing.assert_array_equal([weights[f"endpoint {i}"] for i in range(4)], np.eye(4))
    np.testing.assert_array_equal(weights["midpoint"], np.full(4, 0.25))
    assert [names_of(plan)[i] for i in plan.groups[0]] == [f"endpoint {i}" for i in range(4)]


@pytest.fixture(scope="module")
def complex_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    files = tuple(tiny.weights_file(folder / f"{i}.npz", seed=i) for i in range(2))

    def make(**changes):
        return layout_of("spro_1", subspace__weights=files, **changes)

    return make


def test_networks_of_a_complex_are_drawn_on_its_simplexes(complex_of):
    plan = complex_of(evaluation__num_samples=12)
    assert names_of(plan)[-12:] == [f"sample {i}" for i in range(12)]
    drawn = plan.weights[-12:]
    assert len(np.unique(drawn, axis=0)) == 12
    assert (drawn >= 0).all()
    allowed = {(True, False, True), (False, True, True)}  # its simplexes are 0-2 and 1-2
    assert {tuple(row) for row in (drawn > 0).tolist()} == allowed
    assert [tuple(names_of(plan)[i] for i in group) for group in plan.groups] == [
        tuple(f"sample {i}" for i in range(12))
    ]


def test_the_seed_of_a_run_draws_the_networks_of_its_complex(complex_of):
    first, again, other = (complex_of(seed=seed).weights for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first[-10:] != other[-10:]).any(axis=1).all()
    np.testing.assert_array_equal(first[:-10], other[:-10])
