"""The benchmarks of ImageNet's training steps and of its input pipeline, at small sizes."""

import json
from types import SimpleNamespace

import pytest
from records import ROOT

from benchmarks import imagenet_steps, input_pipeline
from experiments.configs import imagenet

SMALL = ["--images=8", "--batch_size=4", "--batches=1", "--image_size=16", "--rounds=2"]
WAIT = {"data_wait": dict.fromkeys(("median", "min", "max"), 0.25)}
WAIT |= {"images_per_second": dict.fromkeys(("median", "min", "max"), 40.0)}


def test_every_way_of_loading_is_compared_with_the_bare_decoder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(input_pipeline, "_wait", lambda *arguments: WAIT)
    more = ["--workers=0", "--threads=1,2", "--output", str(tmp_path)]
    assert input_pipeline.main([*SMALL, *more]) == 0
    found = json.loads((tmp_path / "input_pipeline.json").read_text())
    pipelines = {"0 workers, 1 threads", "0 workers, 2 threads"}
    assert found["ratios"].keys() == pipelines
    assert found["images_per_second"].keys() == pipelines | {"bare decoder", "JPEG alone"}
    assert all(speed["min"] > 0 for speed in found["images_per_second"].values())
    assert found["training"] == {"0": WAIT}
    text = (tmp_path / "input_pipeline.md").read_text()
    assert text in capsys.readouterr().out
    assert "| 0 | 25.0 (25.0 to 25.0) | 40 (40 to 40) |" in text


def test_bad_input(tmp_path, capsys):
    for module, flag, said in (
        (imagenet_steps, "--batch_size=0", "--batch_size is 0; use at least 1."),
        (
            input_pipeline,
            "--workers=0,-1",
            "--workers is '0,-1'; use numbers of 0 or more with com",
        ),
        (input_pipeline, "--epochs=1", "--epochs is 1; use at least 2."),
        (input_pipeline, "--data_dir=/none", "imagenet2012 is not prepared in /none; "),
    ):
        small = SMALL if module is input_pipeline else []
        assert module.main([*small, flag, "--output", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith(f"error: {said}")
    assert not list(tmp_path.iterdir())


def test_shares_and_hours_are_those_of_the_measured_steps(monkeypatch):
    def small(recipe):
        config = imagenet.get_config(recipe)
        config.model.depth = 8
        return config

    monkeypatch.setattr(imagenet_steps, "imagenet", SimpleNamespace(get_config=small))
    options = SimpleNamespace(batch_size=4, dtype="float32", image_size=8, width=4)
    vars(options).update(mesh="", rounds=2, steps=1, peak_tflops=0.5, networks=["cifar_resnet"])
    results = imagenet_steps.measure(options)
    (found,) = results["networks"].values()
    for recipe in imagenet_steps.RECIPES:
        one = found[recipe]
        speed = one["images_per_second"]["median"]
        assert one["hours"] * 3600 * speed == pytest.approx(200 * 1_271_167)
        assert one["share_of_peak"] * 0.5e12 == pytest.approx(speed * one["flop_per_image"])
    flop = [found[recipe]["flop_per_image"] for recipe in imagenet_steps.RECIPES]
    assert flop[0] < flop[1] < 2 * flop[0]
    stacks = [found[recipe]["memory"]["endpoints"] for recipe in imagenet_steps.RECIPES]
    assert stacks[1] == 2 * stacks[0]
    assert "| cifar_resnet, line |" in imagenet_steps.markdown(results)


@pytest.mark.parametrize("module", [imagenet_steps, input_pipeline])
def test_the_committed_table_is_that_of_the_record(module):
    name = module.__name__.rpartition(".")[2]
    folder = ROOT / "results" / name
    results = json.loads((folder / f"{name}.json").read_text())
    text = (folder / f"{name}.md").read_text()
    assert text == module.markdown(results)
    assert not results["provenance"]["commit"].endswith("-dirty")
