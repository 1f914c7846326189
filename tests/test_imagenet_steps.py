"""The benchmark of ImageNet's training steps, with a network that is small enough to test."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import imagenet_steps, input_pipeline
from experiments.configs import imagenet

ROOT = Path(__file__).resolve().parent.parent


def test_a_count_below_one_is_refused(capsys, tmp_path):
    for name in ("batch_size", "rounds", "steps"):
        assert imagenet_steps.main([f"--{name}", "0", "--output", str(tmp_path / "steps")]) == 2
        assert capsys.readouterr().err == f"error: --{name} is 0; use at least 1.\n"
    assert not (tmp_path / "steps").exists()


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
def test_the_documentation_shows_the_committed_record(module):
    name = module.__name__.rpartition(".")[2]
    folder = ROOT / "results" / name
    results = json.loads((folder / f"{name}.json").read_text())
    text = (folder / f"{name}.md").read_text()
    assert text == module.markdown(results)
    assert text.rstrip() in (ROOT / "docs" / "scaling.md").read_text()
    assert not results["provenance"]["commit"].endswith("-dirty")
