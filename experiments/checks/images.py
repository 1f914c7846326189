"""Data: where it is, how many there are, whether they are the published ones."""

from __future__ import annotations  # NumPy may be what is missing

import hashlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.checks.findings import LOOK, OK, PROBLEM, Finding, size

if TYPE_CHECKING:
    import numpy as np


class Counts(NamedTuple):
    """Of a published data set."""

    train: int
    test: int
    classes: int


PUBLISHED = {
    "digits": Counts(1297, 500, 10),
    "cifar10": Counts(50_000, 10_000, 10),
    "cifar100": Counts(50_000, 10_000, 100),
    "tiny_imagenet": Counts(100_000, 10_000, 200),
    "imagenet": Counts(1_281_167, 50_000, 1000),
}
# `digest` of the training and the test part, in the canonical order.
DIGESTS = {
    "digits": (
        "f7e82c6295b0cf257925d966ba24908b9e71ef5c1c7d84bb89de70df03f0422f",
        "1936762e36290a376c55c0abc1d0e8d599d39360c1a22cf1a7099e696f2876a1",
    ),
    "cifar10": (
        "72c15e60c081b70e34054cb162580e0d24094d4efdce45b6c8c1fe5acc39221e",
        "8353b1fbf11acba6dc8b5e9d2fb108294de95b6e979d31428bf914289e4189c5",
    ),
}


def digest(split: Any) -> str:
    """SHA-256 of the images' bytes, then of the labels as little-endian int32."""
    import numpy as np

    found = hashlib.sha256(np.ascontiguousarray(split.images))
    found.update(split.labels.astype("<i4").tobytes())
    return found.hexdigest()


def check_place(name: str, data_dir: str) -> Iterator[Finding]:
    """Whether the data are there, without downloading anything."""
    from experiments import data

    path = os.path.expanduser(data_dir)
    if name not in data.NAMES and not path.endswith(".npz"):
        yield Finding(
            PROBLEM, f"There is no data set {name!r}.", f"choose one of {', '.join(data.NAMES)}"
        )
    elif path.endswith(".npz") and not os.path.isfile(path):
        yield Finding(
            PROBLEM, f"There is no file {path}.", "give --data_dir another file or folder"
        )
    elif path.endswith(".npz"):
        yield Finding(OK, f"The data are {path} ({size(os.path.getsize(path))}).")
    elif name == "digits":
        yield Finding(OK, "The digits come with scikit-learn.")
    elif name in data.TFDS_NAMES:
        builder = data.import_prepare(name).stock_builder(name, data_dir)
        if builder.is_prepared():
            yield Finding(OK, f"{name} is prepared in {builder.data_dir}.")
        else:
            folder = f" --data_dir {data_dir}" if data_dir else ""
            yield Finding(
                PROBLEM,
                f"{name} is not prepared in {builder.data_dir_root}.",
                f"python -m experiments.prepare {name}{folder}, or name the folder that holds it",
            )
    elif not path or not os.path.isdir(path):
        yield Finding(
            PROBLEM,
            f"{name} has no folder {path!r}.",
            "give --data_dir the unpacked data set's folder",
        )
    else:
        yield Finding(OK, f"The data are in {path}.")


def check_counts(name: str, train: Any, test: Any, num_classes: int) -> Iterator[Finding]:
    """How many images and classes there are against what is published."""
    found = Counts(len(train.labels), len(test.labels), num_classes)
    text = f"{found.train:,} training and {found.test:,} test images of {found.classes} classes"
    wanted = PUBLISHED.get(name)
    if wanted is None or found == wanted:
        as_published = ", as published" if wanted else ""
        yield Finding(OK, f"{text}{as_published}.")
    else:
        yield Finding(
            LOOK,
            f"{text}, but {name} has {wanted.train:,}, {wanted.test:,} and {wanted.classes}.",
            "compare such numbers with no published ones, or get the whole data set",
        )


def check_balance(part: str, labels: np.ndarray, num_classes: int) -> Iterator[Finding]:
    """How often each class is there."""
    import numpy as np

    counts = np.bincount(labels, minlength=num_classes)
    low, high = int(counts.min()), int(counts.max())
    if not low:
        missing = np.flatnonzero(counts == 0)
        yield Finding(
            LOOK,
            f"{part}: {len(missing)} of {num_classes} classes have no image, the first is "
            f"{missing[0]}.",
            "see that the labels start at 0 and the whole data set is there",
        )
    elif high > 2 * low:
        yield Finding(
            LOOK,
            f"{part}: classes have {low:,} to {high:,} images.",
            "read accuracy with care: a network that knows only the largest class has "
            f"{100 * high / len(labels):.0f} %",
        )
    else:
        same = f"{low:,} images" if low == high else f"{low:,} to {high:,} images"
        yield Finding(OK, f"{part}: every class has {same}.")


def check_values(part: str, images: np.ndarray) -> Iterator[Finding]:
    """The range of the pixels."""
    low, high = int(images.min()), int(images.max())
    text = f"{part}: pixels are {low} to {high}"
    if low == high:
        yield Finding(PROBLEM, f"{text}: all are equal.", "write the images anew")
    elif high <= 1:
        yield Finding(
            PROBLEM,
            f"{text}: they look like fractions that were cut to integers.",
            "store uint8 images of 0 to 255: (255 * images).round().astype('uint8')",
        )
    elif high < 100:
        yield Finding(LOOK, f"{text}, far below 255.", "see that they were not scaled twice")
    else:
        yield Finding(OK, f"{text}, {images.dtype}, {list(images.shape[1:])}.")


def check_pixels(name: str, train: Any, test: Any) -> Iterator[Finding]:
    """Whether every pixel and label is the published one, in the published order."""
    known = DIGESTS.get(name)
    if known is None:
        yield Finding(OK, f"No hash of {name}'s pixels is known here.")
        return
    for part, split, wanted in zip(("train", "test"), (train, test), known, strict=True):
        found = digest(split)
        if found == wanted:
            yield Finding(OK, f"{part}: pixels and labels are the published ones ({found[:12]}).")
        else:
            yield Finding(
                LOOK,
                f"{part}: SHA-256 of pixels and labels is {found[:12]}, that of {name} in its own "
                f"order is {wanted[:12]}.",
                "it is a part, another order, other labels or a lossy copy: get the original files "
                "if numbers are to be compared",
            )


def check_duplicates(train: np.ndarray, test: np.ndarray) -> Iterator[Finding]:
    """Test images that are training images too, pixel by pixel."""
    seen = {hashlib.sha256(image.tobytes()).digest() for image in train}
    count = sum(hashlib.sha256(image.tobytes()).digest() in seen for image in test)
    if count:
        yield Finding(
            PROBLEM if count > len(test) / 100 else LOOK,
            f"{count:,} of {len(test):,} test images are training images too.",
            "take them out of one of the two: they make accuracy look better",
        )
    else:
        yield Finding(OK, f"None of {len(test):,} test images is a training image.")


def check_loaded(name: str, train: Any, test: Any, num_classes: int) -> Iterator[Finding]:
    """All that can be said of a data set in memory; of images that are decoded later, no pixels."""
    yield from check_counts(name, train, test, num_classes)
    for part, split in (("train", train), ("test", test)):
        yield from check_balance(part, split.labels, num_classes)
    import numpy as np

    if isinstance(train.images, np.ndarray):
        for part, split in (("train", train), ("test", test)):
            yield from check_values(part, split.images)
        yield from check_pixels(name, train, test)
        yield from check_duplicates(train.images, test.images)
