"""Readers of the published corrupted test sets, as they lie on disk after unpacking.

NAME.npy and labels.npy             CIFAR-10-C and CIFAR-100-C
[GROUP/]NAME/SEVERITY/CLASS/*.JPEG  Tiny-ImageNet-C and ImageNet-C; CLASS is a WordNet id
cifar10_corrupted/NAME_SEVERITY     CIFAR-10-C as TensorFlow Datasets lays it out
FILE.npz                            NAME `[5, n, H, W, C]` and `labels` of the first n test images
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.data import prepared
from experiments.system.errors import UserError
from experiments.system.files import open_npz

TFDS = "tfds"
# TFDS has names of its own for two of them.
_TFDS_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}


class Published(NamedTuple):
    """One corruption at one severity.

    Attributes:
      images: uint8 `[N, H, W, C]`.
      labels: integers `[N]`.
      classes: names of the labels, where the files have any; else empty.
      in_order: whether the images are those of the test split in its order.
      complete: whether they are all of them.
      stored: height and width in the files, where they are resized as they are decoded.
    """

    images: Any
    labels: np.ndarray
    classes: tuple[str, ...] = ()
    in_order: bool = True
    complete: bool = True
    stored: tuple[int, int] | None = None


def read(
    source: str, name: str, severity: int, data_dir: str = "", image_size: int = 0
) -> Published:
    """One corruption at one severity of a published set.

    Args:
      source: a folder or an .npz file, see the module; or "tfds".
      name, severity: which.
      data_dir: of "tfds", its data folder.
      image_size: pixels on a side to which images in folders of classes are resized where they are
        indexed; 0 to decode them all now, as they are.

    Raises:
      UserError: there is none, or it can't be read.
    """
    if source == TFDS:
        return _read_tfds(name, severity, data_dir)
    path = Path(source).expanduser()
    if path.suffix == ".npz":
        return _read_npz(path, name, severity)
    if (path / "labels.npy").exists() or (path / f"{name}.npy").exists():
        return _read_npy(path, name, severity)
    return _read_folders(path, name, severity, image_size)


def _read_npz(path: Path, name: str, severity: int) -> Published:
    with open_npz(_existing(path), "an .npz file of corrupted images") as file:
        if name not in file.files or "labels" not in file.files:
            raise UserError(
                f"{path} has {', '.join(file.files)} but not {name} and labels; give another source."
            )
        images, labels = file[name], file["labels"]
    if len(images) < severity:
        raise UserError(
            f"{path} has {len(images)} severities of {name} but config.evaluation.severities has "
            f"{severity}; leave it out."
        )
    return Published(images[severity - 1], labels, complete=False)


def _read_npy(path: Path, name: str, severity: int) -> Published:
    images = _load_npy(path / f"{name}.npy", mmap_mode="r")
    labels = _load_npy(path / "labels.npy")
    if len(images) != len(labels) or len(images) % 5:
        raise UserError(
            f"{path / name}.npy has {len(images)} images and labels.npy {len(labels)}; both have five "
            "severities of one test split."
        )
    size = len(images) // 5
    part = slice((severity - 1) * size, severity * size)
    return Published(np.array(images[part]), labels[part])


def _load_npy(path: Path, **options) -> np.ndarray:
    _existing(path)
    try:
        return np.load(path, **options)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path} can't be read as an .npy file; unpack it anew.") from error


def _read_tfds(name: str, severity: int, data_dir: str) -> Published:
    """TFDS shuffles the images and gives them no numbers, so that their order is lost."""
    full = f"cifar10_corrupted/{_TFDS_NAMES.get(name, name)}_{severity}"
    images, labels = prepared.read_prepared(full, data_dir, "test")
    return Published(images, labels, in_order=False)


def _read_folders(path: Path, name: str, severity: int, image_size: int) -> Published:
    candidates = [path, *sorted(filter(Path.is_dir, path.glob("*")))] if path.is_dir() else []
    found = [root / name / str(severity) for root in candidates]
    folder = next(filter(Path.is_dir, found), None)
    if folder is None:
        raise UserError(
            f"{path} has neither {name}.npy nor a folder {name}/{severity}; set "
            "config.evaluation.corruption_source to an unpacked CIFAR-10-C, CIFAR-100-C, "
            "Tiny-ImageNet-C or ImageNet-C, to an .npz file, to 'tfds' or to 'generated'."
        )
    from experiments.data import tiny_imagenet  # imports Pillow

    classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
    paths, labels = [], []
    for label, wordnet_id in enumerate(classes):
        names = sorted(
            file for file in os.listdir(folder / wordnet_id) if tiny_imagenet.is_image(file)
        )
        paths += [f"{wordnet_id}/{file}" for file in names]
        labels += [label] * len(names)
    if not paths:
        raise UserError(f"{folder} has no JPEG files in folders of classes; unpack it anew.")
    labels = np.asarray(labels, np.int32)
    if image_size:
        from experiments.data import decode, jpegs

        files = jpegs.Files(str(folder), np.asarray([os.fsencode(path) for path in paths]))
        images = decode.Pictures.of(files, image_size, margin=1.0)
        stored = images.dimensions(0)
        return Published(images, labels, classes, in_order=False, stored=stored)
    images = tiny_imagenet.decode(folder, paths, f"decoding {name} {severity}")
    return Published(images, labels, classes, in_order=False)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"There is no file {path}; set config.evaluation.corruption_source to a folder of "
            "CIFAR-10-C, an .npz file, 'tfds' or 'generated'."
        )
    return path


def columns_of(classes: Sequence[str], model_classes: Sequence[str]) -> np.ndarray | None:
    """Where the classes of a set are among those of a model, or None if some are missing.

    Example:
      >>> columns_of(["n2", "n7"], ["n1", "n2", "n5", "n7"])
      array([1, 3])
    """
    index = {name: i for i, name in enumerate(model_classes)}
    if not set(classes) <= set(index):
        return None
    return np.asarray([index[name] for name in classes])
