"""int8 weights: never further than half a step from what they were."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from experiments.quantise import dequantised, quantised

KERNELS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
)


@settings(deadline=None, max_examples=80, derandomize=True)
@given(KERNELS)
def test_no_weight_moves_by_more_than_half_a_scale(kernel):
    found = quantised({"kernel": kernel})
    assert found["kernel"].dtype == np.int8
    assert found["kernel_scale"].shape == (1,) * (kernel.ndim - 1) + kernel.shape[-1:]
    back = dequantised(found)["kernel"]
    assert (back.dtype, back.shape) == (np.float32, kernel.shape)
    moved = np.abs(back.astype(np.float64) - kernel)
    # The product is rounded to float32 once more.
    assert (moved <= 0.5 * found["kernel_scale"] * (1 + 1e-4)).all()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(KERNELS)
def test_zero_stays_zero_and_signs_are_kept(kernel):
    kernel.flat[0] = 0
    back = dequantised(quantised({"kernel": kernel}))["kernel"]
    assert (back[kernel == 0] == 0).all()
    assert (back * np.sign(kernel) >= 0).all()


@settings(deadline=None, max_examples=50, derandomize=True)
@given(KERNELS)
def test_what_was_quantised_once_stays_as_it_is(kernel):
    once = quantised({"kernel": kernel})
    again = quantised({"kernel": dequantised(once)["kernel"]})
    np.testing.assert_array_equal(once["kernel"], again["kernel"])


def test_every_channel_has_its_own_scale_and_one_of_zeros_is_exact():
    kernel = np.float32([[[1, 0, 1e-3], [-2, 0, 0]]])
    found = quantised({"kernel": kernel})
    np.testing.assert_array_equal(found["kernel"], [[[64, 0, 127], [-127, 0, 0]]])
    back = dequantised(found)["kernel"]
    np.testing.assert_array_equal(back[..., 1], 0)
    np.testing.assert_allclose(np.abs(back).max((0, 1)), [2, 0, 1e-3], rtol=1e-6)


@pytest.mark.parametrize("value", [1e-45, 1e-39, np.finfo(np.float32).tiny])
def test_the_smallest_numbers_do_not_divide_by_zero(value):
    kernel = np.float32([[value], [-value]])
    back = dequantised(quantised({"kernel": kernel}))["kernel"]
    assert np.abs(back - kernel).max() <= np.finfo(np.float32).tiny / 2


def test_only_kernels_are_quantised():
    tree = {
        "norm": {"scale": np.float32([1, 2]), "bias": np.float32([0, 1])},
        "embedding": {"ids": np.int32([[1, 2]])},
        "conv": {"kernel": np.ones((3, 3, 1, 2), np.float32), "bias": np.float32([0.3, 0.1])},
    }
    found = quantised(tree)
    assert set(found["conv"]) == {"kernel", "kernel_scale", "bias"}
    for path in (("norm", "scale"), ("norm", "bias"), ("embedding", "ids"), ("conv", "bias")):
        assert found[path[0]][path[1]] is tree[path[0]][path[1]]
    back = dequantised(found)
    assert {name: set(part) for name, part in back.items()} == {
        name: set(part) for name, part in tree.items()
    }
