"""What a trained stack predicts with, by name, chosen on held-out images alone, and how good it is."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.evaluation.inputs import NOTHING_SHIFTED, Shifted
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
from experiments.system import hosts
from experiments.training.run import Run

# Points of a risk-coverage curve that are kept.
_CURVE_POINTS = 50

Predicted = tuple[ArrayLike, ArrayLike]  # logits or log probabilities, and labels


class Predictor(NamedTuple):
    """What predicts with the mean of its networks' probabilities."""

    name: str
    logits: Callable[..., jax.Array]  # of images and what they are, [passes, N, K]
    passes: int = 1  # for one image
    members: tuple[int, ...] = ()  # the evaluated points that the networks are, if they are such
    says: Mapping = {}  # of its choice, in its record


def predictors(
    run: Run,
    settings: Settings,
    plan: Layout,
    stack: ss.tree.PyTree,
    networks: Networks,
    held_out: tuple[Split, jax.Array] | None,
    wrap: Wrap,
) -> Iterator[Predictor]:
    """What a trained stack can predict with; `networks` are those of the points of the layout.

    `held_out` are the images that choices are made on, and the points' logits `[P, N, K]` for them.
    """
    model, answer = run.program.model, run.program.method.answer

    def of(name, members, **says):
        given = {"settings": settings, "wrap": wrap}
        logits = functools.partial(predict, model, networks.take(members), **given)
        return Predictor(name, logits, len(members), tuple(members), says)

    middle = plan.index("midpoint")
    yield of("midpoint", [middle])
    if plan.groups:
        yield of("ensemble", plan.groups[0])
    if model.drops:
        yield _mc_ensemble(run, jax.tree.map(lambda x: x[middle], networks), settings, wrap)
    if held_out is None:
        return
    if answer.chooses == "point" and len(plan.points) > 1:
        split, logits = held_out
        best = int(ss.calibration.choose_point(logits, split.labels))
        yield of("chosen point", [best], coords=short(plan.points[best].coords))
    if answer.chooses == "soup":
        yield _greedy_soup(run, settings, plan, stack, held_out, wrap)


def _mc_ensemble(run: Run, network: Networks, settings: Settings, wrap: Wrap) -> Predictor:
    """The average of passes in which units are dropped at random (Gal and Ghahramani 2016)."""
    key = jax.random.fold_in(jax.random.key(run.seed), DRAWS_STREAM)
    keys = jax.random.split(key, settings.num_samples)

    def logits(images, what="images"):
        batches = padded_batches(images, settings.batch_size)
        batches = wrap(batches, f"predict {what} with dropout")
        given = network, keys, run.hyper.dropout
        passes = ss.predict(dropout_logits_fn(run.program.model), given, batches)
        return hosts.local(passes)[:, : len(images)]

    return Predictor("mc ensemble", logits, len(keys))


def _greedy_soup(
    run: Run,
    settings: Settings,
    plan: Layout,
    stack: ss.tree.PyTree,
    held_out: tuple[Split, jax.Array],
    wrap: Wrap,
) -> Predictor:
    """The soup that adds a snapshot only if validation accuracy does not fall."""
    ((images, labels), logits), model = held_out, run.program.model

    def soup(weights):
        return recalibrated(run, mixtures(stack, jnp.asarray(weights)[None]), settings, wrap)[0]

    def accuracy(logits):
        return float(ss.metrics.accuracy(jax.nn.softmax(logits), labels))

    def score(weights):
        return accuracy(predict(model, soup(weights), images, settings, wrap)[0])

    scores = [accuracy(logits[i]) for i in plan.endpoints]
    weights = ss.averaging.greedy_soup(score, np.asarray(scores))
    of_soup = functools.partial(predict, model, soup(weights), settings=settings, wrap=wrap)
    return Predictor("greedy soup", of_soup, says={"weights": weights})


def measure(
    predictor: Predictor,
    splits: Mapping[str, Split],
    num_bins: int,
    known: Mapping[str, jax.Array] | None = None,
    shifted: Shifted = NOTHING_SHIFTED,
) -> dict:
    """The record of one predictor, whose logits may be `known`: those of evaluated points by split."""
    members = jnp.array(predictor.members, int)
    logits = {
        name: known[name][members]
        if known and predictor.members
        else predictor.logits(images, what=f"{name} images")
        for name, (images, _) in splits.items()
    }
    log_probs = {name: ensemble(values) for name, values in logits.items()}
    labels = {name: jnp.asarray(split.labels) for name, split in splits.items()}
    main, record = next(iter(splits)), {"inference_passes": predictor.passes}
    if "validation" in splits:
        validation = log_probs["validation"], labels["validation"]
        record["validation"] = _short_metrics(*validation, num_bins)
    if main == "validation":
        return record | predictor.says
    tested = log_probs[main], labels[main]
    record |= all_metrics(*tested, num_bins=num_bins)
    record["risk_coverage"] = _curve(*tested)
    if "validation" in splits:
        record |= temperature_record(validation, tested, num_bins)
        if len(predictor.members) > 1:
            both = ((logits[name], labels[name]) for name in ("validation", main))
            record["temperatures"] = ensemble_temperature_record(*both, num_bins)
    record |= _corruptions(predictor, shifted, num_bins)
    return record | _foreign(predictor, shifted, tested[0]) | predictor.says


@functools.partial(jax.jit, static_argnames="num_bins")
def temperature_record(validation: Predicted, test: Predicted, num_bins: int) -> dict:
    """The temperature that validation logits `[N, K]` choose, and the test metrics with it."""
    temperature = ss.calibration.fit_temperature(*validation)
    log_probs = jax.nn.log_softmax(ss.calibration.apply_temperature(test[0], temperature))
    return _scaled(temperature, log_probs, test[1], num_bins)


@functools.partial(jax.jit, static_argnames="num_bins")
def ensemble_temperature_record(validation: Predicted, test: Predicted, num_bins: int) -> dict:
    """As `temperature_record`, of the mean probabilities of members with logits `[M, N, K]`."""
    records = {}
    for mode in ("per_member", "after_average"):
        temperature = ss.calibration.fit_ensemble_temperature(*validation, mode=mode)
        log_probs = ss.calibration.apply_ensemble_temperature(test[0], temperature, mode=mode)
        records[mode] = _scaled(temperature, log_probs, test[1], num_bins)
    return records


def _scaled(temperature, log_probs, labels, num_bins: int) -> dict:
    scaled = {
        "nll": ss.metrics.nll(log_probs, labels),
        "ece": ss.metrics.ece(jnp.exp(log_probs), labels, num_bins=num_bins),
    }
    return {"temperature": temperature, "scaled": scaled}


ensemble = jax.jit(ss.ensemble, static_argnames="average")


@jax.jit
def _curve(log_probs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """A few points of the risk-coverage curve."""
    curve, total = ss.detection.risk_coverage(jnp.exp(log_probs), labels), len(labels)
    shown = np.linspace(0, total - 1, min(_CURVE_POINTS, total)).astype(int)
    return {name: values[shown] for name, values in curve._asdict().items()}


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
        "num_bins": num_bins,
    }


def _short_metrics(log_probs: jax.Array, labels: jax.Array, num_bins: int) -> dict:
    found = all_metrics(log_probs, labels, num_bins=num_bins)
    return {name: found[name] for name in ("accuracy", "nll", "ece")}


def _corruptions(predictor: Predictor, shifted: Shifted, num_bins: int) -> dict:
    """Metrics by corruption and severity, and their raw mCE (see `mean_corruption_error`)."""
    record, found = {}, {}
    for name, severities in shifted.corrupted.items():
        found[name] = {}
        for severity, load in severities.items():
            (images, labels), description, columns = load()
            logits = predictor.logits(images, what=f"{name} of severity {severity}")
            if columns is not None:
                logits = logits[..., columns]
                record["corruptions_mapping"] = description
            metrics = _short_metrics(ensemble(logits), jnp.asarray(labels), num_bins)
            found[name][str(severity)] = metrics
    if not found:
        return {}
    errors = [[1 - each["accuracy"] for each in by.values()] for by in found.values()]
    mce = ss.metrics.mean_corruption_error(jnp.asarray(errors))
    return record | {"corruptions": found, "corruptions_mce": {"raw": mce}}


def _foreign(predictor: Predictor, shifted: Shifted, own: jax.Array) -> dict:
    """How its confidence tells foreign images from those of log probabilities `own`."""
    inside, found = _confidence(own), {}
    for name, load in shifted.outside.items():
        outside = _confidence(ensemble(predictor.logits(load(), what=f"foreign images ({name})")))
        found[name] = {
            "auroc": ss.detection.auroc(inside, outside),
            "fpr95": ss.detection.fpr_at_tpr(inside, outside),
        }
    return {"ood": found} if found else {}


@jax.jit
def _confidence(log_probs: jax.Array) -> jax.Array:
    return jnp.exp(log_probs.max(-1))
