"""Images of no class, for out-of-distribution detection."""

import os

import numpy as np

from experiments.data import prepared
from experiments.data.decode import is_lazy
from experiments.data.labels import permutation, random_bits
from experiments.data.sets import Split
from experiments.system import files
from experiments.system.errors import UserError

MADE = ("noise", "shuffled")
# As TFDS names them; "svhn" is short for the first.
FOREIGN = ("svhn_cropped", "cifar10", "cifar100", "fashion_mnist")
_STREAM = 3  # of the data's randomness, after those of labels.py
_MOST = 1000  # images that are made of a test split that does not fit into memory


def load_outside(name: str, like: Split, data_dir: str = "", seed: int = 0) -> np.ndarray:
    """Foreign images of the shape of the test images, uint8 `[M, H, W, C]`.

    "noise" is uniform pixels, "shuffled" the test images with their pixels in one random order; other
    names are those of data sets, whose test splits TFDS reads, and of files.
    """
    bits = random_bits(seed, _STREAM)
    count, shape = len(like.images), like.images.shape[1:]
    if is_lazy(like.images):
        count = min(count, _MOST)
    if name == "noise":
        size = count * int(np.prod(shape))
        return (bits.random_raw(size) >> np.uint64(56)).astype(np.uint8).reshape(count, *shape)
    if name == "shuffled":
        order = permutation(bits, shape[0] * shape[1])
        pixels = like.images[:count].reshape(count, -1, shape[2])[:, order]
        return pixels.reshape(count, *shape)
    full = {"svhn": "svhn_cropped"}.get(name, name)
    if full in FOREIGN:
        images, source = _fitted(prepared.read_prepared(full, data_dir, "test")[0], shape), full
    else:
        images, source = _read_npz(name), name
    if images.shape[1:] != shape or images.dtype != np.uint8:
        raise UserError(
            f"{source} has test images {images.dtype} {list(images.shape[1:])} but those of the model "
            f"are uint8 {list(shape)}; convert them."
        )
    return images


def _read_npz(name: str) -> np.ndarray:
    path = os.path.expanduser(name)
    if not name.endswith(".npz") or not os.path.isfile(path):
        raise UserError(
            f"config.evaluation.outside has {name!r}; use {', '.join((*MADE, 'svhn', *FOREIGN[1:]))} "
            "or an .npz file with test_images."
        )
    with files.open_npz(path, "an .npz file with test_images") as file:
        return file["test_images"]


def _fitted(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Grey images in colour, smaller ones with a black border; others as they are."""
    if images.shape[-1] == 1 and shape[-1] == 3:
        images = np.repeat(images, 3, -1)
    missing = [max(0, want - have) for want, have in zip(shape[:2], images.shape[1:3], strict=True)]
    border = [(size // 2, size - size // 2) for size in missing]
    return np.pad(images, [(0, 0), *border, (0, 0)])
