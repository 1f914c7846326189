"""Data: where they are, how many there are, whether they are the published ones."""

import hashlib
import os
from collections.abc import Iterator

from experiments.doctor.findings import LOOK, NOTE, OK, PROBLEM, Finding, size

# Training images, test images, classes.
PUBLISHED = {
    "digits": (1297, 500, 10),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "tiny_imagenet": (100_000, 10_000, 200),
    "imagenet": (1_281_167, 50_000, 1000),
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


def place(name: str, data_dir: str) -> Iterator[Finding]:
    """Whether the data are there, without downloading anything."""
    from experiments.data import prepared, sets

    path = os.path.expanduser(data_dir)
    if path.endswith(".npz"):
        if os.path.isfile(path):
            yield Finding(OK, f"The data are {path} ({size(os.path.getsize(path))}).")
        else:
            fix = "give --data_dir another file or folder"
            yield Finding(PROBLEM, f"There is no file {path}.", fix)
    elif name not in sets.NAMES:
        fix = f"choose one of {', '.join(sets.NAMES)}"
        yield Finding(PROBLEM, f"There is no data set {name!r}.", fix)
    elif name == "digits":
        yield Finding(OK, "The digits come with scikit-learn.")
    elif name in prepared.TFDS_NAMES:
        builder = prepared.import_builders(name).stock_builder(name, data_dir)
        if builder.is_prepared():
            yield Finding(OK, f"{name} is prepared in {builder.data_dir}.")
        else:
            folder = f" --data_dir {data_dir}" if data_dir else ""
            fix = f"python -m experiments.prepare {name}{folder}, or name the folder that holds it"
            yield Finding(PROBLEM, f"{name} is not prepared in {builder.data_dir_root}.", fix)
    elif os.path.isdir(path):
        yield Finding(OK, f"The data are in {path}.")
    else:
        fix = "give --data_dir the unpacked data set's folder"
        yield Finding(PROBLEM, f"{name} has no folder {path!r}.", fix)


def images(name: str, data_dir: str, image_size: int) -> Iterator[Finding]:
    """All that can be said of a data set in memory; of images that are decoded later, no pixels."""
    import numpy as np

    from experiments.data import sets

    yield from content(name, *sets.load_arrays(name, data_dir, image_size), np)


def content(name, train, test, num_classes, np) -> Iterator[Finding]:
    """Numbers of images, balance of the classes, range of the pixels, hashes, and overlap."""
    found = (len(train.labels), len(test.labels), num_classes)
    text = f"{found[0]:,} training and {found[1]:,} test images of {num_classes} classes"
    wanted = PUBLISHED.get(name, found)
    if found == wanted:
        yield Finding(OK, text + (", as published." if name in PUBLISHED else "."))
    else:
        what = f"{text}, but {name} has {wanted[0]:,}, {wanted[1]:,} and {wanted[2]}."
        fix = "compare such numbers with no published ones, or get the whole data set"
        yield Finding(LOOK, what, fix)
    for part, split in (("train", train), ("test", test)):
        yield _balance(part, np.bincount(split.labels, minlength=num_classes))
    if not isinstance(train.images, np.ndarray):
        return
    for part, split in (("train", train), ("test", test)):
        yield _values(part, split.images)
    if name in DIGESTS:
        yield _pixels(name, "train", digest(train), DIGESTS[name][0])
        yield _pixels(name, "test", digest(test), DIGESTS[name][1])
    else:
        yield Finding(NOTE, f"No hash of {name}'s pixels is known here.")
    seen = {hashlib.sha256(image.tobytes()).digest() for image in train.images}
    count = sum(hashlib.sha256(image.tobytes()).digest() in seen for image in test.images)
    if count:
        what = f"{count:,} of {found[1]:,} test images are training images too."
        fix = "take them out of one of the two: they make accuracy look better"
        yield Finding(PROBLEM if count > found[1] / 100 else LOOK, what, fix)
    else:
        yield Finding(OK, f"None of {found[1]:,} test images is a training image.")


def digest(split) -> str:
    """SHA-256 of the images' bytes, then of the labels as little-endian int32."""
    found = hashlib.sha256(split.images.tobytes())
    found.update(split.labels.astype("<i4").tobytes())
    return found.hexdigest()


def _balance(part, counts) -> Finding:
    low, high, empty = int(counts.min()), int(counts.max()), (counts == 0).nonzero()[0]
    if len(empty):
        what = f"{len(empty)} of {len(counts)} classes have no image, the first is {empty[0]}."
        fix = "see that the labels start at 0 and the whole data set is there"
        return Finding(LOOK, f"{part}: {what}", fix)
    if high > 2 * low:
        most = f"{100 * high / counts.sum():.0f} %"
        fix = f"read accuracy with care: a network that knows only the largest class has {most}"
        return Finding(LOOK, f"{part}: classes have {low:,} to {high:,} images.", fix)
    same = f"{low:,} images" if low == high else f"{low:,} to {high:,} images"
    return Finding(OK, f"{part}: every class has {same}.")


def _values(part, images) -> Finding:
    low, high = int(images.min()), int(images.max())
    text = f"{part}: pixels are {low} to {high}"
    if low == high:
        return Finding(PROBLEM, f"{text}: all are equal.", "write the images anew")
    if high <= 1:
        what = f"{text}: they look like fractions that were cut to integers."
        fix = "store uint8 images of 0 to 255: (255 * images).round().astype('uint8')"
        return Finding(PROBLEM, what, fix)
    if high < 100:
        return Finding(LOOK, f"{text}, far below 255.", "see that they were not scaled twice")
    return Finding(OK, f"{text}, {images.dtype}, {list(images.shape[1:])}.")


def _pixels(name, part, found, wanted) -> Finding:
    if found == wanted:
        return Finding(
            OK, f"{part}: pixels and labels are the published ones (SHA-256 {found[:12]})."
        )
    what = f"{part}: SHA-256 of pixels and labels is {found[:12]}, that of {name} {wanted[:12]}."
    fix = "it is a part, another order, other labels or a lossy copy: get the original files"
    return Finding(LOOK, what, f"{fix} if numbers are to be compared")
