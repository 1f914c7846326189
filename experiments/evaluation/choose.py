"""What is chosen on validation data: a point of the subspace, and temperatures.

No function here sees test images. Test predictions are only what a temperature, fitted on the
validation split before, is applied to.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

import subspace_jax as ss
from experiments.system.errors import UserError


def by_grid(logits: ArrayLike, labels: ArrayLike, criterion: Literal["nll", "accuracy"]) -> int:
    """Which of the points with validation logits `[P, N, K]` is best; the first of equal ones.

    Raises:
      UserError: there is no validation image.
    """
    _check_not_empty(labels, "a point")
    return int(ss.calibration.choose_point(logits, labels, criterion=criterion))


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


def _check_not_empty(labels: ArrayLike, what: str) -> None:
    if not len(labels):
        raise UserError(
            f"config.validation_size is 0 but {what} is chosen on validation images; set "
            "config.validation_size to at least 1."
        )
