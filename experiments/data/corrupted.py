"""Corrupted test images: made here, or published ones that fit the model.

Published sets are read as they lie on disk after unpacking:

    NAME.npy and labels.npy             CIFAR-10-C and CIFAR-100-C
    [GROUP/]NAME/SEVERITY/CLASS/*.JPEG  Tiny-ImageNet-C and ImageNet-C; CLASS is a WordNet id
    cifar10_corrupted/NAME_SEVERITY     CIFAR-10-C as TensorFlow Datasets lays it out
    FILE.npz                            NAME `[5, n, H, W, C]` and `labels` of the first n test images
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data import prepared
from experiments.data.decode import Pictures, is_lazy, read
from experiments.data.jpegs import class_folders, list_images
from experiments.data.sets import Split
from experiments.system.errors import UserError
from experiments.system.files import open_npy, open_npz

NAMES = tuple(ss.corruptions.CORRUPTIONS)
SEVERITIES = (1, 2, 3, 4, 5)
GENERATED, TFDS = "generated", "tfds"
# TFDS has names of its own for two of them.
_TFDS_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
_SIZES = (32, 64, 224)
_BATCH = 500


class Corrupted(NamedTuple):
    """Corrupted images of the model's size with their labels, and in words what was done to them."""

    split: Split
    description: str
    columns: np.ndarray | None = None  # integers [K'], the classes that logits are restricted to


class Published(NamedTuple):
    """One corruption at one severity: images uint8 `[N, H, W, C]` and integers `[N]`."""

    images: Any
    labels: np.ndarray
    classes: tuple[str, ...] = ()  # names of the labels, where the files have any
    in_order: bool = True  # whether the images are those of the test split in its order
    complete: bool = True  # whether they are all of them


def check_names(names: Sequence[str]) -> None:
    """Refuses corruptions that do not exist."""
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"config.evaluation.corruptions has {name!r}; choose among {', '.join(NAMES)}."
            )


def load_corrupted(
    source: str,
    name: str,
    severity: int,
    clean: Split,
    num_classes: int,
    *,
    class_names: Sequence[str] = (),
    data_dir: str = "",
    seed: int = 0,
) -> Corrupted:
    """The test images `clean` with one corruption, of a source as for `read_published` or "generated".

    A published set must have the images of the test split, or its classes by name. Of some of the
    classes, as in Tiny-ImageNet-C for ImageNet, images are resized, and the logits restricted to them.
    """
    if source == GENERATED:
        return _generated(name, severity, clean, seed)
    image_size = clean.images.shape[1] if is_lazy(clean.images) else 0
    found = read_published(source, name, severity, data_dir, image_size)
    what = f"{name} {severity} of {source}"
    if found.images.ndim != 4 or not 0 < len(found.images) == len(found.labels):
        raise UserError(
            f"{what} has images {list(found.images.shape)} and {len(found.labels)} labels; give images "
            "[N, H, W, C] and a label for each."
        )
    found = found._replace(labels=found.labels.astype(np.int32))
    if found.classes:
        return _of_named_classes(found, what, clean, class_names)
    count = len(found.labels)
    if found.complete and count != len(clean.labels):
        raise UserError(
            f"{source} has {count} images of {name} at severity {severity} but the test split has "
            f"{len(clean.labels)}; give the set that belongs to it."
        )
    _check_shape(found.images, what, clean)
    both = found.labels, clean.labels[:count]
    if not np.array_equal(*(both if found.in_order else map(np.sort, both))):
        raise UserError(
            f"The labels of {source}, 0 to {found.labels.max()}, are not those of the {num_classes} "
            "classes of the test split in its order; give the set that belongs to it."
        )
    return Corrupted(Split(found.images, found.labels), what)


def _check_shape(found: Any, what: str, clean: Split) -> None:
    theirs, ours = (f"{images.dtype} {list(images.shape[1:])}" for images in (found, clean.images))
    if theirs != ours:
        raise UserError(
            f"{what} has images {theirs} but the test split has {ours}; give the set that belongs to it."
        )


def _of_named_classes(
    found: Published, what: str, clean: Split, class_names: Sequence[str]
) -> Corrupted:
    if strange := [name for name in found.classes if name not in class_names]:
        raise UserError(
            f"{what} has {len(found.classes)} classes, among them {strange[0]!r}, which is none of the "
            f"{len(class_names)} classes that the model is known to have; give the set that belongs "
            "to it, or an .npz data set with class_names."
        )
    columns = np.asarray([class_names.index(name) for name in found.classes])
    images, side = found.images, clean.images.shape[1:3]
    stored, notes = images.dimensions(0) if is_lazy(images) else images.shape[1:3], []
    restricted = len(columns) < len(class_names)
    if restricted:
        images = images if images.shape[1:3] == side else _resized(images, side)
        notes += [
            f"logits restricted to {len(columns)} of {len(class_names)} classes by WordNet id"
        ]
    if stored != side:
        sizes = [" x ".join(map(str, size)) for size in (stored, side)]
        notes += [f"images resized from {sizes[0]} to {sizes[1]} pixels (bilinear)"]
    _check_shape(images, what, clean)
    description = f"{what}; {', '.join(notes)}" if notes else what
    if restricted:
        return Corrupted(Split(images, found.labels), description, columns)
    return Corrupted(Split(images, columns[found.labels].astype(np.int32)), description)


def _resized(images: np.ndarray, side: tuple[int, int]) -> np.ndarray:
    parts = []
    for start in range(0, len(images), _BATCH):
        batch = jnp.asarray(images[start : start + _BATCH], jnp.float32)
        shape = (len(batch), *side, images.shape[-1])
        batch = jax.image.resize(batch, shape, "bilinear", antialias=True)
        parts.append(np.asarray(jnp.round(batch).clip(0, 255)).astype(np.uint8))
    return np.concatenate(parts)


def _generated(name: str, severity: int, clean: Split, seed: int) -> Corrupted:
    """In batches with random numbers of their own; those decoded when indexed, one by one."""
    key = jax.random.fold_in(jax.random.key(seed), 10 * NAMES.index(name) + severity)
    how = "" if _fits(clean.images.shape) else ", made at 32 x 32 pixels and shrunk"
    what = f"{name} {severity}, generated{how}; not the official files"
    if is_lazy(clean.images):
        function = functools.partial(_corrupt_each, key, name=name, severity=severity)
        images = dataclasses.replace(clean.images, function=function)
        return Corrupted(Split(images, clean.labels), what)
    parts = []
    for start in range(0, len(clean.images), _BATCH):
        images = jnp.asarray(clean.images[start : start + _BATCH])
        parts.append(np.asarray(_corrupt(name, jax.random.fold_in(key, start), images, severity)))
    return Corrupted(Split(np.concatenate(parts), clean.labels), what)


def _fits(shape: Sequence[int]) -> bool:
    """Whether images `[B, H, W, C]` can be corrupted as they are."""
    return shape[1] == shape[2] and shape[2] in _SIZES and shape[3] == 3


def _corrupt(name: str, key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Corrupts uint8 images, and truncates them to 8 bits as the published files are."""
    images, shape = images.astype(jnp.float32) / 255, images.shape
    if _fits(shape):
        corrupted = ss.corruptions.corrupt(name, key, images, severity)
        # What is whole in float64 lies at most this far below it in float32.
        return jnp.floor(255 * corrupted + 2e-5).astype(jnp.uint8)
    # No published set has others: they are enlarged to 32 x 32 RGB, shrunk again, and rounded.
    wide = jnp.broadcast_to(images, (*shape[:3], 3))
    images = jax.image.resize(wide, (len(images), 32, 32, 3), "bilinear")
    images = ss.corruptions.corrupt(name, key, images, severity)
    images = jax.image.resize(images, (*shape[:3], 3), "linear", antialias=True)
    images = images if shape[3] == 3 else images.mean(3, keepdims=True)
    return jnp.round(255 * images.clip(0, 1)).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnames=("name", "severity"))
def _corrupt_each(key, numbers, images, *, name, severity):
    """Images `[B]` of these numbers, each with random numbers of its own."""

    def one(number_and_image):
        number, image = number_and_image
        return _corrupt(name, jax.random.fold_in(key, number), image[None], severity)[0]

    return jax.lax.map(one, (numbers, images))


def read_published(
    source: str, name: str, severity: int, data_dir: str = "", image_size: int = 0
) -> Published:
    """One corruption at one severity of a published set: a folder or an .npz file, or "tfds".

    Images in folders are resized to `image_size` where they are indexed; for 0 all are decoded now.
    """
    if source == TFDS:
        # TFDS shuffles the images and gives them no numbers, so that their order is lost.
        full = f"cifar10_corrupted/{_TFDS_NAMES.get(name, name)}_{severity}"
        return Published(*prepared.read_prepared(full, data_dir, "test"), in_order=False)
    path = Path(source).expanduser()
    if path.suffix == ".npz":
        return _read_npz(path, name, severity)
    if (path / "labels.npy").exists() or (path / f"{name}.npy").exists():
        return _read_npy(path, name, severity)
    return _read_folders(path, name, severity, image_size)


def _read_npz(path: Path, name: str, severity: int) -> Published:
    with open_npz(path, "an .npz file of corrupted images") as file:
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
    images, labels = (open_npy(path / f"{each}.npy") for each in (name, "labels"))
    if len(images) != len(labels) or len(images) % 5:
        raise UserError(
            f"{path / name}.npy has {len(images)} images and labels.npy {len(labels)}; both have five "
            "severities of one test split."
        )
    size = len(images) // 5
    part = slice((severity - 1) * size, severity * size)
    return Published(np.array(images[part]), np.array(labels[part]))


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
    classes = class_folders(folder)
    records, labels = list_images(folder, classes, f"listing {name} {severity}")
    if image_size:
        return Published(Pictures.of(records, image_size, margin=1.0), labels, classes)
    return Published(read(records, f"decoding {name} {severity}"), labels, classes)
