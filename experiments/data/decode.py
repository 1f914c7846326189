"""Decodes JPEGs: all at once into an array, or where they are indexed, as `Pictures`.

Training images that can't be used are left out, up to a limit, and named. A test image that can't be
always stops: accuracies on test sets with holes can't be compared with others.
"""

import concurrent.futures
import dataclasses
import io
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tqdm
from PIL import Image, UnidentifiedImageError

from experiments.data.jpegs import Records
from experiments.system.errors import UserError

# Of the article's test images: the short side is resized to 256 and the centre of 224 is kept.
MARGIN = 256 / 224
# Of the random resized crop: share of the area, ratio of the sides, and how often it is tried.
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
NUM_DRAWS = 4 * _TRIES + 1  # numbers that decide a crop
_CHUNK = 128  # images that a thread decodes at a time, at most


class Unreadable(UserError):
    """An image that can't be used; `reason` says why, without its name."""

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} {reason}; restore it from the data set and run the same again.")
        self.reason = reason


def check_left_out(images: Sequence[str], limit: int) -> None:
    """Refuses more training images that can't be used, each with its reason, than `limit`."""
    if len(images) > limit:
        first = ", ".join(images[:3]) + (", ..." if len(images) > 3 else "")
        raise UserError(
            f"{len(images)} training images can't be used ({first}) but config.max_corrupt is {limit}; "
            f"restore the data set, or pass --config.max_corrupt={len(images)} to train without them."
        )


def read(
    records: Records, title: str, size: int = 0, left_out: dict[int, str] | None = None
) -> np.ndarray:
    """Square RGB images, uint8 `[N, S, S, 3]`, where `S` is `size` or that of the first one.

    `left_out` takes the reasons of images that can't be used; without it the first one is refused.
    """
    size = size or open_image(records, 0).height
    images = np.zeros((len(records), size, size, 3), np.uint8)

    def fill(i):
        try:
            image = open_image(records, i)
            if image.size != (size, size):
                found = f"{image.height} x {image.width} pixels"
                wanted = f"but the images of its set have {size} x {size}"
                raise Unreadable(records.name(i), f"has {found} {wanted}")
            images[i] = image
        except Unreadable as error:
            if left_out is None:
                raise
            left_out[i] = error.reason

    _for_each(fill, len(records), title)
    return images


def open_image(records: Records, i: int) -> Image.Image:
    """A decoded image in RGB; greyscale and CMYK become so."""
    try:
        content = records[i]
        image = Image.open(io.BytesIO(content))
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as error:
        if isinstance(error, UnidentifiedImageError):
            why = "it is no image" if content else "it is empty"
        else:
            why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise Unreadable(records.name(i), f"can't be decoded ({why})") from error


def _for_each(function: Callable[[int], None], count: int, title: str = "") -> None:
    """Calls it for 0 to count - 1. Decoding leaves Python's lock, so threads share the work."""
    cores = os.cpu_count() or 1
    size = min(max(count // (4 * cores), 1), _CHUNK)
    chunks = [range(start, min(start + size, count)) for start in range(0, count, size)]

    def call(chunk):
        for i in chunk:
            function(i)
        return len(chunk)

    bar = tqdm.tqdm(
        desc=title, total=count, unit=" images", delay=1, leave=False, disable=not title
    )
    with concurrent.futures.ThreadPoolExecutor(cores) as threads, bar:
        for done in threads.map(call, chunks):
            bar.update(done)


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures:
    """Encoded images, with shape, length and indexing of the uint8 arrays `[N, S, S, 3]` of others.

    An image at an index is decoded and resized, its centre is cut out, and `function` changes it.
    """

    records: Records
    chosen: np.ndarray  # of the records, [N]
    side: int
    short_side: int  # of an image before its centre is cut out
    # (numbers [B], uint8 [B, S, S, 3]) -> uint8 [B, S, S, 3], each image by itself
    function: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    dtype = np.dtype(np.uint8)
    ndim = 4

    @classmethod
    def of(cls, records: Records, side: int, margin: float = MARGIN) -> "Pictures":
        """All of the records, cut out of images whose short side is `margin` times as long."""
        return cls(records, np.arange(len(records)), side, round(side * margin))

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.chosen), self.side, self.side, 3

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: Any) -> np.ndarray:
        """The images at an index of NumPy's kinds: a number, a slice, numbers or booleans `[N]`."""
        numbers = np.arange(len(self))[np.asarray(index) if hasattr(index, "shape") else index]
        images = np.empty((numbers.size, *self.shape[1:]), np.uint8)

        def fill(at):
            images[at] = self.centred(numbers.flat[at])

        _for_each(fill, numbers.size)
        if self.function is not None:
            images = np.asarray(self.function(self.chosen[numbers.reshape(-1)], images))
        return images.reshape(*numbers.shape, *self.shape[1:])

    def subset(self, index: np.ndarray) -> "Pictures":
        """Some of them, not decoded: numbers, or booleans `[N]`."""
        return dataclasses.replace(self, chosen=self.chosen[index])

    def name(self, i: int) -> str:
        """What a person finds an image by."""
        return self.records.name(int(self.chosen[i]))

    def dimensions(self, i: int) -> tuple[int, int]:
        """Height and width as it is stored."""
        width, height = self._open(i).size
        return height, width

    def centred(self, i: int) -> np.ndarray:
        """The centre of an image, uint8 `[S, S, 3]`."""
        image = self._open(i)
        shape = [max(int(self.short_side * x / min(image.size)), self.side) for x in image.size]
        if list(image.size) != shape:
            image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = (round((x - self.side) / 2) for x in shape)
        return np.asarray(image.crop((left, top, left + self.side, top + self.side)))

    def cropped(self, i: int, draws: np.ndarray) -> np.ndarray:
        """A random part of an image, resized to uint8 `[S, S, 3]`, and flipped half the time.

        It is that of Szegedy et al. 2015; `draws` are `NUM_DRAWS` uniform numbers in [0, 1).
        """
        image = self._open(i)
        part = image.crop(_crop_box(*image.size, draws[1:].reshape(_TRIES, 4)))
        pixels = np.asarray(part.resize((self.side, self.side), Image.Resampling.BILINEAR))
        return pixels[:, ::-1] if draws[0] < 0.5 else pixels

    def _open(self, i: int) -> Image.Image:
        return open_image(self.records, int(self.chosen[i]))


def is_lazy(images: Any) -> bool:
    """Whether images are decoded where they are indexed, and not an array in memory."""
    return isinstance(images, Pictures)


def _crop_box(width: int, height: int, draws: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the first part that fits; else the largest of a fitting ratio."""
    low, high = (math.log(ratio) for ratio in _RATIO)
    for area, ratio, x, y in draws:
        area = (_AREA[0] + area * (_AREA[1] - _AREA[0])) * width * height
        ratio = math.exp(low + ratio * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    w, h = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
