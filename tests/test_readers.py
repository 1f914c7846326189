"""What every format of a data set has in common, whatever its files look like."""

import shutil
from typing import NamedTuple

import fake_cifar
import numpy as np
import pytest
from PIL import Image

from experiments.data import sets
from experiments.data.labels import corrupt_labels
from experiments.data.sets import Split

CLASSES = ("n01", "n02", "n10")
COUNTS = {"train": (5, 2, 8), "val": (2, 1, 3)}
SIDE = 64  # of a file; the centre of SMALL is what ImageNet's evaluation keeps of it
SMALL = 56


class Format(NamedTuple):
    """A data set on disk, and what it holds."""

    name: str
    data_dir: str
    image_size: int
    train: Split
    test: Split
    classes: tuple[str, ...]


@pytest.fixture(scope="module")
def formats(tmp_path_factory):
    """The same images as an .npz file and in both layouts of folders; and CIFAR's of TFDS."""
    tiny, imagenet, other = (tmp_path_factory.mktemp(name) for name in ("tiny", "imagenet", "npz"))
    rng = np.random.default_rng(0)
    parts, lines = {}, []
    (tiny / "val" / "images").mkdir(parents=True)
    for part, counts in COUNTS.items():
        images = []
        for name, count in zip(CLASSES, counts, strict=True):
            folder = imagenet / part / name
            folder.mkdir(parents=True)
            for file in (folder / f"{name}_{i}.JPEG" for i in range(count)):
                Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)).save(file)
                images.append(np.asarray(Image.open(file)))
                if part == "val":
                    shutil.copy(file, tiny / "val" / "images")
                    lines.append(f"{file.name}\t{name}\t0\t1\n")
            if part == "train":
                shutil.copytree(folder, tiny / part / name / "images")
        labels = np.repeat(np.arange(3, dtype=np.int32), counts)
        parts[part] = Split(np.stack(images), labels)
    (tiny / "val" / "val_annotations.txt").write_text("".join(lines))
    train, test = parts.values()
    path = other / "set.npz"
    np.savez(
        path,
        **dict(zip(sets.NPZ_KEYS, (*train, *test), strict=True)),
        class_names=CLASSES,
        num_classes=3,
    )
    edge = (SIDE - SMALL) // 2
    inner = [
        Split(s.images[:, edge : edge + SMALL, edge : edge + SMALL], s.labels)
        for s in parts.values()
    ]
    found = {
        "npz": Format("mine", str(path), 0, train, test, CLASSES),
        "folders": Format("tiny_imagenet", str(tiny), 0, train, test, CLASSES),
        "pictures": Format("imagenet", str(imagenet), SMALL, *inner, CLASSES),
    }
    for name, count in fake_cifar.NUM_CLASSES.items():
        with pytest.MonkeyPatch.context() as patch:
            fake = fake_cifar.place(name, tmp_path_factory.mktemp(name), patch)
            sets.load_arrays(name, str(fake.data_dir))  # prepares it
        classes = tuple(f"class_{i}" for i in range(count))
        found[name] = Format(name, str(fake.data_dir), 0, fake.train, fake.test, classes)
    return found


FORMATS = ("npz", "folders", "pictures", "cifar10", "cifar100")
every_format = pytest.mark.parametrize("kind", FORMATS)


def load(one, **options):
    options = {"validation_size": 4, "image_size": one.image_size} | options
    return sets.load(one.name, one.data_dir, **options)


def assert_split(found, expected):
    np.testing.assert_array_equal(found.images[:], expected.images, strict=True)
    np.testing.assert_array_equal(found.labels, expected.labels, strict=True)


@every_format
def test_images_labels_order_and_classes_are_those_of_the_files(kind, formats):
    one = formats[kind]
    train, test, num_classes = sets.load_arrays(one.name, one.data_dir, one.image_size)
    assert_split(train, one.train)
    assert_split(test, one.test)
    assert num_classes == len(one.classes)
    assert sets.class_names(one.name, one.data_dir) == one.classes
    assert len(sets.fingerprint(one.data_dir)) == (64 if kind == "npz" else 0)
    for array in (train.labels, train.images):
        if isinstance(array, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


@every_format
def test_the_held_out_part_depends_on_the_number_alone(kind, formats):
    one = formats[kind]
    found, few = load(one), load(one, train_size=6)
    numbers = np.arange(len(one.train.labels))
    rest, held_out = (x.labels for x in sets.hold_out(Split(numbers, numbers), 4))
    assert_split(found.train, Split(one.train.images[rest], one.train.labels[rest]))
    assert_split(found.validation, Split(one.train.images[held_out], one.train.labels[held_out]))
    assert_split(found.test, one.test)
    images = [image.tobytes() for image in found.train.images[:]]
    kept = [images.index(image.tobytes()) for image in few.train.images[:]]
    assert len(kept) == 6
    assert kept == sorted(kept)
    np.testing.assert_array_equal(few.train.labels, found.train.labels[kept])


@every_format
def test_noise_reaches_the_labels_of_the_training_part_alone(kind, formats):
    one = formats[kind]
    clean, noisy = load(one), load(one, noise_rate=0.4, noise_seed=5)
    expected = corrupt_labels(clean.train.labels, clean.num_classes, 0.4, "uniform_wrong", 5)
    assert_split(noisy.train, Split(clean.train.images[:], expected))
    assert (clean.train.labels != expected).sum() == round(0.4 * len(expected))
    for part in ("validation", "test"):
        assert_split(getattr(noisy, part), Split(*(x[:] for x in getattr(clean, part))))
