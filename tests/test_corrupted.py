"""Corrupted test sets: made here or published, and which models they fit."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import subspace_jax as ss
from experiments.data import corrupted, prepared
from experiments.data.corrupted import load_corrupted
from experiments.data.sets import Split
from experiments.system.errors import UserError

COUNT, CLASSES = 6, 4


def random_split(count=COUNT, size=32, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    return Split(images, rng.integers(0, CLASSES, count).astype(np.int32))


def write_npy(folder, clean, name="snow"):
    """Severity s adds s to every pixel."""
    steps = np.arange(1, 6, dtype=np.uint8)[:, None, None, None, None]
    images = (clean.images[None] + steps).reshape(-1, *clean.images.shape[1:])
    np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", np.tile(clean.labels, 5))
    return images


def write_jpegs(folder, classes, count=2, size=64, name="snow", severity=3):
    """Images of one grey a class."""
    for i, wordnet_id in enumerate(classes):
        target = folder / name / str(severity) / wordnet_id
        target.mkdir(parents=True)
        for j in range(count):
            Image.new("RGB", (size, size), (40 * i,) * 3).save(target / f"{j}.JPEG")


# Names


def test_what_does_not_exist_is_refused():
    for names, severities, sentence in (
        (["snow", "rain"], [1], "corruptions has 'rain'; choose among gaussian_noise, .*saturate"),
        (["snow"], [1, 6], "severities has 6; use 1 to 5"),
        (["snow"], [0], "severities has 0; use 1 to 5"),
    ):
        with pytest.raises(UserError, match=sentence):
            corrupted.check_names(names, severities)
        with pytest.raises(UserError, match=sentence):
            load_corrupted("generated", names[-1], severities[-1], random_split(), CLASSES)


# Made here


def test_generated_images_are_those_of_the_library_in_8_bits():
    clean = random_split()
    found = load_corrupted("generated", "contrast", 4, clean, CLASSES)
    real = ss.corruptions.corrupt("contrast", None, jnp.asarray(clean.images, jnp.float32) / 255, 4)
    np.testing.assert_array_equal(found.split.images, np.round(255 * np.asarray(real)))
    np.testing.assert_array_equal(found.split.labels, clean.labels)
    assert "not the official files" in found.description
    assert found.columns is None


@pytest.mark.parametrize("shape", [(8, 8, 1), (16, 16, 3)])
def test_generated_images_have_the_shape_of_the_clean_ones(shape):
    images = np.random.default_rng(0).integers(0, 256, (COUNT, *shape), np.uint8)
    clean = Split(images, np.zeros(COUNT, np.int32))
    found = load_corrupted("generated", "snow", 2, clean, CLASSES)
    assert found.split.images.shape == images.shape
    assert found.split.images.dtype == np.uint8
    assert (found.split.images != images).any()
    assert "shrunk" in found.description


def test_generated_draws_depend_on_the_seed_alone():
    clean = random_split()
    first, again, other = (
        load_corrupted("generated", "gaussian_noise", 1, clean, CLASSES, seed=seed).split.images
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


# Published in NumPy files


def test_severities_are_slices_of_the_published_arrays(tmp_path):
    clean = random_split()
    images = write_npy(tmp_path, clean)
    for severity in corrupted.SEVERITIES:
        found = load_corrupted(str(tmp_path), "snow", severity, clean, CLASSES)
        part = images[(severity - 1) * COUNT : severity * COUNT]
        np.testing.assert_array_equal(found.split.images, part)
        np.testing.assert_array_equal(found.split.images, clean.images + np.uint8(severity))
        np.testing.assert_array_equal(found.split.labels, clean.labels)


def test_a_sample_has_the_first_test_images(tmp_path):
    clean, path = random_split(), tmp_path / "sample.npz"
    images = np.random.default_rng(1).integers(0, 256, (5, 4, 32, 32, 3), np.uint8)
    np.savez(path, snow=images, labels=clean.labels[:4])
    found = load_corrupted(str(path), "snow", 3, clean, CLASSES)
    np.testing.assert_array_equal(found.split.images, images[2])
    np.testing.assert_array_equal(found.split.labels, clean.labels[:4])
    with pytest.raises(UserError, match="has snow, labels but not fog and labels"):
        load_corrupted(str(path), "fog", 3, clean, CLASSES)
    np.savez(path, snow=images[:2], labels=clean.labels[:4])
    with pytest.raises(UserError, match="has 2 severities of snow but .*severities has 3; leave"):
        load_corrupted(str(path), "snow", 3, clean, CLASSES)


def test_damaged_files_and_sets_of_another_test_split_are_refused(tmp_path):
    clean, sample, source = random_split(), tmp_path / "sample.npz", str(tmp_path)
    small = Split(clean.images[:, ::2, ::2], clean.labels)
    others = Split(clean.images, (clean.labels + 1) % CLASSES)
    images = write_npy(tmp_path, clean)
    for given, name, split, sentence in (
        (
            source,
            "snow",
            Split(clean.images[:5], clean.labels[:5]),
            "has 6 images of .* has 5; give",
        ),
        (source, "snow", small, r"\[32, 32, 3\] but the test split has uint8 \[16, 16, 3\]"),
        (source, "snow", others, "labels of .* are not those of the 4 classes"),
        (source, "fog", clean, r"There is no file .*fog\.npy; set .*corruption_source"),
        (f"{source}/no", "snow", clean, "has neither snow.npy nor a folder snow/1; set"),
    ):
        with pytest.raises(UserError, match=sentence):
            load_corrupted(given, name, 1, split, CLASSES)
    sample.write_bytes(b"PK damaged")
    with pytest.raises(UserError, match=f"^{sample} can't be read as an .npz file of corrupted"):
        load_corrupted(str(sample), "snow", 1, clean, CLASSES)
    np.save(tmp_path / "snow.npy", images / np.float32(255))
    with pytest.raises(UserError, match=r"has images float32 \[32, 32, 3\] .* uint8 \[32, 32, 3\]"):
        load_corrupted(source, "snow", 1, clean, CLASSES)
    np.save(tmp_path / "snow.npy", clean.images)
    np.save(tmp_path / "labels.npy", clean.labels)
    with pytest.raises(UserError, match="has 6 images and labels.npy 6; both have five"):
        load_corrupted(source, "snow", 1, clean, CLASSES)
    for name in ("labels.npy", "snow.npy"):
        (tmp_path / name).write_bytes(b"damaged")
        with pytest.raises(UserError, match=f"{name} can't be read as an .npy file; unpack it"):
            load_corrupted(source, "snow", 1, clean, CLASSES)


# Published by TensorFlow Datasets


@pytest.mark.parametrize(
    ("name", "theirs"), [("snow", "snow"), ("glass_blur", "frosted_glass_blur")]
)
def test_sets_of_tfds_are_read_in_any_order(name, theirs, tmp_path, monkeypatch):
    clean = random_split()
    order = np.random.default_rng(2).permutation(COUNT)
    asked = []

    def read_prepared(full, data_dir, part):
        asked.append((full, data_dir, part))
        return clean.images[order], clean.labels[order]

    monkeypatch.setattr(prepared, "read_prepared", read_prepared)
    found = load_corrupted("tfds", name, 2, clean, CLASSES, data_dir=str(tmp_path))
    assert asked == [(f"cifar10_corrupted/{theirs}_2", str(tmp_path), "test")]
    np.testing.assert_array_equal(found.split.images, clean.images[order])
    np.testing.assert_array_equal(found.split.labels, clean.labels[order])
    others = Split(clean.images, np.zeros_like(clean.labels))
    with pytest.raises(UserError, match="are not those of the 4 classes"):
        load_corrupted("tfds", name, 2, others, CLASSES, data_dir=str(tmp_path))


def test_a_set_that_tfds_has_not_prepared_is_named_with_the_command(tmp_path):
    with pytest.raises(
        UserError, match=r"cifar10_corrupted/elastic_1 is not .*download_and_prepare"
    ):
        load_corrupted(
            "tfds", "elastic_transform", 1, random_split(), CLASSES, data_dir=str(tmp_path)
        )


def test_records_of_tfds_are_read(tmp_path):
    clean = random_split(count=3)
    write_tfds(tmp_path, clean)
    images, labels = prepared.read_prepared("cifar10_corrupted/snow_2", str(tmp_path), "test")
    order = np.argsort(images[:, 0, 0, 0])
    expected = np.argsort(clean.images[:, 0, 0, 0])
    np.testing.assert_array_equal(images[order], clean.images[expected])
    np.testing.assert_array_equal(labels[order], clean.labels[expected])


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


@pytest.mark.parametrize("group", ["", "weather"])
def test_folders_are_read_by_class(group, tmp_path):
    classes = ("n01", "n02", "n07")
    write_jpegs(tmp_path / group, classes)
    clean = Split(np.zeros((6, 64, 64, 3), np.uint8), np.repeat(np.arange(3, dtype=np.int32), 2))
    found = load_corrupted(str(tmp_path), "snow", 3, clean, 3, class_names=classes)
    np.testing.assert_array_equal(found.split.labels, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(found.split.images[:, 5, 5, 0], [0, 0, 40, 40, 80, 80])
    assert found.columns is None
    with pytest.raises(UserError, match="has neither snow.npy nor a folder snow/4; set"):
        load_corrupted(str(tmp_path), "snow", 4, clean, 3, class_names=classes)


def test_some_of_the_models_classes_restrict_its_logits(tmp_path):
    write_jpegs(tmp_path, ("n03", "n05"), size=64)
    clean = Split(np.zeros((4, 224, 224, 3), np.uint8), np.zeros(4, np.int32))
    names = ("n01", "n03", "n04", "n05")
    found = load_corrupted(str(tmp_path), "snow", 3, clean, 4, class_names=names)
    np.testing.assert_array_equal(found.columns, [1, 3])
    np.testing.assert_array_equal(found.split.labels, [0, 0, 1, 1])
    assert found.split.images.shape == (4, 224, 224, 3)
    np.testing.assert_array_equal(found.split.images[:, 9, 9, 1], [0, 0, 40, 40])
    for part in ("restricted to 2 of 4 classes by WordNet id", "from 64 x 64 to 224 x 224 pixels"):
        assert part in found.description


def test_classes_that_the_model_lacks_are_refused(tmp_path):
    write_jpegs(tmp_path, ("n03", "n09"))
    clean = Split(np.zeros((4, 64, 64, 3), np.uint8), np.zeros(4, np.int32))
    for names in ((), ("n03", "n04")):
        with pytest.raises(UserError, match=r"2 classes, among them 'n0\d', .* none of the \d cla"):
            load_corrupted(str(tmp_path), "snow", 3, clean, 2, class_names=names)


def test_the_own_set_of_a_model_must_have_its_size(tmp_path):
    write_jpegs(tmp_path, ("n03", "n09"), size=32)
    clean = Split(np.zeros((4, 64, 64, 3), np.uint8), np.zeros(4, np.int32))
    with pytest.raises(
        UserError, match=r"\[32, 32, 3\] but the test split has uint8 \[64, 64, 3\]"
    ):
        load_corrupted(str(tmp_path), "snow", 3, clean, 2, class_names=("n03", "n09"))
