"""The builders that download CIFAR and lay it out for TFDS, without TensorFlow."""

import contextlib
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
from PIL import Image
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from experiments.system.errors import UserError

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
    return tfds.builder(name, data_dir=os.path.expanduser(data_dir) or None)


def prepare(name: str, data_dir: str = "") -> str:
    """Downloads and lays out `cifar10` or `cifar100` unless that is done already; returns the folder.

    The archive comes from DATA_DIR/downloads/manual if it lies there and from the network
    otherwise, is verified by its size and sha256, and is not kept. A failure leaves no data set
    behind: TFDS writes to a folder of another name and renames it at the end.
    """
    stock = stock_builder(name, data_dir)
    if stock.is_prepared():
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
