"""Data sets that TFDS has prepared, read without TensorFlow."""

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from experiments.system.errors import UserError

TFDS_NAMES = ("cifar10", "cifar100")


def read_tfds(name: str, data_dir: str) -> dict[str, np.ndarray]:
    builders = import_builders(name)
    builders.prepare(name, data_dir)
    builder = builders.stock_builder(name, data_dir)
    arrays = {"num_classes": np.asarray(builder.info.features["label"].num_classes)}
    for part in ("train", "test"):
        images, labels = read_part(builder, part)
        arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    return arrays


def read_prepared(name: str, data_dir: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, H, W, C]` and labels `[N]` of a data set that TFDS has prepared before.

    Raises:
      UserError: it has not, or can't read it here.
    """
    if name in TFDS_NAMES:
        import_builders(name).prepare(name, data_dir)
    builder = import_builders(name).stock_builder(name, data_dir)
    if not builder.is_prepared():
        raise UserError(
            f'{name} is not prepared in {builder.data_dir_root}; run `python -c "import '
            f"tensorflow_datasets as t; t.builder('{name}', data_dir='{builder.data_dir_root}')"
            '.download_and_prepare()"`, which needs TensorFlow and a network.'
        )
    return read_part(builder, part)


def import_builders(name: str) -> Any:
    """The module `experiments.data.tfds`, which needs TFDS; an accelerator machine may lack that.

    Raises:
      UserError: If it can't be imported, saying that `name` needs it.
    """
    try:
        from experiments.data import tfds
    except ModuleNotFoundError as error:
        raise UserError(
            f"{name} is read with {error.name}, which is not installed; pip install "
            "'subspace_jax[experiments]', or give an .npz file."
        ) from error
    return tfds


def read_part(builder: Any, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, H, W, C] and labels [N] of one split of a prepared TFDS builder.

    They are in the order of the number in their id (`b'train_00042'`), since TFDS stores them
    shuffled; without ids they are in the order in which they are stored.

    Raises:
      UserError: If the files need TensorFlow and it is not installed.
    """
    from tqdm import tqdm

    count, title = builder.info.splits[part].num_examples, f"decoding {builder.name} {part}"
    jpegs = tqdm(
        _records(builder, part), desc=title, total=count, unit=" images", delay=1, leave=False
    )
    numbers, images, labels = [], [], []
    for record in jpegs:
        numbers.append(int(record["id"].split(b"_")[-1]) if "id" in record else len(numbers))
        images.append(record["image"])
        labels.append(record["label"])
    order = np.argsort(numbers)
    return np.stack(images)[order], np.asarray(labels)[order]


def _records(builder: Any, part: str) -> Iterable[dict[str, Any]]:
    """The decoded records of one split of a prepared TFDS builder, in the order they are stored."""
    file_format = builder.info.file_format
    if file_format in file_format.with_random_access():
        return _in_batches(builder.as_data_source(split=part))
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{builder.data_dir} holds {file_format.value} files but TensorFlow, which reads them, is "
            "not installed; pip install tensorflow, or for cifar10 and cifar100 run `python -m "
            "experiments.prepare NAME --data_dir DIR` with another folder DIR and give that."
        )
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")  # else it would take the memory that JAX needs
    return builder.as_dataset(split=part).as_numpy_iterator()


def _in_batches(source: Any, size: int = 1024) -> Iterator[dict[str, Any]]:
    """The items of a random-access source, read `size` at a time: twice as fast as one by one."""
    for start in range(0, len(source), size):
        yield from source.__getitems__(range(start, min(start + size, len(source))))
