"""JPEGs as an array that is decoded where it is indexed, and crops of them."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image

from experiments.data import decode
from experiments.data.decode import NUM_DRAWS, Pictures, Unreadable


class Encoded(list):
    """Records in memory."""

    def name(self, i):
        return f"image {i}"


def encode(pixels, mode="RGB"):
    stream = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    image.save(stream, "JPEG", quality=100, **({} if mode == "L" else {"subsampling": 0}))
    return stream.getvalue()


def ramp(height, width):
    """Rows in the first channel, columns in the second."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], -1).astype(np.uint8)


@pytest.fixture(scope="module")
def some():
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 60, (6, 2))
    pixels = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    return Pictures.of(Encoded(map(encode, pixels)), 16)


def test_it_is_indexed_as_an_array_and_parts_are_parts_of_it(some):
    whole = some[:]
    assert whole.shape == some.shape == (6, 16, 16, 3)
    assert whole.dtype == some.dtype == np.uint8
    for index in (2, -1, slice(1, 4), [0, 5], np.array([[3, 3], [0, 1]]), np.arange(6) > 2):
        np.testing.assert_array_equal(some[index], whole[index])
    with pytest.raises(IndexError, match="out of bounds"):
        some[6]
    for index in (np.array([4, 1]), np.arange(6) != 3):
        np.testing.assert_array_equal(some.subset(index)[:], whole[index])
    assert some.subset(np.array([4, 1])).name(0) == "image 4"


def test_a_function_changes_images_where_they_are_indexed(some):
    def function(numbers, images):
        return images + numbers[:, None, None, None].astype(np.uint8)

    changed, chosen = dataclasses.replace(some, function=function), np.array([4, 2])
    expected = some[chosen] + np.uint8(chosen)[:, None, None, None]
    np.testing.assert_array_equal(changed[chosen], expected)
    np.testing.assert_array_equal(changed.subset(chosen)[:], expected)
    assert decode.is_lazy(changed)
    assert not decode.is_lazy(expected)


def test_the_short_side_is_resized_and_the_centre_kept():
    one = Pictures(Encoded([encode(ramp(40, 80))]), np.arange(1), side=16, short_side=20)
    image = one[0].astype(float)
    # Half the size: pixel (i, j) of it covers pixels 2 (i + 2) and on, 2 (j + 12) and on.
    np.testing.assert_allclose(image[:, 8, 0], 2 * np.arange(2, 18) + 0.5, atol=2)
    np.testing.assert_allclose(image[8, :, 1], 2 * np.arange(12, 28) + 0.5, atol=2)


def test_other_colours_become_rgb():
    pixels = np.full((30, 30, 3), 90, np.uint8)
    images = Pictures.of(Encoded([encode(pixels, mode) for mode in ("L", "CMYK")]), 16)[:]
    np.testing.assert_allclose(images, 90.0, atol=3)


def test_crops_lie_in_the_image_and_have_the_areas_and_ratios_that_they_may():
    rng = np.random.default_rng(0)
    boxes = np.array([decode._crop_box(500, 375, rng.random((10, 4))) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert (boxes >= 0).all()
    assert (right <= 500).all()
    assert (bottom <= 375).all()
    areas, ratios = (right - left) * (bottom - top) / (500 * 375), (right - left) / (bottom - top)
    np.testing.assert_allclose([areas.min(), areas.max()], [0.08, 1], rtol=0.2)
    np.testing.assert_allclose([ratios.min(), ratios.max()], [3 / 4, 4 / 3], rtol=0.05)


@pytest.mark.parametrize(("width", "height"), [(400, 20), (20, 400)])
def test_where_no_crop_fits_the_centre_is_taken(width, height):
    left, top, right, bottom = decode._crop_box(width, height, np.full((10, 4), 0.999))
    assert abs(left - (width - right)) <= 1
    assert abs(top - (height - bottom)) <= 1
    assert 3 / 4 - 0.01 <= (right - left) / (bottom - top) <= 4 / 3 + 0.1


def test_a_crop_is_the_part_that_was_drawn_and_flips_mirror_it():
    one = Pictures.of(Encoded([encode(ramp(120, 160))]), 16)
    draws = np.array([0.9, *[0.2, 0.5, 0.5, 0.5] * 10])
    assert len(draws) == NUM_DRAWS
    left, top, right, bottom = decode._crop_box(160, 120, draws[1:].reshape(10, 4))
    image = one.cropped(0, draws)
    np.testing.assert_allclose(image[[0, -1], 8, 0], [top + 2, bottom - 3], atol=4)
    np.testing.assert_allclose(image[8, [0, -1], 1], [left + 2, right - 3], atol=4)
    flipped = one.cropped(0, np.array([0.1, *draws[1:]]))
    np.testing.assert_array_equal(flipped, image[:, ::-1])


@pytest.mark.parametrize("side", [16, 200])
def test_what_lies_beside_a_crop_is_not_read(side, some):
    rng = np.random.default_rng(1)
    for i in range(len(some)):
        image, draws = decode.open_image(some.records, i), rng.random(NUM_DRAWS)
        part = image.crop(decode._crop_box(*image.size, draws[1:].reshape(10, 4)))
        expected = np.asarray(part.resize((side, side), Image.Resampling.BILINEAR))
        expected = expected[:, ::-1] if draws[0] < 0.5 else expected
        np.testing.assert_array_equal(Pictures.of(some.records, side).cropped(i, draws), expected)


@pytest.mark.parametrize("content", [b"", b"text", encode(ramp(30, 30))[:300]])
def test_what_cannot_be_decoded_is_named(content):
    one = Pictures.of(Encoded([content]), 16)
    for decoded in (lambda: one.cropped(0, np.zeros(NUM_DRAWS)), lambda: one[:]):
        with pytest.raises(Unreadable, match=r"^image 0 can't be decoded \(.*\); restore it from"):
            decoded()
