"""What is seen of the networks of a suite, as entries of it: the landscape, and corrupted images."""

import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

import subspace_jax as ss
from experiments.configs.recipes import SHOWN
from experiments.evaluation import landscape, predict
from experiments.evaluation.evaluate import to_json
from experiments.evaluation.points import layout
from experiments.evaluation.predict import mixtures
from experiments.evaluation.predictors import Predictor, measure
from experiments.reproduce import records
from experiments.reproduce.records import Entry, Suite
from experiments.runs import slices, workdir
from experiments.runs.job import Advance, interruptible
from experiments.system import files
from experiments.system.provenance import finished_now, provenance
from experiments.training import model, weights
from experiments.training.run import make_run, one_network

# What is drawn of which recipe, at the midpoint of clean labels.
SLICED, PATHS = SHOWN["slice"], SHOWN["curvature"]
# What is kept of a midpoint that predicts corrupted images.
_OF_CORRUPTED = ("inference_passes", "accuracy", "nll", "ece", "corruptions")


def record(entry: Entry, advance: Advance, suite: Suite, options: dict, first_seed: int) -> dict:
    """Looks at the networks of the run that an entry needs, and writes what it sees, unless it is done.

    `options` are `config.landscape`; of seeds but the first one the triangle alone is drawn.
    """
    folder, inputs, stop = suite
    if done := records.finished(folder, entry):
        return done
    begin, own = time.perf_counter(), records.run_folder(folder, entry.id)
    wrap, data = interruptible(stop, bars=False, folder=own), inputs.dataset(entry.config)
    run = make_run(entry.config, data, slot=0)
    settings = predict.make_settings(entry.config, run)
    like = one_network(run)
    stacks = [weights.load(records.weights_path(folder, need), like) for need in entry.needs]
    found, places = {}, {}
    if entry.setting == "corrupted":
        seen = _corrupted(run, stacks[0], settings, data.test, inputs.shifted(entry.config), wrap)
        places["midpoint"] = {name: seen[name] for name in _OF_CORRUPTED}
    elif entry.method == "simplex_3" or (entry.method in SLICED and entry.seed == first_seed):
        found["slice"] = slices.plane_of(run, settings, data, stacks, options["resolution"], wrap)
        if entry.method == "simplex_3":
            for region in ("inside", "outside"):
                means = {name: found["slice"][region][name] for name in ("accuracy", "nll")}
                places[f"{region} the triangle"] = {"inference_passes": 1} | means
    advance(0.5)
    if entry.setting == "landscape" and entry.method in PATHS:
        found["path"] = _path(run, stacks[0], entry, folder, options, wrap)
    made = provenance("experiments.reproduce", entry.config.model.dtype) | finished_now()
    made["wall_seconds"] = time.perf_counter() - begin
    workdir.prepare(own, entry.config, False, entry.in_suite)
    seen = records.rounded({"provenance": made, "places": places, "landscape": found})
    files.write_json(own / workdir.METRICS, seen)
    return records.finished(folder, entry)


def _corrupted(run, stack, settings, test, shifted, wrap: predict.Wrap) -> dict:
    """What the midpoint predicts of corrupted images."""
    found = layout(run, settings)
    middle = mixtures(stack, jnp.asarray(found.weights[[found.index("midpoint")]]))
    networks, _ = predict.recalibrated(run, middle, settings, wrap)
    given = {"settings": settings, "wrap": wrap}
    logits = functools.partial(predict.predict, run.program.model, networks, **given)
    midpoint = Predictor("midpoint", logits)
    return to_json(measure(midpoint, {"test": test}, settings.num_bins, shifted=shifted))


def _path(run, stack, entry: Entry, folder: Path, options: dict, wrap: predict.Wrap) -> dict:
    """Barriers and curvature; layerwise points at given coordinates are those of a line."""
    subspace = run.program.method.subspace
    metrics = workdir.finished(records.run_folder(folder, entry.needs[0]))
    size = min(options["hessian_batch_size"], len(run.labels))
    count = max(options["hessian_images"] // size, 1)
    key = jax.random.fold_in(jax.random.key(entry.seed), slices.STREAM)
    # In a random order, since some data sets are sorted by class.
    order = jax.random.permutation(jax.random.fold_in(key, 1), len(run.labels))
    places = [order[i * size : (i + 1) * size] for i in range(min(count, len(order) // size))]
    batches = [(run.images[at], run.labels[at]) for at in places]
    given = {"loss_fn": loss_fn(run.program.model), "batches": batches, "key": key, "wrap": wrap}
    given["num_iterations"] = options["hessian_iterations"]
    curvature = functools.partial(landscape.curvature_record, **given)
    return landscape.path_record(stack, subspace, records.points_of(metrics), curvature)


@functools.cache  # so that nothing is compiled again
def loss_fn(trained: model.Model) -> Callable:
    """`(params, (images, labels)) -> mean cross-entropy` in training mode, images as they are."""

    def loss(params, batch):
        images, labels = batch
        logits, _ = model.training_logits(trained, params, images)
        return ss.metrics.nll(jax.nn.log_softmax(logits), labels)

    return loss
