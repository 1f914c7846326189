"""Tiny CIFAR archives in the published binary format, and what is in them."""

import io
import pathlib
import tarfile
from typing import NamedTuple

import numpy as np
from tensorflow_datasets.core.download import checksums

from experiments.data.sets import Split
from experiments.data.tfds import BUILDERS

NUM_TRAIN, NUM_TEST = 15, 5
NUM_CLASSES = {"cifar10": 10, "cifar100": 100}


class Fake(NamedTuple):
    """The contents of an archive in their canonical order, and the archive in its place."""

    name: str
    data_dir: pathlib.Path
    archive: pathlib.Path
    train: Split
    test: Split
    coarse_labels: np.ndarray  # of CIFAR-100's training part


def _split(generator, count, num_classes):
    images = generator.integers(0, 256, (count, 32, 32, 3), np.uint8)
    labels = generator.integers(0, num_classes, count, np.int32)
    labels[0] = num_classes - 1
    return Split(images, labels)


def _rows(split, *more_labels):
    pixels = split.images.transpose(0, 3, 1, 2).reshape(len(split.images), -1)
    columns = [np.asarray(x, np.uint8)[:, None] for x in (*more_labels, split.labels)]
    return np.concatenate([*columns, pixels], axis=1)


def _write(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def place(name, data_dir, monkeypatch):
    """Writes an archive to DATA_DIR/downloads/manual and registers its checksum with TFDS."""
    generator = np.random.default_rng(0)
    num_classes = NUM_CLASSES[name]
    train, test = (_split(generator, count, num_classes) for count in (NUM_TRAIN, NUM_TEST))
    coarse, coarse_test = (generator.integers(0, 20, n) for n in (NUM_TRAIN, NUM_TEST))
    names = "\n".join(f"class_{i}" for i in range(num_classes)).encode() + b"\n\n"
    if name == "cifar10":
        prefix, files = "cifar-10-batches-bin/", {"batches.meta.txt": names}
        for i, batch in enumerate(np.split(_rows(train), 5), start=1):
            files[f"data_batch_{i}.bin"] = batch.tobytes()
        files["test_batch.bin"] = _rows(test).tobytes()
    else:
        coarse_names = "\n".join(f"group_{i}" for i in range(20)).encode()
        prefix, files = "cifar-100-binary/", {"fine_label_names.txt": names}
        files["coarse_label_names.txt"] = coarse_names
        files["train.bin"] = _rows(train, coarse).tobytes()
        files["test.bin"] = _rows(test, coarse_test).tobytes()
    url = url_of(name)
    archive = data_dir / "downloads" / "manual" / url.rsplit("/", 1)[1]
    _write(archive, {prefix + file: data for file, data in files.items()})
    info = checksums.compute_url_info(archive)
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: {url: info})
    return Fake(name, data_dir, archive, train, test, coarse)


def url_of(name):
    return BUILDERS[name]._cifar_info.fget(BUILDERS[name]).url


def set_url(name, url, monkeypatch):
    """Has the data set come from another address; the file's name must stay."""
    builder = BUILDERS[name]
    info = builder._cifar_info.fget(builder)._replace(url=url)
    monkeypatch.setattr(builder, "_cifar_info", info)
    (known,) = checksums.get_all_url_infos().values()
    monkeypatch.setattr(checksums, "get_all_url_infos", lambda: {url: known})
