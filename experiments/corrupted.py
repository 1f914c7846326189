"""Corrupted test images: made here, or published ones that fit the model."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments import published
from experiments.data import Split
from experiments.errors import UserError

NAMES = tuple(ss.corruptions.CORRUPTIONS)
SEVERITIES = (1, 2, 3, 4, 5)
GENERATED = "generated"
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
        `published.read` takes.
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
    found = published.read(source, name, severity, data_dir)
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


def _check_shape(found: published.Published, what: str, clean: Split) -> None:
    theirs, ours = (
        f"{images.dtype} {list(images.shape[1:])}" for images in (found.images, clean.images)
    )
    if theirs != ours:
        raise UserError(
            f"{what} has images {theirs} but the test split has {ours}; give the set that belongs to it."
        )


def _of_named_classes(found, what: str, clean: Split, class_names: Sequence[str]) -> Corrupted:
    columns = published.columns_of(found.classes, class_names)
    if columns is None:
        strange = next(name for name in found.classes if name not in class_names)
        raise UserError(
            f"{what} has {len(found.classes)} classes, among them {strange!r}, which is none of the "
            f"{len(class_names)} classes that the model is known to have; give the set that belongs "
            "to it, or an .npz data set with class_names."
        )
    labels = found.labels.astype(np.int32)
    if len(columns) == len(class_names):
        _check_shape(found, what, clean)
        return Corrupted(Split(found.images, columns[labels].astype(np.int32)), what)
    images, side = found.images, clean.images.shape[1:3]
    restricted = f"logits restricted to {len(columns)} of {len(class_names)} classes by WordNet id"
    if images.shape[1:3] != side:
        sizes = " x ".join(map(str, images.shape[1:3])), " x ".join(map(str, side))
        restricted += f", images resized from {sizes[0]} to {sizes[1]} pixels (bilinear)"
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
    """Images of other sizes or of one channel are enlarged to 32 x 32 RGB and shrunk again."""
    key = jax.random.fold_in(jax.random.key(seed), 10 * NAMES.index(name) + severity)
    side, channels = clean.images.shape[2], clean.images.shape[3]
    fits = side in _SIZES and channels == 3 and clean.images.shape[1] == side
    parts = []
    for start in range(0, len(clean.images), _BATCH):
        images = jnp.asarray(clean.images[start : start + _BATCH], jnp.float32) / 255
        shape = images.shape
        if not fits:
            wide = jnp.broadcast_to(images, (*shape[:3], 3))
            images = jax.image.resize(wide, (len(images), 32, 32, 3), "bilinear")
        images = ss.corruptions.corrupt(name, jax.random.fold_in(key, start), images, severity)
        if not fits:
            images = jax.image.resize(images, (*shape[:3], 3), "linear", antialias=True)
            images = images if channels == 3 else images.mean(3, keepdims=True)
        parts.append(np.asarray(jnp.round(255 * images.clip(0, 1))).astype(np.uint8))
    how = "" if fits else ", made at 32 x 32 pixels and shrunk"
    what = f"{name} {severity}, generated{how}; not the official files"
    return Corrupted(Split(np.concatenate(parts), clean.labels), what)
