"""Triangles as maps: which points they have, and what lies between them."""

import copy

import numpy as np
import pytest
import synthetic_metrics

import subspace_jax as ss
from experiments.evaluation import layout
from experiments.report import triangle


def coords_of(steps):
    return [layout.short(p.coords).tolist() for p in layout.points_of(ss.simplex(3), 11, steps)]


@pytest.mark.parametrize("steps", [6, 12])
def test_a_grid_is_cut_into_equal_triangles_that_cover_it(steps):
    coords = np.array(coords_of(steps))
    meshes = triangle.triangles(coords)
    areas = np.abs(np.linalg.det(coords[meshes]))  # shares of the whole
    assert len(meshes) == steps**2
    np.testing.assert_allclose(areas, 1 / steps**2, rtol=1e-4)
    assert set(meshes.ravel()) == set(range(len(coords)))


def test_corners_edges_and_centre_cover_the_triangle_too():
    coords = np.array(coords_of(0))
    areas = np.abs(np.linalg.det(coords[triangle.triangles(coords)]))
    assert areas.sum() == pytest.approx(1)
    assert len(areas) == 6


def test_the_map_has_equal_sides():
    sides = triangle.EQUILATERAL - np.roll(triangle.EQUILATERAL, 1, axis=0)
    np.testing.assert_allclose(np.linalg.norm(sides, axis=1), 1)


@pytest.mark.parametrize(("kind", "number"), [("simplex", 7), ("layerwise_simplex", 7)])
def test_triangles_have_all_their_points(kind, number):
    points = synthetic_metrics.run_metrics(kind)["points"]
    assert triangle.points_of(points) == points
    assert len(points) == number
    doubled = points + copy.deepcopy(points[:2])
    assert len(triangle.points_of(doubled)) == number


def test_draws_of_a_gaussian_are_no_corners():
    names = ("midpoint", "sample 0", "sample 1")
    points = [
        {"name": name, "coords": row} for name, row in zip(names, np.eye(3).tolist(), strict=True)
    ]
    assert triangle.points_of(points) == []


@pytest.mark.parametrize("kind", ["standard", "line", "curve", "simplex_4"])
def test_other_subspaces_have_none(kind):
    assert triangle.points_of(synthetic_metrics.run_metrics(kind)["points"]) == []
