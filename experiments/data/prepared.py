"""Data sets that TFDS has prepared, read without TensorFlow."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments.system.errors import UserError, needed_for

TFDS_NAMES = ("cifar10", "cifar100")


def read_prepared(name: str, data_dir: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 `[N, H, W, C]` and labels `[N]` of a split, which TFDS stores shuffled.

    They are in the order of the number in their id (`b'train_00042'`), or as they are stored without.
    """
    builder = prepared_builder(name, data_dir, (part,))
    count, title = builder.info.splits[part].num_examples, f"decoding {builder.name} {part}"
    records = in_batches(builder.as_data_source(split=part), 1024)
    numbers, images, labels = [], [], []
    for record in tqdm(records, title, count, unit=" images", delay=1, leave=False):
        numbers.append(int(record["id"].split(b"_")[-1]) if "id" in record else len(numbers))
        images.append(record["image"])
        labels.append(record["label"])
    order = np.argsort(numbers)
    return np.stack(images)[order], np.asarray(labels)[order]


def prepared_builder(name: str, data_dir: str, parts: Sequence[str], before: str = "") -> Any:
    """The builder of a data set whose records can be read in any order; CIFAR is prepared first.

    The files of `parts` are checked. `before` is what else has to be done before TFDS can prepare it.
    """
    builders = import_builders(name)
    if name in TFDS_NAMES:
        builders.prepare(name, data_dir)
    builder = builders.stock_builder(name, data_dir)
    root, file_format = builder.data_dir_root, builder.info.file_format
    if not builder.is_prepared():
        raise UserError(
            f"{name} is not prepared in {root}; {before}run `tfds build {name} "
            f"--file_format=array_record --data_dir={root}`, which needs TensorFlow."
        )
    if file_format not in file_format.with_random_access():
        raise UserError(
            f"{builder.data_dir} holds {file_format.value} files, which can't be read in any order; "
            f"convert it by `tfds convert_format --root_data_dir={root} "
            "--out_file_format=array_record`."
        )
    builders.check_whole(builder, parts)
    return builder


def class_names(name: str, data_dir: str) -> tuple[str, ...]:
    """The names of the classes, in the order of their labels."""
    return tuple(import_builders(name).stock_builder(name, data_dir).info.features["label"].names)


def import_builders(name: str) -> Any:
    """The module `experiments.data.tfds`, which needs TFDS; an accelerator machine may lack that."""
    with needed_for(name):
        from experiments.data import tfds
    return tfds


def in_batches(source: Any, size: int) -> Iterator[dict[str, Any]]:
    """The items of a random-access source, read `size` at a time: twice as fast as one by one."""
    for start in range(0, len(source), size):
        stop = min(start + size, len(source))
        try:
            records = source.__getitems__(range(start, stop))
        except (RuntimeError, OSError, ValueError) as error:
            folder, why = source.dataset_info.data_dir, str(error).partition(";")[0]
            raise UserError(
                f"{folder} is damaged: one of the records {start} to {stop - 1} of {source.split} "
                f"can't be read ({why}); copy that folder anew, or remove it and prepare it again."
            ) from error
        yield from records
