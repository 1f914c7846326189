"""Temperatures, which validation data choose: test predictions are only what they are applied to."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

import subspace_jax as ss

Predicted = tuple[ArrayLike, ArrayLike]  # logits or log probabilities, and labels


def temperature_record(validation: Predicted, test: Predicted, num_bins: int) -> dict[str, Any]:
    """The temperature that validation logits `[N, K]` choose, and the test metrics with it."""
    temperature = ss.calibration.fit_temperature(*validation)
    log_probs = jax.nn.log_softmax(ss.calibration.apply_temperature(test[0], temperature))
    return _record(temperature, log_probs, test[1], num_bins)


def ensemble_temperature_record(
    validation: Predicted, test: Predicted, num_bins: int
) -> dict[str, dict]:
    """As `temperature_record`, of the mean probabilities of members with logits `[M, N, K]`.

    Either every member has a temperature of its own, `[M]`, or their average has one.
    """
    records = {}
    for mode in ("per_member", "after_average"):
        temperature = ss.calibration.fit_ensemble_temperature(*validation, mode=mode)
        log_probs = ss.calibration.apply_ensemble_temperature(test[0], temperature, mode=mode)
        records[mode] = _record(temperature, log_probs, test[1], num_bins)
    return records


def _record(temperature, log_probs, labels, num_bins) -> dict[str, Any]:
    scaled = {
        "nll": ss.metrics.nll(log_probs, labels),
        "ece": ss.metrics.ece(jnp.exp(log_probs), labels, num_bins=num_bins),
    }
    return {"temperature": temperature, "scaled": scaled}
