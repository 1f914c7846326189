"""What a trained stack predicts with, by name: `midpoint`, `ensemble`, a soup, ...

Whatever is chosen here, a point or a soup, is chosen on the split that is held out: of the test
split nothing is known. `measure` measures all of them in the same way.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation import choose
from experiments.evaluation.points import DRAWS_STREAM, Layout, short
from experiments.evaluation.predict import (
    Networks,
    Settings,
    Wrap,
    dropout_logits_fn,
    mixtures,
    padded_batches,
    predict,
    recalibrated,
)
from experiments.evaluation.shifted import NOTHING_SHIFTED, Shifted
from experiments.system import hosts
from experiments.training.model import Model
from experiments.training.run import Run

# Points of a risk-coverage curve that are kept.
_CURVE_POINTS = 50


class Predictor(NamedTuple):
    """What predicts: networks, of whose probabilities the mean is taken.

    Attributes:
      name: of its record.
      model: of its networks.
      networks: leaves `[M, ...]`.
      passes: forward passes for one image.
      members: the points that its networks are, if they are evaluated points.
      says: of its choice; part of its record.
      logits_fn: `(model, networks, images, settings) -> logits`, an entry for every pass.
    """

    name: str
    model: Model
    networks: Networks
    passes: int = 1
    members: tuple[int, ...] = ()
    says: Mapping = {}
    logits_fn: Callable[[Model, Networks, np.ndarray, Settings], jax.Array] = predict


class HeldOut(NamedTuple):
    """Validation images, and the logits `[P, N, K]` of all evaluated points for them."""

    split: Split
    logits: jax.Array


def predictors(
    run: Run,
    settings: Settings,
    plan: Layout,
    stack: ss.tree.PyTree,
    networks: Networks,
    held_out: HeldOut | None,
    wrap: Wrap,
) -> Iterator[Predictor]:
    """What a trained stack can predict with.

    Args:
      run: the run that trained it.
      settings: see `Settings`.
      plan: the points that are evaluated.
      stack: what `Method.trained` returns.
      networks: those of the points.
      held_out: what choices are made on; without it nothing is chosen.
      wrap: what batches pass through.
    """
    model, answer = run.program.model, run.program.method.answer

    def of(name, members, **says):
        taken = networks.take(members)
        return Predictor(name, model, taken, len(members), tuple(members), says)

    midpoint = of("midpoint", [plan.index("midpoint")])
    yield midpoint
    if plan.groups:
        yield of("ensemble", plan.groups[0])
    if model.network.dropout > 0:
        yield _mc_ensemble(midpoint, run.seed, settings)
    if held_out is None:
        return
    if answer.chooses == "point" and len(plan.points) > 1:
        best = int(ss.calibration.choose_point(held_out.logits, held_out.split.labels))
        yield of("chosen point", [best], coords=short(plan.points[best].coords))
    if answer.chooses == "soup":
        yield _greedy_soup(run, settings, plan, stack, held_out, wrap)


def _mc_ensemble(center: Predictor, seed: int, settings: Settings) -> Predictor:
    """The average of passes in which units are dropped at random (Gal and Ghahramani 2016).

    Every pass drops the same units in each batch of images: passes are independent, images are not.
    """
    key = jax.random.fold_in(jax.random.key(seed), DRAWS_STREAM)
    keys = jax.random.split(key, settings.num_samples)

    def logits_fn(model, networks, images, settings):
        one = jax.tree.map(lambda x: x[0], networks)
        batches = padded_batches(images, settings.batch_size)
        logits = hosts.local(ss.predict(dropout_logits_fn(model), (one, keys), batches))
        return logits[:, : len(images)]

    return Predictor("mc ensemble", center.model, center.networks, len(keys), logits_fn=logits_fn)


def _greedy_soup(
    run: Run,
    settings: Settings,
    plan: Layout,
    stack: ss.tree.PyTree,
    held_out: HeldOut,
    wrap: Wrap,
) -> Predictor:
    """The soup that adds a snapshot only if validation accuracy does not fall."""
    (images, labels), model = held_out.split, run.program.model

    def soup(weights):
        return recalibrated(run, mixtures(stack, jnp.asarray(weights)[None]), settings, wrap)[0]

    def accuracy(logits):
        return float(ss.metrics.accuracy(jax.nn.softmax(logits), labels))

    def score(weights):
        return accuracy(predict(model, soup(weights), images, settings, wrap)[0])

    scores = [accuracy(held_out.logits[i]) for i in plan.endpoints]
    weights = ss.averaging.greedy_soup(score, np.asarray(scores))
    return Predictor("greedy soup", model, soup(weights), says={"weights": weights})


def measure(
    predictor: Predictor,
    splits: Mapping[str, Split],
    settings: Settings,
    known: Mapping[str, jax.Array] | None = None,
    shifted: Shifted = NOTHING_SHIFTED,
) -> dict:
    """The record of one predictor: all metrics, and how it fares on other images.

    Args:
      predictor: what is measured.
      splits: the first is what is reported; `validation` fits temperatures.
      settings: see `Settings`.
      known: logits `[P, N, K]` of the evaluated points, by the name of the split.
      shifted: other images to predict.
    """
    members = jnp.array(predictor.members, int)
    logits = {
        name: known[name][members]
        if known and predictor.members
        else predictor.logits_fn(predictor.model, predictor.networks, split.images, settings)
        for name, split in splits.items()
    }
    log_probs = {name: ss.ensemble(values) for name, values in logits.items()}
    labels = {name: jnp.asarray(split.labels) for name, split in splits.items()}
    main, bins = next(iter(splits)), settings.num_bins
    record = {"inference_passes": predictor.passes}
    if "validation" in splits:
        record["validation"] = _short_metrics(log_probs["validation"], labels["validation"], bins)
    if main == "validation":
        return record | predictor.says
    curve = ss.detection.risk_coverage(jnp.exp(log_probs[main]), labels[main])
    total = len(labels[main])
    shown = np.linspace(0, total - 1, min(_CURVE_POINTS, total)).astype(int)
    record |= metrics_of(log_probs[main], labels[main], bins)
    record["risk_coverage"] = {name: values[shown] for name, values in curve._asdict().items()}
    if "validation" in splits:
        tested = labels["validation"], log_probs[main], labels[main], bins
        record |= choose.temperature_record(log_probs["validation"], *tested)
        if len(predictor.members) > 1:
            tested = labels["validation"], logits[main], labels[main], bins
            found = choose.ensemble_temperature_record(logits["validation"], *tested)
            record["temperatures"] = found
    record |= _corruptions(predictor, shifted, settings)
    record |= _foreign(predictor, shifted, log_probs[main], settings)
    return record | predictor.says


@functools.partial(jax.jit, static_argnames="num_bins")
def all_metrics(log_probs: jax.Array, labels: jax.Array, *, num_bins: int) -> dict[str, jax.Array]:
    """Every metric of one prediction `[N, K]`: scalars, and the bins of the reliability diagram."""
    probs = jnp.exp(log_probs)
    m = ss.metrics
    return {
        "accuracy": m.accuracy(probs, labels),
        "nll": m.nll(log_probs, labels),
        "brier": m.brier(probs, labels),
        "brier_decomposition": m.brier_decomposition(probs, labels)._asdict(),
        "ece": m.ece(probs, labels, num_bins=num_bins),
        "adaptive_ece": m.adaptive_ece(probs, labels, num_bins=num_bins),
        "classwise_ece": m.classwise_ece(probs, labels, num_bins=num_bins),
        "max_calibration_error": m.max_calibration_error(probs, labels, num_bins=num_bins),
        "entropy": m.entropy(probs),
        "aurc": m.aurc(probs, labels),
        "reliability": m.reliability(probs, labels, num_bins=num_bins)._asdict(),
    }


def metrics_of(log_probs: jax.Array, labels: jax.Array, num_bins: int) -> dict:
    """`all_metrics`, and of how many bins."""
    return all_metrics(log_probs, labels, num_bins=num_bins) | {"num_bins": num_bins}


def _short_metrics(log_probs: jax.Array, labels: jax.Array, num_bins: int) -> dict:
    found = all_metrics(log_probs, labels, num_bins=num_bins)
    return {name: found[name] for name in ("accuracy", "nll", "ece")}


def _corruptions(predictor: Predictor, shifted: Shifted, settings: Settings) -> dict:
    """Metrics by corruption and severity, and their raw mCE (see `mean_corruption_error`)."""
    record, found = {}, {}
    if not shifted.corrupted:
        return record
    for name, severities in shifted.corrupted.items():
        found[name] = {}
        for severity, load in severities.items():
            corrupted = load()
            images, labels = corrupted.split
            logits = predictor.logits_fn(predictor.model, predictor.networks, images, settings)
            if corrupted.columns is not None:
                logits = logits[..., corrupted.columns]
                record["corruptions_mapping"] = corrupted.description
            found[name][str(severity)] = _short_metrics(
                ss.ensemble(logits), jnp.asarray(labels), settings.num_bins
            )
    errors = [[1 - each["accuracy"] for each in by.values()] for by in found.values()]
    mce = ss.metrics.mean_corruption_error(jnp.asarray(errors))
    return record | {"corruptions": found, "corruptions_mce": {"raw": mce}}


def _foreign(predictor: Predictor, shifted: Shifted, own: jax.Array, settings: Settings) -> dict:
    """How its confidence tells foreign images from those of log probabilities `own`."""
    inside, found = _confidence(own), {}
    for name, load in shifted.outside.items():
        logits = predictor.logits_fn(predictor.model, predictor.networks, load(), settings)
        outside = _confidence(ss.ensemble(logits))
        found[name] = {
            "auroc": ss.detection.auroc(inside, outside),
            "fpr95": ss.detection.fpr_at_tpr(inside, outside),
        }
    return {"ood": found} if found else {}


@jax.jit
def _confidence(log_probs: jax.Array) -> jax.Array:
    return jnp.exp(log_probs.max(-1))
