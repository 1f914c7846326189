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
from experiments.evaluation.predictors import all_metrics, ensemble, measure, predictors
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

    The first split is reported; choices are made on `validation`. The predictors of `robust` predict the
    shifted images too.
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
        | metrics(ensemble(logits[main][jnp.array(members)], average), main)
        | _diversity(log_probs[main][jnp.array(members)])
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
            "geometry": _geometry(stack),
            "recalibration": {
                "num_examples": recalibration.num_examples,
                "batch_size": recalibration.batch_size,
                "augmented": settings.recalibration_augment,
            },
        }
    )


@jax.jit
def _geometry(stack: ss.tree.PyTree) -> dict[str, jax.Array]:
    return {"distances": ss.distances(stack), "squared_cosines": ss.squared_cosines(stack)}


@jax.jit
def _diversity(log_probs: jax.Array) -> dict[str, jax.Array]:
    """Means over pairs of members `[M, N, K]`; 0 if there is one member only."""
    probs, metrics = jnp.exp(log_probs), (ss.metrics.disagreement, ss.metrics.total_variation)
    pairs = np.array([*itertools.combinations(range(len(probs)), 2)], int).reshape(-1, 2)
    found = jax.lax.map(lambda pair: {fn.__name__: fn(*probs[pair]) for fn in metrics}, pairs)
    return jax.tree.map(lambda values: values.sum() / max(len(pairs), 1), found)


def to_json(tree):
    """Arrays as lists and numbers, fetched in one transfer; `None` for what is not a number."""
    return plain(jax.device_get(tree))
