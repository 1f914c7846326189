"""Paired differences: those of SciPy; Holm's correction: that of its definition."""

import math

import numpy as np
import pytest
import scipy.stats
from records import values

from experiments.results import significance


def columns(*sides):
    return [dict(enumerate(side)) for side in sides]


def test_effects_are_those_of_scipy():
    ours, theirs = values(0.91, seed=1), values(0.9, seed=2)
    found = significance.paired(*columns(ours, theirs))
    assert found.difference == pytest.approx((ours - theirs).mean(), rel=1e-12)
    assert found.stderr == pytest.approx((ours - theirs).std(ddof=1) / np.sqrt(8), rel=1e-12)
    assert found.p_value == pytest.approx(scipy.stats.ttest_rel(ours, theirs).pvalue, rel=1e-12)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        (([], []), (None, None, 0, None)),
        (([0.9], [0.8]), (pytest.approx(0.1), None, 1, None)),
        (([1.0, 2.0, 9.0], [1.0, 1.0]), (0.5, pytest.approx(0.5), 2, None)),  # over common seeds
        (([0.9] * 3, [0.9] * 3), (0, 0, 3, 1)),
        # Equal but for rounding: 0.3 - 0.2 is not 0.2 - 0.1.
        (([0.3, 0.2, 0.5], [0.2, 0.1, 0.4]), (pytest.approx(0.1), pytest.approx(0), 3, None)),
        (([0.9, None, 0.9], [0.8] * 3), (None, None, 3, None)),
        (([0.9, math.nan, 0.9], [0.8] * 3), (None, None, 3, None)),
    ],
)
def test_degenerate_effects(sides, expected):
    assert significance.paired(*columns(*sides)) == expected


@pytest.mark.parametrize("seed", range(3))
def test_holm_is_that_of_its_definition(seed):
    rng = np.random.default_rng(seed)
    raw = rng.uniform(0, 0.2, 12).round(2).tolist()
    found = significance.holm(raw)
    order = np.argsort(raw, kind="stable")
    for rank, i in enumerate(order):
        expected = max(min(1, (12 - j) * raw[order[j]]) for j in range(rank + 1))
        assert found[i] == pytest.approx(expected)
    again = rng.permutation(12)
    assert significance.holm([raw[i] for i in again]) == [found[i] for i in again]


def test_holm_passes_over_what_was_not_tested():
    assert significance.holm([None, 0.01, None, 0.04]) == [None, 0.02, None, 0.04]
    assert significance.holm([]) == []
