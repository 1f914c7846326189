"""How far the corruptions made here are from published ones of the same images.

    python -m benchmarks.corruptions --source FILE.npz --data_dir cifar10.npz --workdir W

SOURCE is a folder or file of CIFAR-10-C (see `experiments.data.corrupted`), DATA_DIR the clean CIFAR-10.
Writes W/metrics.json, W/table.md and W/corruptions.png. Distances pixel by pixel mean something for
corruptions without randomness; of the others, mean, spread and spectrum of the change are compared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib.figure
import numpy as np

import subspace_jax as ss
from benchmarks.table import table
from experiments.data import corrupted, sets
from experiments.data.sets import Split
from experiments.report import run_figures
from experiments.system import cli, files
from experiments.system.errors import UserError
from experiments.system.provenance import finished_now, provenance

# What draws no random numbers, so that it can be compared pixel by pixel.
FIXED = (
    *("defocus_blur", "zoom_blur", "gaussian_blur", "brightness"),
    *("contrast", "pixelate", "jpeg_compression", "saturate"),
)
_SHOWN = 4  # images in the picture
_SHOWN_SEVERITY = 3
_RINGS = 8  # of frequencies, over which spectra are compared


def distances(clean: np.ndarray, theirs: np.ndarray, ours: np.ndarray) -> dict[str, float]:
    """Distances between two corruptions of the same images, uint8 `[N, H, W, C]`, in pixel values.

    They are `pixel`, the mean absolute difference; `mean` and `std`, how much larger those of our pixels
    are; `spectrum`, the mean absolute difference of the base-10 logarithms of the power of the change
    from the clean images, in rings of equal frequency.

      >>> image = np.zeros((1, 4, 4, 1), np.uint8)
      >>> distances(image, image + 1, image + 3)["pixel"]
      2.0
    """
    clean, theirs, ours = (x.astype(np.float64) for x in (clean, theirs, ours))
    powers = [_rings(x - clean) for x in (theirs, ours)]
    return {
        "pixel": float(np.abs(ours - theirs).mean()),
        "mean": float(ours.mean() - theirs.mean()),
        "std": float(ours.std() - theirs.std()),
        "spectrum": float(np.abs(np.log10(powers[1]) - np.log10(powers[0])).mean()),
    }


def _rings(change: np.ndarray) -> np.ndarray:
    """Mean power of images `[N, H, W, C]` in rings of frequency, from low to high."""
    height, width = change.shape[1:3]
    power = (np.abs(np.fft.fft2(change, axes=(1, 2))) ** 2).mean((0, 3)) / (height * width)
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    ring = np.minimum((2 * _RINGS * radius).astype(int), _RINGS - 1)
    totals = np.bincount(ring.ravel(), power.ravel(), _RINGS)
    # A thousandth of a squared pixel value, so that no change has a logarithm too.
    return totals / np.maximum(np.bincount(ring.ravel(), minlength=_RINGS), 1) + 1e-3


def compare(source: str, data_dir: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Distances of every corruption and severity, and images for the picture by corruption."""
    _, test, num_classes = sets.load_arrays("cifar10", data_dir)
    found, images = {}, {}
    for name in corrupted.NAMES:
        try:
            corrupted.read_published(source, name, 1)
        except UserError:
            continue  # a sample has some of them
        found[name] = {}
        for severity in corrupted.SEVERITIES:
            theirs = corrupted.load_corrupted(source, name, severity, test, num_classes).split
            clean = Split(test.images[: len(theirs.labels)], theirs.labels)
            made = corrupted.load_corrupted(corrupted.GENERATED, name, severity, clean, num_classes)
            ours = made.split.images
            found[name][str(severity)] = distances(clean.images, theirs.images, ours)
            if severity == _SHOWN_SEVERITY:
                images[name] = np.stack([x[:_SHOWN] for x in (theirs.images, ours)])
    if not found:
        raise UserError(
            f"{source} has none of {', '.join(corrupted.NAMES)}; give another --source."
        )
    return found, images


def picture(images: dict[str, np.ndarray]) -> matplotlib.figure.Figure:
    """A row for every corruption: those of the source on the left, ours on the right."""
    rows = len(images)
    figure = matplotlib.figure.Figure((7.0, 0.85 * rows + 0.3), layout="constrained")
    widths = [1.0] * _SHOWN + [0.3] + [1.0] * _SHOWN  # with a gap between the two halves
    layout = {"wspace": 0.02, "width_ratios": widths}
    axes = figure.subplots(rows, len(widths), squeeze=False, gridspec_kw=layout)
    for gap in axes[:, _SHOWN]:
        gap.set_axis_off()
    axes = np.delete(axes, _SHOWN, axis=1)
    for row, (name, pair) in zip(axes, images.items(), strict=True):
        for axis, image in zip(row, pair.reshape(-1, *pair.shape[2:]), strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
        label = name.replace("_", "\n")
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    for half, title in enumerate(("source", "made here")):
        middle = axes[0, half * _SHOWN + _SHOWN // 2 - 1]
        middle.set_title(title, fontsize=9, x=1.05)
    return figure


def markdown(found: dict) -> str:
    """A table with a row for every corruption; means and largest values over severities."""
    header = [
        "Corruption",
        "Random",
        "Pixel, mean",
        "Pixel, worst severity",
        "Mean",
        "Std",
        "Spectrum",
    ]
    rows = []
    for name, by_severity in found.items():
        each, fixed = list(by_severity.values()), name in FIXED
        pixel = [one["pixel"] for one in each]
        pixels = (f"{np.mean(pixel):.2f}", f"{max(pixel):.2f}") if fixed else ("–", "–")
        mean, std, spectrum = (
            max((one[key] for one in each), key=abs) for key in ("mean", "std", "spectrum")
        )
        rows.append([name, "no" if fixed else "yes", *pixels, f"{mean:+.2f}", f"{std:+.2f}"])
        rows[-1].append(f"{spectrum:.2f}")
    return table(header, rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns its exit code."""
    parser = cli.parser("benchmarks.corruptions", __doc__)
    parser.add_argument("--source", required=True, help="a folder or .npz file of CIFAR-10-C")
    parser.add_argument(
        "--data_dir", default="", help="clean CIFAR-10: an .npz file or TFDS folder"
    )
    parser.add_argument("--workdir", required=True, help="where the results go")
    options = parser.parse_args(argv)
    return cli.exit_code(lambda: run(options))


def run(options: argparse.Namespace) -> None:
    """Compares, and writes distances, table and picture."""
    record = provenance("benchmarks.corruptions")
    found, images = compare(options.source, options.data_dir)
    folder, text = Path(options.workdir), markdown(found) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    benchmark = {name: name in ss.corruptions.BENCHMARK for name in found}
    record |= finished_now()
    metrics = {"provenance": record, "benchmark": benchmark, "distances": found}
    files.write_json(folder / "metrics.json", metrics)
    files.write_atomically(folder / "table.md", text)
    files.write_atomically(folder / "corruptions.png", run_figures.png(picture(images)))
    print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
