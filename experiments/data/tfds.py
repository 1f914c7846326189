"""The builders that download CIFAR and lay it out for TFDS, without TensorFlow."""

import concurrent.futures
import contextlib
import json
import logging
import os
import pathlib
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import requests
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from PIL import Image
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from experiments.system.errors import UserError

INFO = "dataset_info.json"
CONNECT_SECONDS = 5.0  # TFDS itself would try for 200 seconds before it reports a missing network


def is_no_chatter(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR or "tensorflow_datasets" not in record.pathname


class _FromArchive:
    """Reads the binary archive in memory where the stock builders need TensorFlow."""

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        cifar = self._cifar_info
        with tarfile.open(dl_manager.download(cifar.url)) as archive:
            files = {
                member.name.removeprefix(cifar.prefix): archive.extractfile(member).read()
                for member in archive
                if member.isfile()
            }
        for key, file in zip(cifar.label_keys, cifar.label_files, strict=True):
            self.info.features[key].names = list(filter(None, files[file].decode().splitlines()))
        return {
            "train": self._generate_examples("train_", [files[f] for f in cifar.train_files]),
            "test": self._generate_examples("test_", [files[f] for f in cifar.test_files]),
        }

    def _generate_examples(
        self, prefix: str, batches: Sequence[bytes]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        keys = self._cifar_info.label_keys
        # A record is the label bytes, then the pixels.
        rows = np.frombuffer(b"".join(batches), np.uint8).reshape(-1, len(keys) + 3 * 32 * 32)
        for index, row in enumerate(rows):
            pixels = row[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
            labels = {key: int(label) for key, label in zip(keys, row, strict=False)}
            # TFDS encodes a Pillow image with Pillow; an array would need TensorFlow.
            image = Image.fromarray(np.ascontiguousarray(pixels))
            yield index, {"id": f"{prefix}{index:05d}", "image": image, **labels}


# TFDS derives the names of the data sets from those of the classes.
class Cifar10(_FromArchive, tfds.image_classification.Cifar10, skip_registration=True):
    """CIFAR-10."""


class Cifar100(_FromArchive, tfds.image_classification.Cifar100, skip_registration=True):
    """CIFAR-100."""


BUILDERS = {"cifar10": Cifar10, "cifar100": Cifar100}


def stock_builder(name: str, data_dir: str = "") -> tfds.core.DatasetBuilder:
    """TFDS's own builder; an empty `data_dir` is $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    root = os.path.expanduser(data_dir)
    try:
        return tfds.builder(name, data_dir=root or None)
    except Exception as error:  # whatever TFDS and protobuf raise on damaged files
        folder = pathlib.Path(root or tfds.core.constants.DATA_DIR, name)
        if found := sorted(folder.glob(f"*/{INFO}")):
            # TFDS puts what it was asked for before the reason.
            raise _damaged(found[-1], str(error).rpartition('}": ')[2]) from error
        raise


def check_whole(builder: tfds.core.DatasetBuilder, parts: Sequence[str]) -> None:
    """Refuses files that are not those that dataset_info.json tells of; no record is decoded."""
    folder, info = pathlib.Path(builder.data_dir), builder.info
    if info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        return
    for part in parts:
        if part not in info.splits or not info.splits[part].num_examples:
            raise _damaged(folder / INFO, f"it has no records of the split {part!r}")
    _check_features(folder, info.features, builder.name in BUILDERS)
    files = [
        (pathlib.Path(path), length)
        for part in parts
        for path, length in zip(
            info.splits[part].filepaths, info.splits[part].shard_lengths, strict=True
        )
    ]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        counts = list(threads.map(_count_records, [path for path, _ in files]))
    for (path, length), count in zip(files, counts, strict=True):
        if count != length:
            raise _damaged(path, f"it has {count} records but {INFO} says {length}")


def _check_features(folder: pathlib.Path, features: Any, has_names: bool) -> None:
    """Whether features.json can be read, and there is a name for each class."""
    file, names = folder / "features.json", folder / "label.labels.txt"
    try:
        stored = tfds.features.FeaturesDict.from_json(json.loads(file.read_bytes()))
        wanted = stored["label"].num_classes if "label" in features else 0
    except Exception as error:  # whatever TFDS and protobuf raise on damaged files
        raise _damaged(file, error) from error
    if wanted and (has_names or names.exists()):
        lines = names.read_bytes().splitlines() if names.exists() else []
        if (found := sum(bool(line.strip()) for line in lines)) != wanted:
            raise _damaged(names, f"it names {found} of {wanted} classes")


def _count_records(path: pathlib.Path) -> int:
    """As the end of the file tells."""
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except RuntimeError as error:
        raise _damaged(path, error) from error
    return count


def _damaged(path: pathlib.Path, why: object) -> UserError:
    """The sentence of a file of a prepared data set that is not as it was written."""
    reason = " ".join(str(why).strip("; ").partition(";")[0].split())[:200] or "it can't be read"
    return UserError(
        f"{path} is missing or damaged ({reason}); copy {path.parent} anew, or remove that folder and "
        "prepare it again."
    )


def prepare(name: str, data_dir: str = "") -> str:
    """Downloads and lays out `cifar10` or `cifar100` unless that is done already; returns the folder.

    A failure leaves no data set behind: TFDS writes to a folder of another name and renames it.
    """
    stock = stock_builder(name, data_dir)
    if stock.is_prepared():
        check_whole(stock, ("train", "test"))
        return stock.data_dir
    if os.path.exists(stock.data_dir):
        raise UserError(
            f"{stock.data_dir} exists and holds no complete {name}: remove that folder and run "
            "this again"
        )
    root = pathlib.Path(stock.data_dir_root)
    builder = BUILDERS[name](data_dir=str(root), file_format="array_record")
    url = builder._cifar_info.url
    manual = root / "downloads" / "manual"
    archive = manual / url.rsplit("/", 1)[1]
    if not archive.exists():
        _check_connection(url, name, root, archive)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(
                prefix="download_", dir=root, ignore_cleanup_errors=True
            ) as scratch,
            contextlib.redirect_stdout(sys.stderr),
        ):
            builder.download_and_prepare(
                download_dir=scratch,
                download_config=tfds.download.DownloadConfig(
                    manual_dir=manual, force_checksums_validation=True
                ),
            )
    except NonMatchingChecksumError as error:
        source = archive if archive.exists() else url
        raise UserError(
            f"{source} is not the published {archive.name} (its size or sha256 differs): "
            f"put a complete copy at {archive}"
        ) from error
    except OSError as error:  # of the disk or, as requests' exceptions are OSErrors, the network
        raise UserError(
            f"{name} could not be prepared in {root} ({error}): mend that and run this again"
        ) from error
    return builder.data_dir


def _check_connection(url: str, name: str, root: pathlib.Path, archive: pathlib.Path) -> None:
    """Refuses at once what TFDS would refuse after minutes; through the same HTTP library."""
    try:
        with requests.get(url, stream=True, timeout=CONNECT_SECONDS) as response:
            response.raise_for_status()
    except requests.RequestException as error:
        raise UserError(
            f"{name} is not prepared in {root} and {url} cannot be reached "
            f"({type(error).__name__}): run `python -m experiments.prepare {name} --data_dir DIR` "
            f"on a machine with a network and copy DIR here, or place the archive at {archive}, "
            "or point data_dir to an .npz file"
        ) from error
