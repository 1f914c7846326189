"""Corrupted test images: made here, or published ones that fit the model.

Published sets are read as they lie on disk after unpacking:

    NAME.npy and labels.npy             CIFAR-10-C and CIFAR-100-C
    [GROUP/]NAME/SEVERITY/CLASS/*.JPEG  Tiny-ImageNet-C and ImageNet-C; CLASS is a WordNet id
    cifar10_corrupted/NAME_SEVERITY     CIFAR-10-C as TensorFlow Datasets lays it out
    FILE.npz                            NAME `[5, n, H, W, C]` and `labels` of the first n test images
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data import decode, prepared
from experiments.data.decode import Mapped, is_lazy
from experiments.data.jpegs import class_folders, list_images
from experiments.data.sets import Split
from experiments.system.errors import UserError
from experiments.system.files import open_npz

NAMES = tuple(ss.corruptions.CORRUPTIONS)
SEVERITIES = (1, 2, 3, 4, 5)
GENERATED, TFDS = "generated", "tfds"
# TFDS has names of its own for two of them.
_TFDS_NAMES = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}
_SIZES = (32, 64, 224)
_BATCH = 500


class Corrupted(NamedTuple):
    """Corrupted images with their labels.

    Attributes:
      split: images of the model's size; labels among `columns` if there are any.
      description: what they are and what was done to them, in words.
      columns: the model's classes that its logits are restricted to, integers `[K']`; None for all.
    """

    split: Split
    description: str
    columns: np.ndarray | None = None


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


def check_names(names: Sequence[str], severities: Sequence[int]) -> None:
    """Refuses corruptions and severities that do not exist.

    Raises:
      UserError: there is one.
    """
    for name in names:
        if name not in NAMES:
            raise UserError(
                f"config.evaluation.corruptions has {name!r}; choose among {', '.join(NAMES)}."
            )
    if names and not severities:
        raise UserError(
            f"config.evaluation.severities is empty but config.evaluation.corruptions has {names[0]!r}; "
            "use some of 1 to 5."
        )
    for severity in severities:
        if severity not in SEVERITIES:
            raise UserError(f"config.evaluation.severities has {severity}; use 1 to 5.")


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
    """The test images with one corruption.

    A published set belongs to the test split if it has its images, or its classes by name, and its
    size. The one exception is the article's: images of some of the model's classes by WordNet id, such
    as Tiny-ImageNet-C for a model of ImageNet. They are resized, and the logits restricted to them.

    Args:
      source: "generated" for `subspace_jax.corruptions`, which are not the official files; or what
        `read_published` takes.
      name, severity: which, of `NAMES` and 1 to 5.
      clean: the test split.
      num_classes: of the model.
      class_names: of the model, where they are known.
      data_dir: of "tfds".
      seed: of the generated ones, with the name and the severity.

    Raises:
      UserError: it does not exist, can't be read, or does not fit the test split or the model.
    """
    check_names([name], [severity])
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
    if found.classes:
        return _of_named_classes(found, what, clean, class_names)
    count = len(found.labels)
    if found.complete and count != len(clean.labels):
        raise UserError(
            f"{source} has {count} images of {name} at severity {severity} but the test split has "
            f"{len(clean.labels)}; give the set that belongs to it."
        )
    _check_shape(found, what, clean)
    known = clean.labels[:count]
    same = found.labels if found.in_order else np.sort(found.labels)
    if not np.array_equal(same, known if found.in_order else np.sort(known)):
        raise UserError(
            f"The labels of {source}, 0 to {found.labels.max()}, are not those of the {num_classes} "
            "classes of the test split in its order; give the set that belongs to it."
        )
    return Corrupted(Split(found.images, found.labels.astype(np.int32)), what)


def _check_shape(found: Published, what: str, clean: Split) -> None:
    theirs, ours = (
        f"{images.dtype} {list(images.shape[1:])}" for images in (found.images, clean.images)
    )
    if theirs != ours:
        raise UserError(
            f"{what} has images {theirs} but the test split has {ours}; give the set that belongs to it."
        )


def _of_named_classes(found, what: str, clean: Split, class_names: Sequence[str]) -> Corrupted:
    columns = columns_of(found.classes, class_names)
    if columns is None:
        strange = next(name for name in found.classes if name not in class_names)
        raise UserError(
            f"{what} has {len(found.classes)} classes, among them {strange!r}, which is none of the "
            f"{len(class_names)} classes that the model is known to have; give the set that belongs "
            "to it, or an .npz data set with class_names."
        )
    labels = found.labels.astype(np.int32)
    images, side = found.images, clean.images.shape[1:3]
    stored = found.stored or images.shape[1:3]
    sizes = " x ".join(map(str, stored)), " x ".join(map(str, side))
    resized = f"images resized from {sizes[0]} to {sizes[1]} pixels (bilinear)"
    if len(columns) == len(class_names):
        _check_shape(found, what, clean)
        what += f"; {resized}" if stored != side else ""
        return Corrupted(Split(images, columns[labels].astype(np.int32)), what)
    restricted = f"logits restricted to {len(columns)} of {len(class_names)} classes by WordNet id"
    if stored != side:
        restricted += f", {resized}"
    if images.shape[1:3] != side:
        images = _resized(images, side)
    _check_shape(found._replace(images=images), what, clean)
    return Corrupted(Split(images, labels), f"{what}; {restricted}", columns)


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
        function = functools.partial(_corrupt_each, name, severity, key)
        return Corrupted(Split(Mapped(clean.images, function), clean.labels), what)
    parts = []
    for start in range(0, len(clean.images), _BATCH):
        images = jnp.asarray(clean.images[start : start + _BATCH])
        parts.append(np.asarray(_corrupt(name, jax.random.fold_in(key, start), images, severity)))
    return Corrupted(Split(np.concatenate(parts), clean.labels), what)


def _fits(shape: Sequence[int]) -> bool:
    """Whether images `[B, H, W, C]` can be corrupted as they are."""
    return shape[1] == shape[2] and shape[2] in _SIZES and shape[3] == 3


def _corrupt(name: str, key: jax.Array, images: jax.Array, severity: int) -> jax.Array:
    """Images of other sizes or of one channel are enlarged to 32 x 32 RGB and shrunk again."""
    images, shape = images.astype(jnp.float32) / 255, images.shape
    if not _fits(shape):
        wide = jnp.broadcast_to(images, (*shape[:3], 3))
        images = jax.image.resize(wide, (len(images), 32, 32, 3), "bilinear")
    images = ss.corruptions.corrupt(name, key, images, severity)
    if not _fits(shape):
        images = jax.image.resize(images, (*shape[:3], 3), "linear", antialias=True)
        images = images if shape[3] == 3 else images.mean(3, keepdims=True)
    return jnp.round(255 * images.clip(0, 1)).astype(jnp.uint8)


def _corrupt_each(name: str, severity: int, key: jax.Array, numbers, images) -> np.ndarray:
    """Images `[B]` of these numbers, each with random numbers of its own."""
    return np.asarray(_mapped(key, numbers, images, name=name, severity=severity))


@functools.partial(jax.jit, static_argnames=("name", "severity"))
def _mapped(key, numbers, images, *, name, severity):
    def one(number_and_image):
        number, image = number_and_image
        return _corrupt(name, jax.random.fold_in(key, number), image[None], severity)[0]

    return jax.lax.map(one, (numbers, images))


def read_published(
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
    classes = class_folders(folder)
    records, labels = list_images(folder, classes, f"listing {name} {severity}")
    if image_size:
        images = decode.Pictures.of(records, image_size, margin=1.0)
        stored = images.dimensions(0)
        return Published(images, labels, classes, in_order=False, stored=stored)
    images = decode.read(records, f"decoding {name} {severity}")
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
