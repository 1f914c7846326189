"""Corrupted test sets, made here or published, and images of no class: what is made and what is read."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import subspace_jax as ss
from experiments.data import corrupted, ood
from experiments.data.corrupted import load_corrupted
from experiments.data.ood import load_outside
from experiments.data.sets import Split
from experiments.system.errors import UserError

CLASSES = 4


def split_of(count=6, shape=(32, 32, 3), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *shape), np.uint8)
    return Split(images, rng.integers(0, CLASSES, count).astype(np.int32))


def blank(size, labels):
    """A test split of which only size and labels matter."""
    return Split(np.zeros((len(labels), size, size, 3), np.uint8), np.asarray(labels, np.int32))


def write_npy(folder, clean):
    """Severity s adds s to every pixel."""
    images = [clean.images + np.uint8(severity) for severity in corrupted.SEVERITIES]
    np.save(folder / "snow.npy", np.concatenate(images))
    np.save(folder / "labels.npy", np.tile(clean.labels, 5))


def write_jpegs(folder, classes, size=64):
    """Two images of one grey a class."""
    for i, wordnet_id in enumerate(classes):
        target = folder / "snow" / "3" / wordnet_id
        target.mkdir(parents=True)
        for j in range(2):
            Image.new("RGB", (size, size), (40 * i,) * 3).save(target / f"{j}.JPEG")


# Made here


def test_generated_images_are_those_of_the_library_in_8_bits_and_depend_on_the_seed():
    clean = split_of()

    def generated(name, seed=0):
        return load_corrupted("generated", name, 4, clean, CLASSES, seed=seed)

    found = generated("contrast")
    real = ss.corruptions.corrupt("contrast", None, jnp.asarray(clean.images, jnp.float32) / 255, 4)
    np.testing.assert_array_equal(found.split.images, np.floor(255 * np.asarray(real) + 2e-5))
    np.testing.assert_array_equal(found.split.labels, clean.labels)
    assert "not the official files" in found.description
    assert found.columns is None
    first, again, other = (generated("gaussian_noise", seed).split.images for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("shape", "shift"), [((32, 32, 3), 12), ((64, 64, 3), 25), ((32, 32, 1), 13), ((8, 8, 1), 13)]
)
def test_pixels_are_truncated_where_a_published_set_is_stood_in_for(shape, shift):
    values = np.arange(200, dtype=np.uint8)  # become lighter by 12.75, at 64 pixels by 25.5
    images = np.broadcast_to(values[:, None, None, None], (200, *shape))
    found = load_corrupted("generated", "brightness", 1, Split(images, None), CLASSES)
    np.testing.assert_array_equal(found.split.images, images + np.uint8(shift))
    exact = load_corrupted("generated", "pixelate", 1, Split(images, None), CLASSES)
    np.testing.assert_array_equal(exact.split.images, images)


# Published in NumPy files


def test_severities_are_slices_of_the_published_arrays(tmp_path):
    clean = split_of()
    write_npy(tmp_path, clean)
    for severity in corrupted.SEVERITIES:
        found = load_corrupted(str(tmp_path), "snow", severity, clean, CLASSES)
        np.testing.assert_array_equal(found.split.images, clean.images + np.uint8(severity))
        np.testing.assert_array_equal(found.split.labels, clean.labels)


def test_a_sample_has_the_first_test_images(tmp_path):
    clean, path = split_of(), tmp_path / "sample.npz"
    images = np.random.default_rng(1).integers(0, 256, (2, 4, 32, 32, 3), np.uint8)
    np.savez(path, snow=images, labels=clean.labels[:4])
    found = load_corrupted(str(path), "snow", 2, clean, CLASSES)
    np.testing.assert_array_equal(found.split.images, images[1])
    np.testing.assert_array_equal(found.split.labels, clean.labels[:4])
    with pytest.raises(UserError, match="has 2 severities of snow but .*severities has 3; leave"):
        load_corrupted(str(path), "snow", 3, clean, CLASSES)


def test_damaged_files_and_sets_of_another_test_split_are_refused(tmp_path):
    clean, source = split_of(), str(tmp_path)

    def refused(sentence, given=source, name="snow", split=clean):
        with pytest.raises(UserError, match=sentence):
            load_corrupted(given, name, 1, split, CLASSES)

    write_npy(tmp_path, clean)
    refused("has 6 images of .* has 5; give", split=Split(*(x[:5] for x in clean)))
    small = Split(clean.images[:, ::2, ::2], clean.labels)
    refused(r"\[32, 32, 3\] but the test split has uint8 \[16, 16, 3\]", split=small)
    others = Split(clean.images, (clean.labels + 1) % CLASSES)
    refused("labels of .* are not those of the 4 classes", split=others)
    refused(r"fog\.npy can't be read as .*; unpack", name="fog")
    refused("has neither snow.npy nor a folder snow/1; set", given=f"{source}/no")
    np.save(tmp_path / "snow.npy", clean.images)
    np.save(tmp_path / "labels.npy", clean.labels)
    refused("has 6 images and labels.npy 6; both have five")


# Published by TensorFlow Datasets


def test_records_of_tfds_are_read_in_any_order_once_they_are_prepared(tmp_path):
    clean = split_of(count=3)

    def load(name, clean):
        return load_corrupted("tfds", name, 2, clean, CLASSES, data_dir=str(tmp_path)).split

    with pytest.raises(
        UserError, match="^cifar10_corrupted/frosted_glass_blur_2 is not prepared in"
    ):
        load("glass_blur", clean)
    write_tfds(tmp_path, clean)
    found = load("snow", clean)
    order, expected = (np.argsort(x[:, 0, 0, 0]) for x in (found.images, clean.images))
    np.testing.assert_array_equal(found.images[order], clean.images[expected])
    np.testing.assert_array_equal(found.labels[order], clean.labels[expected])
    with pytest.raises(UserError, match="are not those of the 4 classes"):
        load("snow", Split(clean.images, clean.labels + 1))


def write_tfds(folder, split):
    """CIFAR-10-C's own builder with other images, which it encodes without TensorFlow."""
    import tensorflow_datasets as tfds

    class Cifar10Corrupted(tfds.image_classification.Cifar10Corrupted, skip_registration=True):
        def _split_generators(self, dl_manager):
            del dl_manager
            return {"test": self._generate_examples("")}

        def _generate_examples(self, data_dir):
            del data_dir
            for i, (image, label) in enumerate(zip(*split, strict=True)):
                yield i, {"image": Image.fromarray(image), "label": int(label)}

    builder = Cifar10Corrupted(config="snow_2", data_dir=folder, file_format="array_record")
    builder.download_and_prepare(download_dir=folder / "downloads")


# Published in folders of JPEG files


def test_folders_are_read_by_class(tmp_path):
    classes, labels = ("n01", "n02", "n07"), [0, 0, 1, 1, 2, 2]
    write_jpegs(tmp_path, classes)
    found = load_corrupted(str(tmp_path), "snow", 3, blank(64, labels), 3, class_names=classes)
    np.testing.assert_array_equal(found.split.labels, labels)
    np.testing.assert_array_equal(found.split.images[:, 5, 5, 0], 40 * np.asarray(labels))
    assert found.columns is None


def test_some_of_the_models_classes_restrict_its_logits(tmp_path):
    write_jpegs(tmp_path, ("n03", "n05"), size=64)
    names = ("n01", "n03", "n04", "n05")
    found = load_corrupted(str(tmp_path), "snow", 3, blank(224, [0] * 4), 4, class_names=names)
    np.testing.assert_array_equal(found.columns, [1, 3])
    np.testing.assert_array_equal(found.split.labels, [0, 0, 1, 1])
    assert found.split.images.shape == (4, 224, 224, 3)
    np.testing.assert_array_equal(found.split.images[:, 9, 9, 1], [0, 0, 40, 40])
    for said in ("logits restricted to 2 of 4 classes", "images resized from 64 x 64 to 224 x 224"):
        assert said in found.description


def test_sets_of_other_classes_or_sizes_are_refused(tmp_path):
    write_jpegs(tmp_path, ("n03", "n09"), size=32)
    for names, sentence in (
        ((), r"2 classes, among them 'n03', .* none of the 0 cla"),
        (("n03", "n04"), r"2 classes, among them 'n09', .* none of the 2 cla"),
        (("n03", "n09"), r"\[32, 32, 3\] but the test split has uint8 \[64, 64, 3\]"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_corrupted(str(tmp_path), "snow", 3, blank(64, [0] * 4), 2, class_names=names)
    with pytest.raises(UserError, match="corruptions has 'rain'; choose among gaussian_noise, "):
        corrupted.check_names(["snow", "rain"])


# Images of no class


SMALL = (8, 8, 3)


def refused(name, sentence, like=None):
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_outside(str(name), like or split_of(6, SMALL))


@pytest.mark.parametrize("name", ood.MADE)
def test_what_is_made_looks_like_the_test_images_and_is_the_same_each_time(name):
    like = split_of(shape=(5, 7, 1))
    made = load_outside(name, like)
    assert (made.shape, made.dtype) == (like.images.shape, np.uint8)
    np.testing.assert_array_equal(made, load_outside(name, like))
    assert (made != like.images).any()
    assert (made != load_outside(name, like, seed=1)).any()


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
    path, images = tmp_path / "foreign.npz", split_of(9, SMALL, 1).images
    np.savez(path, test_images=images, more=np.zeros(2))
    np.testing.assert_array_equal(load_outside(str(path), split_of(6, SMALL)), images)
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
        "svhn_cropped": split_of(6, SMALL).images,
        "fashion_mnist": 1 + split_of(4, (5, 6, 1)).images // 2,
    }
    read = lambda name, data_dir, part: (images[name], None)
    monkeypatch.setattr(ood.prepared, "read_prepared", read)
    for name in ("svhn", "svhn_cropped"):
        np.testing.assert_array_equal(
            load_outside(name, split_of(6, SMALL)), images["svhn_cropped"]
        )
    found, grey = load_outside("fashion_mnist", split_of(6, SMALL)), images["fashion_mnist"]
    assert (found.shape, found.dtype) == ((4, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(found[:, 1:6, 1:7], np.repeat(grey, 3, -1))
    assert (found > 0).sum() == 3 * grey.size
    for shape in ((5, 5, 3), (8, 8, 1)):
        sentence = f"has test images uint8 [8, 8, 3] but those of the model are uint8 {list(shape)}"
        refused("svhn", sentence, split_of(shape=shape))
