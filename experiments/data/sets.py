"""Image data sets as NumPy arrays: one canonical order, a held-out part, label noise.

The arrays, the held-out part and the noisy labels depend on the arguments alone, and not on where
the data came from (TFDS or an .npz file) nor on the NumPy version: everything random is derived
from the raw 64-bit output of a Philox generator, which NumPy guarantees to keep.
"""

import functools
import hashlib
import itertools
import os
from typing import Any, NamedTuple

import numpy as np

from experiments.data import prepared
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
from experiments.system.errors import UserError

IMAGENET = "imagenet"
NAMES = ("digits", *prepared.TFDS_NAMES, "tiny_imagenet", IMAGENET)
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")

DIGITS_TEST_SIZE = 500  # of 1,797, chosen once and for all by
DIGITS_TEST_SEED = 0
DIGITS_SCALE = 255 / 16  # scikit-learn's pixels are 0, 1, ..., 16


class Split(NamedTuple):
    """Images, uint8 [N, H, W, C], and their labels, int32 [N].

    Those of ImageNet are `experiments.data.decode.Pictures`, which are decoded where they are indexed.
    """

    images: Any
    labels: np.ndarray


class Dataset(NamedTuple):
    """The three parts of a data set; `validation` has no images where none are held out.

    `skipped` are training files that could not be decoded, each with the reason.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    skipped: tuple[tuple[str, str], ...] = ()


def of(config: Any, kept: dict | None = None) -> Dataset:
    """The data set of a run's config; `kept` as for `load`."""
    noise = config.label_noise
    return load(
        config.dataset,
        config.data_dir,
        validation_size=config.validation_size,
        train_size=config.train_size,
        image_size=config.image_size,
        num_classes=config.num_classes,
        noise_rate=noise.rate,
        noise_mode=noise.mode,
        noise_seed=noise.seed,
        noise_file=noise.file,
        max_corrupt=config.max_corrupt,
        kept=kept,
    )


def untested(data: Dataset) -> Dataset:
    """A data set whose test split has no images, for runs that must not see it."""
    images = np.empty((0, *data.test.images.shape[1:]), np.uint8)
    return data._replace(test=Split(images, data.test.labels[:0]))


def load(
    name: str,
    data_dir: str = "",
    *,
    validation_size: int,
    split_seed: int = 0,
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
    """Loads a data set, holds out validation images, then corrupts training labels alone.

    Args:
      name: `digits`, `cifar10` or `cifar100`; any name if `data_dir` is an .npz file.
      data_dir: An .npz file (see `load_arrays`) or a TFDS data folder; empty for TFDS's default.
      validation_size: How many training images become `validation`.
      split_seed: Chooses them, and those of `train_size`; see `hold_out`.
      train_size: How many of the remaining training images are kept, 0 for all; fewer of them are a
        part of more of them.
      image_size: See `load_arrays`.
      num_classes: How many classes there must be; 0 for any number.
      noise_rate: Fraction of the kept training labels that are redrawn, in [0, 1).
      noise_mode: See `corrupt_labels`, or `file` to take the labels of `noise_file`.
      noise_seed: Chooses labels and new values; see `corrupt_labels`.
      noise_file: In the mode `file`, labels of the whole training set; see `read_labels`.
      max_corrupt: How many training images of a folder may be left out since they can't be decoded.
      kept: What was read is kept in it, and taken from it in the next call, so that runs share images.

    Raises:
      UserError: If an argument or the data are unfit.
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
    split = (*source, validation_size, split_seed, train_size)
    if split not in kept:
        kept[split] = _parts(whole, validation_size, split_seed, train_size)
    parts = kept[split]
    if name == "tiny_imagenet" and not data_dir.endswith(".npz"):
        from experiments.data import tiny_imagenet  # imports Pillow

        tiny_imagenet.check_skipped(data_dir, parts.skipped, max_corrupt)
    if noise_mode == FILE_MODE:
        given = read_labels(noise_file, whole.train.labels, parts.num_classes)
        rest, _ = hold_out(Split(given, given), validation_size, split_seed)
        labels = _keep(rest, train_size, split_seed).labels
    else:
        labels = corrupt_labels(
            parts.train.labels, parts.num_classes, noise_rate, noise_mode, noise_seed
        )
    return parts._replace(train=parts.train._replace(labels=labels))


def _parts(whole: Dataset, validation_size: int, split_seed: int, train_size: int) -> Dataset:
    """A data set with its true labels, some training images held out."""
    rest, validation = hold_out(whole.train, validation_size, split_seed)
    rest = _keep(rest, train_size, split_seed)
    _protect(rest, validation)
    return whole._replace(train=rest, validation=validation)


def _protect(*splits: Split) -> None:
    for array in itertools.chain(*splits):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)


def load_arrays(name: str, data_dir: str = "", image_size: int = 0) -> tuple[Split, Split, int]:
    """The training part, the test part and the number of classes, in canonical order.

    The canonical order is that of the published files, for CIFAR the original batches one after
    the other; an .npz file is taken as it is.  Such a file holds `train_images`, `train_labels`,
    `test_images` and `test_labels` (uint8 [N, H, W, C] and integers [N]) and may hold the scalar
    `num_classes`, which is otherwise the largest training label plus one.

    CIFAR that TFDS has not prepared in `data_dir` yet is downloaded and prepared first. ImageNet's
    images are not arrays: they are decoded where they are indexed, at `image_size` pixels on a side;
    of all others `image_size` is 0.

    The arrays can't be written to.

    Raises:
      UserError: If the name is unknown, or the data cannot be had or are unfit.
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
        source, arrays = data_dir, _read_npz(data_dir)
    elif name == "digits":
        source, arrays = name, _digits()
    elif name in prepared.TFDS_NAMES:
        source, arrays = name, prepared.read_tfds(name, data_dir)
    elif name == "tiny_imagenet":
        from experiments.data import tiny_imagenet  # imports Pillow

        source, arrays = data_dir, tiny_imagenet.read(data_dir)
    elif name == IMAGENET:
        source, arrays = data_dir or name, _find_imagenet(data_dir, image_size)
    else:
        raise UserError(
            f"config.dataset is {name!r} but the data sets are {', '.join(NAMES)}; choose one of "
            "them, or set config.data_dir to an .npz file."
        )
    train, test, num_classes = _checked(arrays, source)
    _protect(train, test)
    skipped = tuple(map(tuple, arrays.get("skipped", np.empty(0)).tolist()))
    nothing = Split(np.empty((0, *test.images.shape[1:]), np.uint8), test.labels[:0])
    return Dataset(name, train, nothing, test, num_classes, skipped)


def hold_out(split: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Parts `split` into the rest and `size` held-out examples, chosen by `seed` and N alone.

    Both parts keep the order of `split`.

    Raises:
      UserError: If size is not in [0, N) or seed is negative.
    """
    count = len(split.labels)
    if not 0 <= size < count:
        raise UserError(
            f"config.validation_size is {size} but there are {count} training images; hold out 0 "
            f"to {count - 1}."
        )
    held_out = np.zeros(count, bool)
    held_out[permutation(random_bits(seed, SPLIT_STREAM), count)[:size]] = True
    return _subset(split, ~held_out), _subset(split, held_out)


def _subset(split: Split, index: np.ndarray) -> Split:
    """Some examples; images that are not decoded yet stay so."""
    take = getattr(split.images, "subset", split.images.__getitem__)
    return Split(take(index), split.labels[index])


def _keep(split: Split, size: int, seed: int) -> Split:
    """The first `size` of a permutation, in the order of `split`; 0 for all."""
    count = len(split.labels)
    if not 0 <= size <= count:
        raise UserError(
            f"config.train_size is {size} but {count} training images are not held out; choose 1 to "
            f"{count}, or 0 for all."
        )
    if size in (0, count):
        return split
    chosen = np.sort(permutation(random_bits(seed, SIZE_STREAM), count)[:size])
    return _subset(split, chosen)


def _checked(arrays: dict[str, np.ndarray], source: str) -> tuple[Split, Split, int]:
    """The arrays by the names of `NPZ_KEYS`, and maybe num_classes, verified."""
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise UserError(
                f"{part}_images of {source} is {images.dtype} {list(images.shape)} but images are "
                "uint8 [N, H, W, C] with N of 1 or more; convert it."
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
    num_classes = arrays.get("num_classes", np.asarray(int(arrays["train_labels"].max()) + 1))
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
    train, test = (
        Split(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int32))
        for part in ("train", "test")
    )
    return train, test, int(num_classes)


def _read_npz(path: str) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise UserError(
            f"config.data_dir is {path} but there is no such file; give an .npz file or a folder."
        )
    with files.open_npz(path, "an .npz file of plain arrays") as file:
        found = list(file)
        arrays = {key: file[key] for key in (*NPZ_KEYS, "num_classes") if key in found}
    missing = [key for key in NPZ_KEYS if key not in found]
    if missing:
        raise UserError(
            f"{path} has {', '.join(found) or 'nothing'} but lacks {', '.join(missing)}; write it "
            f"with {', '.join(NPZ_KEYS)}."
        )
    return arrays


def _digits() -> dict[str, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UserError(
            "config.dataset is 'digits' but scikit-learn is not installed; pip install scikit-learn."
        ) from error
    digits = load_digits()
    images = np.rint(digits.images[..., None] * DIGITS_SCALE).astype(np.uint8)
    everything = Split(images, digits.target.astype(np.int32))
    train, test = hold_out(everything, DIGITS_TEST_SIZE, DIGITS_TEST_SEED)
    return dict(zip(NPZ_KEYS, (*train, *test), strict=True))


def _find_imagenet(data_dir: str, image_size: int) -> dict[str, Any]:
    from experiments.data import (
        decode,
        jpegs,  # import Pillow
    )

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
    """The names of the classes in the order of their labels; WordNet ids for both ImageNets.

    Args:
      name, data_dir: as for `load_arrays`; an .npz file may hold `class_names`, strings `[K]`.

    Returns:
      The names, or none where the data set does not tell them.
    """
    data_dir = os.path.expanduser(data_dir)
    if data_dir.endswith(".npz"):
        with files.open_npz(data_dir, "an .npz file of plain arrays") as file:
            return tuple(map(str, file["class_names"])) if "class_names" in file.files else ()
    if name in prepared.TFDS_NAMES:
        builder = prepared.import_builders(name).stock_builder(name, data_dir)
        return tuple(builder.info.features["label"].names)
    if name == "tiny_imagenet":
        from experiments.data import tiny_imagenet  # imports Pillow

        return tiny_imagenet.classes(data_dir)
    if name == IMAGENET:
        from experiments.data import jpegs  # imports Pillow

        return jpegs.class_names(data_dir)
    return ()


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
