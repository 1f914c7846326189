"""Temperatures, which validation data choose: test predictions are only what they are applied to."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

import subspace_jax as ss


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
    """
    temperature = ss.calibration.fit_temperature(log_probs_val, labels_val)
    log_probs = jax.nn.log_softmax(ss.calibration.apply_temperature(log_probs_test, temperature))
    return _record(temperature, log_probs, labels_test, num_bins)


def ensemble_temperature_record(
    logits_val: ArrayLike,
    labels_val: ArrayLike,
    logits_test: ArrayLike,
    labels_test: ArrayLike,
    num_bins: int,
) -> dict[str, dict]:
    """As `temperature_record`, of the members' mean probabilities.

    Logits are `[M, N, K]`. There is a record for `per_member`, whose `temperature` is `[M]`, and for
    `after_average`.
    """
    records = {}
    for mode in ("per_member", "after_average"):
        temperature = ss.calibration.fit_ensemble_temperature(logits_val, labels_val, mode=mode)
        log_probs = ss.calibration.apply_ensemble_temperature(logits_test, temperature, mode=mode)
        records[mode] = _record(temperature, log_probs, labels_test, num_bins)
    return records


def _record(temperature, log_probs, labels, num_bins) -> dict[str, Any]:
    scaled = {
        "nll": ss.metrics.nll(log_probs, labels),
        "ece": ss.metrics.ece(jnp.exp(log_probs), labels, num_bins=num_bins),
    }
    return {"temperature": temperature, "scaled": scaled}
