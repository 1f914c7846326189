"""Which points of a trained stack are evaluated, which are ensembles, and which one a user means."""

import itertools
from fractions import Fraction
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.evaluation.predict import Settings
from experiments.system.errors import UserError
from experiments.training.methods import Answer
from experiments.training.run import Run

_TOLERANCE = 1e-6  # of sums of coordinates, which people round
# The stream of a run's randomness that draws networks at evaluation; predict.py has the one before.
DRAWS_STREAM = 4


class Point(NamedTuple):
    """A point to evaluate: a name for it ("" if it has none) and its coordinates."""

    name: str
    coords: np.ndarray


def points_of(subspace: ss.Subspace, num_points: int, grid_steps: int = 0) -> list[Point]:
    """A grid along a path; corners, middles of edges and center of a simplex, then a triangle's grid."""
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
    """The single networks of a stack that are evaluated, how each is mixed, and their ensembles."""

    points: list[Point]
    weights: np.ndarray  # [P, n]
    groups: list[tuple[int, ...]]  # of indices; the first is the predictor "ensemble"

    def index(self, name: str) -> int:
        """Of the first point of this name."""
        return next(i for i, point in enumerate(self.points) if point.name == name)

    @property
    def endpoints(self) -> tuple[int, ...]:
        """The indices of the endpoints, if they are points."""
        return tuple(i for i, x in enumerate(self.points) if x.name.startswith("endpoint"))


def layout(run: Run, settings: Settings) -> Layout:
    """The points and ensembles that belong to a method."""
    answer = run.program.method.answer
    if answer.subspace is None:  # the mean, then networks drawn around it
        rows = np.eye(answer.num_networks, dtype=np.float32)
        names = ["midpoint", *(f"sample {i}" for i in range(len(rows) - 1))]
        points = [Point(name, row) for name, row in zip(names, rows, strict=True)]
        return Layout(points, rows, [tuple(range(1, len(points)))])
    grid_steps = settings.grid_steps if answer.chooses == "point" else 0
    points = points_of(answer.subspace, settings.num_points, grid_steps)
    if answer.drawn:
        key = jax.random.fold_in(jax.random.key(run.seed), DRAWS_STREAM)
        draws = jax.vmap(answer.subspace.draw)(jax.random.split(key, settings.num_samples))
        points += [Point(f"sample {i}", draw) for i, draw in enumerate(np.asarray(draws))]
    coords = jnp.stack([jnp.asarray(point.coords) for point in points])
    plan = Layout(points, np.asarray(jax.vmap(answer.subspace.weights)(coords)), [])
    if answer.drawn:
        first = len(points) - settings.num_samples
        return plan._replace(groups=[tuple(range(first, len(points)))])
    return plan._replace(groups=_ensembles(plan))


def _ensembles(plan: Layout) -> list[tuple[int, ...]]:
    """Opposite points of a path; the corners of a simplex, all together and in pairs."""
    last = len(plan.points) - 1
    if last == 0:
        return []
    if plan.points[0].coords.ndim == 0:
        return [(i, last - i) for i in range((last + 1) // 2)]
    corners = plan.endpoints
    return [corners, *(itertools.combinations(corners, 2) if len(corners) > 2 else [])]


def short(coords: np.ndarray) -> np.ndarray:
    """float32 coordinates as the decimals that they stand for: 0.05 and not 0.05000000074505806."""
    return coords.astype(np.float64).round(7)


class Chosen(NamedTuple):
    """One point of a run."""

    name: str  # what evaluation calls it, "" if it has no name
    coords: np.ndarray  # a number of a line or curve, [n] of a simplex
    weights: np.ndarray  # [n], the mixing weights of the run's networks
    inside: bool  # whether it lies in what was trained
    validation_nll: float | None = None  # by which it was chosen; None if it was given


def choose(spec: str, run: Run, settings: Settings, metrics: dict) -> Chosen:
    """The point that a command line means: its name, `best` by validation NLL, or its coordinates."""
    answer, plan = run.program.method.answer, layout(run, settings)
    named = {point.name.replace(" ", "_"): i for i, point in enumerate(plan.points) if point.name}
    nll, index = None, named.get(spec.replace(" ", "_"))
    if spec == "best":
        nll, index = _best(metrics["points"])
    if index is not None:
        name, coords = plan.points[index]
        drawn = answer.subspace is None or name.startswith("sample")
        inside = drawn or _is_inside(answer, coords)
        return Chosen(name, coords, plan.weights[index], inside, nll)
    free = answer.subspace is not None and answer.subspace.num_endpoints > 1
    coords = _coordinates(spec, answer.subspace) if free else None
    if coords is None:
        names = list(named)
        more = [f"... {names[-1]}"] if len(names) > 3 else []
        choices = ", ".join([*names[:3], *more, "best"])
        numbers = _coordinates_said(answer.subspace) if free else ""
        raise UserError(
            f"--point is {spec}, which is no point of this {answer.said}; use {choices}{numbers}."
        )
    weights = np.asarray(answer.subspace.weights(jnp.asarray(coords)))
    return Chosen("", coords, weights, _is_inside(answer, coords))


def _coordinates(spec: str, subspace: ss.Subspace) -> np.ndarray | None:
    try:
        numbers = [float(Fraction(part.strip())) for part in spec.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    if subspace.center.ndim == 0:
        return np.asarray(numbers[0], np.float32) if len(numbers) == 1 else None
    fits = len(numbers) == subspace.num_endpoints and abs(sum(numbers) - 1) <= _TOLERANCE
    return np.asarray(numbers, np.float32) if fits else None


def _coordinates_said(subspace: ss.Subspace) -> str:
    if subspace.center.ndim == 0:
        return " or a number from 0 to 1"
    n = subspace.num_endpoints
    return f" or {n} numbers that sum to 1, such as {','.join([f'1/{n}'] * n)}"


def _best(records: list[dict]) -> tuple[float, int]:
    """The lowest validation NLL, and the index of its point."""
    found = [(record.get("validation") or {}).get("nll") for record in records]
    finite = [(nll, i) for i, nll in enumerate(found) if nll is not None]
    if not finite:
        raise UserError(
            "--point is best but the run held out no validation images to choose it by "
            "(config.validation_size); use midpoint, or train one with a validation split."
        )
    return min(finite)


def _is_inside(answer: Answer, coords: np.ndarray) -> bool:
    if coords.ndim == 0:
        return bool(0 <= coords <= 1)
    support = set(np.flatnonzero(coords).tolist())
    known = any(support <= set(simplex) for simplex in answer.simplexes)
    return bool(coords.min() >= 0) and known


def recorded(chosen: Chosen, metrics: dict) -> dict | None:
    """What a run's own evaluation found at a point, if it looked there."""
    coords = short(np.asarray(chosen.coords)).tolist()
    return next((point for point in metrics["points"] if point["coords"] == coords), None)
