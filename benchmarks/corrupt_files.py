"""Corrupt images among real ones, for `benchmarks.soak`."""

import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import faults
from benchmarks.rounds import Failed
from experiments.runs import workdir

LIMIT = 3  # of corrupt images


def corrupt_images(setting: faults.Setting, rng: random.Random) -> dict:
    """Images of a folder in Tiny-ImageNet's layout that can't be decoded, up to the limit and beyond."""
    root = setting.folder / "images"
    files = _make_images(root, np.random.default_rng(rng.getrandbits(32)))
    more = ["--config.dataset=tiny_imagenet", f"--config.data_dir={root}", "--config.num_epochs=1"]
    more += [
        "--config.optimizer.warmup_epochs=0",
        "--config.train_size=0",
        "--config.batch_size=20",
    ]
    more += ["--config.evaluation.batch_size=20", f"--config.max_corrupt={LIMIT}"]
    damages = (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text", lambda b: b[20:])
    chosen = rng.sample(files, len(damages))
    found = {}
    for count in (len(damages) - 1, len(damages)):
        for file, change in list(zip(chosen, damages, strict=True))[:count]:
            file.write_bytes(change(file.read_bytes()))
        for source in ("files", "cache"):
            folder = setting.folder / f"images_{count}_{source}"
            run = faults.start(setting, folder, *more)
            said = faults.finish(run, code=0 if count <= LIMIT else 2)
            if count <= LIMIT:
                data = json.loads((folder / workdir.METRICS).read_text())["data"]
                if data["num_skipped"] != count or said.count("Left out: ") != count:
                    raise Failed(f"{count} corrupt images, but {data} and {said[-500:]}")
                found[str(count)] = "named, counted and left out"
            elif folder.exists() or f"config.max_corrupt is {LIMIT}" not in said:
                raise Failed(f"{count} corrupt images were not refused: {said[-500:]}")
            else:
                found[str(count)] = "refused"
    (root / "val" / "images" / "val_0.JPEG").write_bytes(b"")
    if "val_0.JPEG can't be decoded" not in faults.finish(
        faults.start(setting, folder, *more), code=2
    ):
        raise Failed("A corrupt test image was not refused.")
    return {"limit": LIMIT, "by_number": found, "test_image": "refused"}


def _make_images(root: Path, rng: np.random.Generator) -> list[Path]:
    files, lines = [], []
    for label in range(3):
        for number in range(30):
            files.append(root / "train" / f"n{label}" / "images" / f"n{label}_{number}.JPEG")
            _save(files[-1], rng, label)
        for number in range(label, 30, 3):
            _save(root / "val" / "images" / f"val_{number}.JPEG", rng, label)
            lines.append(f"val_{number}.JPEG\tn{label}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return files


def _save(path: Path, rng: np.random.Generator, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 100, (64, 64, 3)) + 70 * label
    Image.fromarray(pixels.astype(np.uint8)).save(path, "JPEG")
