"""Evaluation of a trained stack: points, ensembles and predictors, with every metric, as JSON values."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation.inputs import NOTHING_SHIFTED, Shifted
from experiments.evaluation.points import layout, short
from experiments.evaluation.predict import Settings, Wrap, mixtures, no_wrap, predict_networks
from experiments.evaluation.predictors import all_metrics, measure, predictors
from experiments.system.files import plain
from experiments.training.run import Run

# Of the endpoints, the mean of each over the networks that they are.
_OF_ENDPOINTS = ("accuracy", "nll", "brier", "ece")


def evaluate(
    run: Run,
    stack: ss.tree.PyTree,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = no_wrap,
    shifted: Shifted = NOTHING_SHIFTED,
    robust: tuple[str, ...] = ("midpoint",),
) -> dict:
    """Everything that is reported of a trained stack, leaves `[n, ...]`, as JSON values.

    The first split is reported; of the others each point gets all metrics under their name. All choices
    are made on `validation`. The predictors of `robust` predict the shifted images too.
    """
    plan = layout(run, settings)
    params = mixtures(stack, jnp.asarray(plan.weights))
    logits, networks, recalibration = predict_networks(run, params, splits, settings, wrap)
    log_probs = {name: jax.nn.log_softmax(values) for name, values in logits.items()}
    main, *others = splits

    def metrics(log_probs, name):
        return all_metrics(log_probs, splits[name].labels, num_bins=settings.num_bins)

    records = [
        {"name": point.name, "coords": short(point.coords)}
        | metrics(log_probs[main][i], main)
        | {name: metrics(log_probs[name][i], name) for name in others}
        for i, point in enumerate(plan.points)
    ]
    coords = np.stack([point.coords for point in plan.points])
    ensembles = [
        {"members": short(coords[list(members)]), "average": average}
        | metrics(ss.ensemble(logits[main][jnp.array(members)], average), main)
        | _diversity(jnp.exp(log_probs[main]), members)
        for members in plan.groups
        for average in ("probability", "logit")
    ]
    held_out = None
    if "validation" in others:
        held_out = splits["validation"], logits["validation"]
    found = {}
    for predictor in predictors(run, settings, plan, stack, networks, held_out, wrap):
        other = shifted if predictor.name in robust else NOTHING_SHIFTED
        found[predictor.name] = measure(predictor, splits, settings.num_bins, logits, other)
    if plan.endpoints and main != "validation":
        ends = [records[i] for i in plan.endpoints]
        means = {name: sum(end[name] for end in ends) / len(ends) for name in _OF_ENDPOINTS}
        found["endpoints"] = {"inference_passes": 1} | means
    return to_json(
        {
            "points": records,
            "ensembles": ensembles,
            "places": found,
            "geometry": {
                "distances": ss.distances(stack),
                "squared_cosines": ss.squared_cosines(stack),
            },
            "recalibration": {
                "num_examples": recalibration.num_examples,
                "batch_size": recalibration.batch_size,
                "augmented": settings.recalibration_augment,
            },
        }
    )


def _diversity(probs: jax.Array, members: tuple[int, ...]) -> dict[str, jax.Array]:
    """Means over pairs of members; 0 if there is one member only."""
    pairs = list(itertools.combinations(members, 2))
    m = ss.metrics
    return {
        fn.__name__: sum(fn(probs[i], probs[j]) for i, j in pairs) / max(len(pairs), 1)
        for fn in (m.disagreement, m.total_variation)
    }


def to_json(tree):
    """Arrays as lists and numbers, fetched in one transfer; `None` for what is not a number."""
    return plain(jax.device_get(tree))
