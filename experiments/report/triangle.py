"""Triangles of three networks as maps: which evaluated points they have, and what lies between them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial import Delaunay

Metrics = Mapping[str, Any]

# Corners [3, 2] of a triangle of equal sides, the first two at the bottom.
EQUILATERAL = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])
# Of three points in a row that rounding has put beside each other, as a share of the triangle's area.
_NO_AREA = 1e-4


def points_of(points: Sequence[Metrics]) -> list[Metrics]:
    """The points of a record that lie on a triangle, each place once; none without its corners."""
    found = {
        tuple(p["coords"]): p
        for p in points
        if isinstance(p["coords"], list | tuple) and len(p["coords"]) == 3
    }
    named = {point["name"] for point in found.values()}
    return list(found.values()) if {f"endpoint {i}" for i in range(3)} <= named else []


def triangles(coords: Sequence[Sequence[float]]) -> np.ndarray:
    """Delaunay's triangles `[T, 3]` between points at barycentric coordinates `[P, 3]`."""
    coords = np.asarray(coords, float)
    found = Delaunay(coords @ EQUILATERAL).simplices
    return found[np.abs(np.linalg.det(coords[found])) > _NO_AREA]
