"""Data: where they are, how many there are, whether they are the published ones."""

import hashlib
import os
from collections.abc import Iterator

from experiments.doctor.findings import LOOK, OK, PROBLEM, Finding, first

# Training images, test images, classes.
PUBLISHED = {
    "digits": (1297, 500, 10),
    "cifar10": (50_000, 10_000, 10),
    "cifar100": (50_000, 10_000, 100),
    "tiny_imagenet": (100_000, 10_000, 200),
    "imagenet": (1_281_167, 50_000, 1000),
}
# SHA-256 of the images' bytes, then of the labels as little-endian int32, of both parts.
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
    if name in prepared.TFDS_NAMES and not path.endswith(".npz"):
        builders = prepared.import_builders(name)
        builder = builders.stock_builder(name, data_dir)
        folder = f" --data_dir {data_dir}" if data_dir else ""
        fix = f"python -m experiments.prepare {name}{folder}, or name the folder that holds it"
        missing = f"{name} is not prepared in {builder.data_dir_root}."
        if builder.is_prepared():
            builders.check_whole(builder, ("train", "test"))
        yield first(
            (builder.is_prepared(), OK, f"{name} is prepared in {builder.data_dir}."),
            (True, PROBLEM, missing, fix),
        )
        return
    unknown = name not in sets.NAMES and not path.endswith(".npz")
    names = f"choose one of {', '.join(sets.NAMES)}"
    fix = "give --data_dir the .npz file or the unpacked data set's folder"
    yield first(
        (unknown, PROBLEM, f"There is no data set {name!r}.", names),
        (name == "digits" and not path, OK, "The digits come with scikit-learn."),
        (os.path.exists(path), OK, f"The data are {path}."),
        (True, PROBLEM, f"{name} has no data in {path!r}.", fix),
    )


def content(name: str, data_dir: str, image_size: int) -> Iterator[Finding]:
    """Numbers of images, whether their pixels and labels are the published ones, and overlap."""
    import numpy as np

    from experiments.data import sets

    train, test, num_classes = sets.load_arrays(name, data_dir, image_size)
    found = (len(train.labels), len(test.labels), num_classes)
    wanted = PUBLISHED.get(name, found)
    text = f"{found[0]:,} training and {found[1]:,} test images of {num_classes} classes"
    other = f"{text}, but {name} has {wanted[0]:,}, {wanted[1]:,} and {wanted[2]}."
    fix = "compare such numbers with no published ones, or get the whole data set"
    yield first((found == wanted, OK, f"{text}."), (True, LOOK, other, fix))
    for remark in sets.remarks(name, os.path.expanduser(data_dir), train, num_classes):
        what, _, fix = remark.rpartition("; ")
        yield Finding(LOOK, what, fix)
    if not isinstance(train.images, np.ndarray):  # they are decoded later
        return
    fix = "it is a part, another order, other labels or a lossy copy: get the original files"
    for part, split, wanted in zip(
        ("train", "test"), (train, test), DIGESTS.get(name, ()), strict=False
    ):
        digest = hashlib.sha256(split.images.tobytes())
        digest.update(split.labels.astype("<i4").tobytes())
        here, there = digest.hexdigest()[:12], wanted[:12]
        same = f"{part}: pixels and labels are the published ones (SHA-256 {here})."
        other = f"{part}: pixels and labels have the SHA-256 {here}, those of {name} {there}."
        yield first((digest.hexdigest() == wanted, OK, same), (True, LOOK, other, fix))
    seen = {hash(image.tobytes()) for image in train.images}
    count = sum(hash(image.tobytes()) in seen for image in test.images)
    text = f"{count:,} of {found[1]:,} test images are training images too."
    fix = "take them out of one of the two: they make accuracy look better"
    few, bad = (100 * count <= found[1], LOOK, text, fix), (True, PROBLEM, text, fix)
    yield first((count == 0, OK, text), few, bad)
