"""Splits, label noise, and what is refused. What the formats have in common: see test_readers.py."""

import json
import os
import pathlib
import sys

import chex
import fake_cifar
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from experiments import prepare as prepare_command
from experiments.data import sets
from experiments.data.labels import corrupt_labels
from experiments.data.tfds import prepare
from experiments.doctor import data as doctor_data
from experiments.doctor.findings import PROBLEM, guarded
from experiments.system.errors import UserError

REAL_DATA_DIR = os.environ.get("SUBSPACE_JAX_DATA_DIR", "")
SIZES = st.integers(2, 60)
SEEDS = st.integers(0, 2**64)


def arrays(num_train=6, num_test=3, num_classes=3, shape=(4, 4, 1)):
    """No two images are alike."""

    def part(count):
        pixels = np.arange(count * np.prod(shape)).reshape(count, *shape) % 251
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


@given(st.data(), SIZES)
def test_hold_out_partitions_in_order_whatever_the_labels(draw, count):
    size = draw.draw(st.integers(0, count - 1))
    numbers = np.arange(count)
    rest, held_out = sets.hold_out(sets.Split(numbers, numbers), size)
    assert len(held_out.labels) == size
    for split in (rest, held_out):
        assert (np.diff(split.labels) > 0).all()
        np.testing.assert_array_equal(split.images, split.labels)
    assert {*rest.labels, *held_out.labels} == set(range(count))
    zeros = sets.hold_out(sets.Split(numbers, np.zeros(count)), size)[1]
    np.testing.assert_array_equal(zeros.images, held_out.images)


def test_hold_out_is_the_one_it_always_was():
    # A golden number: another held-out part would make old and new results incomparable.
    numbers = sets.Split(np.arange(20), np.arange(20))
    assert sets.hold_out(numbers, 5)[1].labels.tolist() == [0, 3, 8, 9, 19]


def test_sizes_that_cannot_be_are_refused(npz):
    for validation_size, train_size, sentence in (
        (6, 0, "size is 6 but there are 6 .*; hold out 0 to 5"),
        (2, 5, "size is 5 but 4 .* 1 to 4, or 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            sets.load("mine", npz(), validation_size=validation_size, train_size=train_size)


@given(st.data(), SIZES, st.integers(2, 12), st.floats(0, 1, exclude_max=True), SEEDS)
def test_noise_changes_exactly_the_rate(draw, count, num_classes, rate, seed):
    labels = st.lists(st.integers(0, num_classes - 1), min_size=count, max_size=count)
    labels = np.array(draw.draw(labels), np.int32)
    before = labels.copy()
    noisy, again, anything = (
        corrupt_labels(labels, num_classes, rate, f"uniform_{mode}", seed)
        for mode in ("wrong", "wrong", "any")
    )
    assert (noisy != labels).sum() == round(rate * count)
    assert set(np.flatnonzero(anything != labels)) <= set(np.flatnonzero(noisy != labels))
    for found in (noisy, anything):
        assert found.dtype == np.int32
        assert set(found) <= set(range(num_classes))
    np.testing.assert_array_equal(noisy, again)
    np.testing.assert_array_equal(labels, before)


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
        ("uniform_wrong", [0, 0, 2, 4, 6, 0, 0, 2, 0, 1]),
        ("uniform_any", [0, 0, 3, 6, 1, 0, 0, 5, 0, 1]),
    ):
        found, other = (corrupt_labels(np.zeros(10, np.int32), 10, 0.5, mode, s) for s in (0, 1))
        assert found.tolist() == expected != other.tolist()


def test_one_class_has_no_wrong_label():
    labels = np.zeros(4, np.int32)
    np.testing.assert_array_equal(corrupt_labels(labels, 1, 0.0, "uniform_wrong", 0), labels)
    with pytest.raises(UserError, match="mode is 'uniform_wrong' but there is 1 class, .* set"):
        corrupt_labels(labels, 1, 0.5, "uniform_wrong", 0)


def test_fewer_training_images_are_a_part_of_more_and_noise_is_exact_on_them(npz):
    path = npz(**arrays(num_train=40))

    def keep(size, **options):
        return sets.load("mine", path, validation_size=10, train_size=size, **options).train

    few, more, everything = ({image.tobytes() for image in keep(n).images} for n in (5, 20, 0))
    assert [len(part) for part in (few, more, everything)] == [5, 20, 30]
    assert few < more < everything
    assert (keep(20, noise_rate=0.25).labels != keep(20).labels).sum() == 5


def load_human(path, file, validation_size=10, **options):
    options |= {"noise_mode": "file", "noise_file": str(file), "validation_size": validation_size}
    return sets.load("mine", path, **options)


@pytest.fixture
def human(npz, tmp_path):
    """A data set of 40 training images, its labels, and a function that writes others for it."""

    def write(name, **content):
        if name.endswith(".npy"):
            np.save(tmp_path / name, content["labels"])
        else:
            np.savez(tmp_path / name, **content)
        return str(tmp_path / name)

    content = arrays(num_train=40, num_test=10)
    return npz(**content), content["train_labels"], write


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
        chex.assert_trees_all_equal(noisy[2:4], plain[2:4])
        for split in (noisy.train, load_human(path, file, train_size=12).train):
            expected = [human_label[image.tobytes()] for image in split.images]
            np.testing.assert_array_equal(split.labels, np.int32(expected), strict=True)
    assert (load_human(path, files[0], 0).train.labels == labels).all()


def test_unfit_absent_and_foreign_label_files_are_refused(human, tmp_path):
    path, y, write = human
    for name, content, message in (
        ("a.npy", {"labels": y[:39]}, r"holds int64 \[39\] but .* has 40 labels; give one"),
        ("a.npy", {"labels": y + 1}, "holds labels 1 to 3, which .* not of the 3 classes"),
        ("a.npz:b", {"b": y, "clean_label": y[::-1]}, "its clean_label are not of"),
        ("a.npz", {"c": y, "d": y}, "has the keys c, d; choose one: FILE.npz:KEY"),
    ):
        file, colon, key = name.partition(":")
        with pytest.raises(UserError, match=f"^config.label_noise.file is '.*{name}'.*{message}"):
            load_human(path, write(file, **content) + colon + key)
    for name, message in (
        ("none.npy", r"can't be read as an .npy file \(.*No such file .*\); unpack"),
        ("CIFAR-10_human.pt", "convert a FILE.pt by `python -c .*torch.load.*worse_label"),
    ):
        with pytest.raises(UserError, match=message):
            load_human(path, tmp_path / name)


def test_digits_are_scikit_learns():
    digits, source = sets.load("digits", validation_size=297), load_digits()
    assert [len(part.labels) for part in digits[1:4]] == [1000, 297, 500]
    ours = [
        (np.rint(image[..., 0] / 255 * 16).tolist(), label)
        for part in digits[1:4]
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(ours) == sorted(zip(source.images.tolist(), source.target, strict=True))
    assert (digits.train.images.dtype, digits.train.images.max()) == (np.uint8, 255)


def test_what_is_kept_is_loaded_once_and_cannot_be_written_to(npz):
    kept = {}
    first, again = (sets.load("mine", npz(), validation_size=2, kept=kept) for _ in range(2))
    assert first.train.images is again.train.images
    assert first.test.images is again.test.images
    for array in (first.train.images, *first.validation, *first.test):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_what_needs_a_package_says_so_and_an_npz_file_needs_none(npz, monkeypatch):
    for name, package in (("digits", "sklearn"), ("cifar10", "tensorflow_datasets")):
        monkeypatch.setitem(sys.modules, f"{package}.datasets", None)
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules, "experiments.data.tfds")
        monkeypatch.delattr("experiments.data.tfds", raising=False)
        with pytest.raises(UserError, match=f"^{name} needs {package}.*, which is not installed"):
            sets.load(name, validation_size=0)
        assert sets.load(name, npz(), validation_size=1).name == name
        monkeypatch.undo()


IMAGES = arrays()["train_images"]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"train_images": IMAGES / 255}, r"train_images of .*npz is float64 \[6, 4.* but .* uint8"),
        ({"test_images": IMAGES[:3, ..., 0]}, r"test_images .* is uint8 \[3, 4, 4\] but"),
        ({"test_images": IMAGES[:3, :2]}, r"shape \[4, 4, 1\] but test_images \[2, 4, 1\]; .* one"),
        ({"train_labels": np.zeros(6)}, r"train_labels .* is float64 \[6\] but .*integers of"),
        ({"test_labels": np.array([0, 3, 1])}, "test_labels .* are 0 to 3 but there are 3 classes"),
        ({"train_labels": np.arange(-1, 5)}, "train_labels .* are -1 to 4 but there are 5 classes"),
        (
            {"train_images": np.zeros((6, 3, 8, 8), np.uint8)},
            r"looks like \[N, C, H, W\], .* transp",
        ),
        ({"train_labels": np.array([1, 2, 3] * 2)}, "are 1 to 3 without 0; .* store num_classes=4"),
        (
            {"class_names": ["a", "b"]},
            r"class_names of .* is <U1 \[2\], .* but there are 3 classes",
        ),
        ({"num_classes": 2.5}, "num_classes .* is 2.5; store one integer of 1 or more"),
        ({"test_images": None, "train_labels": None}, "but lacks train_labels, test_images; write"),
        ({"train_labels": np.array([{}] * 6)}, "can't be read as an .npz file of plain arrays"),
    ],
)
def test_unfit_npz_arrays_are_refused(npz, replaced, message):
    with pytest.raises(UserError, match=message):
        sets.load("mine", npz(**replaced), validation_size=0)


def test_what_may_be_meant_is_said_once_and_by_the_doctor(npz, capsys):
    path = npz(num_classes=5)
    for name, sentences in (
        ("mine", [f"{path} has 5 classes but training images of 3 alone"]),
        ("cifar10", [f"images [32, 32, 3] of 10 classes, but {path} has images [4, 4, 1] of 5 cl"]),
    ):
        for _ in range(2):
            sets.load(name, path, validation_size=1)
        said = capsys.readouterr().err
        assert said.count("\n") == len(sentences)
        assert all(sentence in said for sentence in sentences)
        found = [finding.what for finding in doctor_data.content(name, path, 0)]
        assert all(any(sentence in what for what in found) for sentence in sentences)
        assert capsys.readouterr().err == ""


def test_files_that_are_no_npz_and_unknown_names_are_refused(npz, tmp_path):
    path, none = pathlib.Path(npz()), tmp_path / "none.npz"
    for content in (b"", b"train_images", path.read_bytes()[:-200]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"^{path} can't be read as an .npz file"):
            sets.load("mine", str(path), validation_size=0)
    for name, data_dir, sentence in (
        ("mine", none, f"^config.data_dir is {none} but there is no such file;"),
        ("mnist", tmp_path, "dataset is 'mnist' but the data sets are digits, cifar10, cifar100, "),
    ):
        with pytest.raises(UserError, match=sentence):
            sets.load(name, str(data_dir), validation_size=0)


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
    chex.assert_trees_all_equal(tfds[1:5], npz[1:5])


def test_files_that_need_tensorflow_are_refused(tmp_path, monkeypatch):
    fake_cifar.place("cifar10", tmp_path, monkeypatch)
    folder = pathlib.Path(prepare("cifar10", str(tmp_path)))
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(UserError, match=f"^{folder} holds tfrecord files, .* convert it by `tfds"):
        sets.load("cifar10", str(tmp_path), validation_size=0)


def _flip(file, at):
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)


DAMAGE = {  # What is done to the file of prepared CIFAR-10 with this in its name, and its reason.
    "-test: gone": (lambda file: file.unlink(), "No such file"),
    "-train: flipped": (lambda file: _flip(file, 300), "hash mismatch"),
    "info.json: half": (lambda file: os.truncate(file, 300), "Failed to load JSON"),
    "info.json: fewer": (
        lambda file: file.write_text(file.read_text().replace('"5"', '"4"')),
        "5 records but dataset_info.json says 4",
    ),
    "label.labels.txt: half": (lambda file: os.truncate(file, 40), "names . of 10 classes"),
}


def test_damaged_files_of_tfds_are_one_sentence_before_images_are_decoded(
    tmp_path, monkeypatch, capsys
):
    fake_cifar.place("cifar10", tmp_path, monkeypatch)
    folder = pathlib.Path(prepare("cifar10", str(tmp_path)))
    whole = {file: file.read_bytes() for file in folder.iterdir()}
    for name, (damage, reason) in DAMAGE.items():
        for file, content in whole.items():
            file.write_bytes(content)
        (file,) = folder.glob(f"*{name.split(':')[0]}*")
        damage(file)
        is_seen_late = "flipped" in name
        refusal = f"^{folder}.* damaged.*({reason}).*; copy .* anew, or remove .* again\\.$"
        with monkeypatch.context() as patch, pytest.raises(UserError, match=refusal) as caught:
            if not is_seen_late:
                patch.setattr("experiments.data.prepared.in_batches", pytest.fail)
            sets.load("cifar10", str(tmp_path), validation_size=0)
        if not is_seen_late:
            assert prepare_command.main(["cifar10", "--data_dir", str(tmp_path)]) == 2
            assert capsys.readouterr().err.endswith(f"error: {caught.value}\n")
            (finding,) = guarded(doctor_data.place, "cifar10", str(tmp_path))
            assert (finding.level, f"{finding.what}; {finding.fix}") == (PROBLEM, str(caught.value))
