"""The comparison of made corruptions with published ones."""

import json

import numpy as np
import pytest

from benchmarks import corruptions as compare_corruptions
from experiments.data import corrupted
from experiments.data.sets import Split


def images(seed=0, count=5, size=32):
    return np.random.default_rng(seed).integers(20, 200, (count, size, size, 3), np.uint8)


def test_distances_are_in_pixel_values():
    theirs = images(1)
    equal, found = (
        compare_corruptions.distances(images(0), theirs, theirs + np.uint8(i)) for i in (0, 3)
    )
    assert set(equal.values()) == {0.0}
    assert found["pixel"] == found["mean"] == pytest.approx(3.0)
    assert found["std"] == pytest.approx(0.0, abs=1e-9)


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


@pytest.fixture
def cifar(tmp_path):
    """Clean images, and a sample that this project made itself, of two corruptions."""
    clean = Split(images(), np.arange(5, dtype=np.int32))
    path, sample = tmp_path / "clean.npz", tmp_path / "sample.npz"
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(path, **dict(zip(names, (*clean, *clean), strict=True)))

    def one(name, severity):
        return corrupted.load_corrupted("generated", name, severity, clean, 5).split.images

    made = {
        name: np.stack([one(name, severity) for severity in corrupted.SEVERITIES])
        for name in ("contrast", "gaussian_noise")
    }
    np.savez(sample, labels=clean.labels, **made)
    return path, sample


def test_the_command_writes_distances_a_table_and_a_picture(cifar, tmp_path, capsys):
    path, sample = cifar
    folder = tmp_path / "results"
    arguments = ["--source", str(sample), "--data_dir", str(path), "--workdir", str(folder)]
    assert compare_corruptions.main(arguments) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(metrics["distances"]) == ["gaussian_noise", "contrast"]
    for by_severity in metrics["distances"].values():
        assert list(by_severity) == ["1", "2", "3", "4", "5"]
        assert all(found["pixel"] == 0 for found in by_severity.values())
    assert (folder / "corruptions.png").read_bytes().startswith(b"\x89PNG")
    table = (folder / "table.md").read_text()
    assert table.strip() == capsys.readouterr().out.strip()
    assert "| contrast | no | 0.00 | 0.00 |" in table
    assert "| gaussian_noise | yes | – | – |" in table
    # A source without corruptions is refused.
    arguments = ["--source", str(path), "--data_dir", str(path), "--workdir", str(tmp_path / "r")]
    assert compare_corruptions.main(arguments) == 2
    assert "has none of gaussian_noise" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
