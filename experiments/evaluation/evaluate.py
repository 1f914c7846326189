"""Evaluation of a trained stack: points, ensembles and places, with every metric, as JSON values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation.layout import layout, short
from experiments.evaluation.predict import Settings, Wrap, mixtures, no_wrap, predict_networks
from experiments.evaluation.predictors import Evaluation, Shifted, places_of
from experiments.system.files import plain
from experiments.training.run import Run

NOTHING_SHIFTED = Shifted()


def evaluate(
    run: Run,
    stack: ss.tree.PyTree,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = no_wrap,
    shifted: Shifted = NOTHING_SHIFTED,
    robust: tuple[str, ...] = ("midpoint",),
) -> dict:
    """Everything that is reported of a trained stack.

    Args:
      run: the run that trained it.
      stack: what `Method.trained` returns, leaves `[n, ...]`.
      splits: the first is what is reported; of the others each point gets all metrics under their
        name. What is chosen (temperatures, points, soups) is chosen on `validation` alone.
      settings: see `Settings`.
      wrap: what the batches pass through.
      shifted: other images to predict.
      robust: the places that predict them.

    Returns:
      JSON values: `points` (`name`, `coords`, metrics), `ensembles` (of opposite points of a path, or
      the corners of a simplex: `members`, `average`, metrics, and the members' `disagreement` and
      `total_variation`), `places` (by name: `midpoint`, `endpoints`, `ensemble`, `mc ensemble`,
      `greedy soup`, `chosen point`, ...), `geometry` (`distances`, `squared_cosines`) and
      `recalibration`.
    """
    plan = layout(run, settings)
    params = mixtures(stack, jnp.asarray(plan.weights))
    logits, networks, recalibration = predict_networks(run, params, splits, settings, wrap)
    work = Evaluation(run, splits, settings, wrap, shifted, robust)
    log_probs = {name: jax.nn.log_softmax(values) for name, values in logits.items()}
    records = [
        {"name": point.name, "coords": short(point.coords)}
        | work.metrics(log_probs[work.main][i], work.main)
        | {name: work.metrics(log_probs[name][i], name) for name in work.others}
        for i, point in enumerate(plan.points)
    ]
    coords = np.stack([point.coords for point in plan.points])
    ensembles = [
        {"members": short(coords[list(members)]), "average": average}
        | work.metrics(ss.ensemble(logits[work.main][jnp.array(members)], average), work.main)
        | _diversity(jnp.exp(log_probs[work.main]), members)
        for members in plan.groups
        for average in ("probability", "logit")
    ]
    return to_json(
        {
            "points": records,
            "ensembles": ensembles,
            "places": places_of(work, plan, stack, records, logits, networks),
            "geometry": geometry(stack),
            "recalibration": {
                "num_examples": recalibration.num_examples,
                "batch_size": recalibration.batch_size,
                "augmented": settings.recalibration_augment,
            },
        }
    )


def geometry(endpoints: ss.tree.PyTree) -> dict:
    """Distances and squared cosines between the kernels of the endpoints, `[n, n]`."""
    return {
        "distances": ss.distances(endpoints),
        "squared_cosines": ss.squared_cosines(endpoints),
    }


def _diversity(probs: jax.Array, members: tuple[int, ...]) -> dict[str, jax.Array]:
    """Means over pairs of members; 0 if there is one member only."""
    pairs = list(itertools.combinations(members, 2))
    functions = {
        "disagreement": ss.metrics.disagreement,
        "total_variation": ss.metrics.total_variation,
    }
    return {
        name: sum(fn(probs[i], probs[j]) for i, j in pairs) / max(len(pairs), 1)
        for name, fn in functions.items()
    }


def to_json(tree):
    """Arrays as lists and numbers, fetched in one transfer; `None` for what is not a number."""
    return plain(jax.device_get(tree))
