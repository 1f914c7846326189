"""Which points of a trained stack are evaluated, and which of them are ensembles."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.evaluation.predict import Settings
from experiments.training.run import Run

# The stream of a run's randomness that draws networks at evaluation; predict.py has the one before.
DRAWS_STREAM = 4


class Point(NamedTuple):
    """A point to evaluate: a name for it ("" if it has none) and its coordinates."""

    name: str
    coords: np.ndarray


def points_of(subspace: ss.Subspace, num_points: int, grid_steps: int = 0) -> list[Point]:
    """A grid along a line or curve; corners, middles of edges and the center of a simplex.

    A triangle has a grid too, of points whose coordinates are multiples of `1 / grid_steps`; those
    that are not in the list already are at its end, without a name.
    """
    n = subspace.num_endpoints
    if subspace.center.ndim == 0:
        names = {0: "endpoint 0", num_points - 1: f"endpoint {n - 1}"}
        names[(num_points - 1) // 2] = "midpoint"
        alphas = np.linspace(0, 1, num_points, dtype=np.float32)
        return [Point(names.get(i, ""), alpha) for i, alpha in enumerate(alphas)]
    if n == 1:
        return [Point("midpoint", subspace.center)]
    corners = np.eye(n, dtype=np.float32)
    pairs = list(itertools.combinations(range(n), 2)) if n > 2 else []
    points = [
        *(Point(f"endpoint {i}", corner) for i, corner in enumerate(corners)),
        *(Point(f"edge {i}-{j}", (corners[i] + corners[j]) / 2) for i, j in pairs),
        Point("midpoint", subspace.center),
    ]
    return points + (_grid(grid_steps, points) if n == 3 and grid_steps else [])


def _grid(steps: int, known: list[Point]) -> list[Point]:
    """The triangle's points `(i, j, k) / steps` but for those that are known."""
    found = {tuple(np.rint(steps * point.coords)) for point in known}
    triples = [(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]
    rest = [triple for triple in triples if triple not in found]
    return [Point("", np.array(triple, np.float32) / np.float32(steps)) for triple in rest]


class Layout(NamedTuple):
    """What of a stack is evaluated.

    Attributes:
      points: single networks.
      weights: `[P, n]`, how each is mixed from the stack.
      groups: ensembles of points by their indices, the first being the place "ensemble".
    """

    points: list[Point]
    weights: np.ndarray
    groups: list[tuple[int, ...]]


def layout(run: Run, settings: Settings) -> Layout:
    """The points and ensembles that belong to a method."""
    method = run.program.method
    if method.average == "swag":  # the mean, then networks drawn around it
        rows = np.eye(1 + method.num_draws, dtype=np.float32)
        names = ["midpoint", *(f"sample {i}" for i in range(method.num_draws))]
        points = [Point(name, row) for name, row in zip(names, rows, strict=True)]
        return Layout(points, rows, [tuple(range(1, len(points)))])
    snapshots = method.average == "snapshots"
    subspace = ss.simplex(method.num_models) if snapshots else method.subspace
    # Snapshots and complexes are no trained triangles.
    grid_steps = 0 if snapshots or method.is_complex else settings.grid_steps
    points = points_of(subspace, settings.num_points, grid_steps)
    groups = _ensembles(points)
    if method.is_complex:  # its center may lie outside of it: its networks are the drawn ones
        key = jax.random.fold_in(jax.random.key(run.seed), DRAWS_STREAM)
        draws = jax.vmap(subspace.draw)(jax.random.split(key, settings.num_samples))
        first = len(points)
        points = points + [Point(f"sample {i}", draw) for i, draw in enumerate(np.asarray(draws))]
        groups = [tuple(range(first, len(points)))]
    coords = jnp.stack([jnp.asarray(point.coords) for point in points])
    return Layout(points, np.asarray(jax.vmap(subspace.weights)(coords)), groups)


def _ensembles(points: list[Point]) -> list[tuple[int, ...]]:
    """Opposite points of a path; the corners of a simplex, all together and in pairs."""
    if len(points) == 1:
        return []
    if points[0].coords.ndim == 0:
        return [(i, len(points) - 1 - i) for i in range(len(points) // 2)]
    corners = tuple(i for i, point in enumerate(points) if point.name.startswith("endpoint"))
    pairs = list(itertools.combinations(corners, 2)) if len(corners) > 2 else []
    return [corners, *pairs]


def short(coords: np.ndarray) -> np.ndarray:
    """float32 coordinates as the decimals that they stand for: 0.05 and not 0.05000000074505806."""
    return coords.astype(np.float64).round(7)
