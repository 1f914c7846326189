"""Image data sets as NumPy arrays: one canonical order, a held-out part, label noise.

The arrays, the held-out part and the noisy labels depend on the arguments alone, and not on where
the data came from (TFDS or an .npz file) nor on the NumPy version: everything random is derived
from the raw 64-bit output of a Philox generator, which NumPy guarantees to keep.
"""

import functools
import hashlib
import importlib.util
import itertools
import os
import threading
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from experiments import files
from experiments.errors import UserError

TFDS_NAMES = ("cifar10", "cifar100")
IMAGENET = "imagenet"
NAMES = ("digits", *TFDS_NAMES, "tiny_imagenet", IMAGENET)
NOISE_MODES = ("uniform_wrong", "uniform_any")
FILE_MODE = "file"
NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")

DIGITS_TEST_SIZE = 500  # of 1,797, chosen once and for all by
DIGITS_TEST_SEED = 0
DIGITS_SCALE = 255 / 16  # scikit-learn's pixels are 0, 1, ..., 16

# Equal seeds must not make equal choices; outside.py has more streams.
SPLIT_STREAM, NOISE_STREAM, SIZE_STREAM = range(3)

_ONE_AT_A_TIME = threading.Lock()  # runs that are threads wait for the first one's data


class Split(NamedTuple):
    """Images, uint8 [N, H, W, C], and their labels, int32 [N].

    Those of ImageNet are `experiments.pictures.Pictures`, which are decoded where they are indexed.
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

    Raises:
      UserError: If an argument or the data are unfit.
    """
    _check_noise_options(noise_rate, noise_mode, noise_file)  # before anything is decoded
    data_dir = os.path.expanduser(data_dir)
    with _ONE_AT_A_TIME:
        source = (name, data_dir, _stamp(data_dir), image_size)
        found = _load_arrays(*source)[2]
        if num_classes and found != num_classes:
            raise UserError(
                f"config.num_classes is {num_classes} but {data_dir or name} has {found} classes; add "
                f"what is missing, or set config.num_classes to {found}."
            )
        parts = _parts(source, validation_size, split_seed, train_size)
    if name == "tiny_imagenet" and not data_dir.endswith(".npz"):
        from experiments import folders  # imports Pillow

        folders.check_skipped(data_dir, parts.skipped, max_corrupt)
    if noise_mode == FILE_MODE:
        true = load_arrays(name, data_dir, image_size)[0].labels
        given = read_labels(noise_file, true, parts.num_classes)
        rest, _ = hold_out(Split(given, given), validation_size, split_seed)
        labels = _keep(rest, train_size, split_seed).labels
    else:
        labels = corrupt_labels(
            parts.train.labels, parts.num_classes, noise_rate, noise_mode, noise_seed
        )
    return parts._replace(train=parts.train._replace(labels=labels))


@functools.lru_cache(maxsize=2)
def _parts(source: tuple, validation_size: int, split_seed: int, train_size: int) -> Dataset:
    """A data set with its true labels; runs that share it hold the same arrays."""
    train, test, num_classes, skipped = _load_arrays(*source)
    rest, validation = hold_out(train, validation_size, split_seed)
    rest = _keep(rest, train_size, split_seed)
    _protect(rest, validation)
    return Dataset(source[0], rest, validation, test, num_classes, skipped)


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

    What was loaded stays in memory for the next call and can't be written to.

    Raises:
      UserError: If the name is unknown, or the data cannot be had or are unfit.
    """
    data_dir = os.path.expanduser(data_dir)
    with _ONE_AT_A_TIME:
        return _load_arrays(name, data_dir, _stamp(data_dir), image_size)[:3]


def _stamp(data_dir: str) -> Any:
    """Changes when a name stands for other data than before."""
    if os.path.isfile(data_dir):
        status = os.stat(data_dir)
        return status.st_mtime_ns, status.st_size
    return os.environ.get("TFDS_DATA_DIR")


@functools.lru_cache(maxsize=4)
def _load_arrays(
    name: str, data_dir: str, stamp: Any, image_size: int
) -> tuple[Split, Split, int, tuple]:
    """What `load_arrays` returns, and the files that were left out."""
    del stamp
    if image_size and (name != IMAGENET or data_dir.endswith(".npz")):
        raise UserError(
            f"config.image_size is {image_size} but the images of {data_dir or name} have one size; "
            "use 0."
        )
    if data_dir.endswith(".npz"):
        source, arrays = data_dir, _read_npz(data_dir)
    elif name == "digits":
        source, arrays = name, _digits()
    elif name in TFDS_NAMES:
        source, arrays = name, _read_tfds(name, data_dir)
    elif name == "tiny_imagenet":
        from experiments import folders  # imports Pillow

        source, arrays = data_dir, folders.read(data_dir)
    elif name == IMAGENET:
        source, arrays = data_dir or name, _find_imagenet(data_dir, image_size)
    else:
        raise UserError(
            f"config.dataset is {name!r} but the data sets are {', '.join(NAMES)}; choose one of "
            "them, or set config.data_dir to an .npz file."
        )
    train, test, num_classes = _checked(arrays, source)
    _protect(train, test)
    return train, test, num_classes, tuple(map(tuple, arrays.get("skipped", np.empty(0)).tolist()))


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
    _check_noise(rate, mode, NOISE_MODES)
    bits = random_bits(seed, NOISE_STREAM)
    chosen = permutation(bits, len(labels))[: round(rate * len(labels))]
    draws = bits.random_raw(len(chosen))
    if mode == "uniform_any":
        redrawn = draws % num_classes
    elif num_classes > 1:
        redrawn = (labels[chosen].astype(np.uint64) + 1 + draws % (num_classes - 1)) % num_classes
    elif len(chosen):
        raise UserError(
            "config.label_noise.mode is 'uniform_wrong' but there is 1 class, so that no label is "
            "wrong; set config.label_noise.rate to 0."
        )
    else:
        redrawn = draws
    noisy = labels.copy()
    noisy[chosen] = redrawn
    return noisy


def read_labels(path: str, clean: np.ndarray, num_classes: int) -> np.ndarray:
    """Human labels of a whole training set, such as CIFAR-10N's (Wei et al. 2022).

    Args:
      path: `FILE.npy` with integers [N] in the canonical order (see `load_arrays`), or
        `FILE.npz:KEY` with one such array of several; where that file has `clean_label`, it must
        be equal to `clean`.
      clean: The labels of the training set, [N].
      num_classes: K.

    Returns:
      The labels, int32 [N] in [0, K).

    Raises:
      UserError: If they can't be read or are not labels of this training set.
    """
    labels, published = _read_label_file(path)
    setting = f"config.label_noise.file is {path!r}"
    if labels.dtype.kind not in "iu" or labels.shape != clean.shape:
        raise UserError(
            f"{setting} and holds {labels.dtype} {list(labels.shape)} but the training set has "
            f"{len(clean)} labels; give one integer for each, in the order of the original files."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= num_classes:
        raise UserError(
            f"{setting} and holds labels {low} to {high} but the training set has classes 0 to "
            f"{num_classes - 1}; give the file that belongs to it."
        )
    if published is not None and not np.array_equal(published, clean):
        raise UserError(
            f"{setting} but its clean_label differs from the labels of the training set; give the "
            "file that belongs to it, in the order of the original files."
        )
    return labels.astype(np.int32)


def _read_label_file(path: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels of a file, and its `clean_label` if it has that."""
    setting = f"config.label_noise.file is {path!r}"
    file, dot, key = path.partition(".npz")
    file, key = os.path.expanduser(file + dot), key.removeprefix(":")
    if not dot and not file.endswith(".npy"):
        raise UserError(
            f"{setting} but only FILE.npy and FILE.npz:KEY are read; convert a FILE.pt by `python -c "
            "\"import numpy, torch; numpy.savez('FILE.npz', **torch.load('FILE.pt', "
            'weights_only=False))"` and name FILE.npz:worse_label.'
        )
    if not os.path.isfile(file):
        raise UserError(f"{setting} but there is no such file; give FILE.npy or FILE.npz:KEY.")
    try:
        with open(file, "rb") as stream:
            content = np.load(stream)
            if not dot:
                return np.asarray(content), None
            found = list(content)
            arrays = {name: content[name] for name in (key, "clean_label") if name in found}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{setting} but that can't be read as plain arrays; write it anew with numpy.save or "
            "numpy.savez."
        ) from error
    if key not in arrays:
        raise UserError(
            f"{setting} but the file has the keys {', '.join(found)}; choose one: FILE.npz:KEY."
        )
    return arrays[key], arrays.get("clean_label")


def _check_noise_options(rate: float, mode: str, file: str) -> None:
    _check_noise(rate, mode, (*NOISE_MODES, FILE_MODE))
    if mode == FILE_MODE and rate:
        raise UserError(
            f"config.label_noise.rate is {rate} but config.label_noise.mode is 'file', which takes "
            "the labels as they are; set config.label_noise.rate to 0."
        )
    if (mode == FILE_MODE) != bool(file):
        raise UserError(
            f"config.label_noise.mode is {mode!r} but config.label_noise.file is {file!r}; use the "
            "mode 'file' with a file, and another one without."
        )


def _check_noise(rate: float, mode: str, modes: tuple[str, ...]) -> None:
    if not 0 <= rate < 1:
        raise UserError(f"config.label_noise.rate is {rate}; choose at least 0 and less than 1.")
    if mode not in modes:
        raise UserError(f"config.label_noise.mode is {mode!r}; choose one of {', '.join(modes)}.")


def random_bits(seed: int, stream: int) -> np.random.Philox:
    """A generator whose `random_raw` is the same with every version of NumPy.

    Raises:
      UserError: If seed is negative.
    """
    if seed < 0:
        raise UserError(f"A seed of the data is {seed}; use 0 or more.")
    return np.random.Philox([seed, stream])


def permutation(bits: np.random.Philox, count: int) -> np.ndarray:
    """A uniform permutation of range(count): the order of `count` 64-bit draws."""
    return np.argsort(bits.random_raw(count), kind="stable")


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


def _read_tfds(name: str, data_dir: str) -> dict[str, np.ndarray]:
    prepare = import_prepare(name)
    prepare.prepare(name, data_dir)
    builder = prepare.stock_builder(name, data_dir)
    arrays = {"num_classes": np.asarray(builder.info.features["label"].num_classes)}
    for part in ("train", "test"):
        images, labels = read_part(builder, part)
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return arrays


def _find_imagenet(data_dir: str, image_size: int) -> dict[str, Any]:
    from experiments import pictures, records  # import Pillow

    if image_size < 8:
        raise UserError(f"config.image_size is {image_size}; use 224, 64 or another one from 8 on.")
    found = records.find(data_dir)
    return {
        "train_images": pictures.Pictures.of(found.train, image_size),
        "train_labels": found.train_labels,
        "test_images": pictures.Pictures.of(found.test, image_size),
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
    if name in TFDS_NAMES:
        builder = import_prepare(name).stock_builder(name, data_dir)
        return tuple(builder.info.features["label"].names)
    if name == "tiny_imagenet":
        from experiments import folders  # imports Pillow

        return folders.classes(data_dir)
    if name == IMAGENET:
        from experiments import records  # imports Pillow

        return records.class_names(data_dir)
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


def read_prepared(name: str, data_dir: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, H, W, C]` and labels `[N]` of a data set that TFDS has prepared before.

    Raises:
      UserError: it has not, or can't read it here.
    """
    if name in TFDS_NAMES:
        import_prepare(name).prepare(name, data_dir)
    builder = import_prepare(name).stock_builder(name, data_dir)
    if not builder.is_prepared():
        raise UserError(
            f'{name} is not prepared in {builder.data_dir_root}; run `python -c "import '
            f"tensorflow_datasets as t; t.builder('{name}', data_dir='{builder.data_dir_root}')"
            '.download_and_prepare()"`, which needs TensorFlow and a network.'
        )
    return read_part(builder, part)


def import_prepare(name: str) -> Any:
    """The module `experiments.prepare`, which needs TFDS; an accelerator machine may lack that.

    Raises:
      UserError: If it can't be imported, saying that `name` needs it.
    """
    try:
        from experiments import prepare
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name} is read with {error.name}, which is not installed; pip install "
            "'subspace_jax[experiments]', or give an .npz file."
        ) from error
    return prepare


def read_part(builder: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] and labels [N] of one split of a prepared TFDS builder.

    They are in the order of the number in their id (`b'train_00042'`), since TFDS stores them
    shuffled; without ids they are in the order in which they are stored.

    Raises:
      UserError: If the files need TensorFlow and it is not installed.
    """
    from tqdm import tqdm

    count, title = builder.info.splits[part].num_examples, f"decoding {builder.name} {part}"
    records = tqdm(
        _records(builder, part), desc=title, total=count, unit=" images", delay=1, leave=False
    )
    numbers, images, labels = [], [], []
    for record in records:
        numbers.append(int(record["id"].split(b"_")[-1]) if "id" in record else len(numbers))
        images.append(record["image"])
        labels.append(record["label"])
    order = np.argsort(numbers)
    return np.stack(images)[order], np.asarray(labels)[order]


def _records(builder: Any, part: str) -> Iterable[dict[str, Any]]:
    """The decoded records of one split of a prepared TFDS builder, in the order they are stored."""
    file_format = builder.info.file_format
    if file_format in file_format.with_random_access():
        return _in_batches(builder.as_data_source(split=part))
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{builder.data_dir} holds {file_format.value} files but TensorFlow, which reads them, is "
            "not installed; pip install tensorflow, or for cifar10 and cifar100 run `python -m "
            "experiments.prepare NAME --data_dir DIR` with another folder DIR and give that."
        )
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # else it would take the memory that JAX needs
    return builder.as_dataset(split=part).as_numpy_iterator()


def _in_batches(source: Any, size: int = 1024) -> Iterator[dict[str, Any]]:
    """The items of a random-access source, read `size` at a time: twice as fast as one by one."""
    for start in range(0, len(source), size):
        yield from source.__getitems__(range(start, min(start + size, len(source))))
