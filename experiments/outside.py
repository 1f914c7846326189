"""Images of no class, for out-of-distribution detection."""

import os

import numpy as np

from experiments.data import Split, permutation, random_bits
from experiments.errors import UserError

NAMES = ("noise", "shuffled")
_STREAM = 3  # of the data's randomness, after those of data.py


def load_outside(name: str, like: Split, seed: int = 0) -> np.ndarray:
    """Foreign images of the shape of the test images, uint8 `[M, H, W, C]`.

    Args:
      name: "noise", uniform pixels; "shuffled", the test images with their pixels in one random
        order; or an .npz file with `test_images`.
      like: the test split.
      seed: of both.

    Raises:
      UserError: an unknown name, or images of another shape.
    """
    bits = random_bits(seed, _STREAM)
    count, shape = len(like.images), like.images.shape[1:]
    if name == "noise":
        size = count * int(np.prod(shape))
        return (bits.random_raw(size) >> np.uint64(56)).astype(np.uint8).reshape(count, *shape)
    if name == "shuffled":
        order = permutation(bits, shape[0] * shape[1])
        pixels = like.images.reshape(count, -1, shape[2])[:, order]
        return pixels.reshape(count, *shape)
    path = os.path.expanduser(name)
    if not name.endswith(".npz") or not os.path.isfile(path):
        raise UserError(
            f"config.evaluation.outside has {name!r}; use {', '.join(NAMES)} or an .npz file with "
            "test_images."
        )
    with np.load(path) as file:
        images = file["test_images"] if "test_images" in file.files else np.zeros(0)
    if images.shape[1:] != shape or images.dtype != np.uint8:
        raise UserError(
            f"{path} has test_images {images.dtype} {list(images.shape)} but those of the model are "
            f"uint8 {list(shape)}; convert them."
        )
    return images
