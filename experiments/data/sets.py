"""Image data sets as NumPy arrays: one canonical order, a held-out part, label noise.

They depend on the arguments alone, not on where the data came from nor on the NumPy version: all that
is random is of the raw 64-bit output of a Philox generator, which NumPy guarantees to keep.
"""

import functools
import hashlib
import os
import sys
from typing import Any, NamedTuple

import numpy as np

from experiments.data import decode, jpegs, prepared, tiny_imagenet
from experiments.data.labels import (
    FILE_MODE,
    SIZE_STREAM,
    SPLIT_STREAM,
    corrupt_labels,
    permutation,
    random_bits,
    read_labels,
)
from experiments.system import files
from experiments.system.errors import UserError, needed_for

IMAGENET = "imagenet"
NAMES = ("digits", *prepared.TFDS_NAMES, "tiny_imagenet", IMAGENET)
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_MORE_KEYS = ("num_classes", "class_names")  # which a file may have

DIGITS_TEST_SIZE = 500  # of 1,797, chosen once and for all
DIGITS_SCALE = 255 / 16  # scikit-learn's pixels are 0, 1, ..., 16
_QUICK_TEST_SIZE = 1000  # with --quick


# Shape of an image and number of classes of what these names mean elsewhere.
_KNOWN = {
    "digits": ((8, 8, 1), 10),
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "tiny_imagenet": ((64, 64, 3), 200),
}


class Split(NamedTuple):
    """Images, uint8 `[N, H, W, C]`, and their labels, int32 `[N]`."""

    images: Any  # an array; of ImageNet `decode.Pictures`, which are decoded where they are indexed
    labels: np.ndarray


class Dataset(NamedTuple):
    """The three parts of a data set."""

    name: str
    train: Split
    validation: Split  # without images where none are held out
    test: Split
    num_classes: int
    skipped: tuple[tuple[str, str], ...] = ()  # training files that can't be decoded, and why


def of(config: Any, kept: dict | None = None) -> Dataset:
    """The data set of a run's config; `kept` as for `load`."""
    names = ("validation_size", "train_size", "image_size", "num_classes", "max_corrupt")
    values = {name: config[name] for name in names}
    values |= {f"noise_{name}": value for name, value in config.label_noise.items()}
    data = load(config.dataset, config.data_dir, **values, kept=kept)
    if not config.get("quick"):
        return data
    size = min(_QUICK_TEST_SIZE, len(data.test.labels))
    return data._replace(test=_chosen(data.test, size, SIZE_STREAM)[1])


def untested(data: Dataset) -> Dataset:
    """A data set whose test split has no images, for runs that must not see it."""
    images = np.empty((0, *data.test.images.shape[1:]), np.uint8)
    return data._replace(test=Split(images, data.test.labels[:0]))


def load(
    name: str,
    data_dir: str = "",
    *,
    validation_size: int,
    train_size: int = 0,
    image_size: int = 0,
    num_classes: int = 0,
    noise_rate: float = 0.0,
    noise_mode: str = "uniform_wrong",
    noise_seed: int = 0,
    noise_file: str = "",
    max_corrupt: int = 0,
    kept: dict | None = None,
) -> Dataset:
    """Loads a data set by values of a config, holds out validation images, then corrupts labels.

    What was read is kept in `kept`, and taken from it in the next call, so that runs share images.
    """
    data_dir = os.path.expanduser(data_dir)
    kept = {} if kept is None else kept
    source = (name, data_dir, image_size)
    if source not in kept:
        kept[source] = _read(*source)
    whole = kept[source]
    if num_classes and whole.num_classes != num_classes:
        raise UserError(
            f"config.num_classes is {num_classes} but {data_dir or name} has {whole.num_classes} "
            f"classes; add what is missing, or set config.num_classes to {whole.num_classes}."
        )
    sizes = (validation_size, train_size)
    if (*source, *sizes) not in kept:
        kept[*source, *sizes] = _parts(whole, *sizes)
    parts = kept[*source, *sizes]
    tiny_imagenet.check_skipped(data_dir, parts.skipped, max_corrupt)
    for remark in remarks(name, data_dir, whole.train, whole.num_classes):
        _say(remark)
    if noise_mode == FILE_MODE:
        given = read_labels(noise_file, whole.train.labels, parts.num_classes)
        labels = _parts(whole._replace(train=Split(given, given)), *sizes).train.labels
    else:
        labels = corrupt_labels(
            parts.train.labels, parts.num_classes, noise_rate, noise_mode, noise_seed
        )
    return parts._replace(train=parts.train._replace(labels=labels))


def remarks(name: str, data_dir: str, train: Split, num_classes: int) -> list[str]:
    """What an .npz file has that may be meant or a mistake, a sentence each."""
    if not data_dir.endswith(".npz"):
        return []
    found, here = [], (tuple(train.images.shape[1:]), num_classes)
    if (known := _KNOWN.get(name, here)) != here:
        shapes = [f"images {list(shape)} of {count} classes" for shape, count in (known, here)]
        found.append(
            f"config.dataset is {name!r}, which has {shapes[0]}, but {data_dir} has {shapes[1]}; pass "
            "--config.dataset= with a name of its own."
        )
    if (present := len(np.unique(train.labels))) < num_classes:
        found.append(
            f"{data_dir} has {num_classes} classes but training images of {present} alone; mend the "
            "labels if that is not meant."
        )
    return found


@functools.cache
def _say(remark: str) -> None:
    print(remark, file=sys.stderr)


def load_arrays(name: str, data_dir: str = "", image_size: int = 0) -> tuple[Split, Split, int]:
    """The training part, the test part and the number of classes, in canonical order.

    That is the order of the published files, for CIFAR the original batches one after the other; an
    .npz file is taken as it is. CIFAR that TFDS has not prepared yet is downloaded and prepared first.
    """
    found = _read(name, os.path.expanduser(data_dir), image_size)
    return found.train, found.test, found.num_classes


def _read(name: str, data_dir: str, image_size: int) -> Dataset:
    """A data set of which nothing is held out."""
    if image_size and (name != IMAGENET or data_dir.endswith(".npz")):
        raise UserError(
            f"config.image_size is {image_size} but the images of {data_dir or name} have one size; "
            "use 0."
        )
    if data_dir.endswith(".npz"):
        arrays = _read_npz(data_dir)
    elif name == "digits":
        arrays = _digits()
    elif name in prepared.TFDS_NAMES:
        parts = [prepared.read_prepared(name, data_dir, part) for part in ("train", "test")]
        arrays = dict(zip(NPZ_KEYS, (*parts[0], *parts[1]), strict=True))
        arrays["num_classes"] = np.asarray(len(class_names(name, data_dir)))
    elif name == "tiny_imagenet":
        arrays = tiny_imagenet.read(data_dir)
    elif name == IMAGENET:
        arrays = _find_imagenet(data_dir, image_size)
    else:
        raise UserError(
            f"config.dataset is {name!r} but the data sets are {', '.join(NAMES)}; choose one of "
            "them, or set config.data_dir to an .npz file."
        )
    train, test, num_classes = _checked(arrays, data_dir or name)
    nothing = _subset(test, np.zeros(0, int))
    return Dataset(name, train, nothing, test, num_classes, arrays.get("skipped", ()))


def _parts(whole: Dataset, validation_size: int, train_size: int) -> Dataset:
    """A data set with its true labels, some training images held out and maybe not all kept."""
    rest, validation = hold_out(whole.train, validation_size)
    count = len(rest.labels)
    if not 0 <= train_size <= count:
        raise UserError(
            f"config.train_size is {train_size} but {count} training images are not held out; choose 1 "
            f"to {count}, or 0 for all."
        )
    if train_size:
        _, rest = _chosen(rest, train_size, SIZE_STREAM)
    return whole._replace(train=rest, validation=validation)


def hold_out(split: Split, size: int) -> tuple[Split, Split]:
    """Parts `split` into the rest and `size` held-out examples, chosen by N alone, both in order."""
    count = len(split.labels)
    if not 0 <= size < count:
        raise UserError(
            f"config.validation_size is {size} but there are {count} training images; hold out 0 "
            f"to {count - 1}."
        )
    return _chosen(split, size, SPLIT_STREAM)


def _chosen(split: Split, size: int, stream: int) -> tuple[Split, Split]:
    """The rest, and the first `size` of a permutation, both in the order of `split`."""
    chosen = np.zeros(len(split.labels), bool)
    chosen[permutation(random_bits(0, stream), len(chosen))[:size]] = True
    return _subset(split, ~chosen), _subset(split, chosen)


def _subset(split: Split, index: np.ndarray) -> Split:
    """Some examples; images that are not decoded yet stay so."""
    take = getattr(split.images, "subset", split.images.__getitem__)
    return _protected(Split(take(index), split.labels[index]))


def _protected(split: Split) -> Split:
    for array in split:
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return split


def _checked(arrays: dict[str, Any], source: str) -> tuple[Split, Split, int]:
    """Arrays by the names of `NPZ_KEYS`, and maybe num_classes: what every data set has to be."""
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise UserError(
                f"{part}_images of {source} is {images.dtype} {list(images.shape)} but images are "
                "uint8 [N, H, W, C] with N of 1 or more; convert it."
            )
        rows, columns, channels = images.shape[1:]
        if channels not in (1, 3) and rows < channels and (rows <= 4 or columns == channels):
            raise UserError(
                f"{part}_images of {source} is {list(images.shape)}, which looks like [N, C, H, W], but "
                "images are [N, H, W, C]; transpose them by images.transpose(0, 2, 3, 1)."
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise UserError(
                f"{part}_labels of {source} is {labels.dtype} {list(labels.shape)} but there are "
                f"{len(images)} images; give integers of shape [{len(images)}]."
            )
    train_shape, test_shape = (list(arrays[f"{p}_images"].shape[1:]) for p in ("train", "test"))
    if train_shape != test_shape:
        raise UserError(
            f"train_images of {source} have shape {train_shape} but test_images {test_shape}; give "
            "them one shape."
        )
    present = np.unique(arrays["train_labels"])
    num_classes = arrays.get("num_classes", np.asarray(int(present[-1]) + 1))
    if num_classes.dtype.kind not in "iu" or num_classes.ndim or num_classes < 1:
        raise UserError(
            f"num_classes of {source} is {num_classes.tolist()}; store one integer of 1 or more."
        )
    for part in ("train", "test"):
        low, high = (int(bound(arrays[f"{part}_labels"])) for bound in (np.min, np.max))
        if low < 0 or high >= num_classes:
            raise UserError(
                f"{part}_labels of {source} are {low} to {high} but there are {num_classes} "
                "classes, the first being 0; mend the labels or store num_classes."
            )
    if "num_classes" not in arrays and len(present) < num_classes:
        missing = np.flatnonzero(present != np.arange(len(present)))[0]
        raise UserError(
            f"train_labels of {source} are {present[0]} to {present[-1]} without {missing}; count the "
            f"classes from 0 without gaps, or store num_classes={num_classes} if that is meant."
        )
    _check_names(arrays.get("class_names"), int(num_classes), source)
    train, test = (
        _protected(Split(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int32)))
        for part in ("train", "test")
    )
    return train, test, int(num_classes)


def _check_names(names: np.ndarray | None, num_classes: int, source: str) -> None:
    if names is None:
        return
    different = len(set(names.ravel().tolist()))
    if names.dtype.kind not in "US" or names.shape != (num_classes,) or different < num_classes:
        raise UserError(
            f"class_names of {source} is {names.dtype} {list(names.shape)}, {different} of them "
            f"different, but there are {num_classes} classes; store a name for each, in their order."
        )


def _read_npz(path: str) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise UserError(
            f"config.data_dir is {path} but there is no such file; give an .npz file or a folder."
        )
    with files.open_npz(path, "an .npz file of plain arrays") as file:
        found = list(file)
        arrays = {key: file[key] for key in (*NPZ_KEYS, *_MORE_KEYS) if key in found}
    missing = [key for key in NPZ_KEYS if key not in found]
    if missing:
        raise UserError(
            f"{path} has {', '.join(found) or 'nothing'} but lacks {', '.join(missing)}; write it "
            f"with {', '.join(NPZ_KEYS)}."
        )
    return arrays


def _digits() -> dict[str, np.ndarray]:
    with needed_for("digits"):
        from sklearn.datasets import load_digits
    digits = load_digits()
    images = np.rint(digits.images[..., None] * DIGITS_SCALE).astype(np.uint8)
    train, test = hold_out(Split(images, digits.target), DIGITS_TEST_SIZE)
    return dict(zip(NPZ_KEYS, (*train, *test), strict=True))


def _find_imagenet(data_dir: str, image_size: int) -> dict[str, Any]:
    if image_size < 8:
        raise UserError(f"config.image_size is {image_size}; use 224, 64 or another one from 8 on.")
    found = jpegs.find(data_dir)
    return {
        "train_images": decode.Pictures.of(found.train, image_size),
        "train_labels": found.train_labels,
        "test_images": decode.Pictures.of(found.test, image_size),
        "test_labels": found.test_labels,
        "num_classes": np.asarray(len(found.classes)),
    }


def class_names(name: str, data_dir: str = "") -> tuple[str, ...]:
    """The names of the classes in their order, WordNet ids for both ImageNets; () if not known."""
    data_dir = os.path.expanduser(data_dir)
    if data_dir.endswith(".npz"):
        with files.open_npz(data_dir, "an .npz file of plain arrays") as file:
            names = file["class_names"] if "class_names" in file.files else np.zeros(0, str)
            return tuple(map(str, names.astype(str)))
    if name in prepared.TFDS_NAMES:
        return prepared.class_names(name, data_dir)
    if name == "tiny_imagenet":
        return tiny_imagenet.classes(data_dir)
    return jpegs.class_names(data_dir) if name == IMAGENET else ()


def fingerprint(data_dir: str) -> str:
    """The SHA-256 of an .npz file; empty without one, where a name says what the data are."""
    path = os.path.expanduser(data_dir)
    if not data_dir.endswith(".npz") or not os.path.isfile(path):
        return ""
    found = os.stat(path)
    return _sha256(path, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _sha256(path: str, size: int, changed: int) -> str:
    del size, changed  # a file that was written anew is read anew
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
