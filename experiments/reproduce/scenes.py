"""The landscape around the networks of a suite: slices of the loss, barriers, curvature.

They are entries of a suite like its runs: of the setting "landscape", they need the run whose
networks they look at, and leave a record of their own.
"""

import time
from collections.abc import Callable
from pathlib import Path

import jax

import subspace_jax as ss
from experiments.evaluation import landscape, predict
from experiments.reproduce import records, scheduler
from experiments.reproduce.records import Entry
from experiments.reproduce.scheduler import Advance
from experiments.runs import job
from experiments.training import model, weights
from experiments.training.run import make_run, one_network

# What is drawn of which recipe, at the midpoint of clean labels.
SLICED = ("standard", "line", "curve", "simplex_3")
PATHS = ("standard", "line", "layerwise_line", "curve")
# The stream of a run's randomness that landscapes take.
STREAM = 5


def record(
    entry: Entry,
    advance: Advance,
    *,
    folder: Path,
    options: dict,
    first_seed: int,
    requested: Callable[[], bool] = lambda: False,
) -> dict:
    """Looks at the networks of a run, and writes what it sees; what is done is only read.

    Args:
      entry: of the setting "landscape"; its first need is the run, a line's second an independently
        trained network.
      advance: see `suite.run_all`.
      folder: of the suite.
      options: `config.landscape` of the suite.
      first_seed: the one of which all slices are drawn, and not the triangle alone.
      requested: whether a signal came, so that looking is to be given up.

    Raises:
      UserError: three networks that determine no plane.
      Interrupted: a signal came.
    """
    if done := records.finished(folder, entry):
        advance(1.0)
        return done
    begin, wrap = time.perf_counter(), scheduler.interruptible(requested)
    run = make_run(entry.config, job.load_data(entry.config), slot=0)
    like = one_network(run)
    stacks = [weights.load(records.weights_path(folder, need), like) for need in entry.needs]
    found, places = {}, {}
    if entry.method == "simplex_3" or (entry.method in SLICED and entry.seed == first_seed):
        found["slice"] = _slice(run, stacks, entry, options["resolution"], wrap)
        if entry.method == "simplex_3":
            for region in ("inside", "outside"):
                means = {name: found["slice"][region][name] for name in ("accuracy", "nll")}
                places[f"{region} the triangle"] = {"inference_passes": 1} | means
    advance(0.5)
    if entry.method in PATHS:
        found["path"] = _path(run, stacks[0], entry, folder, options, wrap)
    seen = {
        "places": places,
        "landscape": found,
        "wall_seconds": time.perf_counter() - begin,
    }
    return records.write(folder, entry, records.identity(entry) | records.rounded(seen))


def _slice(run, stacks, entry: Entry, resolution: int, wrap: predict.Wrap) -> dict:
    settings = predict.make_settings(entry.config, run)
    single = predict.Single(run.program.model, settings.recalibration_augment)
    dataset = job.load_data(entry.config)
    return landscape.slice_record(
        run.program.method.subspace,
        weights.concatenate(stacks),
        single.moments,
        single.logits,
        predict.recalibration_batches(run, settings),
        dataset.test,
        key=jax.random.fold_in(jax.random.key(entry.seed), STREAM),
        resolution=resolution,
        wrap=wrap,
        batch_size=settings.batch_size,
    )


def _path(run, stack, entry: Entry, folder: Path, options: dict, wrap: predict.Wrap) -> dict:
    """Barriers and curvature; layerwise points at given coordinates are those of a line."""
    subspace = run.program.method.subspace
    points = records.read(folder, entry.needs[0])["points"]
    size = min(options["hessian_batch_size"], len(run.labels))
    count = max(options["hessian_images"] // size, 1)
    key = jax.random.fold_in(jax.random.key(entry.seed), STREAM)
    # In a random order, since some data sets are sorted by class.
    order = jax.random.permutation(jax.random.fold_in(key, 1), len(run.labels))
    places = [order[i * size : (i + 1) * size] for i in range(min(count, len(order) // size))]
    batches = [(run.images[at], run.labels[at]) for at in places]
    return landscape.path_record(
        stack,
        subspace,
        points,
        Loss(run.program.model),
        batches,
        key,
        num_iterations=options["hessian_iterations"],
        wrap=wrap,
    )


class Loss(predict.ModelFunction):
    """The mean cross-entropy of `(images, labels)` in training mode, images as they are."""

    def __call__(self, params: ss.tree.PyTree, batch) -> jax.Array:
        images, labels = batch
        logits, _ = model.training_logits(self.model, params, images)
        return ss.metrics.nll(jax.nn.log_softmax(logits), labels)
