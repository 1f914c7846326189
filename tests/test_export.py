"""A network of a finished run in files of its own: the logits that it should give, or nothing."""

import dataclasses
import functools
import importlib
import inspect
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from experiments import cifar
from experiments.data.augment import normalize
from experiments.evaluation import points
from experiments.evaluation.predict import make_settings
from experiments.export import card, export, formats
from experiments.export.__main__ import main
from experiments.export.formats import dequantised, quantised
from experiments.runs.finished import reopen
from experiments.system.errors import UserError
from experiments.training import networks
from tests import tiny
from tests.records import ROOT
from tests.stacks import normal

# Orbax leaves futures of a closed event loop behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

KERNEL = "params.Conv_0.kernel"
RESNET = """from tests import tiny

def get_config(recipe):
    config = tiny.get_config(recipe)
    config.model.update(name="cifar_resnet", depth=8, width=4)
    return config
"""


def trained(folder, *arguments, file=ROOT / "tests/tiny.py"):
    """The folder of a run of a line that has these values."""
    config = f"--config={file}:line"
    arguments = (f"--workdir={folder / 'line'}", *arguments, "--config.evaluation.num_points=3")
    assert cifar.main([config, *arguments]) == 0
    return folder / "line"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run of a line."""
    folder = tmp_path_factory.mktemp("runs")
    data = f"--config.data_dir={tiny.npz_file(folder / 'images.npz')}"
    return trained(folder, data, "--config.validation_size=24", "--config.num_epochs=15")


@pytest.fixture
def here(monkeypatch):
    """The card's code runs in this process, which takes less time than a fresh one."""

    def run(made, images):
        monkeypatch.chdir(made)
        monkeypatch.syspath_prepend(made)
        sys.modules.pop("network", None)
        try:
            scope = {}
            exec(card.code_of(made), scope)
            return np.asarray(scope["logits"](images)), {"numpy"}
        finally:
            sys.modules.pop("network", None)
            monkeypatch.chdir(ROOT)

    monkeypatch.setattr(export, "_in_fresh_process", run)


def exported(folder, output, *more, name="npz"):
    """The record of the card."""
    assert main([str(folder), "--output", str(output), "--format", name, *more]) == 0
    return json.loads((output / "model_card.json").read_text())


def refused(capsys, folder, output, *more):
    """The sentence of a refusal, which leaves nothing."""
    before = sorted(output.parent.iterdir())
    assert main([str(folder), "--output", str(output), "--format", "npz", *more]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ")
    assert sorted(output.parent.iterdir()) == before
    return said


def changed(finished, folder, **values):
    """A copy of a run whose config.json has other values."""
    shutil.copytree(finished, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))
    return folder


def available(name):
    """The row of a format, where its packages are installed."""
    format_ = formats.FORMATS[name]
    for package in (*format_.packages, *format_.writers):
        pytest.importorskip(package.partition("-")[0])
    return format_


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_fresh_process_reads_every_format_without_this_project(finished, tmp_path, name):
    """Of the midpoint: it gets the logits of evaluation itself."""
    packages = available(name).packages
    if name == "torch":
        (tmp_path / "resnet.py").write_text(RESNET)
        data = f"--config.data_dir={finished.parent / 'images.npz'}"
        finished = trained(tmp_path, data, file=tmp_path / "resnet.py")
    found = exported(finished, tmp_path / "out", name=name)
    there = found["verification"]
    needed = {package.partition("-")[0] for package in packages}
    assert set(there["imported"]) ^ needed <= {"flatbuffers"}  # which Orbax imports where it is
    assert there["largest_difference"] <= 1e-5 * there["largest_logit"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(found["files"])
    if "flax" in packages:
        assert inspect.getsource(networks) in (tmp_path / "out" / "network.py").read_text()
    run, settings, stack = reopen(finished)[-3:]
    params = export.mixtures(stack, np.float32([[0.5, 0.5]]))
    midpoint, _ = export.recalibrated(run, params, settings)
    example = dict(np.load(tmp_path / "out" / card.EXAMPLE))
    wanted = export.predict(run.program.model, midpoint, example["images"], settings)[0]
    np.testing.assert_allclose(example["logits"], wanted, atol=1e-4)


def test_the_card_has_the_numbers_of_the_runs_own_record(finished, tmp_path, here, capsys):
    output = tmp_path / "out"
    found = exported(finished, output)
    results = json.loads((finished / "metrics.json").read_text())
    point, place = results["points"][1], results["places"]["midpoint"]
    measured = found["metrics"]["float32"]
    for name in ("accuracy", "nll", "brier", "ece", "temperature"):
        assert measured[name] == pytest.approx(place[name], rel=1e-3)
    assert found["recorded"] == point
    assert f"test accuracy {100 * point['accuracy']:.2f} %" in capsys.readouterr().out
    assert (output / "config.json").read_bytes() == (finished / "config.json").read_bytes()


def test_hubs_read_metrics_data_and_licence_of_the_card(finished, tmp_path, here):
    found = exported(finished, tmp_path / "out", "--license", "apache-2.0")
    front = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    (model,) = front["model-index"]
    (result,) = model["results"]
    assert (front["license"], result["dataset"]["name"]) == ("apache-2.0", "tiny")
    for metric in result["metrics"]:
        assert metric["value"] == found["metrics"]["float32"][metric["type"]]
    attack = 'a": [b]\n---\n# c'
    card_ = found | {"license": attack, "data": found["data"] | {"name": attack}}
    front = yaml.safe_load(card._front_matter(card_))
    assert (front["license"], front["model-index"][0]["name"]) == (attack, f"{attack}-line")


def test_what_a_format_does_not_carry_is_refused(finished, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: name != "onnxruntime")
    for name, more, sentence in (
        ("torch", (), "--format torch does not carry this network, since PyTorch has no padding"),
        ("onnx", (), "needs onnxruntime, not installed here; pip install onnxruntime"),
    ):
        said = refused(capsys, finished, tmp_path / "out", "--format", name, *more)
        assert sentence in said
    monkeypatch.undo()
    available("onnx")
    said = refused(capsys, finished, tmp_path / "out", "--format", "onnx", "--int8")
    assert "--int8 is not for --format onnx; leave it out or choose orbax, saf" in said


def test_int8_weights_are_measured_beside_those_of_float32(finished, tmp_path, here):
    """At a point between the run's networks, whose kernels are mixed."""
    exact = exported(finished, tmp_path / "exact", "--point", "1/4")
    assert (exact["point"]["coords"], exact["recorded"]) == (0.25, None)
    found = exported(finished, tmp_path / "int8", "--point", "1/4", "--int8")
    plain, arrays = (np.load(tmp_path / name / "weights.npz") for name in ("exact", "int8"))
    first, last = np.load(finished / "weights.npz")["['Conv_0']['kernel']"]
    np.testing.assert_allclose(plain[KERNEL], 0.75 * first + 0.25 * last, atol=1e-6)
    moved = np.abs(arrays[KERNEL] * arrays[f"{KERNEL}_scale"] - plain[KERNEL])
    assert 0 < moved.max() <= 0.5 * arrays[f"{KERNEL}_scale"].max() * (1 + 1e-4)
    # Statistics of their own: the moments of other weights.
    assert (arrays["batch_stats.BatchNorm_0.var"] != plain["batch_stats.BatchNorm_0.var"]).any()
    nll = [found["metrics"][name]["nll"] for name in ("float32", "int8")]
    assert nll[0] == pytest.approx(exact["metrics"]["float32"]["nll"], rel=1e-4)
    assert nll[0] != nll[1] == pytest.approx(nll[0], rel=0.05)
    sizes = [(tmp_path / name / "weights.npz").stat().st_size for name in ("exact", "int8")]
    assert [found["bytes"][name] for name in ("float32", "int8")] == sizes


NETWORKS = [
    networks.ConvNet(3, (2, 4, 3), dropout=0.25),
    networks.CifarResNet(3, 8, 2),
    networks.ImageNetResNet(3, (1, 1), width=2),
    networks.ImageNetResNet(3, (1, 2), 2, "small", 2, classifier_bias=True),
    networks.ConvNet(3, (2, 4), dtype=jnp.bfloat16),
    networks.CifarResNet(3, 8, 4, dtype=jnp.bfloat16),
]


@pytest.mark.parametrize("name", ["npz", "torch", "stablehlo", "onnx"])
@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_every_format_gives_the_logits_of_every_network(name, network, tmp_path, monkeypatch):
    """Of any number of images, by the code of the card."""
    format_ = available(name)
    if format_.refusal(network):
        pytest.skip(format_.refusal(network))
    images = np.random.default_rng(0).integers(0, 256, (3, 13, 10, 3)).astype(np.uint8)
    normalised = normalize(jnp.asarray(images), "imagenet")
    init, apply = (
        jax.jit(functools.partial(f, train=False)) for f in (network.init, network.apply)
    )
    variables = jax.device_get(init(jax.random.key(0), normalised))
    kept = variables | {"params": quantised(variables["params"])}
    rounded = kept | {"params": dequantised(kept["params"])}
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for given_, same, int8 in ((variables, variables, False), (kept, rounded, True)):
        if int8 and not format_.keeps_int8:
            continue
        wanted = np.asarray(apply(same, normalised))
        assert np.ptp(wanted, axis=0).min() > 0.01  # images are told apart
        np.savez(card.EXAMPLE, images=images, logits=wanted)
        exported_ = formats.Exported(network, given_, "imagenet", images.shape[1:], int8)
        format_.write(tmp_path / format_.file, exported_)
        scope = {}
        if format_.source:
            source = format_.source(exported_)
            (tmp_path / card.NETWORK).write_text(source)
            exec(source, scope)
        if name == "npz":
            for field in (field.name for field in dataclasses.fields(network)):
                assert getattr(scope["network"], field) == getattr(network, field)
        sys.modules.pop("network", None)
        importlib.invalidate_caches()
        tolerance = 0.03 if network.dtype == jnp.bfloat16 else 1e-5
        exec(card.loading_code(name, tolerance), scope)
        found = np.asarray(scope["logits"](images[:2]))
        np.testing.assert_allclose(found, wanted[:2], atol=tolerance * np.abs(wanted).max())
    sys.modules.pop("network", None)


def test_channels_have_scales_of_their_own_and_the_smallest_numbers_do_not_divide_by_zero():
    kernel = np.float32([[[1, 0, 1e-3, 1e-45], [-2, 0, 0, 0]]])
    found = quantised({"kernel": kernel, "ids": np.int32([[1, 2]])})
    np.testing.assert_array_equal(found["kernel"][..., :3], [[[64, 0, 127], [-127, 0, 0]]])
    assert set(found) == {"kernel", "kernel_scale", "ids"}
    back = dequantised(found)["kernel"]
    np.testing.assert_allclose(np.abs(back).max((0, 1)), [2, 0, 1e-3, 0], rtol=1e-6, atol=1e-38)
    kernel = normal(0, 3, 3, 4, 8)
    found = quantised({"kernel": kernel, "bias": kernel.ravel()})
    back = dequantised(found)
    assert back["bias"] is found["bias"]
    # The product is rounded to float32 once more.
    assert (abs(back["kernel"] - kernel) <= 0.5 * found["kernel_scale"] * (1 + 1e-4)).all()
    np.testing.assert_array_equal(quantised(back)["kernel"], found["kernel"])


def test_what_a_fresh_process_finds_otherwise_is_deleted(finished, tmp_path, capsys, monkeypatch):
    format_ = formats.FORMATS["npz"]
    elsewhere = format_.load.replace("weights.npz", "elsewhere.npz")
    with monkeypatch.context() as patch:
        patch.setitem(formats.FORMATS, "npz", format_._replace(load=elsewhere))
        said = refused(capsys, finished, tmp_path / "out")
    assert "it failed: FileNotFoundError" in said
    for change, modules, sentence in (
        (0, {"subspace_jax"}, "it imported subspace_jax"),
        (np.nan, set(), "its logits differ by"),
        (1, set(), "its logits differ by"),
    ):

        def found(made, images, change=change, modules=modules):
            with np.load(made / "example.npz") as example:
                return np.resize(example["logits"], (len(images), 3)) + change, modules

        monkeypatch.setattr(export, "_in_fresh_process", found)
        monkeypatch.setattr(export, "_CHECKED_IMAGES", 4)
        assert sentence in refused(capsys, finished, tmp_path / "out")


def test_an_export_is_replaced_only_on_demand_and_whole_and_nothing_else_ever(
    finished, tmp_path, here, capsys, monkeypatch
):
    output, other, rename = tmp_path / "out", tmp_path / "other", os.rename
    older = exported(finished, output)
    assert "pass --overwrite" in refused(capsys, finished, output)

    def interrupted(source, target):
        """At the last moment, when the older one is out of the way already."""
        if Path(source).name == "made":
            signal.raise_signal(signal.SIGTERM)
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
        again = ["--output", str(output), "--format", "npz", "--overwrite"]
        assert main([str(finished), *again]) == 130
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert json.loads((output / "model_card.json").read_text()) == older
    found = exported(finished, output, "--overwrite", "--point", "0.25")
    assert found["point"]["coords"] == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other.mkdir()
    (other / "thesis.txt").write_text("")
    assert "is no export" in refused(capsys, finished, other, "--overwrite")
    assert (other / "thesis.txt").exists()


def choose(spec, recipe="line", metrics=None):
    changes = {"num_epochs": 12} if recipe in ("swag", "fge") else {}
    changes |= {"subspace__given": ()} if recipe == "spro_1" else {}
    run, config = tiny.run(recipe, **changes), tiny.config(recipe, **changes)
    metrics = metrics or {"points": [{"nll": 1.0}] * 5}
    return points.choose(spec, run, make_settings(config, run), metrics)


OUTSIDE = [
    ("line", "1.25", [-0.25, 1.25]),
    ("simplex_3", "-0.1,0.6,0.5", [-0.1, 0.6, 0.5]),
    ("spro_1", "midpoint", [1 / 3, 1 / 3, 1 / 3]),  # two edges of a triangle
]


@pytest.mark.parametrize(
    ("recipe", "spec", "weights"),
    [
        ("line", "midpoint", [0.5, 0.5]),
        ("layerwise_line", "3/10", [0.7, 0.3]),
        ("curve", "0.5", [0.25, 0.5, 0.25]),
        ("simplex_3", "midpoint", [1 / 3, 1 / 3, 1 / 3]),
        ("simplex_3", "0.2,0.3,0.5", [0.2, 0.3, 0.5]),
        ("simplex_3", "edge_0-2", [0.5, 0, 0.5]),
        ("standard", "midpoint", [1]),
        ("swag", "sample_1", [0, 0, 1, 0, 0, 0]),
        ("fge", "endpoint 4", [0, 0, 0, 0, 1]),
        ("spro_1", "0.5,0,0.5", [0.5, 0, 0.5]),
        *OUTSIDE,
    ],
)
def test_points_are_mixtures_of_what_a_method_trained(recipe, spec, weights):
    found = choose(spec, recipe)
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    assert found.inside == ((recipe, spec, weights) not in OUTSIDE)
    assert found.validation_nll is None


def test_the_best_point_is_that_of_the_lowest_validation_nll_whatever_test_images_say():
    nll = [0.9, 0.2, None, 0.3, 0.8]
    records = [{"nll": 1 - (value or 0), "validation": {"nll": value}} for value in nll]
    found = choose("best", metrics={"points": records})
    assert (float(found.coords), found.validation_nll) == (0.25, 0.2)


@pytest.mark.parametrize(
    ("recipe", "spec", "sentence"),
    [
        ("line", "best", "but the run held out no validation images to choose it by"),
        ("line", "nan", "line; use endpoint_0, midpoint, endpoint_1, best or a number from 0 to 1"),
        ("curve", "0.2,0.3,0.5", "is no point of this curve"),
        ("simplex_3", "0.5,0.5", "best or 3 numbers that sum to 1, such as 1/3,1/3,1/3"),
        ("swag", "0.3", "is no point of this Gaussian; use midpoint, sample_0"),
    ],
)
def test_points_that_do_not_exist_are_refused(recipe, spec, sentence):
    with pytest.raises(UserError, match=rf"^--point is {spec}.*{sentence}"):
        choose(spec, recipe)


def test_a_point_outside_is_refused_and_allowed_with_a_warning(finished, tmp_path, here, capsys):
    said = refused(capsys, finished, tmp_path / "out", "--point", "1.5")
    assert re.search(r"1\.5 lies outside of what .*; choose one inside, or pass --allow_out", said)
    far = ("--point=1e38", "--allow_outside")
    assert "are not finite" in refused(capsys, finished, tmp_path / "out", *far)
    found = exported(finished, tmp_path / "out", "--point=1.2", "--allow_outside")
    assert "warning: --point 1.2 lies outside" in capsys.readouterr().err
    assert not found["point"]["inside"]


def test_data_that_moved_are_found_and_other_data_refused(finished, tmp_path, here, capsys):
    moved, other, output = (tmp_path / name for name in ("moved.npz", "other.npz", "out"))
    npz = finished.parent / "images.npz"
    shutil.copy(npz, moved)
    with np.load(npz) as file:
        np.savez(other, **{k: v[::-1] if "images" in k else v for k, v in file.items()})
    gone = changed(finished, tmp_path / "gone", data_dir=str(tmp_path / "gone.npz"))
    assert "there is no such file" in refused(capsys, gone, output)
    assert "is not the file that" in refused(capsys, gone, output, "--data_dir", str(other))
    silent = changed(finished, tmp_path / "silent", data_dir=str(other), data_sha256="")
    assert "data or weights are not those of the run" in refused(capsys, silent, output)
    found = exported(gone, output, "--data_dir", str(moved))
    assert found["recorded"]["nll"] == pytest.approx(found["metrics"]["float32"]["nll"], rel=1e-4)
