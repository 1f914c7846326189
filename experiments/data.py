"""Image data sets as NumPy arrays: one canonical order, a held-out part, label noise.

The arrays, the held-out part and the noisy labels depend on the arguments alone, and not on where
the data came from (TFDS or an .npz file) nor on the NumPy version: everything random is derived
from the raw 64-bit output of a Philox generator, which NumPy guarantees to keep.
"""

import importlib.util
import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments.errors import UserError

TFDS_NAMES = ("cifar10", "cifar100")
NAMES = ("digits", *TFDS_NAMES)
NOISE_MODES = ("uniform_wrong", "uniform_any")
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")

DIGITS_TEST_SIZE = 500  # of 1,797, chosen once and for all by
DIGITS_TEST_SEED = 0
DIGITS_SCALE = 255 / 16  # scikit-learn's pixels are 0, 1, ..., 16

SPLIT_STREAM, NOISE_STREAM = 0, 1  # equal seeds must not make equal choices


class Split(NamedTuple):
    """Images, uint8 [N, H, W, C], and their labels, int32 [N]."""

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """The three parts of a data set; `validation` has no images where none are held out."""

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int


def load(
    name: str,
    data_dir: str = "",
    *,
    validation_size: int,
    split_seed: int = 0,
    noise_rate: float = 0.0,
    noise_mode: str = "uniform_wrong",
    noise_seed: int = 0,
) -> Dataset:
    """Loads a data set, holds out validation images, then corrupts training labels alone.

    Args:
      name: `digits`, `cifar10` or `cifar100`; any name if `data_dir` is an .npz file.
      data_dir: An .npz file (see `load_arrays`) or a TFDS data folder; empty for TFDS's default.
      validation_size: How many training images become `validation`.
      split_seed: Chooses them; see `hold_out`.
      noise_rate: Fraction of the remaining training labels that are redrawn, in [0, 1).
      noise_mode: See `corrupt_labels`.
      noise_seed: Chooses labels and new values; see `corrupt_labels`.

    Raises:
      UserError: If an argument or the data are unfit.
    """
    _check_noise(noise_rate, noise_mode)  # before anything is downloaded or decoded
    train, test, num_classes = load_arrays(name, data_dir)
    train, validation = hold_out(train, validation_size, split_seed)
    labels = corrupt_labels(train.labels, num_classes, noise_rate, noise_mode, noise_seed)
    return Dataset(name, train._replace(labels=labels), validation, test, num_classes)


def load_arrays(name: str, data_dir: str = "") -> tuple[Split, Split, int]:
    """The training part, the test part and the number of classes, in canonical order.

    The canonical order is that of the published files, for CIFAR the original batches one after
    the other; an .npz file is taken as it is.  Such a file holds `train_images`, `train_labels`,
    `test_images` and `test_labels` (uint8 [N, H, W, C] and integers [N]) and may hold the scalar
    `num_classes`, which is otherwise the largest training label plus one.

    CIFAR that TFDS has not prepared in `data_dir` yet is downloaded and prepared first.

    Raises:
      UserError: If the name is unknown, or the data cannot be had or are unfit.
    """
    data_dir = os.path.expanduser(data_dir)
    if data_dir.endswith(".npz"):
        source, arrays = data_dir, _read_npz(data_dir)
    elif name == "digits":
        source, arrays = name, _digits()
    elif name in TFDS_NAMES:
        source, arrays = name, _read_tfds(name, data_dir)
    else:
        raise UserError(
            f"unknown data set {name!r}: choose one of {', '.join(NAMES)}, or set data_dir to an "
            ".npz file"
        )
    return _checked(arrays, source)


def hold_out(split: Split, size: int, seed: int) -> tuple[Split, Split]:
    """Parts `split` into the rest and `size` held-out examples, chosen by `seed` and N alone.

    Both parts keep the order of `split`.

    Raises:
      UserError: If size is not in [0, N) or seed is negative.
    """
    count = len(split.labels)
    if not 0 <= size < count:
        raise UserError(
            f"validation_size must be at least 0 and less than the {count} training images, "
            f"got {size}"
        )
    held_out = np.zeros(count, bool)
    held_out[_permutation(_random_bits(seed, SPLIT_STREAM), count)[:size]] = True
    return (
        Split(split.images[~held_out], split.labels[~held_out]),
        Split(split.images[held_out], split.labels[held_out]),
    )


def corrupt_labels(
    labels: np.ndarray, num_classes: int, rate: float, mode: str, seed: int
) -> np.ndarray:
    """Redraws exactly round(rate N) of the labels; which ones depends on `seed` and N alone.

    Args:
      labels: Integers [N] in [0, num_classes).
      num_classes: K.
      rate: In [0, 1).
      mode: `uniform_wrong` draws uniformly among the K - 1 other classes, so that every redrawn
        label is wrong; `uniform_any` among all K, so that 1 in K redrawn labels stays right.
      seed: A number >= 0.

    Returns:
      The labels, [N], of the dtype of `labels`.

    Raises:
      UserError: If rate, mode or seed is out of its range, or no other class exists.
    """
    _check_noise(rate, mode)
    bits = _random_bits(seed, NOISE_STREAM)
    chosen = _permutation(bits, len(labels))[: round(rate * len(labels))]
    draws = bits.random_raw(len(chosen))
    if mode == "uniform_any":
        redrawn = draws % num_classes
    elif num_classes > 1:
        redrawn = (labels[chosen].astype(np.uint64) + 1 + draws % (num_classes - 1)) % num_classes
    elif len(chosen):
        raise UserError(f"uniform_wrong needs 2 or more classes, got {num_classes}: set rate to 0")
    else:
        redrawn = draws
    noisy = labels.copy()
    noisy[chosen] = redrawn
    return noisy


def _check_noise(rate: float, mode: str) -> None:
    if not 0 <= rate < 1:
        raise UserError(f"the label noise rate must be at least 0 and less than 1, got {rate}")
    if mode not in NOISE_MODES:
        raise UserError(f"unknown label noise mode {mode!r}: choose {' or '.join(NOISE_MODES)}")


def _random_bits(seed: int, stream: int) -> np.random.Philox:
    if seed < 0:
        raise UserError(f"a seed of the data must be 0 or more, got {seed}")
    return np.random.Philox([seed, stream])


def _permutation(bits: np.random.Philox, count: int) -> np.ndarray:
    """A uniform permutation of range(count): the order of `count` 64-bit draws."""
    return np.argsort(bits.random_raw(count), kind="stable")


def _checked(arrays: dict[str, np.ndarray], source: str) -> tuple[Split, Split, int]:
    """The arrays by the names of `NPZ_KEYS`, and maybe num_classes, verified."""
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or not images.size:
            raise UserError(
                f"{part}_images of {source} must be a non-empty uint8 array of shape "
                f"[N, H, W, C], got {images.dtype} {list(images.shape)}"
            )
        if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1]:
            raise UserError(
                f"{part}_labels of {source} must be integers of shape [{len(images)}], one for "
                f"each image, got {labels.dtype} {list(labels.shape)}"
            )
    train_shape, test_shape = (list(arrays[f"{p}_images"].shape[1:]) for p in ("train", "test"))
    if train_shape != test_shape:
        raise UserError(
            f"the images of {source} must have one shape, got {train_shape} for training and "
            f"{test_shape} for testing"
        )
    num_classes = arrays.get("num_classes", np.asarray(int(arrays["train_labels"].max()) + 1))
    if num_classes.dtype.kind not in "iu" or num_classes.ndim or num_classes < 1:
        raise UserError(
            f"num_classes of {source} must be one integer of 1 or more, got {num_classes.tolist()}"
        )
    for part in ("train", "test"):
        low, high = (int(bound(arrays[f"{part}_labels"])) for bound in (np.min, np.max))
        if low < 0 or high >= num_classes:
            raise UserError(
                f"{part}_labels of {source} must be at least 0 and less than the {num_classes} "
                f"classes, got {low} to {high}: mend the labels or store num_classes"
            )
    train, test = (
        Split(arrays[f"{part}_images"], arrays[f"{part}_labels"].astype(np.int32))
        for part in ("train", "test")
    )
    return train, test, int(num_classes)


def _read_npz(path: str) -> dict[str, np.ndarray]:
    if not os.path.isfile(path):
        raise UserError(f"there is no file {path}: set data_dir to an .npz file or a folder")
    try:
        with open(path, "rb") as stream, np.load(stream) as file:
            found = list(file)
            arrays = {key: file[key] for key in (*NPZ_KEYS, "num_classes") if key in found}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read as an .npz file of plain arrays: write it anew with numpy.savez"
        ) from error
    missing = [key for key in NPZ_KEYS if key not in found]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}: it needs {', '.join(NPZ_KEYS)} and has "
            f"{', '.join(found) or 'nothing'}"
        )
    return arrays


def _digits() -> dict[str, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise UserError("digits needs scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    images = np.rint(digits.images[..., None] * DIGITS_SCALE).astype(np.uint8)
    everything = Split(images, digits.target.astype(np.int32))
    train, test = hold_out(everything, DIGITS_TEST_SIZE, DIGITS_TEST_SEED)
    return dict(zip(NPZ_KEYS, (*train, *test), strict=True))


def _read_tfds(name: str, data_dir: str) -> dict[str, np.ndarray]:
    try:
        from experiments import prepare  # imports TFDS, which an accelerator machine may lack
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name} needs {error.name}, which is not installed: install the experiments' "
            "requirements or set data_dir to an .npz file"
        ) from error
    prepare.prepare(name, data_dir)
    builder = prepare.stock_builder(name, data_dir)
    arrays = {"num_classes": np.asarray(builder.info.features["label"].num_classes)}
    for part in ("train", "test"):
        count = builder.info.splits[part].num_examples
        images, labels = _in_order_of_id(_records(builder, part), count, f"decoding {name} {part}")
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return arrays


def _records(builder: Any, part: str) -> Iterable[dict[str, Any]]:
    """The decoded records of one split of a prepared TFDS builder, in the order they are stored."""
    file_format = builder.info.file_format
    if file_format in file_format.with_random_access():
        return _in_batches(builder.as_data_source(split=part))
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{builder.data_dir} holds {file_format.value} files, which need TensorFlow: "
            f"pip install tensorflow, or run `python -m experiments.prepare {builder.name} "
            "--data_dir DIR` with another folder DIR and set data_dir to it"
        )
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # else it would take the memory that JAX needs
    return builder.as_dataset(split=part).as_numpy_iterator()


def _in_batches(source: Any, size: int = 1024) -> Iterator[dict[str, Any]]:
    """The items of a random-access source, read `size` at a time: twice as fast as one by one."""
    for start in range(0, len(source), size):
        yield from source.__getitems__(range(start, min(start + size, len(source))))


def _in_order_of_id(
    records: Iterable[dict[str, Any]], count: int, title: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels by the number in the id (`b'train_00042'`): TFDS stores them shuffled."""
    from tqdm import tqdm

    numbers, images, labels = [], [], []
    for record in tqdm(records, desc=title, total=count, unit=" images", delay=1, leave=False):
        numbers.append(int(record["id"].split(b"_")[-1]))
        images.append(record["image"])
        labels.append(record["label"])
    order = np.argsort(numbers)
    return np.stack(images)[order], np.asarray(labels)[order]
