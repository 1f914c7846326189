"""Encoded images by number, their labels, the names of the classes; and ImageNet as it lies on disk.

    train/<class>/*.JPEG, val/<class>/*.JPEG   folders, `<class>` being a WordNet id
    imagenet2012/5.1.0/*.array_record-*        as TensorFlow Datasets prepares it

Nothing is decoded here. Classes are ordered by name, images by class and file name or as stored.
"""

import dataclasses
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tqdm

from experiments.data import prepared
from experiments.system import files
from experiments.system.errors import UserError

TFDS_NAME = "imagenet2012"
LABELS = "labels.npz"  # of both parts, beside the records of TFDS
_PARTS = ("train", "val")
_TFDS_PARTS = ("train", "validation")
_LAYOUT = "folders of classes, train/<class>/*.JPEG and val/<class>/*.JPEG"


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Files below a folder, by their paths in UTF-8, `[N]`."""

    root: str
    paths: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> bytes:
        with open(self.name(i), "rb") as stream:
            return stream.read()

    def name(self, i: int) -> str:
        return os.path.join(self.root, os.fsdecode(self.paths[i]))


@dataclasses.dataclass(frozen=True, eq=False)
class TfdsRecords:
    """A split of a TFDS builder, its images not decoded."""

    source: Any
    split: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, i: int) -> bytes:
        return self.source[int(i)]["image"]

    def name(self, i: int) -> str:
        try:
            file = self.source[int(i)].get("file_name", b"").decode()
        except RuntimeError:  # the record is damaged
            file = ""
        return f"{self.split} record {i}" + (f" ({file})" if file else "")


# Encoded images by number, and names that a person finds them by; processes share them by pickling.
Records = Files | TfdsRecords


def is_image(name: str) -> bool:
    """Whether a file of this name is a picture of the published data sets."""
    return name.lower().endswith((".jpeg", ".jpg")) and not name.startswith(".")


def class_folders(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The folders of classes in it, by name."""
    entries = os.scandir(folder)
    found = tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))
    if not found:
        raise UserError(f"{folder} has no folders of classes; unpack the data set anew.")
    return found


def list_images(root: Path, folders: Sequence[str], title: str) -> tuple[Files, np.ndarray]:
    """The images of each folder by name, and the folder's number as their label, int32 `[N]`."""
    paths, labels = [], []
    bar = tqdm.tqdm(folders, desc=title, unit=" classes", delay=1, leave=False)
    for label, name in enumerate(bar):
        folder = root / name
        found = sorted(filter(is_image, os.listdir(folder))) if folder.is_dir() else []
        if not found:
            raise UserError(
                f"{folder} has no JPEG files; unpack that class anew, or leave it out everywhere."
            )
        paths += [os.fsencode(os.path.join(name, file)) for file in found]
        labels += [label] * len(found)
    return Files(str(root), np.asarray(paths)), np.asarray(labels, np.int32)


def check_same_classes(parts: Mapping[Path, Collection[str]]) -> None:
    """Refuses two parts of a data set whose classes differ."""
    (one, ours), (other, theirs) = parts.items()
    if odd := sorted(set(ours) ^ set(theirs)):
        raise UserError(
            f"{one} has {len(ours)} classes but {other} has {len(theirs)} (only one has {odd[0]!r}); "
            "give both the same classes."
        )


class Found(NamedTuple):
    """A data set on disk: labels are int32 `[N]`, and `classes` their names."""

    train: Records
    train_labels: np.ndarray
    test: Records
    test_labels: np.ndarray
    classes: tuple[str, ...]


def find(data_dir: str) -> Found:
    """The records of ImageNet, or of a data set of the same layout; the test set is its `val`.

    Without folders `train` and `val` in it, `data_dir` is a data folder of TFDS; "" is the usual one.
    """
    if _has_folders(data_dir):
        return _find_folders(Path(data_dir).expanduser())
    return _find_tfds(data_dir)


def class_names(data_dir: str) -> tuple[str, ...]:
    """The WordNet ids of the classes, in the order of their labels."""
    if _has_folders(data_dir):
        return class_folders(Path(data_dir).expanduser() / "train")
    return tuple(_builder(data_dir, ()).info.features["label"].names)


def _has_folders(data_dir: str) -> bool:
    root = Path(data_dir).expanduser()
    return bool(data_dir) and any((root / part).is_dir() for part in _PARTS)


def _find_folders(root: Path) -> Found:
    for part in _PARTS:
        if not (root / part).is_dir():
            raise UserError(
                f"config.data_dir is {str(root)!r}, which has no {part}; ImageNet is {_LAYOUT}."
            )
    train, val = (class_folders(root / part) for part in _PARTS)
    check_same_classes({root / "train": train, root / "val": val})
    parts = [
        list_images(root, [f"{part}/{name}" for name in train], f"listing {part}")
        for part in _PARTS
    ]
    return Found(*parts[0], *parts[1], train)


def _builder(data_dir: str, parts: Sequence[str]) -> Any:
    archives = "ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar"
    before = f"give {_LAYOUT}, or put {archives} into downloads/manual of it and "
    return prepared.prepared_builder(TFDS_NAME, data_dir, parts, before)


def _find_tfds(data_dir: str) -> Found:
    import tensorflow_datasets as tfds

    builder = _builder(data_dir, _TFDS_PARTS)
    classes = tuple(builder.info.features["label"].names)
    raw = {"image": tfds.decode.SkipDecoding()}
    parts = [
        TfdsRecords(builder.as_data_source(split=split, decoders=raw), split)
        for split in _TFDS_PARTS
    ]
    labels = _tfds_labels(Path(builder.data_dir), parts)
    return Found(parts[0], labels[0], parts[1], labels[1], classes)


def _tfds_labels(folder: Path, parts: Sequence[TfdsRecords]) -> list[np.ndarray]:
    """The labels of both parts, which lie among the images: read once, then kept."""
    cache = folder / LABELS
    if cache.exists():
        with files.open_npz(cache, "the labels of the records beside it") as file:
            found = [file[part.split] for part in parts]
        if list(map(len, found)) == list(map(len, parts)):
            return found
    found = [_read_labels(part) for part in parts]
    keep(cache, **dict(zip(_TFDS_PARTS, found, strict=True)))
    return found


def keep(path: Path, **arrays: np.ndarray) -> None:
    """Writes an .npz file of what need not be made again; where that can't be, says so and goes on."""
    try:
        files.write_npz(path, arrays)
    except OSError as error:
        print(f"{path} can't be written ({error.strerror}); it is made anew.", file=sys.stderr)


def _read_labels(part: TfdsRecords) -> np.ndarray:
    title = f"reading labels of {part.split}"
    records = prepared.in_batches(part.source, 256)
    bar = tqdm.tqdm(records, title, len(part), unit=" images", delay=1, leave=False)
    return np.fromiter((record["label"] for record in bar), np.int32, len(part))
