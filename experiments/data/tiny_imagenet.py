"""Tiny-ImageNet as it is published, a folder of JPEG files, as NumPy arrays.

    train/<class>/images/*.JPEG      the training set
    val/images/*.JPEG                the test set: the labels of the published test split are secret
    val/val_annotations.txt          a file name and its class in the first two columns

Classes are the folders of `train` by name, of which some may be left out. The images are decoded once
and kept in an .npz file, which is itself a data set.
"""

import collections
import functools
import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data import decode
from experiments.data.jpegs import (
    Files,
    check_same_classes,
    class_folders,
    is_image,
    keep,
    list_images,
)
from experiments.system.errors import UserError

SIZE = 64  # pixels on a side
CACHE = "decoded.npz"
CACHE_VERSION = 3  # changes with what is decoded from the same files
ANNOTATIONS = "val/val_annotations.txt"
_CACHED = ("train_images", "train_labels", "test_images", "test_labels", "num_classes")


def classes(data_dir: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the classes (WordNet ids) in the order of their labels."""
    root = Path(data_dir).expanduser()
    for name in ("train", "val/images", ANNOTATIONS):
        if not (root / name).exists():
            raise UserError(
                f"config.data_dir is {str(data_dir)!r}, which has no {name}; set it to the unpacked "
                "Tiny-ImageNet, a folder with train and val (`curl -O http://cs231n.stanford.edu/"
                "tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip`)."
            )
    return class_folders(root / "train")


def read(data_dir: str | os.PathLike[str]) -> dict[str, Any]:
    """The arrays of Tiny-ImageNet, by the names that an .npz data set has, from the cache if it fits.

    Training images are ordered by class, then file name; test images as in the annotations.
    """
    root = Path(data_dir).expanduser()
    names = classes(data_dir)
    folders = [f"train/{name}/images" for name in names]
    train, train_labels = list_images(root, folders, "listing train")
    test, test_labels = _test_files(root, names)
    fingerprint = _fingerprint((train, train_labels), (test, test_labels))
    arrays = _read_cache(root / CACHE, fingerprint)
    if arrays is not None:
        return arrays
    test_images = decode.read(test, "decoding val", SIZE)
    left_out: dict[int, str] = {}
    train_images = decode.read(train, "decoding train", SIZE, left_out)
    found = train_images, train_labels, test_images, test_labels, np.asarray(len(names))
    arrays = dict(zip(_CACHED, found, strict=True))
    if not left_out:  # else the next reading may find it mended
        keep(root / CACHE, fingerprint=np.asarray(fingerprint), **arrays)
        return arrays
    intact = np.setdiff1d(np.arange(len(train)), list(left_out))
    if len(empty := np.setdiff1d(train_labels, train_labels[intact])):
        first = left_out[int(np.flatnonzero(train_labels == empty[0])[0])]
        raise UserError(
            f"No image of {root / folders[empty[0]]} can be used (the first one {first}); unpack the "
            "data set anew."
        )
    return arrays | {
        "train_images": train_images[intact],
        "train_labels": train_labels[intact],
        "skipped": tuple((os.fsdecode(train.paths[i]), left_out[i]) for i in sorted(left_out)),
    }


@functools.cache  # so that each is named once
def check_skipped(data_dir: str, skipped: tuple[tuple[str, str], ...], limit: int) -> None:
    """Names the files that were left out on standard error; more than `limit` are refused."""
    images = [f"{data_dir}/{file} {reason}" for file, reason in skipped]
    decode.check_left_out(images, limit)
    for image in images:
        print(f"Left out: {image}.", file=sys.stderr)
    if images:
        print(f"{len(images)} corrupt training images were left out.", file=sys.stderr)


def _test_files(root: Path, names: tuple[str, ...]) -> tuple[Files, np.ndarray]:
    """The files that the annotations name, which are those in the folder, and their labels."""
    table = root / ANNOTATIONS
    rows = [line.split("\t") for line in table.read_text("utf-8", "replace").splitlines()]
    for number, row in enumerate(rows, start=1):
        if len(row) < 2:
            raise UserError(
                f"Line {number} of {table} is {row[0][:80]!r} but needs a file name and a class "
                "between tabs; unpack Tiny-ImageNet anew."
            )
    paths = [f"val/images/{file}" for file, *_ in rows]
    check_same_classes({root / "train": names, table: {name for _, name, *_ in rows}})
    label_of = {name: label for label, name in enumerate(names)}
    labels = np.asarray([label_of[name] for _, name, *_ in rows], np.int32)
    found = [f"val/images/{file}" for file in os.listdir(root / "val/images") if is_image(file)]
    surplus = collections.Counter(found)
    surplus.subtract(paths)
    odd = sorted(path for path, count in surplus.items() if count)
    if odd:
        raise UserError(
            f"{root / 'val/images'} has {len(found)} images but {ANNOTATIONS} has {len(paths)} lines "
            f"(see {odd[0]}); unpack Tiny-ImageNet anew."
        )
    encoded = np.asarray([os.fsencode(path) for path in paths])
    return Files(str(root), encoded), labels


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
