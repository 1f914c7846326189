"""Augmentation and normalisation against NumPy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.data.augment import NORMALIZATIONS, crop_and_flip, normalize

SHAPE = (8, 8, 3)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (16, *SHAPE)).astype(np.uint8)  # no black pixel: that is padding


def chosen(image, augmented, padding):
    """The indices (offset, flip) of what crop and flip can make of an image that each equals."""
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    offsets = np.ndindex(2 * padding + 1, 2 * padding + 1)
    crops = np.stack([padded[i : i + SHAPE[0], j : j + SHAPE[1]] for i, j in offsets])
    candidates = np.stack([crops, crops[:, :, ::-1]], axis=1)
    equal = (candidates[None] == augmented[:, None, None]).all((3, 4, 5))
    assert (equal.sum((1, 2)) == 1).all()
    return np.argwhere(equal)[:, 1:]


@pytest.mark.parametrize("padding", [1, 4])
def test_all_candidates_are_equally_likely(padding):
    count = 50 * 2 * (2 * padding + 1) ** 2
    copies = jnp.broadcast_to(IMAGES[0], (count, *SHAPE))
    results = np.asarray(crop_and_flip(jax.random.key(0), copies, padding))
    indices = chosen(IMAGES[0], results, padding)
    drawn = np.bincount(indices @ [2, 1], minlength=count // 50)
    assert len(drawn) == count // 50
    degrees = len(drawn) - 1
    chi_squared = ((drawn - 50) ** 2 / 50).sum()
    assert abs(chi_squared - degrees) < 4 * np.sqrt(2 * degrees)


def test_a_key_decides_for_each_image_of_a_batch():
    first, again, other = (crop_and_flip(jax.random.key(k), jnp.asarray(IMAGES)) for k in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    assert (np.asarray(first) != np.asarray(other)).any()
    for image, result in zip(IMAGES, np.asarray(first), strict=True):
        chosen(image, result[None], padding=4)


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalize_is_that_of_numpy(name):
    mean, std = (np.asarray(x) for x in NORMALIZATIONS[name])
    normalized = normalize(jnp.asarray(IMAGES), name)
    chex.assert_type(normalized, jnp.float32)
    chex.assert_trees_all_close(
        normalized, ((IMAGES / 255 - mean) / std).astype(np.float32), rtol=1e-5, atol=1e-6
    )
