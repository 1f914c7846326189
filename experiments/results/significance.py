"""Differences between methods, paired by seed, and whether they are more than chance."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

SIGNIFICANCE = 0.05
MIN_SEEDS = 3  # fewer are not tested


class Effect(NamedTuple):
    """The mean over seeds of ours minus theirs, its standard error, and a two-sided paired t-test."""

    difference: float | None  # None where a value is not finite
    stderr: float | None
    num_seeds: int
    p_value: float | None  # None of too few seeds, or of the same difference in all of them

    @property
    def is_significant(self) -> bool:
        return self.p_value is not None and self.p_value < SIGNIFICANCE


def paired(ours: Mapping[int, float | None], theirs: Mapping[int, float | None]) -> Effect:
    """The difference of two columns over the seeds that both have."""
    pairs = [(ours[seed], theirs[seed]) for seed in sorted(ours.keys() & theirs.keys())]
    n, numbers = len(pairs), [value for pair in pairs for value in pair]
    if not n or None in numbers or not all(map(math.isfinite, numbers)):
        return Effect(None, None, n, None)
    differences = [ours - theirs for ours, theirs in pairs]
    mean = statistics.fmean(differences)
    stderr = statistics.stdev(differences) / n**0.5 if n > 1 else None
    if n < MIN_SEEDS:
        return Effect(mean, stderr, n, None)
    rounding = 1e-14 * max(map(abs, numbers))
    if stderr <= rounding:
        return Effect(mean, stderr, n, 1.0 if abs(mean) <= rounding else None)
    return Effect(mean, stderr, n, float(2 * special.stdtr(n - 1, -abs(mean / stderr))))


def standard_error(values: np.ndarray) -> np.ndarray | None:
    """Standard error of the mean over seeds, `[S, ...] -> [...]`; none from one seed."""
    return None if len(values) < 2 else values.std(axis=0, ddof=1) / len(values) ** 0.5


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm 1979: the i-th smallest of k p-values times k - i, made monotone; `None` was not tested."""
    tested = sorted((p_value, i) for i, p_value in enumerate(p_values) if p_value is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p_value, i) in enumerate(tested):
        largest = max(largest, min(1.0, p_value * (len(tested) - rank)))
        corrected[i] = largest
    return corrected


def corrected(effects: Sequence[Effect]) -> list[Effect]:
    """Effects that are tested together, with the p-values of Holm's method."""
    p_values = holm([effect.p_value for effect in effects])
    return [e._replace(p_value=p) for e, p in zip(effects, p_values, strict=True)]
