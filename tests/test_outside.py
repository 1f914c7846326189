"""Images of no class: what is made of the test images, and what is read."""

import re

import numpy as np
import pytest

from experiments.data import ood
from experiments.data.ood import load_outside
from experiments.data.sets import Split
from experiments.system.errors import UserError


def split_of(count=6, shape=(8, 8, 3), seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(np.uint8)
    return Split(images, np.arange(count, dtype=np.int32) % 3)


def refused(name, sentence, like=None):
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_outside(str(name), like or split_of())


@pytest.mark.parametrize("name", ood.MADE)
def test_what_is_made_looks_like_the_test_images_and_is_the_same_each_time(name):
    like = split_of(shape=(5, 7, 1))
    made = load_outside(name, like)
    assert (made.shape, made.dtype) == (like.images.shape, np.uint8)
    np.testing.assert_array_equal(made, load_outside(name, like))
    assert (made != like.images).any()
    assert (made != load_outside(name, like, seed=1)).any()


def test_noise_is_uniform_and_knows_nothing_of_the_images():
    like = split_of(40, (16, 16, 3))
    noise = load_outside("noise", like)
    other = Split(np.zeros_like(like.images), like.labels)
    np.testing.assert_array_equal(noise, load_outside("noise", other))
    counts, expected = np.bincount(noise.ravel(), minlength=256), noise.size / 256
    # The statistic of a chi-squared test with 255 degrees of freedom; its deviation is 23.
    assert abs(((counts - expected) ** 2 / expected).sum() - 255) < 5 * 23


def test_shuffled_images_have_their_own_pixels_in_one_order():
    like = split_of(6, (5, 7, 3))
    shuffled = load_outside("shuffled", like)
    before, after = (images.reshape(6, 35, 3) for images in (like.images, shuffled))
    # Where each pixel of the first image went, all of whose pixels differ; channels stay together.
    assert len(np.unique(before[0], axis=0)) == 35
    order = [int(np.flatnonzero((before[0] == pixel).all(-1))[0]) for pixel in after[0]]
    assert sorted(order) == list(range(35))
    assert order != list(range(35))
    np.testing.assert_array_equal(after, before[:, order])


def test_a_file_gives_its_test_images_if_they_fit(tmp_path):
    path, images = tmp_path / "foreign.npz", split_of(9, seed=1).images
    np.savez(path, test_images=images, more=np.zeros(2))
    np.testing.assert_array_equal(load_outside(str(path), split_of()), images)
    for other, said in (
        (np.zeros((9, 32, 32, 3), np.uint8), "uint8 [32, 32, 3]"),
        (np.zeros((9, 8, 8, 3), np.float32), "float32 [8, 8, 3]"),
    ):
        np.savez(path, test_images=other)
        refused(path, f"{path} has test images {said} but those of the model are uint8 [8, 8, 3]; ")
    np.savez(path, images=images)
    refused(path, f"{path} can't be read as an .npz file with test_images")
    for name in ("nois", "/nowhere/x.npz"):
        refused(name, f"has '{name}'; use noise, shuffled, svhn, cifar10, ")


def test_data_sets_are_read_by_their_names_and_small_grey_images_fitted(monkeypatch):
    """With three equal channels and a black border; larger images and colours are refused."""
    images = {
        "svhn_cropped": split_of().images,
        "fashion_mnist": 1 + split_of(4, (5, 6, 1)).images // 2,
    }
    read = lambda name, data_dir, part: (images[name], None)
    monkeypatch.setattr(ood.prepared, "read_prepared", read)
    for name in ("svhn", "svhn_cropped"):
        np.testing.assert_array_equal(load_outside(name, split_of()), images["svhn_cropped"])
    found, grey = load_outside("fashion_mnist", split_of()), images["fashion_mnist"]
    assert (found.shape, found.dtype) == ((4, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(found[:, 1:6, 1:7], np.repeat(grey, 3, -1))
    assert (found > 0).sum() == 3 * grey.size
    for shape in ((5, 5, 3), (8, 8, 1)):
        sentence = f"has test images uint8 [8, 8, 3] but those of the model are uint8 {list(shape)}"
        refused("svhn", sentence, split_of(shape=shape))
