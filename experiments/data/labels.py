"""Wrong labels: drawn at random, or read from a file."""

import os

import numpy as np

from experiments.system import files
from experiments.system.errors import UserError

NOISE_MODES = ("uniform_wrong", "uniform_any")
FILE_MODE = "file"

# Equal seeds must not make equal choices; ood.py has more streams.
SPLIT_STREAM, NOISE_STREAM, SIZE_STREAM = range(3)


def corrupt_labels(
    labels: np.ndarray, num_classes: int, rate: float, mode: str, seed: int
) -> np.ndarray:
    """Redraws exactly round(rate N) of the labels `[N]`; which ones depends on `seed` and N alone.

    `uniform_wrong` draws among the K - 1 other classes, so that every redrawn label is wrong;
    `uniform_any` among all K, so that 1 in K redrawn labels stays right.
    """
    bits = random_bits(seed, NOISE_STREAM)
    chosen = permutation(bits, len(labels))[: round(rate * len(labels))]
    draws = bits.random_raw(len(chosen))
    if mode == "uniform_any":
        redrawn = draws % num_classes
    else:
        if num_classes == 1 and len(chosen):
            raise UserError(
                "config.label_noise.mode is 'uniform_wrong' but there is 1 class, so that no label is "
                "wrong; set config.label_noise.rate to 0."
            )
        redrawn = (labels[chosen].astype(np.uint64) + 1 + draws % (num_classes - 1)) % num_classes
    noisy = labels.copy()
    noisy[chosen] = redrawn
    return noisy


def read_labels(path: str, clean: np.ndarray, num_classes: int) -> np.ndarray:
    """Human labels of a whole training set, such as CIFAR-10N's (Wei et al. 2022), int32 `[N]`.

    The path is `FILE.npy`, or `FILE.npz:KEY`, whose `clean_label`, if it has one, must be `clean`.
    """
    setting = f"config.label_noise.file is {path!r}"
    labels, published = _read_label_file(path, setting)
    if labels.dtype.kind not in "iu" or labels.shape != clean.shape:
        raise UserError(
            f"{setting} and holds {labels.dtype} {list(labels.shape)} but the training set has "
            f"{len(clean)} labels; give one integer for each, in the order of the original files."
        )
    low, high = int(labels.min()), int(labels.max())
    same = published is None or np.array_equal(published, clean)
    if low < 0 or high >= num_classes or not same:
        raise UserError(
            f"{setting} and holds labels {low} to {high}, which with its clean_label are not of the "
            f"{num_classes} classes of this training set in its order; give the file that belongs to it."
        )
    return labels.astype(np.int32)


def _read_label_file(path: str, setting: str) -> tuple[np.ndarray, np.ndarray | None]:
    """The labels of a file, and its `clean_label` if it has that."""
    file, dot, key = path.partition(".npz")
    file, key = os.path.expanduser(file + dot), key.removeprefix(":")
    if not dot and not file.endswith(".npy"):
        raise UserError(
            f"{setting} but only FILE.npy and FILE.npz:KEY are read; convert a FILE.pt by `python -c "
            "\"import numpy, torch; numpy.savez('FILE.npz', **torch.load('FILE.pt', "
            'weights_only=False))"` and name FILE.npz:worse_label.'
        )
    if not dot:
        return np.asarray(files.open_npy(file)), None
    with files.open_npz(file, "labels") as content:
        found = list(content)
        arrays = {name: content[name] for name in (key, "clean_label") if name in found}
    if key not in arrays:
        raise UserError(
            f"{setting} but the file has the keys {', '.join(found)}; choose one: FILE.npz:KEY."
        )
    return arrays[key], arrays.get("clean_label")


def random_bits(seed: int, stream: int) -> np.random.Philox:
    """A generator whose `random_raw` is the same with every version of NumPy; `seed` is 0 or more."""
    return np.random.Philox([seed, stream])


def permutation(bits: np.random.Philox, count: int) -> np.ndarray:
    """A uniform permutation of range(count): the order of `count` 64-bit draws."""
    return np.argsort(bits.random_raw(count), kind="stable")
