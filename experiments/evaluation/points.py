"""A point of a trained run by its name or coordinates: which mixture of its networks that is."""

from fractions import Fraction
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.evaluation.layout import Layout, layout, short
from experiments.evaluation.predict import Settings
from experiments.system.errors import UserError
from experiments.training.methods import Method
from experiments.training.run import Run

_TOLERANCE = 1e-6  # of sums of coordinates, which people round


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


def choose(spec: str, run: Run, settings: Settings, metrics: dict, simplexes=()) -> Chosen:
    """The point that a command line means.

    Args:
      spec: `midpoint` or another name of an evaluated point, `_` standing for a space; `best`, the
        evaluated point of lowest validation NLL; or coordinates, as `0.3`, `0.2,0.3,0.5` or `1/3,2/3`.
      run: that was trained.
      settings: with which it was evaluated.
      metrics: what the evaluation found.
      simplexes: the vertices of each simplex of a complex.

    Raises:
      UserError: the run has no such point, or nothing to choose the best one by.
    """
    method, plan = run.program.method, layout(run, settings)
    if spec == "best":
        return _best(method, plan, metrics["points"], simplexes)
    named = {point.name: i for i, point in enumerate(plan.points) if point.name}
    name = spec.replace("_", " ")
    if name in named:
        return _evaluated(method, plan, named[name], simplexes)
    numbers = _numbers(spec)
    if numbers is None:
        names = [name.replace(" ", "_") for name in named]
        more = f", ... {names[-1]}" if len(names) > 3 else ""
        raise UserError(
            f"--point is {spec!r}; use {', '.join(names[:3])}{more}, best, or "
            f"{_coordinates_said(method)}."
        )
    subspace = _subspace(method)
    if subspace is None or subspace.num_endpoints == 1:
        what = "SWAG's networks span no subspace" if subspace is None else "the run has one network"
        raise UserError(f"--point is {spec} but {what}; use midpoint.")
    wanted = max(subspace.center.size, 1)
    if len(numbers) != wanted:
        raise UserError(
            f"--point has {len(numbers)} coordinate{'s' * (len(numbers) > 1)} but a point of this "
            f"{method_said(method)} has {wanted}; give {_coordinates_said(method)}."
        )
    coords = np.asarray(numbers if subspace.center.ndim else numbers[0], np.float32)
    if subspace.center.ndim and abs(sum(numbers) - 1) > _TOLERANCE:
        raise UserError(
            f"--point is {spec}, which sums to {sum(numbers):g}, but barycentric coordinates sum to 1; "
            "change one of them (fractions such as 1/3 are understood)."
        )
    weights = np.asarray(subspace.weights(jnp.asarray(coords)))
    return Chosen("", coords, weights, _is_inside(method, coords, simplexes))


def method_said(method: Method) -> str:
    """What a method's networks span."""
    subspace = _subspace(method)
    if method.average == "swag":
        return "Gaussian"
    if method.average == "snapshots" or not method.trains:
        return f"set of {subspace.num_endpoints} networks"
    if subspace.center.ndim == 0:
        return "line" if subspace.num_endpoints == 2 else "curve"
    if subspace.num_endpoints == 1:
        return "network"
    return "complex" if method.is_complex else f"simplex of {subspace.num_endpoints} networks"


def _subspace(method: Method) -> ss.Subspace | None:
    """Of which coordinates are; of snapshots their simplex, of SWAG's draws none."""
    if method.average == "swag":
        return None
    return ss.simplex(method.num_models) if method.average == "snapshots" else method.subspace


def _coordinates_said(method: Method) -> str:
    subspace = _subspace(method)
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


def _best(method: Method, plan: Layout, records: list[dict], simplexes) -> Chosen:
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
    return _evaluated(method, plan, best, simplexes)._replace(validation_nll=found[best])


def _evaluated(method: Method, plan: Layout, i: int, simplexes) -> Chosen:
    point = plan.points[i]
    drawn = method.average == "swag" or point.name.startswith("sample")
    inside = drawn or _is_inside(method, point.coords, simplexes)
    return Chosen(point.name, point.coords, plan.weights[i], inside)


def _is_inside(method: Method, coords: np.ndarray, simplexes) -> bool:
    if coords.ndim == 0:
        return bool(0 <= coords <= 1)
    if coords.min() < 0:
        return False
    support = set(np.flatnonzero(coords).tolist())
    return not method.is_complex or any(support <= set(simplex) for simplex in simplexes)


def recorded(chosen: Chosen, metrics: dict) -> dict | None:
    """What a run's own evaluation found at a point, if it looked there."""
    coords = short(np.asarray(chosen.coords)).tolist()
    found = (point for point in metrics["points"] if point["coords"] == coords)
    return next(found, None)
