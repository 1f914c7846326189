"""Corrupted test images: made here, or read from the published files of CIFAR-10-C and CIFAR-100-C."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import subspace_jax as ss
from experiments.data import Split
from experiments.errors import UserError

NAMES = tuple(ss.corruptions.CORRUPTIONS)
SEVERITIES = (1, 2, 3, 4, 5)
_SIZES = (32, 64, 224)
_BATCH = 500


class Corrupted(NamedTuple):
    """Corrupted images with their labels, and what they are in words."""

    split: Split
    description: str


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
    for severity in severities:
        if severity not in SEVERITIES:
            raise UserError(f"config.evaluation.severities has {severity}; use 1 to 5.")


def load_corrupted(
    source: str, name: str, severity: int, clean: Split, num_classes: int, *, seed: int = 0
) -> Corrupted:
    """The test images with one corruption.

    Args:
      source: "generated" for `subspace_jax.corruptions`, which are not the official files; a folder
        with NAME.npy `[5 N, H, W, C]` and labels.npy, as CIFAR-10-C and CIFAR-100-C are published;
        or an .npz file with NAME `[5, n, H, W, C]` and `labels` `[n]` of the first n test images.
      name, severity: which, of `NAMES` and 1 to 5.
      clean: the test split.
      num_classes: of the model.
      seed: of the generated ones, with the name and the severity.

    Raises:
      UserError: it does not exist, can't be read, or does not fit the test split or the model.
    """
    check_names([name], [severity])
    if source == "generated":
        return _generated(name, severity, clean, seed)
    path = Path(os.path.expanduser(source))
    images, labels = (_read_npz if path.suffix == ".npz" else _read_folder)(path, name, severity)
    count = len(labels)
    if path.suffix != ".npz" and count != len(clean.labels):
        raise UserError(
            f"{path} has {count} images of {name} at severity {severity} but the test split has "
            f"{len(clean.labels)}; give the set that belongs to it."
        )
    if images.shape != (count, *clean.images.shape[1:]):
        raise UserError(
            f"{path} has images {list(images.shape)} of {name} but the test split has "
            f"{list(clean.images.shape)}; give the set that belongs to it."
        )
    if labels.max() >= num_classes or not np.array_equal(labels, clean.labels[:count]):
        raise UserError(
            f"The labels of {path}, 0 to {labels.max()}, are not those of the {num_classes} classes of "
            "the test split in its order; give the set that belongs to it."
        )
    return Corrupted(Split(images, labels.astype(np.int32)), f"{name} {severity} of {path.name}")


def _read_npz(path: Path, name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
    with np.load(_existing(path)) as file:
        if name not in file.files or "labels" not in file.files:
            raise UserError(
                f"{path} has {', '.join(file.files)} but not {name} and labels; give another source."
            )
        return file[name][severity - 1], file["labels"]


def _read_folder(path: Path, name: str, severity: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.load(_existing(path / f"{name}.npy"), mmap_mode="r")
    labels = np.load(_existing(path / "labels.npy"))
    if len(images) != len(labels) or len(images) % 5:
        raise UserError(
            f"{path / name}.npy has {len(images)} images and labels.npy {len(labels)}; both have five "
            "severities of one test split."
        )
    size = len(images) // 5
    part = slice((severity - 1) * size, severity * size)
    return np.array(images[part]), labels[part]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(
            f"There is no file {path}; set config.evaluation.corruption_source to a folder of "
            "CIFAR-10-C, an .npz file, or 'generated'."
        )
    return path


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
