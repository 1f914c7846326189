"""What a trained stack predicts with, by name, and how well: `midpoint`, `ensemble`, a soup, ...

Whatever is chosen here, a temperature, a point, a soup, is chosen on the split named `validation`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data.corrupted import Corrupted
from experiments.data.sets import Split
from experiments.evaluation import choose
from experiments.evaluation.layout import DRAWS_STREAM, Layout, short
from experiments.evaluation.predict import (
    Networks,
    adapted,
    dropout_logits_fn,
    mixtures,
    padded_batches,
    predict,
    predict_networks,
)
from experiments.system import hosts

# Points of a risk-coverage curve that are kept.
_CURVE_POINTS = 50


class Shifted(NamedTuple):
    """Images that are not those of the test split, made when they are asked for.

    Attributes:
      corrupted: `name -> severity -> () -> Corrupted`, test images corrupted.
      outside: `name -> () -> uint8 [M, H, W, C]`, out-of-distribution images.
    """

    corrupted: Mapping[str, Mapping[int, Callable[[], Corrupted]]] = {}
    outside: Mapping[str, Callable[[], np.ndarray]] = {}


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


class Evaluation:
    """Everything that evaluation passes from step to step."""

    def __init__(self, run, splits, settings, wrap, shifted, robust):
        self.run, self.splits, self.settings, self.wrap = run, splits, settings, wrap
        self.shifted, self.robust = shifted, robust
        self.labels = {name: jnp.asarray(split.labels) for name, split in splits.items()}
        self.main = next(iter(splits))
        self.others = [name for name in splits if name != self.main]

    def metrics(self, log_probs, name):
        bins = self.settings.num_bins
        return all_metrics(log_probs, self.labels[name], num_bins=bins) | {"num_bins": bins}

    def short_metrics(self, log_probs, labels):
        found = all_metrics(log_probs, labels, num_bins=self.settings.num_bins)
        return {name: found[name] for name in ("accuracy", "nll", "ece")}

    def place(self, log_probs: dict[str, jax.Array], passes: int) -> dict:
        """The metrics of one prediction of every split `[N, K]`, and what calibrates it."""
        record = {"inference_passes": passes}
        if "validation" in self.splits:
            held_out = self.short_metrics(log_probs["validation"], self.labels["validation"])
            record["validation"] = held_out
        if self.main == "validation":
            return record
        main, labels = log_probs[self.main], self.labels[self.main]
        curve = ss.detection.risk_coverage(jnp.exp(main), labels)
        shown = np.linspace(0, len(labels) - 1, min(_CURVE_POINTS, len(labels))).astype(int)
        record |= self.metrics(main, self.main)
        record["risk_coverage"] = {name: values[shown] for name, values in curve._asdict().items()}
        if "validation" in self.splits:
            record |= choose.temperature_record(
                log_probs["validation"],
                self.labels["validation"],
                main,
                labels,
                self.settings.num_bins,
            )
        return record

    def shifts(self, networks: Networks, logits_of) -> dict:
        """How a place fares on corrupted images, and tells foreign images from those of its own.

        `logits_of(networks, images) -> logits [M, N, K]`, which are averaged as probabilities.
        """
        record = {}
        if self.shifted.corrupted:
            record |= self._corruptions("corruptions", networks, logits_of)
            if self.settings.adapt_to_corruption:
                record |= self._corruptions("adapted_corruptions", networks, logits_of)
        if self.shifted.outside:
            inside = _confidence(ss.ensemble(logits_of(networks, self.splits[self.main].images)))
        for name, load in self.shifted.outside.items():
            outside = _confidence(ss.ensemble(logits_of(networks, load())))
            record.setdefault("ood", {})[name] = {
                "auroc": ss.detection.auroc(inside, outside),
                "fpr95": ss.detection.fpr_at_tpr(inside, outside),
            }
        return record

    def _corruptions(self, kind: str, networks: Networks, logits_of) -> dict:
        """Metrics by corruption and severity, and their raw mCE (see `mean_corruption_error`).

        As "adapted_corruptions", with statistics that are measured on the corrupted images.
        """
        found, restricted = {}, ""
        for name, severities in self.shifted.corrupted.items():
            found[name] = {}
            for severity, load in severities.items():
                corrupted, own = load(), networks
                images, labels = corrupted.split
                if kind == "adapted_corruptions":
                    own = adapted(self.run.program.model, networks, images, self.settings)
                logits = logits_of(own, images)
                if corrupted.columns is not None:
                    logits, restricted = logits[..., corrupted.columns], corrupted.description
                log_probs = ss.ensemble(logits)
                found[name][str(severity)] = self.short_metrics(log_probs, jnp.asarray(labels))
        errors = [[1 - each["accuracy"] for each in by.values()] for by in found.values()]
        mce = ss.metrics.mean_corruption_error(jnp.asarray(errors))
        record = {kind: found, f"{kind}_mce": {"raw": mce}}
        return record | ({f"{kind}_mapping": restricted} if restricted else {})

    def logits_of(self, networks: Networks, images) -> jax.Array:
        """Logits `[M, N, K]` of networks `[M, ...]`."""
        return predict(self.run.program.model, networks, images, self.settings)

    def place_of(self, name: str, networks: Networks, log_probs, passes: int) -> dict:
        record = self.place(log_probs, passes)
        if name in self.robust and self.main != "validation":
            record |= self.shifts(networks, self.logits_of)
        return record


def places_of(work, plan, stack, records, logits, networks) -> dict:
    """What a trained stack can predict with, by name."""
    middle = next(i for i, point in enumerate(plan.points) if point.name == "midpoint")

    def of(members):
        return {name: ss.ensemble(values[jnp.array(members)]) for name, values in logits.items()}

    center = networks.take([middle])
    places = {"midpoint": work.place_of("midpoint", center, of([middle]), 1)}
    ends = [i for i, point in enumerate(plan.points) if point.name.startswith("endpoint")]
    if ends and work.main != "validation":
        names = ("accuracy", "nll", "brier", "ece")
        means = {name: sum(records[i][name] for i in ends) / len(ends) for name in names}
        places["endpoints"] = {"inference_passes": 1} | means
    if plan.groups:
        members = plan.groups[0]
        places["ensemble"] = work.place_of(
            "ensemble", networks.take(members), of(members), len(members)
        )
        if "validation" in work.splits and work.main != "validation":
            places["ensemble"]["temperatures"] = choose.ensemble_temperature_record(
                logits["validation"][jnp.array(members)],
                work.labels["validation"],
                logits[work.main][jnp.array(members)],
                work.labels[work.main],
                "probability",
                work.settings.num_bins,
            )
    if work.run.program.model.network.dropout > 0:
        places["mc ensemble"] = _mc_place(work, center)
    if len(work.splits.get("validation", Split((), ())).labels) and work.main != "validation":
        places |= _chosen_places(work, plan, stack, logits, networks)
    return places


def _mc_place(work: Evaluation, center: Networks) -> dict:
    """The average of passes in which units are dropped at random (Gal and Ghahramani 2016).

    Every pass drops the same units in each batch of images: passes are independent, images are not.
    """
    model, settings = work.run.program.model, work.settings
    key = jax.random.fold_in(jax.random.key(work.run.seed), DRAWS_STREAM)
    keys = jax.random.split(key, settings.num_samples)

    def logits_of(networks, images):
        one = jax.tree.map(lambda x: x[0], networks)
        batches = padded_batches(images, settings.batch_size)
        logits = hosts.local(ss.predict(dropout_logits_fn(model), (one, keys), batches))
        return logits[:, : len(images)]

    log_probs = {
        name: ss.ensemble(logits_of(center, split.images)) for name, split in work.splits.items()
    }
    record = work.place(log_probs, settings.num_samples)
    if "mc ensemble" in work.robust and work.main != "validation":
        record |= work.shifts(center, logits_of)
    return record


def _chosen_places(work, plan, stack, logits, networks) -> dict:
    """Points and soups that are chosen on validation data."""
    method = work.run.program.method
    places = {}
    drawn = method.average in ("swag", "snapshots") or method.is_complex  # not points of a subspace
    if len(plan.points) > 1 and not drawn:
        best = int(choose.by_grid(logits["validation"], work.labels["validation"], "nll"))
        log_probs = {name: jax.nn.log_softmax(values[best]) for name, values in logits.items()}
        record = work.place_of("chosen point", networks.take([best]), log_probs, 1)
        places["chosen point"] = record | {"coords": short(plan.points[best].coords)}
    if method.average == "snapshots":
        weights = _greedy_soup(work, plan, stack, logits)
        places["greedy soup"] = _place_of_params(
            work, "greedy soup", mixtures(stack, jnp.asarray(weights)[None])
        ) | {"weights": weights}
    return places


def _place_of_params(work: Evaluation, name: str, params) -> dict:
    """The record of a network `[1, ...]` that was not among the points."""
    logits, networks, _ = predict_networks(work.run, params, work.splits, work.settings, work.wrap)
    log_probs = {split: jax.nn.log_softmax(values[0]) for split, values in logits.items()}
    return work.place_of(name, networks, log_probs, 1)


def _greedy_soup(work: Evaluation, plan: Layout, stack, logits) -> np.ndarray:
    """Mixing weights of the soup that adds a snapshot only if validation accuracy does not fall."""
    held_out = {"validation": work.splits["validation"]}
    labels = work.labels["validation"]
    ends = [i for i, point in enumerate(plan.points) if point.name.startswith("endpoint")]

    def score(weights):
        params = mixtures(stack, jnp.asarray(weights)[None])
        found, _, _ = predict_networks(work.run, params, held_out, work.settings, work.wrap)
        return float(ss.metrics.accuracy(jax.nn.softmax(found["validation"][0]), labels))

    probs = jax.nn.softmax(logits["validation"])
    scores = [float(ss.metrics.accuracy(probs[i], labels)) for i in ends]
    return ss.averaging.greedy_soup(score, np.asarray(scores))


@jax.jit
def _confidence(log_probs: jax.Array) -> jax.Array:
    return jnp.exp(log_probs.max(-1))
