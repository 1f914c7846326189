"""What is chosen on validation data: a point of the subspace, and temperatures.

No function here sees test images. Test predictions are only what a temperature, fitted on the
validation split before, is applied to.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import subspace_jax as ss
from experiments.data.sets import Split
from experiments.system.errors import UserError

# Training images that measure the statistics of one step of the search for a point.
_STATISTICS_IMAGES = 500


def by_grid(logits: ArrayLike, labels: ArrayLike, criterion: Literal["nll", "accuracy"]) -> int:
    """Which of the points with validation logits `[P, N, K]` is best; the first of equal ones.

    Raises:
      UserError: there is no validation image.
    """
    _check_not_empty(labels, "a point")
    return int(ss.calibration.choose_point(logits, labels, criterion=criterion))


def by_gradient(
    subspace: ss.Subspace,
    endpoints: ss.tree.PyTree,
    stats_fn: Callable[[ss.tree.PyTree, Any], ss.tree.PyTree],
    logits_fn: Callable[[tuple, jax.Array], jax.Array],
    recalibration_batches: Iterable[Any],
    validation: Split,
    *,
    layerwise: bool,
    joint_temperature: bool,
    num_steps: int,
    max_images: int = 500,
    start: ArrayLike | None = None,
) -> ss.subspaces.Coords:
    """The coordinates of the lowest validation NLL, by gradient descent.

    The batch-norm statistics are a part of what is differentiated: those of the first batches, up to
    500 training images, at the very point.

    Args:
      subspace: what is searched.
      endpoints: stack with leaves `[n, ...]`.
      stats_fn: `(params, batch) -> moments` of one network; as in `subspace_jax.recalibrate`. Pass
        the same object again, of `logits_fn` too, and nothing is compiled again.
      logits_fn: `((params, stats), images) -> logits [B, K]` of one network in evaluation mode.
      recalibration_batches: of equal sizes, for `stats_fn`; the images are the last array of each.
      validation: at most `max_images` of its images are predicted, at equal distances.
      layerwise: whether every layer has a point of its own, however the subspace was trained.
      joint_temperature: whether the logits are divided by their own best temperature, so that a
        point is not chosen for a confidence that temperature scaling mends anyway.
      num_steps: of Adam, at least 1.
      max_images: bounds the time and memory of a step.
      start: coordinates of one point, such as the best of a grid; by default the midpoint. The NLL
        along a path can have several minima.

    Returns:
      As `Subspace.sample_coords`: an array, or layerwise a tree like `endpoints`.

    Raises:
      UserError: there is no validation image.
    """
    _check_not_empty(validation.labels, "a point")
    count = len(validation.labels)
    kept = np.arange(min(count, max_images)) * count // min(count, max_images)
    data = (
        tuple(_first(recalibration_batches, _STATISTICS_IMAGES)),
        jnp.asarray(validation.images[kept]),
        jnp.asarray(validation.labels[kept]),
    )
    static = {"stats_fn": stats_fn, "logits_fn": logits_fn, "joint_temperature": joint_temperature}

    def nll_fn(coords):
        return _nll(_point(coords, endpoints, subspace.weights), *data, **static)

    searched = dataclasses.replace(subspace, layer_of=None)
    if layerwise:
        searched = ss.layerwise(searched, subspace.layer_of or ss.parent)
    return ss.calibration.optimize_coords(
        nll_fn, searched, endpoints, num_steps=num_steps, start=start
    )


@functools.partial(jax.jit, static_argnums=2)
def _point(coords, endpoints, weights_fn):
    return ss.mix(jax.tree.map(weights_fn, coords), endpoints)


# Of a network and not of coordinates, so that all subspaces of a network share one compilation.
@functools.partial(jax.jit, static_argnames=("stats_fn", "logits_fn", "joint_temperature"))
def _nll(params, batches, images, labels, *, stats_fn, logits_fn, joint_temperature):
    # Batches of equal sizes: each counts as one.
    stats = ss.recalibrate(stats_fn, params, batches, num_examples=lambda batch: 1).stats
    logits = logits_fn((params, stats), images)
    if joint_temperature:
        temperature = ss.calibration.fit_temperature(logits, labels)
        logits = ss.calibration.apply_temperature(logits, temperature)
    return ss.metrics.nll(jax.nn.log_softmax(logits), labels)


def temperature_record(
    log_probs_val: ArrayLike,
    labels_val: ArrayLike,
    log_probs_test: ArrayLike,
    labels_test: ArrayLike,
    num_bins: int,
) -> dict[str, Any]:
    """The temperature that validation data choose, and how calibrated test predictions are with it.

    Args:
      log_probs_val: `[N, K]`, logits or log-probabilities of the validation data.
      labels_val: `[N]`.
      log_probs_test: `[N', K]`; only `scaled` depends on it.
      labels_test: `[N']`.
      num_bins: of the calibration error.

    Returns:
      `temperature` and `scaled`, the `nll` and `ece` of the test predictions.

    Raises:
      UserError: there is no validation image.
    """
    _check_not_empty(labels_val, "a temperature")
    temperature = ss.calibration.fit_temperature(log_probs_val, labels_val)
    log_probs = jax.nn.log_softmax(ss.calibration.apply_temperature(log_probs_test, temperature))
    return _record(temperature, log_probs, labels_test, num_bins)


def ensemble_temperature_record(
    logits_val: ArrayLike,
    labels_val: ArrayLike,
    logits_test: ArrayLike,
    labels_test: ArrayLike,
    average: ss.calibration.Average,
    num_bins: int,
) -> dict[str, dict]:
    """As `temperature_record`, for an ensemble, whose members or whose average can be calibrated.

    Args:
      logits_val: `[M, N, K]`, of the validation data.
      labels_val: `[N]`.
      logits_test: `[M, N', K]`.
      labels_test: `[N']`.
      average: `"probability"` or `"logit"`.
      num_bins: of the calibration error.

    Returns:
      A record for each of `per_member`, whose `temperature` is `[M]`, and `after_average`.

    Raises:
      UserError: there is no validation image.
    """
    _check_not_empty(labels_val, "a temperature")
    fit = ss.calibration.fit_ensemble_temperature
    scale = ss.calibration.apply_ensemble_temperature
    records = {}
    for mode in ("per_member", "after_average"):
        temperature = fit(logits_val, labels_val, average=average, mode=mode)
        log_probs = scale(logits_test, temperature, average=average, mode=mode)
        records[mode] = _record(temperature, log_probs, labels_test, num_bins)
    return records


def _record(temperature, log_probs, labels, num_bins) -> dict[str, Any]:
    scaled = {
        "nll": ss.metrics.nll(log_probs, labels),
        "ece": ss.metrics.ece(jnp.exp(log_probs), labels, num_bins=num_bins),
    }
    return {"temperature": temperature, "scaled": scaled}


def _first(batches: Iterable[Any], num_images: int) -> list[Any]:
    """The first batches that hold at most so many images, at least one."""
    kept, size = [], 0
    for batch in batches:
        size += len(jax.tree.leaves(batch)[-1])
        if kept and size > num_images:
            break
        kept.append(batch)
    return kept


def _check_not_empty(labels: ArrayLike, what: str) -> None:
    if not len(labels):
        raise UserError(
            f"config.validation_size is 0 but {what} is chosen on validation images; set "
            "config.validation_size to at least 1."
        )
