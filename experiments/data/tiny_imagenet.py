"""Tiny-ImageNet as it is published, a folder of JPEG files, as NumPy arrays.

    train/<class>/images/*.JPEG      the training set
    val/images/*.JPEG                the test set: the labels of the published test split are secret
    val/val_annotations.txt          a file name and its class in the first two columns

Classes are the folders of `train` by name, so that a part of the data set with fewer classes can be
read too. The images are decoded once and kept in an .npz file, which is itself a data set that
`experiments.data.load_arrays` takes.
"""

import collections
import functools
import hashlib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.data import decode
from experiments.data.jpegs import Files, class_folders, is_image, list_images
from experiments.system import files
from experiments.system.errors import UserError

SIZE = 64  # pixels on a side
CACHE = "decoded.npz"
CACHE_VERSION = 2  # changes with what is decoded from the same files
ANNOTATIONS = "val/val_annotations.txt"
_CACHED = ("train_images", "train_labels", "test_images", "test_labels", "num_classes", "skipped")


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
    return class_folders(root / "train")


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
    folders = [f"train/{name}/images" for name in names]
    train, train_labels = list_images(root, folders, "listing train")
    test, test_labels = _test_files(root, names)
    fingerprint = _fingerprint((train, train_labels), (test, test_labels))
    cache = Path(cache_dir or root).expanduser() / CACHE
    arrays = _read_cache(cache, fingerprint)
    if arrays is None or _mended(root, arrays["skipped"]):
        test_images = decode.read(test, "decoding val", SIZE)
        left_out: dict[int, str] = {}
        train_images = decode.read(train, "decoding train", SIZE, left_out)
        intact = np.setdiff1d(np.arange(len(train)), list(left_out))
        skipped = [(os.fsdecode(train.paths[i]), left_out[i]) for i in sorted(left_out)]
        arrays = {
            "train_images": train_images[intact] if left_out else train_images,
            "train_labels": train_labels[intact],
            "test_images": test_images,
            "test_labels": test_labels,
            "num_classes": np.asarray(len(names)),
            "skipped": np.asarray(skipped, str).reshape(-1, 2),
        }
        _write_cache(cache, fingerprint, arrays)
    _check_classes(root, names, arrays)
    return arrays


def _mended(root: Path, skipped: np.ndarray) -> bool:
    """Whether a file that was left out can be decoded now, though its size is the same."""
    left_out = Files(str(root), np.asarray([os.fsencode(file) for file, _ in skipped]))
    reasons: dict[int, str] = {}
    for i in range(len(left_out)):
        try:
            decode.of_size(left_out, i, SIZE)
        except decode.Unreadable as error:
            reasons[i] = error.reason
    return [reasons.get(i) for i in range(len(left_out))] != [reason for _, reason in skipped]


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
    images = tuple(f"{data_dir}/{file} {reason}" for file, reason in skipped)
    decode.check_left_out(images, limit)
    _name(images)


@functools.cache
def _name(images: tuple[str, ...]) -> None:
    for image in images:
        print(f"Left out: {image}.", file=sys.stderr)
    if images:
        print(f"{len(images)} corrupt training images were left out.", file=sys.stderr)


def _test_files(root: Path, names: tuple[str, ...]) -> tuple[Files, np.ndarray]:
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
    encoded = np.asarray([os.fsencode(path) for path in paths])
    return Files(str(root), encoded), np.asarray(labels, np.int32)


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


def _fingerprint(*parts: tuple[Files, np.ndarray]) -> str:
    """Changes with the files, their sizes and their labels."""
    digest = hashlib.sha256(f"{CACHE_VERSION} {SIZE}\n".encode())
    for found, labels in parts:
        for i, label in enumerate(labels.tolist()):
            size = os.stat(found.name(i)).st_size
            digest.update(found.paths[i] + f"\t{size}\t{label}\n".encode())
    return digest.hexdigest()


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
