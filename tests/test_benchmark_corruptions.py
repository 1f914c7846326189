"""The comparison of made corruptions with published ones."""

import json
from pathlib import Path

import numpy as np

from benchmarks import corruptions as compare_corruptions
from experiments.data import corrupted
from experiments.data.sets import NPZ_KEYS, Split


def images(seed=0, count=5, size=32):
    return np.random.default_rng(seed).integers(20, 200, (count, size, size, 3), np.uint8)


def test_spectra_tell_coarse_from_fine_noise_of_the_same_spread():
    rng = np.random.default_rng(0)
    clean = np.full((20, 32, 32, 3), 100, np.uint8)

    def fine(scale):
        return (100 + scale * rng.normal(size=clean.shape)).round().astype(np.uint8)

    coarse = (100 + 10 * rng.normal(size=(20, 8, 8, 3))).round().astype(np.uint8)
    coarse = coarse.repeat(4, 1).repeat(4, 2)
    alike = compare_corruptions.distances(clean, fine(10), fine(10))
    unlike = compare_corruptions.distances(clean, fine(10), coarse)
    assert alike["spectrum"] < 0.05 < 0.5 < unlike["spectrum"]
    assert abs(unlike["std"]) < 1


def test_the_command_writes_distances_a_table_and_a_picture(tmp_path, capsys):
    """Of a sample that this project made itself, so that they are zero."""
    clean = Split(images(), np.arange(5, dtype=np.int32))
    path, sample, folder = (str(tmp_path / name) for name in ("clean.npz", "sample.npz", "made"))
    np.savez(path, **dict(zip(NPZ_KEYS, (*clean, *clean), strict=True)))
    made = [
        corrupted.load_corrupted("generated", "contrast", severity, clean, 5).split.images
        for severity in corrupted.SEVERITIES
    ]
    np.savez(sample, labels=clean.labels, contrast=np.stack(made))
    arguments = ["--source", sample, "--data_dir", path, "--workdir", folder]
    assert compare_corruptions.main(arguments) == 0
    distances = json.loads(Path(folder, "metrics.json").read_text())["distances"]
    assert list(distances) == ["contrast"]
    assert [(key, at["pixel"]) for key, at in distances["contrast"].items()] == [
        (str(severity), 0) for severity in corrupted.SEVERITIES
    ]
    assert Path(folder, "corruptions.png").read_bytes().startswith(b"\x89PNG")
    table = Path(folder, "table.md").read_text()
    assert table.strip() == capsys.readouterr().out.strip()
    assert "| contrast | no | 0.00 | 0.00 |" in table
