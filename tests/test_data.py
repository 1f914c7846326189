"""Splits, label noise, and what is refused. What the formats have in common: see test_readers.py."""

import builtins
import importlib.util
import json
import os
import pathlib

import fake_cifar
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from experiments.data import sets
from experiments.data.labels import corrupt_labels
from experiments.data.tfds import prepare
from experiments.system.errors import UserError

REAL_DATA_DIR = os.environ.get("SUBSPACE_JAX_DATA_DIR", "")
SIZES = st.integers(2, 60)
SEEDS = st.integers(0, 2**64)


def arrays(num_train=6, num_test=3, num_classes=3, shape=(4, 4, 1)):
    def part(count):
        pixels = (
            np.arange(count * np.prod(shape)).reshape(count, *shape) % 251
        )  # no two images alike
        return pixels.astype(np.uint8), np.arange(count) % num_classes

    return dict(zip(sets.NPZ_KEYS, (*part(num_train), *part(num_test)), strict=True))


@pytest.fixture
def npz(tmp_path):
    """Writes arrays, with some replaced, to an .npz file and returns its path."""

    def write(**replaced):
        content = {k: v for k, v in (arrays() | replaced).items() if v is not None}
        np.savez(tmp_path / "data.npz", **content)
        return str(tmp_path / "data.npz")

    return write


def assert_equal(a, b):
    """Datasets or Splits, by value and dtype."""
    for x, y in zip(a, b, strict=True):
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y, strict=True)
        elif isinstance(x, tuple):
            assert_equal(x, y)
        else:
            assert x == y


# Splits


@given(st.data(), SIZES, SEEDS)
def test_hold_out_partitions_in_order_whatever_the_labels(draw, count, seed):
    size = draw.draw(st.integers(0, count - 1))
    numbers = np.arange(count)
    rest, held_out = sets.hold_out(sets.Split(numbers, numbers), size, seed)
    assert len(held_out.labels) == size
    assert (np.diff(rest.labels) > 0).all()
    assert (np.diff(held_out.labels) > 0).all()
    assert {*rest.labels, *held_out.labels} == set(range(count))
    for split in (rest, held_out):
        np.testing.assert_array_equal(split.images, split.labels)
    zeros = sets.hold_out(sets.Split(numbers, np.zeros(count)), size, seed)[1]
    np.testing.assert_array_equal(zeros.images, held_out.images)


def test_hold_out_is_the_one_it_always_was():
    # A golden number: another held-out part would make old and new results incomparable.
    numbers = sets.Split(np.arange(20), np.arange(20))
    assert sets.hold_out(numbers, 5, 0)[1].labels.tolist() == [0, 3, 8, 9, 19]
    assert sets.hold_out(numbers, 5, 1)[1].labels.tolist() != [0, 3, 8, 9, 19]


def test_sizes_and_seeds_that_cannot_be_are_refused(npz):
    for options, sentence in (
        *(
            ({"validation_size": size}, f"size is {size} but there are 6 .*; hold out 0 to 5")
            for size in (-1, 6, 7)
        ),
        *(
            ({"train_size": size, "validation_size": 2}, f"size is {size} but 4 .* 1 to 4, or 0")
            for size in (-1, 5)
        ),
        ({"validation_size": 0, "split_seed": -1}, "seed of the data is -1; use 0 or more"),
        ({"validation_size": 0, "noise_seed": -2}, "seed of the data is -2; use 0 or more"),
    ):
        with pytest.raises(UserError, match=sentence):
            sets.load("mine", npz(), **options)


# Label noise


@given(st.data(), SIZES, st.integers(2, 12), st.floats(0, 1, exclude_max=True), SEEDS)
def test_uniform_wrong_changes_exactly_the_rate(draw, count, num_classes, rate, seed):
    labels = np.array(
        draw.draw(st.lists(st.integers(0, num_classes - 1), min_size=count, max_size=count)),
        np.int32,
    )
    before = labels.copy()
    noisy = corrupt_labels(labels, num_classes, rate, "uniform_wrong", seed)
    assert (noisy != labels).sum() == round(rate * count)
    assert noisy.dtype == np.int32
    assert noisy.min() >= 0
    assert noisy.max() < num_classes
    np.testing.assert_array_equal(labels, before)
    again = corrupt_labels(labels, num_classes, rate, "uniform_wrong", seed)
    np.testing.assert_array_equal(noisy, again)
    anything = corrupt_labels(labels, num_classes, rate, "uniform_any", seed)
    assert set(np.flatnonzero(anything != labels)) <= set(np.flatnonzero(noisy != labels))
    assert anything.min() >= 0
    assert anything.max() < num_classes


def test_noise_depends_on_the_seed():
    labels = np.zeros(100, np.int32)
    first, second = (corrupt_labels(labels, 10, 0.5, "uniform_wrong", s) for s in (0, 1))
    assert ((first > 0) != (second > 0)).any()


@pytest.mark.parametrize(
    ("mode", "classes"), [("uniform_wrong", [0, 1, 3, 4]), ("uniform_any", [0, 1, 2, 3, 4])]
)
def test_new_labels_are_uniform(mode, classes):
    labels = np.full(40_000, 2, np.int32)
    chosen = corrupt_labels(labels, 5, 0.5, "uniform_wrong", 0) != labels
    counts = np.bincount(corrupt_labels(labels, 5, 0.5, mode, 0)[chosen], minlength=5)
    assert np.flatnonzero(counts).tolist() == classes
    expected = 20_000 / len(classes)
    # Six standard deviations, and the seed is fixed.
    np.testing.assert_allclose(counts[classes], expected, atol=6 * expected**0.5)


def test_noise_is_the_one_it_always_was():
    # Half of ten labels 0; where uniform_any keeps a 0, it drew the true label.
    for mode, expected in (
        ("uniform_wrong", "0 0 2 4 6 0 0 2 0 1"),
        ("uniform_any", "0 0 3 6 1 0 0 5 0 1"),
    ):
        found = corrupt_labels(np.zeros(10, np.int32), 10, 0.5, mode, 0)
        assert " ".join(map(str, found)) == expected


def test_one_class_has_no_wrong_label():
    labels = np.zeros(4, np.int32)
    with pytest.raises(
        UserError,
        match="mode is 'uniform_wrong' but there is 1 class, .* set config.label_noise.rate",
    ):
        corrupt_labels(labels, 1, 0.5, "uniform_wrong", 0)
    np.testing.assert_array_equal(corrupt_labels(labels, 1, 0.0, "uniform_wrong", 0), labels)


def test_fewer_training_images_are_a_part_of_more_and_noise_is_exact_on_them(npz):
    path = npz(**arrays(num_train=40))

    def keep(size, **options):
        return sets.load("mine", path, validation_size=10, train_size=size, **options).train

    few, more, everything = ({image.tobytes() for image in keep(n).images} for n in (5, 20, 0))
    assert [len(part) for part in (few, more, everything)] == [5, 20, 30]
    assert few < more < everything
    assert_equal(keep(0), keep(30))
    assert (keep(20, split_seed=1).images != keep(20).images).any()
    assert (keep(20, noise_rate=0.25).labels != keep(20).labels).sum() == 5


# Labels of a file


def load_human(path, file, validation_size=10, **options):
    options = {"noise_mode": "file", "noise_file": str(file)} | options
    return sets.load("mine", path, validation_size=validation_size, **options)


@pytest.fixture
def human(npz, tmp_path):
    """A data set of 40 training images, and a function that writes labels for it."""
    path = npz(**arrays(num_train=40, num_test=10))
    clean = arrays(num_train=40)["train_labels"]

    def write(name, **arrays_of_file):
        if name.endswith(".npy"):
            np.save(tmp_path / name, arrays_of_file["labels"])
        else:
            np.savez(tmp_path / name, **arrays_of_file)
        return str(tmp_path / name)

    return path, clean, write


def test_labels_of_a_file_reach_the_training_split_alone(human):
    path, clean, write = human
    labels = (clean + (np.arange(40) % 4 == 0)) % 3
    images = arrays(num_train=40)["train_images"]
    human_label = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
    plain = sets.load("mine", path, validation_size=10)
    files = (
        write("labels.npy", labels=labels),
        write("CIFAR-10_human.npz", worse_label=labels, clean_label=clean) + ":worse_label",
    )
    for file in files:
        noisy = load_human(path, file)
        assert_equal(noisy[2:], plain[2:])
        assert_equal(noisy.train.images, plain.train.images)
        for split in (noisy.train, load_human(path, file, train_size=12).train):
            expected = [human_label[image.tobytes()] for image in split.images]
            assert split.labels.tolist() == expected
            assert split.labels.dtype == np.int32
        assert (noisy.train.labels != plain.train.labels).any()
    assert (load_human(path, files[0], 0).train.labels == labels).all()


def test_unfit_absent_and_foreign_label_files_are_refused(human, tmp_path):
    path, y, write = human
    for name, content, message in (
        ("a.npy", {"labels": y[:39]}, r"holds int64 \[39\] but .* has 40 labels; give one"),
        ("a.npy", {"labels": y / 2}, r"holds float64 \[40\] but"),
        ("a.npy", {"labels": y + 1}, "holds labels 1 to 3 but .* classes 0 to 2; give"),
        ("a.npy", {"labels": y - 1}, "holds labels -1 to 1 but .* classes 0 to 2; give"),
        ("a.npz:b", {"b": y, "clean_label": y[::-1]}, "its clean_label differs from"),
        ("a.npz:b", {"b": y, "clean_label": y[:9]}, "its clean_label differs from"),
        ("a.npz:b", {"c": y, "d": y}, "has the keys c, d; choose one: FILE.npz:KEY"),
        ("a.npz", {"c": y, "d": y}, "has the keys c, d; choose one: FILE.npz:KEY"),
        ("a.npz:b", {"b": np.array([{}] * 40)}, "can't be read as plain arrays; write"),
    ):
        file, colon, key = name.partition(":")
        with pytest.raises(UserError, match=f"^config.label_noise.file is '.*{name}'.*{message}"):
            load_human(path, write(file, **content) + colon + key)
    for name, message in (
        ("none.npy", "but there is no such file; give FILE.npy or"),
        ("CIFAR-10_human.pt", "convert a FILE.pt by `python -c .*torch.load.*worse_label"),
    ):
        with pytest.raises(UserError, match=message):
            load_human(path, tmp_path / name)


# Digits


def test_digits_are_scikit_learns():
    digits = sets.load("digits", validation_size=297)
    assert [len(part.labels) for part in digits[1:4]] == [1000, 297, 500]
    assert digits.num_classes == 10
    source = load_digits()
    pixels = {part.images.tobytes() for part in digits[1:4]}
    assert len(pixels) == 3
    ours = [
        (np.rint(image[..., 0] / 255 * 16).tolist(), label)
        for part in digits[1:4]
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    theirs = list(zip(source.images.tolist(), source.target, strict=True))
    assert sorted(ours) == sorted(theirs)
    assert digits.train.images.dtype == np.uint8
    assert digits.train.images.max() == 255
    assert digits.train.labels.dtype == np.int32


def test_the_digits_test_part_does_not_depend_on_the_split_seed():
    first, second = (sets.load("digits", validation_size=50, split_seed=s) for s in (0, 1))
    assert_equal(first.test, second.test)
    assert (first.validation.labels != second.validation.labels).any()


# .npz files


def test_what_is_kept_is_loaded_once_and_cannot_be_written_to(npz):
    kept = {}
    first, again = (sets.load("mine", npz(), validation_size=2, kept=kept) for _ in range(2))
    assert first.train.images is again.train.images
    assert first.test.images is again.test.images
    for array in (first.train.images, *first.validation, *first.test):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_an_npz_file_needs_numpy_alone(npz, monkeypatch):
    path, original = npz(), builtins.__import__

    def refuse(name, *args, **kwargs):
        if name.split(".")[0] in ("tensorflow_datasets", "sklearn", "tqdm", "tensorflow"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert sets.load("cifar10", path, validation_size=1).name == "cifar10"
    with pytest.raises(
        UserError, match="dataset is 'digits' but scikit-learn is not installed; pip install"
    ):
        sets.load("digits", validation_size=0)
    monkeypatch.delitem(importlib.sys.modules, "experiments.data.tfds")
    monkeypatch.delattr("experiments.data.tfds")
    with pytest.raises(
        UserError, match="cifar10 is read with tensorflow_datasets, which .* .npz file"
    ):
        sets.load("cifar10", validation_size=0)


IMAGES = arrays()["train_images"]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train_images": IMAGES / 255}, r"train_images of .*npz is float64 \[6, 4.* but .* uint8"),
        ({"test_images": IMAGES[:3, ..., 0]}, r"test_images .* is uint8 \[3, 4, 4\] but"),
        ({"train_images": IMAGES[:0]}, r"train_images .* is uint8 \[0, 4, 4, 1\] but .* 1 or more"),
        ({"test_images": IMAGES[:3, :2]}, r"shape \[4, 4, 1\] but test_images \[2, 4, 1\]; .* one"),
        ({"train_labels": np.zeros(6)}, r"train_labels .* is float64 \[6\] but .*integers of"),
        ({"train_labels": np.zeros(6, bool)}, r"train_labels .* is bool \[6\] but .*integers"),
        ({"test_labels": np.zeros(4, int)}, r"test_labels .* is int64 \[4\] but .* 3 images; "),
        ({"test_labels": np.zeros((3, 1), int)}, r"test_labels .*int64 \[3, 1\] but .*shape \[3\]"),
        ({"test_labels": np.array([0, 3, 1])}, "test_labels .* are 0 to 3 but there are 3 classes"),
        ({"train_labels": np.arange(-1, 5)}, "train_labels .* are -1 to 4 but there are 5 classes"),
        ({"num_classes": 2}, "train_labels .* are 0 to 2 but there are 2 classes"),
        ({"num_classes": 2.5}, "num_classes .* is 2.5; store one integer of 1 or more"),
        ({"num_classes": np.array([3])}, r"num_classes .* is \[3\]; store one integer"),
        ({"num_classes": -3}, "num_classes .* is -3; store one integer of 1 or more"),
        (
            {"test_images": None, "train_labels": None, "other": 1},
            "has .*, other but lacks train_labels, test_images; write it with train_images, .*",
        ),
        ({"train_labels": np.array([{}] * 6)}, "can't be read as an .npz file of plain arrays"),
    ],
)
def test_unfit_npz_arrays_are_refused(npz, replaced, message):
    with pytest.raises(UserError, match=message):
        sets.load("mine", npz(**replaced), validation_size=0)


def truncated(path):
    np.savez(path, **arrays())
    path.write_bytes(path.read_bytes()[:-200])


def one_array(path):
    with path.open("wb") as file:
        np.save(file, IMAGES)


def test_files_that_are_no_npz_and_unknown_names_are_refused(tmp_path):
    path = tmp_path / "broken.npz"
    for write in (
        lambda path: path.write_text("train_images"),
        lambda path: path.write_bytes(b""),
        truncated,
        one_array,
    ):
        write(path)
        with pytest.raises(UserError, match=f"^{path} can't be read as an .npz file"):
            sets.load("mine", str(path), validation_size=0)
    path = tmp_path / "none.npz"
    with pytest.raises(UserError, match=f"^config.data_dir is {path} but there is no such file;"):
        sets.load("mine", str(path), validation_size=0)
    sentence = (
        "dataset is 'mnist' but the data sets are digits, cifar10, cifar100, tiny_imagenet, imag"
    )
    with pytest.raises(UserError, match=sentence):
        sets.load("mnist", str(tmp_path), validation_size=0)


# TensorFlow Datasets


@pytest.mark.skipif(
    not (pathlib.Path(REAL_DATA_DIR) / "cifar10.npz").is_file()
    or not (pathlib.Path(REAL_DATA_DIR) / "cifar10").is_dir(),
    reason="SUBSPACE_JAX_DATA_DIR names no folder with cifar10/ and cifar10.npz",
)
def test_real_cifar10_is_one_data_set():
    tfds, npz = (
        sets.load("cifar10", str(path), validation_size=5000, noise_rate=0.25, noise_seed=1)
        for path in (REAL_DATA_DIR, pathlib.Path(REAL_DATA_DIR) / "cifar10.npz")
    )
    assert [len(part.labels) for part in tfds[1:4]] == [45_000, 5_000, 10_000]
    assert_equal(tfds, npz)


def test_tfrecord_without_tensorflow_is_refused(tmp_path, monkeypatch):
    fake_cifar.place("cifar10", tmp_path, monkeypatch)
    folder = pathlib.Path(prepare("cifar10", str(tmp_path)))
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=f"^{folder} holds tfrecord files but TensorFlow, which reads"
    ):
        sets.load("cifar10", str(tmp_path), validation_size=0)
