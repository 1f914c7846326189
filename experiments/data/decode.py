"""JPEGs that are too many for memory, as an array that is decoded where it is indexed.

`Pictures` have the shape, the length and the indexing of the uint8 arrays of other data sets, so that
evaluation takes both. Training crops them at random while it decodes, with `Pictures.cropped`.
"""

import concurrent.futures
import dataclasses
import io
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from experiments.data.jpegs import Records
from experiments.system.errors import UserError

# Of the article's test images: the short side is resized to 256 and the centre of 224 is kept.
MARGIN = 256 / 224
# Of the random resized crop: share of the area, ratio of the sides, and how often it is tried.
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
NUM_DRAWS = 4 * _TRIES + 1  # numbers that decide a crop


class Unreadable(Exception):
    """An image that can't be read or decoded."""


class _Decoded:
    """What is indexed as uint8 `[N, S, S, 3]` along its first axis, and made image by image."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: Any) -> np.ndarray:
        """The images at an index of NumPy's kinds: a number, a slice, numbers or booleans `[N]`."""
        numbers = np.arange(len(self))[np.asarray(index) if hasattr(index, "shape") else index]
        images = self._make(numbers.reshape(-1))
        return images.reshape(*numbers.shape, *self.shape[1:])


@dataclasses.dataclass(frozen=True, eq=False)
class Pictures(_Decoded):
    """Encoded images as uint8 `[N, S, S, 3]`; greyscale and CMYK become RGB.

    An image at an index is resized, its short side to `short_side`, and its centre is cut out.

    Attributes:
      records: where they come from.
      chosen: which of them, numbers `[N]`.
      side: `S`.
      short_side: at least `S`.
    """

    records: Records
    chosen: np.ndarray
    side: int
    short_side: int

    @classmethod
    def of(cls, records: Records, side: int, margin: float = MARGIN) -> "Pictures":
        """All of the records, cut out of images whose short side is `margin` times as long."""
        return cls(records, np.arange(len(records)), side, round(side * margin))

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.chosen), self.side, self.side, 3

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
        """The centre of an image, uint8 `[S, S, 3]`.

        Raises:
          Unreadable: it can't be decoded.
        """
        image = self._open(i)
        shape = [max(int(self.short_side * x / min(image.size)), self.side) for x in image.size]
        if list(image.size) != shape:
            image = image.resize(shape, Image.Resampling.BILINEAR)
        left, top = (round((x - self.side) / 2) for x in shape)
        return np.asarray(image.crop((left, top, left + self.side, top + self.side)))

    def cropped(self, i: int, draws: np.ndarray) -> np.ndarray:
        """A random part of an image, resized to uint8 `[S, S, 3]`, and flipped half the time.

        The part has 8 to 100 % of the area and sides in a ratio of 3/4 to 4/3, as in Szegedy et al.
        2015.

        Args:
          i: of which image.
          draws: `NUM_DRAWS` uniform numbers in [0, 1).

        Raises:
          Unreadable: it can't be decoded.
        """
        image = self._open(i)
        box = _crop_box(*image.size, draws[1:].reshape(_TRIES, 4))
        size = (self.side, self.side)
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
        return pixels[:, ::-1] if draws[0] < 0.5 else pixels

    def _open(self, i: int) -> Image.Image:
        number = int(self.chosen[i])
        try:
            image = Image.open(io.BytesIO(self.records[number]))
            image.load()
            return image if image.mode == "RGB" else image.convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "it is no image" if unknown else " ".join(str(error).split())
            raise Unreadable(f"{self.records.name(number)} can't be decoded ({reason})") from error

    def _make(self, numbers: np.ndarray) -> np.ndarray:
        """JPEG decoding leaves Python's lock, so threads share the work."""
        images = np.empty((len(numbers), *self.shape[1:]), np.uint8)

        def fill(at):
            images[at] = self.centred(numbers[at])

        try:
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
                for _ in threads.map(fill, range(len(numbers))):
                    pass
        except Unreadable as error:
            raise UserError(
                f"{error}; restore that file from the data set and run the same command again."
            ) from error
        return images


@dataclasses.dataclass(frozen=True, eq=False)
class Mapped(_Decoded):
    """Images that a function makes of others when they are asked for.

    Attributes:
      images: as `Pictures`.
      function: `(their numbers [B], uint8 [B, S, S, 3]) -> uint8 [B, S, S, 3]`, each image by itself.
    """

    images: Pictures
    function: Callable[[np.ndarray, np.ndarray], np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.images.shape

    def _make(self, numbers: np.ndarray) -> np.ndarray:
        return self.function(numbers, self.images[numbers])


def is_lazy(images: Any) -> bool:
    """Whether images are decoded where they are indexed, and not an array in memory."""
    return isinstance(images, _Decoded)


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
