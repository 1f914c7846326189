"""The benchmark of ImageNet's input pipeline, at small sizes, and committed tables of ImageNet."""

import json
from pathlib import Path

import pytest

from benchmarks import input as pipeline

ROOT = Path(__file__).resolve().parent.parent


SMALL = ["--images=8", "--batch_size=4", "--batches=1", "--image_size=16", "--rounds=2"]
WAIT = {"data_wait": dict.fromkeys(("median", "min", "max"), 0.25)}
WAIT |= {"images_per_second": dict.fromkeys(("median", "min", "max"), 40.0)}


def test_every_way_of_loading_is_compared_with_the_bare_decoder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "_wait", lambda *arguments: WAIT)
    more = ["--workers=0", "--threads=1,2", "--output", str(tmp_path)]
    assert pipeline.main([*SMALL, *more]) == 0
    found = json.loads((tmp_path / "input.json").read_text())
    pipelines = {"0 workers, 1 threads", "0 workers, 2 threads"}
    assert found["ratios"].keys() == pipelines
    assert found["images_per_second"].keys() == pipelines | {"bare decoder", "JPEG alone"}
    assert all(speed["min"] > 0 for speed in found["images_per_second"].values())
    assert found["training"] == {"0": WAIT}
    text = (tmp_path / "input.md").read_text()
    assert text in capsys.readouterr().out
    assert "| 0 | 25.0 (25.0 to 25.0) | 40 (40 to 40) |" in text


@pytest.mark.parametrize("name", ["input", "imagenet_steps"])
def test_the_committed_table_is_that_of_the_record(name):
    folder = ROOT / "results" / name
    results = json.loads((folder / f"{name}.json").read_text())
    text = (folder / f"{name}.md").read_text()
    assert not results["provenance"]["commit"].endswith("-dirty")
    if name == "input":
        assert text == pipeline.markdown(results)
