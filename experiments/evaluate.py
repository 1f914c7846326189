"""Evaluation of a trained stack: recalibrated statistics, then every metric of everything it predicts with.

There is one way to predictions here, `predict_networks`, and it measures the batch-norm statistics
of every network itself: they can't be forgotten. A *place* is something that predicts: the midpoint,
the ensemble of the ends, a soup. Whatever is chosen is chosen on the split named `validation`.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import subspace_jax as ss
from experiments import choose
from experiments.data import Split
from experiments.errors import UserError
from experiments.images import AUGMENTATIONS, normalize
from experiments.train import Model, Run, training_logits

# The streams of a run's randomness that evaluation takes; train.py has the first three.
_RECALIBRATION, _DRAWS = 3, 4
# Points of a risk-coverage curve that are kept.
_CURVE_POINTS = 50

# `(batches, what is done with them) -> batches`: for progress bars and signals.
Wrap = Callable[[Iterable, str], Iterable]


class Settings(NamedTuple):
    """How a stack is evaluated.

    Attributes:
      num_points: of a line or curve, alpha = 0 .. 1.
      num_bins: equal-width bins of the calibration errors.
      batch_size: images per batch of predictions.
      recalibration_batch_size: images per batch whose moments are pooled.
      recalibration_examples: over how many training images; 0 for all.
      recalibration_augment: whether they are augmented as in training.
      at_once: networks vectorised together; 0 for one after another.
      num_samples: networks drawn from a complex, and passes of Monte-Carlo dropout.
      adapt_to_corruption: whether statistics are measured on corrupted images too.
      choose_steps: of the search for a point by gradient; 0 for none.
    """

    num_points: int
    num_bins: int
    batch_size: int
    recalibration_batch_size: int
    recalibration_examples: int
    recalibration_augment: bool
    at_once: int
    num_samples: int
    adapt_to_corruption: bool
    choose_steps: int


def make_settings(config: ml_collections.ConfigDict, run: Run) -> Settings:
    """The settings of a config.

    Raises:
      UserError: a value that evaluation can't work with.
    """
    settings = Settings(*(config.evaluation[name] for name in Settings._fields))
    examples = settings.recalibration_examples or len(run.labels)
    least = {
        "num_points": 3,
        "num_bins": 1,
        "batch_size": 1,
        "recalibration_examples": 0,
        "at_once": 0,
        "num_samples": 1,
        "choose_steps": 0,
    }
    for name, minimum in least.items():
        if getattr(settings, name) < minimum:
            raise UserError(
                f"config.evaluation.{name} is {getattr(settings, name)}; use at least {minimum}."
            )
    if settings.num_points % 2 == 0:
        raise UserError(
            f"config.evaluation.num_points is {settings.num_points}, which leaves out the midpoint; "
            "use an odd number."
        )
    if not 1 <= settings.recalibration_batch_size <= min(examples, len(run.labels)):
        raise UserError(
            f"config.evaluation.recalibration_batch_size is {settings.recalibration_batch_size} but "
            f"there are {min(examples, len(run.labels))} images to recalibrate on; use 1 to that."
        )
    return settings


class Shifted(NamedTuple):
    """Images that are not those of the test split, made when they are asked for.

    Attributes:
      corrupted: `name -> severity -> () -> Split`, test images corrupted.
      outside: `name -> () -> uint8 [M, H, W, C]`, out-of-distribution images.
    """

    corrupted: Mapping[str, Mapping[int, Callable[[], Split]]] = {}
    outside: Mapping[str, Callable[[], np.ndarray]] = {}


class Point(NamedTuple):
    """A point to evaluate: a name for it ("" if it has none) and its coordinates."""

    name: str
    coords: np.ndarray


def points_of(subspace: ss.Subspace, num_points: int) -> list[Point]:
    """A grid along a line or curve; corners, middles of edges and the center of a simplex."""
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
    return [
        *(Point(f"endpoint {i}", corner) for i, corner in enumerate(corners)),
        *(Point(f"edge {i}-{j}", (corners[i] + corners[j]) / 2) for i, j in pairs),
        Point("midpoint", subspace.center),
    ]


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
    points = points_of(subspace, settings.num_points)
    groups = _ensembles(points)
    if method.is_complex:  # its center may lie outside of it: its networks are the drawn ones
        key = jax.random.fold_in(jax.random.key(run.seed), _DRAWS)
        draws = jax.vmap(subspace.draw)(jax.random.split(key, settings.num_samples))
        first = len(points)
        points = points + [Point(f"sample {i}", draw) for i, draw in enumerate(np.asarray(draws))]
        groups = [tuple(range(first, len(points)))]
    coords = jnp.stack([jnp.asarray(point.coords) for point in points])
    return Layout(points, np.asarray(jax.vmap(subspace.weights)(coords)), groups)


class Networks(NamedTuple):
    """Networks that can predict: leaves `[P, ...]` of the weights and of their own statistics."""

    params: ss.tree.PyTree
    stats: ss.tree.PyTree

    def take(self, members: Iterable[int]) -> "Networks":
        """Some of them."""
        index = np.asarray(tuple(members))
        return jax.tree.map(lambda x: x[index], self)


def no_wrap(batches: Iterable, what: str) -> Iterable:
    """Batches as they are."""
    del what
    return batches


def recalibrated(
    run: Run, params: ss.tree.PyTree, settings: Settings, wrap: Wrap = no_wrap
) -> tuple[Networks, ss.Recalibration]:
    """Networks `[P, ...]` with the statistics of the training images, each its own."""
    at_once = settings.at_once or None
    recalibration = ss.recalibrate(
        moments_fn(run.program.model, settings.recalibration_augment, at_once),
        params,
        wrap(recalibration_batches(run, settings), "recalibrate"),
        num_examples=lambda batch: len(batch[1]),
    )
    return Networks(params, recalibration.stats), recalibration


def predict(
    model: Model, networks: Networks, images: np.ndarray, settings: Settings, wrap: Wrap = no_wrap
) -> jax.Array:
    """Logits `[P, N, K]` of networks `[P, ...]` for uint8 images `[N, H, W, C]`."""
    fn = logits_fn(model, settings.at_once or None)
    batches = wrap(_padded_batches(images, settings.batch_size), "predict")
    return ss.predict(fn, networks, batches)[:, : len(images)]


def predict_networks(
    run: Run,
    params: ss.tree.PyTree,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = no_wrap,
) -> tuple[dict[str, jax.Array], Networks, ss.Recalibration]:
    """Logits of many networks on every split, each network with statistics of its own.

    Args:
      run: the run that trained them; its training images recalibrate.
      params: networks, leaves `[P, ...]`.
      splits: what to predict, by name.
      settings: see `Settings`.
      wrap: what the batches pass through.

    Returns:
      Logits `[P, N, K]` by the name of the split, the networks, and the recalibration.
    """
    networks, recalibration = recalibrated(run, params, settings, wrap)
    model = run.program.model
    logits = {
        name: predict(model, networks, split.images, settings, wrap)
        for name, split in splits.items()
    }
    return logits, networks, recalibration


@jax.jit
def mixtures(stack: ss.tree.PyTree, weights: jax.Array) -> ss.tree.PyTree:
    """Networks `[P, ...]` out of a stack `[n, ...]` by mixing weights `[P, n]`."""
    return jax.vmap(ss.mix, in_axes=(0, None))(weights, stack)


@functools.cache
def moments_fn(model: Model, augment: bool, at_once: int | None = None):
    """`(networks, (key, images)) -> moments` of a batch in training mode, leaves `[P, ...]`."""
    augmentation = AUGMENTATIONS[model.augmentation if augment else "none"]

    def moments(params, batch):
        key, images = batch
        return training_logits(model, params, augmentation(key, images))[1]

    return ss.for_each(moments, at_once=at_once)


@functools.cache
def logits_fn(model: Model, at_once: int | None = None):
    """`(networks, images) -> logits [P, B, K]` in evaluation mode."""

    def logits(network, images):
        params, stats = network
        return model.network.apply(
            {"params": params, "batch_stats": stats},
            normalize(images, model.normalization),
            train=False,
        )

    return ss.for_each(logits, at_once=at_once)


@functools.cache
def _dropout_logits_fn(model: Model):
    """`((network, keys [S]), images) -> logits [S, B, K]`, units dropped anew with every key."""

    def logits(key, network, images):
        params, stats = network
        return model.network.apply(
            {"params": params, "batch_stats": stats},
            normalize(images, model.normalization),
            train=False,
            dropout=True,
            rngs={"dropout": key},
        )

    def mapped(network_and_keys, images):
        network, keys = network_and_keys
        return ss.for_each(logits)(keys, network, images)

    return mapped


def recalibration_batches(run: Run, settings: Settings) -> "_Lazy":
    """Full batches `(key, images)` of the training split in a fixed random order."""
    key = jax.random.fold_in(jax.random.key(run.seed), _RECALIBRATION)
    size = settings.recalibration_batch_size
    order = np.asarray(jax.random.permutation(key, len(run.labels)))
    order = order[: settings.recalibration_examples or None]
    starts = range(0, len(order) - size + 1, size)
    keys = jax.random.split(jax.random.fold_in(key, 1), len(starts))
    return _Lazy(len(starts), lambda i: (keys[i], run.images[order[i * size : (i + 1) * size]]))


def _padded_batches(images, batch_size):
    """Batches of one size, the last filled up with copies of its last image."""
    size = min(batch_size, len(images))
    images = jnp.asarray(images)
    last = len(images) - 1

    def batch(i):
        return images[np.minimum(np.arange(i * size, (i + 1) * size), last)]

    return _Lazy(-(-len(images) // size), batch)


class _Lazy:
    """A sized iterable of things made when they are asked for."""

    def __init__(self, size, make):
        self._size, self._make = size, make

    def __len__(self):
        return self._size

    def __iter__(self):
        return map(self._make, range(self._size))


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


class _Evaluation:
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

    def shifts(self, networks: Networks, predict_fn) -> dict:
        """How a place fares on corrupted images, and tells foreign images from those of its own.

        `predict_fn(networks, images) -> log-probabilities [N, K]`.
        """
        model, settings = self.run.program.model, self.settings
        record = {}
        for name, severities in self.shifted.corrupted.items():
            for severity, load in severities.items():
                split = load()
                labels = jnp.asarray(split.labels)
                found = self.short_metrics(predict_fn(networks, split.images), labels)
                record.setdefault("corruptions", {}).setdefault(name, {})[str(severity)] = found
                if settings.adapt_to_corruption:
                    adapted = _adapted(model, networks, split.images, settings)
                    found = self.short_metrics(predict_fn(adapted, split.images), labels)
                    record.setdefault("adapted_corruptions", {}).setdefault(name, {})[
                        str(severity)
                    ] = found
        if self.shifted.outside:
            inside = _confidence(predict_fn(networks, self.splits[self.main].images))
        for name, load in self.shifted.outside.items():
            outside = _confidence(predict_fn(networks, load()))
            record.setdefault("ood", {})[name] = {
                "auroc": ss.detection.auroc(inside, outside),
                "fpr95": ss.detection.fpr_at_tpr(inside, outside),
            }
        return record

    def single(self, networks: Networks, images) -> jax.Array:
        """Log-probabilities `[N, K]` of the average of networks `[M, ...]`."""
        logits = predict(self.run.program.model, networks, images, self.settings)
        return ss.ensemble(logits)

    def place_of(self, name: str, networks: Networks, log_probs, passes: int) -> dict:
        record = self.place(log_probs, passes)
        if name in self.robust and self.main != "validation":
            record |= self.shifts(networks, self.single)
        return record


def evaluate(
    run: Run,
    stack: ss.tree.PyTree,
    splits: dict[str, Split],
    settings: Settings,
    wrap: Wrap = no_wrap,
    shifted: Shifted = Shifted(),
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
    work = _Evaluation(run, splits, settings, wrap, shifted, robust)
    log_probs = {name: jax.nn.log_softmax(values) for name, values in logits.items()}
    records = [
        {"name": point.name, "coords": _short(point.coords)}
        | work.metrics(log_probs[work.main][i], work.main)
        | {name: work.metrics(log_probs[name][i], name) for name in work.others}
        for i, point in enumerate(plan.points)
    ]
    coords = np.stack([point.coords for point in plan.points])
    ensembles = [
        {"members": _short(coords[list(members)]), "average": average}
        | work.metrics(ss.ensemble(logits[work.main][jnp.array(members)], average), work.main)
        | _diversity(jnp.exp(log_probs[work.main]), members)
        for members in plan.groups
        for average in ("probability", "logit")
    ]
    return _to_json(
        {
            "points": records,
            "ensembles": ensembles,
            "places": _places(work, plan, stack, records, logits, networks),
            "geometry": geometry(stack),
            "recalibration": {
                "num_examples": recalibration.num_examples,
                "batch_size": recalibration.batch_size,
                "augmented": settings.recalibration_augment,
            },
        }
    )


def _places(work, plan, stack, records, logits, networks) -> dict:
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


def _mc_place(work: _Evaluation, center: Networks) -> dict:
    """The average of passes in which units are dropped at random (Gal and Ghahramani 2016)."""
    model, settings = work.run.program.model, work.settings
    key = jax.random.fold_in(jax.random.key(work.run.seed), _DRAWS)
    keys = jax.random.split(key, settings.num_samples)

    def predict_fn(networks, images):
        one = jax.tree.map(lambda x: x[0], networks)
        batches = _padded_batches(images, settings.batch_size)
        logits = ss.predict(_dropout_logits_fn(model), (one, keys), batches)
        return ss.ensemble(logits[:, : len(images)])

    log_probs = {name: predict_fn(center, split.images) for name, split in work.splits.items()}
    record = work.place(log_probs, settings.num_samples)
    if "mc ensemble" in work.robust and work.main != "validation":
        record |= work.shifts(center, predict_fn)
    return record


def _chosen_places(work, plan, stack, logits, networks) -> dict:
    """Points and soups that are chosen on validation data."""
    method, settings = work.run.program.method, work.settings
    places = {}
    if len(plan.points) > 1 and method.average == "none" and not method.is_complex:
        best = int(choose.by_grid(logits["validation"], work.labels["validation"], "nll"))
        log_probs = {name: jax.nn.log_softmax(values[best]) for name, values in logits.items()}
        record = work.place_of("chosen point", networks.take([best]), log_probs, 1)
        places["chosen point"] = record | {"coords": _short(plan.points[best].coords)}
    if method.average == "snapshots":
        weights = _greedy_soup(work, plan, stack, logits)
        places["greedy soup"] = _place_of_params(
            work, "greedy soup", mixtures(stack, jnp.asarray(weights)[None])
        ) | {"weights": weights}
    if settings.choose_steps and method.subspace.num_endpoints > 1 and method.trains:
        places |= _gradient_places(work, stack)
    return places


def _gradient_places(work: _Evaluation, stack) -> dict:
    """The points of lowest validation NLL, one for the whole network or one for every layer."""
    model, settings = work.run.program.model, work.settings
    subspace = work.run.program.method.subspace
    # Layers choose for themselves only where the flag says so, not as they were trained.
    whole = dataclasses.replace(subspace, layer_of=None) if subspace.layer_of else subspace
    single = Single(model, settings.recalibration_augment)
    batches = recalibration_batches(work.run, settings)
    places = {}
    for name, layerwise in (("gradient point", False), ("layerwise point", True)):
        coords = choose.by_gradient(
            whole,
            stack,
            single.moments,
            single.logits,
            batches,
            work.splits["validation"],
            layerwise=layerwise,
            joint_temperature=True,
            num_steps=settings.choose_steps,
        )
        params = jax.tree.map(lambda x: x[None], whole.point(stack, coords))
        places[name] = _place_of_params(work, name, params)
        if not layerwise:
            places[name]["coords"] = _short(np.asarray(coords))
    return places


@dataclasses.dataclass(frozen=True)
class Single:
    """The functions of one network; equal ones are equal, so that nothing is compiled again."""

    model: Model
    augment: bool

    def moments(self, params, batch):
        """Moments of a batch `(key, images)` in training mode."""
        key, images = batch
        augmentation = AUGMENTATIONS[self.model.augmentation if self.augment else "none"]
        return training_logits(self.model, params, augmentation(key, images))[1]

    def logits(self, network, images):
        """Logits `[B, K]` of `(params, stats)` in evaluation mode."""
        params, stats = network
        return self.model.network.apply(
            {"params": params, "batch_stats": stats},
            normalize(images, self.model.normalization),
            train=False,
        )


def _place_of_params(work: _Evaluation, name: str, params) -> dict:
    """The record of a network `[1, ...]` that was not among the points."""
    logits, networks, _ = predict_networks(work.run, params, work.splits, work.settings, work.wrap)
    log_probs = {split: jax.nn.log_softmax(values[0]) for split, values in logits.items()}
    return work.place_of(name, networks, log_probs, 1)


def _greedy_soup(work: _Evaluation, plan: Layout, stack, logits) -> np.ndarray:
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


def _adapted(model: Model, networks: Networks, images, settings: Settings) -> Networks:
    """The networks with the statistics of these very images."""
    size = min(settings.recalibration_batch_size, len(images))
    images, key = jnp.asarray(images), jax.random.key(0)
    starts = range(0, len(images) - size + 1, size)
    batches = _Lazy(len(starts), lambda i: (key, images[i * size : (i + 1) * size]))
    moments = moments_fn(model, False, settings.at_once or None)
    found = ss.recalibrate(moments, networks.params, batches, num_examples=lambda b: len(b[1]))
    return networks._replace(stats=found.stats)


@jax.jit
def _confidence(log_probs: jax.Array) -> jax.Array:
    return jnp.exp(log_probs.max(-1))


def geometry(endpoints: ss.tree.PyTree) -> dict:
    """Distances and squared cosines between the kernels of the endpoints, `[n, n]`."""
    return {
        "distances": ss.distances(endpoints),
        "squared_cosines": ss.squared_cosines(endpoints),
    }


def _ensembles(points: list[Point]) -> list[tuple[int, ...]]:
    """Opposite points of a path; the corners of a simplex, all together and in pairs."""
    if len(points) == 1:
        return []
    if points[0].coords.ndim == 0:
        return [(i, len(points) - 1 - i) for i in range(len(points) // 2)]
    corners = tuple(i for i, point in enumerate(points) if point.name.startswith("endpoint"))
    pairs = list(itertools.combinations(corners, 2)) if len(corners) > 2 else []
    return [corners, *pairs]


def _diversity(probs: jax.Array, members: tuple[int, ...]) -> dict[str, jax.Array]:
    """Means over pairs of members."""
    pairs = list(itertools.combinations(members, 2))
    m = ss.metrics
    return {
        "disagreement": sum(m.disagreement(probs[i], probs[j]) for i, j in pairs) / len(pairs),
        "total_variation": sum(m.total_variation(probs[i], probs[j]) for i, j in pairs)
        / len(pairs),
    }


def _short(coords: np.ndarray) -> np.ndarray:
    """float32 coordinates as the decimals that they stand for: 0.05 and not 0.05000000074505806."""
    return coords.astype(np.float64).round(7)


def _to_json(tree):
    """Arrays as lists and numbers, fetched in one transfer; `None` for what is not a number."""
    return jax.tree.map(_plain, jax.device_get(tree))


def _plain(x):
    if isinstance(x, np.ndarray | np.generic):
        return _plain(x.tolist())
    if isinstance(x, list):
        return [_plain(entry) for entry in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x
