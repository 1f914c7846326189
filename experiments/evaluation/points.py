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
      groups: ensembles of points by their indices, the first being the predictor "ensemble".
    """

    points: list[Point]
    weights: np.ndarray
    groups: list[tuple[int, ...]]

    def index(self, name: str) -> int:
        """Of the first point of this name."""
        return next(i for i, point in enumerate(self.points) if point.name == name)

    @property
    def endpoints(self) -> tuple[int, ...]:
        """The indices of the endpoints, if they are points."""
        return _endpoints(self.points)


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
    groups = _ensembles(points)
    if answer.drawn:
        key = jax.random.fold_in(jax.random.key(run.seed), DRAWS_STREAM)
        draws = jax.vmap(answer.subspace.draw)(jax.random.split(key, settings.num_samples))
        first = len(points)
        points = points + [Point(f"sample {i}", draw) for i, draw in enumerate(np.asarray(draws))]
        groups = [tuple(range(first, len(points)))]
    coords = jnp.stack([jnp.asarray(point.coords) for point in points])
    return Layout(points, np.asarray(jax.vmap(answer.subspace.weights)(coords)), groups)


def _ensembles(points: list[Point]) -> list[tuple[int, ...]]:
    """Opposite points of a path; the corners of a simplex, all together and in pairs."""
    if len(points) == 1:
        return []
    if points[0].coords.ndim == 0:
        return [(i, len(points) - 1 - i) for i in range(len(points) // 2)]
    corners = _endpoints(points)
    pairs = list(itertools.combinations(corners, 2)) if len(corners) > 2 else []
    return [corners, *pairs]


def _endpoints(points: list[Point]) -> tuple[int, ...]:
    return tuple(i for i, point in enumerate(points) if point.name.startswith("endpoint"))


def short(coords: np.ndarray) -> np.ndarray:
    """float32 coordinates as the decimals that they stand for: 0.05 and not 0.05000000074505806."""
    return coords.astype(np.float64).round(7)


class Chosen(NamedTuple):
    """One point of a run.

    Attributes:
      name: what evaluation calls it, "" if it has no name.
      coords: a number of a line or curve, `[n]` of a simplex.
      weights: `[n]`, the mixing weights of the run's networks.
      inside: whether it lies in what was trained.
      validation_nll: by which it was chosen; `None` if it was given.
    """

    name: str
    coords: np.ndarray
    weights: np.ndarray
    inside: bool
    validation_nll: float | None = None


def choose(spec: str, run: Run, settings: Settings, metrics: dict) -> Chosen:
    """The point that a command line means.

    Args:
      spec: `midpoint` or another name of an evaluated point, `_` standing for a space; `best`, the
        evaluated point of lowest validation NLL; or coordinates, as `0.3`, `0.2,0.3,0.5` or `1/3,2/3`.
      run: that was trained.
      settings: with which it was evaluated.
      metrics: what the evaluation found.

    Raises:
      UserError: the run has no such point, or nothing to choose the best one by.
    """
    answer, plan = run.program.method.answer, layout(run, settings)
    if spec == "best":
        return _best(answer, plan, metrics["points"])
    named = {point.name: i for i, point in enumerate(plan.points) if point.name}
    name = spec.replace("_", " ")
    if name in named:
        return _evaluated(answer, plan, named[name])
    numbers = _numbers(spec)
    if numbers is None:
        names = [name.replace(" ", "_") for name in named]
        more = f", ... {names[-1]}" if len(names) > 3 else ""
        raise UserError(
            f"--point is {spec!r}; use {', '.join(names[:3])}{more}, best, or "
            f"{_coordinates_said(answer)}."
        )
    subspace = answer.subspace
    if subspace is None or subspace.num_endpoints == 1:
        what = "SWAG's networks span no subspace" if subspace is None else "the run has one network"
        raise UserError(f"--point is {spec} but {what}; use midpoint.")
    wanted = max(subspace.center.size, 1)
    if len(numbers) != wanted:
        raise UserError(
            f"--point has {len(numbers)} coordinate{'s' * (len(numbers) > 1)} but a point of this "
            f"{answer.said} has {wanted}; give {_coordinates_said(answer)}."
        )
    coords = np.asarray(numbers if subspace.center.ndim else numbers[0], np.float32)
    if subspace.center.ndim and abs(sum(numbers) - 1) > _TOLERANCE:
        raise UserError(
            f"--point is {spec}, which sums to {sum(numbers):g}, but barycentric coordinates sum to 1; "
            "change one of them (fractions such as 1/3 are understood)."
        )
    weights = np.asarray(subspace.weights(jnp.asarray(coords)))
    return Chosen("", coords, weights, _is_inside(answer, coords))


def _coordinates_said(answer: Answer) -> str:
    subspace = answer.subspace
    if subspace is None or subspace.num_endpoints == 1:
        return "no coordinates, since there is no subspace"
    if subspace.center.ndim == 0:
        return "a number from 0 to 1"
    shares = ",".join(["0.5", "0.5", *["0"] * (subspace.num_endpoints - 2)])
    return f"{subspace.num_endpoints} coordinates such as {shares}"


def _numbers(spec: str) -> list[float] | None:
    try:
        return [float(Fraction(part.strip())) for part in spec.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _best(answer: Answer, plan: Layout, records: list[dict]) -> Chosen:
    found = [(record.get("validation") or {}).get("nll") for record in records]
    finite = [i for i, nll in enumerate(found) if nll is not None]
    if not finite:
        raise UserError(
            "--point is best but the run held out no validation images to choose it by "
            "(config.validation_size); use midpoint, or train one with a validation split."
        )
    if len(found) != len(plan.points):
        raise UserError(
            f"--point is best but metrics.json has {len(found)} points and the config "
            f"{len(plan.points)}; use midpoint."
        )
    best = min(finite, key=lambda i: found[i])
    return _evaluated(answer, plan, best)._replace(validation_nll=found[best])


def _evaluated(answer: Answer, plan: Layout, i: int) -> Chosen:
    point = plan.points[i]
    drawn = answer.subspace is None or point.name.startswith("sample")
    inside = drawn or _is_inside(answer, point.coords)
    return Chosen(point.name, point.coords, plan.weights[i], inside)


def _is_inside(answer: Answer, coords: np.ndarray) -> bool:
    if coords.ndim == 0:
        return bool(0 <= coords <= 1)
    if coords.min() < 0:
        return False
    support = set(np.flatnonzero(coords).tolist())
    return any(support <= set(simplex) for simplex in answer.simplexes)


def recorded(chosen: Chosen, metrics: dict) -> dict | None:
    """What a run's own evaluation found at a point, if it looked there."""
    coords = short(np.asarray(chosen.coords)).tolist()
    found = (point for point in metrics["points"] if point["coords"] == coords)
    return next(found, None)
