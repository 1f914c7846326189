"""Tiny-ImageNet as it is published, a folder of JPEG files, as NumPy arrays.

    train/<class>/images/*.JPEG      the training set
    val/images/*.JPEG                the test set: the labels of the published test split are secret
    val/val_annotations.txt          a file name and its class in the first two columns

Classes are the folders of `train` by name, so that a part of the data set with fewer classes can be
read too. The images are decoded once and kept in an .npz file, which is itself a data set that
`experiments.data.load_arrays` takes.

Training images that can't be decoded are left out, and counted and named. A test image that can't be
always stops: accuracies on test sets with holes can't be compared with others.
"""

import collections
import concurrent.futures
import functools
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from experiments.system import files
from experiments.system.errors import UserError

SIZE = 64  # pixels on a side
CACHE = "decoded.npz"
CACHE_VERSION = 2  # changes with what is decoded from the same files
ANNOTATIONS = "val/val_annotations.txt"
_CACHED = ("train_images", "train_labels", "test_images", "test_labels", "num_classes", "skipped")
CHUNK = 128  # images that a thread decodes at a time


class CorruptImage(UserError):
    """A file that can't be used; `reason` says why, without its name."""

    def __init__(self, path: Path, reason: str, fix: str):
        super().__init__(f"{path} {reason}; {fix}.")
        self.reason = reason


class Listing(NamedTuple):
    """Files relative to the data folder, by class then name; and their labels, int32 [N]."""

    paths: list[str]
    labels: np.ndarray


def classes(data_dir: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the classes (WordNet ids) in the order of their labels.

    Raises:
      UserError: `data_dir` does not have the layout of Tiny-ImageNet.
    """
    root = Path(data_dir).expanduser()
    for name in ("train", "val/images", ANNOTATIONS):
        if not (os.path.isfile if name == ANNOTATIONS else os.path.isdir)(root / name):
            raise UserError(
                f"config.data_dir is {str(data_dir)!r}, which has no {name}; set it to the unpacked "
                "Tiny-ImageNet, a folder with train and val (`curl -O http://cs231n.stanford.edu/"
                "tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip`)."
            )
    found = tuple(sorted(entry.name for entry in os.scandir(root / "train") if _is_class(entry)))
    if not found:
        raise UserError(f"{root / 'train'} has no folders; unpack Tiny-ImageNet anew.")
    return found


def read(data_dir: str | os.PathLike[str], cache_dir: str = "") -> dict[str, np.ndarray]:
    """The arrays of Tiny-ImageNet, from the cache if it fits the files.

    Training images are ordered by class, then file name; test images as in the annotations.
    Greyscale files become three equal channels.

    Args:
      data_dir: the unpacked data set.
      cache_dir: where the decoded images are kept; empty for `data_dir`. Reading also works
        where nothing can be written.

    Returns:
      `train_images` and `test_images`, uint8 `[N, 64, 64, 3]`; `train_labels` and `test_labels`,
      int32 `[N]`; `num_classes`; and `skipped`, the training files that were left out, each with the
      reason, strings `[K, 2]` (see `check_skipped`).

    Raises:
      UserError: the folder has another layout, a class has no images in one of the parts, or a
        test image can't be decoded.
    """
    root = Path(data_dir).expanduser()
    names = classes(data_dir)
    train, test = _training_files(root, names), _test_files(root, names)
    fingerprint = _fingerprint(root, train, test)
    cache = Path(cache_dir or root).expanduser() / CACHE
    arrays = _read_cache(cache, fingerprint)
    if arrays is None or _mended(root, arrays["skipped"]):
        test_images = decode(root, test.paths, "decoding val", SIZE)
        train_images, skipped = decode_intact(root, train.paths, "decoding train", SIZE)
        left_out = {file for file, _ in skipped}
        intact = [path not in left_out for path in train.paths]
        arrays = {
            "train_images": train_images,
            "train_labels": train.labels[intact],
            "test_images": test_images,
            "test_labels": test.labels,
            "num_classes": np.asarray(len(names)),
            "skipped": np.asarray(skipped, str).reshape(-1, 2),
        }
        _write_cache(cache, fingerprint, arrays)
    _check_classes(root, names, arrays)
    return arrays


def _mended(root: Path, skipped: np.ndarray) -> bool:
    """Whether a file that was left out can be decoded now, though its size is the same."""
    return any(_reason(root / file, SIZE) != reason for file, reason in skipped.tolist())


def _reason(path: Path, size: int) -> str:
    """Why an image can't be used; empty if it can."""
    try:
        _image(path, size)
    except CorruptImage as error:
        return error.reason
    return ""


def _check_classes(root: Path, names: tuple[str, ...], arrays: dict[str, np.ndarray]) -> None:
    counts = np.bincount(arrays["train_labels"], minlength=len(names))
    if not counts.all():
        folder = root / "train" / names[int(counts.argmin())] / "images"
        first = next(r for f, r in arrays["skipped"].tolist() if (root / f).parent == folder)
        raise UserError(
            f"No image of {folder} can be used (the first one {first}); unpack the data set anew."
        )


def check_skipped(data_dir: str, skipped: Sequence[tuple[str, str]], limit: int) -> None:
    """Names the training files that were left out on standard error, once; or refuses them.

    Args:
      data_dir: the unpacked data set.
      skipped: files and reasons.
      limit: how many there may be.

    Raises:
      UserError: there are more.
    """
    if limit < 0:
        raise UserError(f"config.max_corrupt is {limit}; use 0 or more.")
    if len(skipped) > limit:
        first = ", ".join(f"{file} {reason}" for file, reason in skipped[:3])
        raise UserError(
            f"{len(skipped)} training images of {data_dir} can't be used ({first}"
            f"{', ...' if len(skipped) > 3 else ''}) but config.max_corrupt is {limit}; unpack the data "
            f"set anew, or pass --config.max_corrupt={len(skipped)} to train without them."
        )
    _name(data_dir, tuple(skipped))


@functools.cache
def _name(data_dir: str, skipped: tuple[tuple[str, str], ...]) -> None:
    for file, reason in skipped:
        print(f"Left out: {data_dir}/{file} {reason}.", file=sys.stderr)
    if skipped:
        print(f"{len(skipped)} corrupt training images were left out.", file=sys.stderr)


def _is_class(entry: os.DirEntry) -> bool:
    return entry.is_dir() and not entry.name.startswith(".")


def is_image(name: str) -> bool:
    """Whether a file of this name is a picture of the published data sets."""
    return name.lower().endswith((".jpeg", ".jpg")) and not name.startswith(".")


def _training_files(root: Path, names: tuple[str, ...]) -> Listing:
    paths, labels = [], []
    for label, name in enumerate(names):
        folder = root / "train" / name / "images"
        found = sorted(filter(is_image, os.listdir(folder))) if folder.is_dir() else []
        if not found:
            raise UserError(f"{folder} has no JPEG files; unpack Tiny-ImageNet anew.")
        paths += [f"train/{name}/images/{file}" for file in found]
        labels += [label] * len(found)
    return Listing(paths, np.asarray(labels, np.int32))


def _test_files(root: Path, names: tuple[str, ...]) -> Listing:
    label_of = {name: label for label, name in enumerate(names)}
    lines = (root / ANNOTATIONS).read_text("utf-8", errors="replace").splitlines()
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        columns = line.split("\t")
        if len(columns) < 2:
            raise UserError(
                f"Line {number} of {root / ANNOTATIONS} is {line[:80]!r} but needs a file name and a "
                "class between tabs; unpack Tiny-ImageNet anew."
            )
        file, name = columns[:2]
        if name not in label_of:
            raise UserError(
                f"{root / ANNOTATIONS} names the class {name!r} for {file}, but train has no such "
                "folder; keep the same classes in both."
            )
        paths.append(f"val/images/{file}")
        labels.append(label_of[name])
    _check_test_files(root, names, paths, labels)
    return Listing(paths, np.asarray(labels, np.int32))


def _check_test_files(
    root: Path, names: tuple[str, ...], paths: list[str], labels: list[int]
) -> None:
    """Every class has images, and the files and their annotations are the same ones."""
    counts = collections.Counter(labels)
    for label, name in enumerate(names):
        if not counts[label]:
            raise UserError(
                f"{root / ANNOTATIONS} has no image of the class {name!r}, which train has; keep the "
                "same classes in both."
            )
    found = [f"val/images/{file}" for file in os.listdir(root / "val/images") if is_image(file)]
    surplus = collections.Counter(found)
    surplus.subtract(paths)
    odd = sorted(path for path, count in surplus.items() if count)
    if odd:
        raise UserError(
            f"{root / 'val/images'} has {len(found)} images but {ANNOTATIONS} has {len(paths)} lines "
            f"(see {odd[0]}); unpack Tiny-ImageNet anew."
        )


def _fingerprint(root: Path, *parts: Listing) -> str:
    """Changes with the files, their sizes and their labels."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {SIZE}\n".encode())
    for part in parts:
        for path, label in zip(part.paths, part.labels.tolist(), strict=True):
            digest.update(f"{path}\t{os.stat(root / path).st_size}\t{label}\n".encode())
    return digest.hexdigest()


def decode(root: Path, paths: list[str], title: str, size: int = 0) -> np.ndarray:
    """Square RGB images of one size, uint8 `[N, S, S, 3]`.

    Args:
      root: the folder of
      paths: the files.
      title: of the progress bar.
      size: `S`; 0 for that of the first image.

    Raises:
      UserError: a file can't be decoded or has another size.
    """
    images, failures = _decode(root, paths, title, size or len(_pixels(root / paths[0])), True)
    del failures
    return images


def decode_intact(
    root: Path, paths: list[str], title: str, size: int
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """The images of `decode` without those that it refuses, and these files with the reasons."""
    images, failures = _decode(root, paths, title, size, False)
    intact = np.setdiff1d(np.arange(len(paths)), list(failures))
    skipped = [(paths[i], failures[i]) for i in sorted(failures)]
    return images[intact] if failures else images, skipped


def _decode(root, paths, title, size, strict) -> tuple[np.ndarray, dict[int, str]]:
    """Images, black where one failed, and the reasons by index.

    JPEG decoding leaves Python's lock, so threads share the work.
    """
    images, failures = np.zeros((len(paths), size, size, 3), np.uint8), {}

    def decode_chunk(start):
        chunk = paths[start : start + CHUNK]
        for i, path in enumerate(chunk, start):
            try:
                images[i] = _image(root / path, size)
            except CorruptImage as error:
                if strict:
                    raise
                failures[i] = error.reason
        return len(chunk)

    threads = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    bar = tqdm(desc=title, total=len(paths), unit=" images", delay=1, leave=False)
    with threads, bar:
        for count in threads.map(decode_chunk, range(0, len(paths), CHUNK)):
            bar.update(count)
    return images, failures


def _pixels(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UnidentifiedImageError):  # whose own words hold the file's whole path
            why = "it is no image" if path.stat().st_size else "it is empty"
        else:
            why = getattr(error, "strerror", None) or error
        raise CorruptImage(path, f"can't be decoded ({why})", "unpack the data set anew") from error


def _image(path: Path, size: int) -> np.ndarray:
    pixels = _pixels(path)
    if pixels.shape != (size, size, 3):
        height, width, _ = pixels.shape
        what = f"has {height} x {width} pixels but the images of its set have {size} x {size}"
        raise CorruptImage(path, what, "resize it")
    return pixels


def _read_cache(path: Path, fingerprint: str) -> dict[str, np.ndarray] | None:
    """The arrays, or None if there are none, of other files, or damaged."""
    if not path.exists():
        return None
    try:
        with open(path, "rb") as stream, np.load(stream) as file:
            if str(file["fingerprint"]) != fingerprint:
                return None
            # Each is read whole, and with its last byte zip checks its CRC-32.
            return {key: file[key] for key in _CACHED}
    except Exception as error:  # whatever zip and NumPy raise on damaged files
        why = " ".join(str(error).split())[:200]
        print(f"{path} is damaged ({why}); the images are decoded anew.", file=sys.stderr)
        return None


def _write_cache(path: Path, fingerprint: str, arrays: dict[str, np.ndarray]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, fingerprint=np.asarray(fingerprint), **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomically(path, buffer.getbuffer())
    except OSError as error:
        print(
            f"{path} can't be written ({error.strerror}); the images are decoded anew next time.",
            file=sys.stderr,
        )
