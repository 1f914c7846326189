"""A network of a finished run in files of its own: the logits that it should give, or nothing."""

import dataclasses
import inspect
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from experiments import cifar
from experiments.data.augment import normalize
from experiments.evaluation import points
from experiments.evaluation.predict import make_settings
from experiments.export import card, export, formats
from experiments.export.__main__ import main
from experiments.export.formats import dequantised, quantised
from experiments.runs.finished import command_of, reopen
from experiments.system.errors import UserError
from experiments.training import networks
from tests import tiny

# Orbax leaves futures of a closed event loop behind.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = Path(__file__).resolve().parent.parent
KERNEL = "params.Conv_0.kernel"


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    """Some of scikit-learn's digits."""
    digits = load_digits()
    images = np.rint(digits.images[:300, ..., None] * 255 / 16).astype(np.uint8)
    labels = digits.target[:300].astype(np.int32)
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    arrays = {"train_images": images[:200], "train_labels": labels[:200]}
    np.savez(path, **arrays, test_images=images[200:], test_labels=labels[200:])
    return path


@pytest.fixture(scope="module")
def finished(npz, tmp_path_factory):
    """The folder of a finished run of a line."""
    folder = tmp_path_factory.mktemp("runs") / "line"
    arguments = [
        *("--config", str(ROOT / "experiments/configs/digits.py:line"), "--workdir", str(folder)),
        f"--config.data_dir={npz}",
        "--config.model.widths=(4, 8)",
        "--config.num_epochs=15",
        "--config.steps_per_call=1",
        "--config.validation_size=50",
        "--config.batch_size=25",
        "--config.evaluation.num_points=3",
    ]
    assert cifar.main(arguments) == 0
    return folder


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
            return np.asarray(scope["logits"](scope["weights"], images)), {"numpy"}
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


# What is written


def test_a_fresh_process_reads_every_format_without_this_project(finished, tmp_path, here):
    """Of the midpoint, as int8 too: logits of evaluation itself, and predictions that are printed."""
    script = ["import os, runpy, sys", "import numpy as np"]
    names = [*formats.FORMATS, "int8"]
    for name in names:
        folder = tmp_path / name
        int8 = ("--int8",) * (name == "int8")
        exported(finished, folder, *int8, name="npz" if int8 else name)
        (folder / "code.py").write_text(card.code_of(folder))
        script += [
            f"os.chdir({str(folder)!r}); sys.path.insert(0, os.getcwd())",
            "sys.modules.pop('network', None)",
            "np.save('found.npy', runpy.run_path('code.py')['found'])",
        ]
    script += ["print(*{name.split('.')[0] for name in sys.modules})"]
    command = [sys.executable, "-c", "\n".join(script)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    *predictions, modules = done.stdout.splitlines()
    assert not {"experiments", "subspace_jax"} & set(modules.split())
    assert len(predictions) == len(names)
    again = reopen(finished)
    params = export.mixtures(again.stack, np.float32([[0.5, 0.5]]))
    midpoint, _ = export.recalibrated(again.run, params, again.settings)
    for name in names:
        found, example = (np.load(tmp_path / name / file) for file in ("found.npy", card.EXAMPLE))
        model, images = again.run.program.model, example["images"]
        wanted = export.predict(model, midpoint, images, again.settings)[0]
        np.testing.assert_allclose(found, example["logits"], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found, wanted, atol=0.1 if name == "int8" else 1e-4)


def test_the_command_s_own_fresh_process_finds_what_is_needed_and_no_more(finished, tmp_path):
    output = tmp_path / "midpoint"
    found = exported(finished, output, name="orbax")["verification"]
    assert found["imported"] == ["flax", "jax", "numpy", "orbax"]
    assert found["num_test_images"] == 16
    assert found["largest_difference"] <= 1e-4 * found["largest_logit"]
    files = json.loads((output / "model_card.json").read_text())["files"]
    assert {path.name for path in output.iterdir()} == set(files)
    assert inspect.getsource(networks) in (output / "network.py").read_text()


def test_all_formats_hold_the_same_numbers(tmp_path):
    from orbax.checkpoint import StandardCheckpointer
    from safetensors import safe_open

    kernel = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    params = {"a": {"b": {"kernel": kernel}, "bias": np.float32([-0.0, 1e-45])}}
    for i, kept in enumerate((params, quantised(params))):
        folder = tmp_path / str(i)
        folder.mkdir()
        for name, format_ in formats.FORMATS.items():
            format_.write(folder / name, {"params": kept}, {"point": "midpoint"})
        with safe_open(folder / "safetensors", "numpy") as file:
            assert file.metadata() == {"point": "midpoint"}
            read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        with StandardCheckpointer() as checkpointer:
            orbax = formats.flat(checkpointer.restore(folder / "orbax"))
        with np.load(folder / "npz.npz") as file:
            npz = dict(file)
        assert json.loads(npz.pop("metadata").item()) == {"point": "midpoint"}
        wanted = formats.flat({"params": kept})
        for found in (read, orbax, npz):
            assert set(found) == set(wanted)
            assert all(found[k].tobytes() == v.tobytes() for k, v in wanted.items())
            assert all(found[k].dtype == v.dtype for k, v in wanted.items())


def test_the_card_has_the_numbers_of_the_runs_own_record(finished, tmp_path, here, capsys):
    found = exported(finished, tmp_path / "out")
    results = json.loads((finished / "metrics.json").read_text())
    point, place = results["points"][1], results["places"]["midpoint"]
    measured = found["metrics"]["float32"]
    for name in ("accuracy", "nll", "brier", "ece", "aurc"):
        assert measured[name] == pytest.approx(point[name], rel=1e-4)
    assert measured["temperature"] == pytest.approx(place["temperature"], rel=1e-3)
    assert measured["scaled"]["ece"] == pytest.approx(place["scaled"]["ece"], rel=1e-2)
    assert found["recorded"] == point
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"| float32 | {100 * point['accuracy']:.2f} | {point['nll']:.4f} |" in page
    assert "150 images of digits with clean labels" in page
    assert "| int8" not in page
    assert "It is the midpoint (0.5) of a line (recipe `line`; Wortsman et al. 2021" in page
    assert f"test accuracy {100 * point['accuracy']:.2f} %" in capsys.readouterr().out
    config = (tmp_path / "out" / "config.json").read_bytes()
    assert config == (finished / "config.json").read_bytes()


def test_a_point_is_the_mixture_of_the_runs_networks(finished, here):
    """In the default folder of each; the run itself stays as it is."""
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    first, last = np.load(finished / "weights.npz")["['Conv_0']['kernel']"]
    for spec, alpha in (("0.25", 0.25), ("1/4", 0.25), ("endpoint_1", 1)):
        assert main([str(finished), "--point", spec, "--format", "npz"]) == 0
        folder = finished / "export" / f"{spec.replace('/', '_')}-npz"
        arrays = np.load(folder / "weights.npz")
        np.testing.assert_allclose(arrays[KERNEL], (1 - alpha) * first + alpha * last, atol=1e-6)
        assert {name.split(".")[0] for name in arrays} == {"params", "batch_stats", "metadata"}
        found = json.loads((folder / "model_card.json").read_text())
        assert found["point"]["coords"] == alpha
        assert (found["recorded"] is None) == (alpha == 0.25)
    shutil.rmtree(finished / "export")
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


def test_int8_weights_are_measured_beside_those_of_float32(finished, tmp_path, here):
    found = exported(finished, tmp_path / "out", "--int8")
    before = exported(finished, tmp_path / "plain")
    arrays, plain = (np.load(tmp_path / name / "weights.npz") for name in ("out", "plain"))
    assert arrays[KERNEL].dtype == np.int8
    moved = np.abs(arrays[KERNEL] * arrays[f"{KERNEL}_scale"] - plain[KERNEL])
    assert 0 < moved.max() <= 0.5 * arrays[f"{KERNEL}_scale"].max() * (1 + 1e-4)
    # Statistics of their own: the moments of other weights.
    assert (arrays["batch_stats.BatchNorm_0.var"] != plain["batch_stats.BatchNorm_0.var"]).any()
    nll = {name: metrics["nll"] for name, metrics in found["metrics"].items()}
    assert nll["float32"] == pytest.approx(before["metrics"]["float32"]["nll"], rel=1e-4)
    assert nll["int8"] != nll["float32"]
    assert nll["int8"] == pytest.approx(nll["float32"], rel=0.05)
    size = (tmp_path / "plain" / "weights.npz").stat().st_size
    assert found["bytes"]["float32"] == before["bytes"]["float32"] == size
    assert found["bytes"]["int8"] == (tmp_path / "out" / "weights.npz").stat().st_size
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| float32 (not in this folder) |" in page


NETWORKS = [
    networks.ConvNet(3, (2, 4, 3), dropout=0.25),
    networks.CifarResNet(3, depth=8, width=2),
    networks.ImageNetResNet(3, (1, 2), 2, "small", 2, classifier_bias=True),
    networks.ConvNet(3, (2, 4), dtype=jnp.bfloat16),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: type(network).__name__)
def test_the_source_of_a_network_gives_its_logits(network):
    images = np.random.default_rng(0).integers(0, 256, (3, 13, 10, 3)).astype(np.uint8)
    normalised = normalize(jnp.asarray(images), "imagenet")
    variables = jax.device_get(network.init(jax.random.key(0), normalised, train=False))
    kept = variables | {"params": quantised(variables["params"])}
    rounded = kept | {"params": dequantised(kept["params"])}
    for given_, same, int8 in ((variables, variables, False), (kept, rounded, True)):
        scope = {}
        exec(formats.source(network, "imagenet", int8), scope)
        for name in (field.name for field in dataclasses.fields(network)):
            assert getattr(scope["network"], name) == getattr(network, name)
        wanted = np.asarray(network.apply(same, normalised, train=False))
        assert np.ptp(wanted, axis=0).min() > 0.01  # images are told apart
        tolerance = (0.03 if network.dtype == jnp.bfloat16 else 1e-5) * np.abs(wanted).max()
        np.testing.assert_allclose(scope["logits"](given_, images), wanted, atol=tolerance)


# int8

KERNELS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.floats(-(2.0**60), 2.0**60, width=32),
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(KERNELS)
def test_no_weight_moves_by_more_than_half_a_scale(kernel):
    kernel.flat[0] = 0
    found = quantised({"kernel": kernel, "bias": kernel.ravel()})
    assert found["kernel"].dtype == np.int8
    assert found["kernel_scale"].shape == (1,) * (kernel.ndim - 1) + kernel.shape[-1:]
    back = dequantised(found)
    assert back["bias"] is found["bias"]
    assert set(back) == {"kernel", "bias"}
    moved = np.abs(back["kernel"].astype(np.float64) - kernel)
    # The product is rounded to float32 once more.
    assert (moved <= 0.5 * found["kernel_scale"] * (1 + 1e-4)).all()
    assert (back["kernel"][kernel == 0] == 0).all()
    assert (back["kernel"] * np.sign(kernel) >= 0).all()
    np.testing.assert_array_equal(quantised(back)["kernel"], found["kernel"])


def test_channels_have_scales_of_their_own_and_the_smallest_numbers_do_not_divide_by_zero():
    kernel = np.float32([[[1, 0, 1e-3, 1e-45], [-2, 0, 0, 0]]])
    found = quantised({"kernel": kernel, "ids": np.int32([[1, 2]])})
    np.testing.assert_array_equal(found["kernel"][..., :3], [[[64, 0, 127], [-127, 0, 0]]])
    assert set(found) == {"kernel", "kernel_scale", "ids"}
    back = dequantised(found)["kernel"]
    np.testing.assert_allclose(np.abs(back).max((0, 1)), [2, 0, 1e-3, 0], rtol=1e-6, atol=1e-38)


# Nothing is kept that was not checked


def test_what_a_fresh_process_finds_otherwise_is_deleted(finished, tmp_path, capsys, monkeypatch):
    format_ = formats.FORMATS["npz"]
    elsewhere = format_.load.replace("weights.npz", "elsewhere.npz")
    monkeypatch.setitem(formats.FORMATS, "npz", dataclasses.replace(format_, load=elsewhere))
    said = refused(capsys, finished, tmp_path / "out")
    assert "it failed: FileNotFoundError" in said
    assert "so they were deleted" in said
    monkeypatch.setitem(formats.FORMATS, "npz", format_)
    for change, modules, sentence in (
        (0, {"subspace_jax"}, "it imported subspace_jax"),
        (np.nan, set(), "its logits differ by"),
        (1, set(), "its logits differ by"),
        (np.zeros((2, 1, 1)), set(), "its logits have shape"),
    ):

        def found(made, images, change=change, modules=modules):
            with np.load(made / "example.npz") as example:
                return np.resize(example["logits"], (len(images), 10)) + change, modules

        monkeypatch.setattr(export, "_in_fresh_process", found)
        monkeypatch.setattr(export, "_CHECKED_IMAGES", 4)
        assert sentence in refused(capsys, finished, tmp_path / "out")


def test_an_export_is_replaced_only_on_demand_and_nothing_else_ever(
    finished, tmp_path, here, capsys
):
    output, other = tmp_path / "out", tmp_path / "other"
    exported(finished, output)
    assert "pass --overwrite" in refused(capsys, finished, output)
    found = exported(finished, output, "--overwrite", "--point", "0.25")
    assert found["point"]["coords"] == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other.mkdir()
    (other / "thesis.txt").write_text("")
    assert "is no export" in refused(capsys, finished, other, "--overwrite")
    assert (other / "thesis.txt").exists()


def test_an_export_that_can_not_be_put_in_its_place_leaves_the_older_one(tmp_path, monkeypatch):
    made, output = tmp_path / "made", tmp_path / "out"
    for folder in (made, output):
        folder.mkdir()
        (folder / "which").write_text(folder.name)
    rename = os.rename

    def fails(source, target):
        if source == made:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(KeyboardInterrupt):
        export._put(made, output)
    assert (output / "which").read_text() == "out"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["made", "out"]


def test_a_signal_leaves_nothing_behind(finished, tmp_path, monkeypatch):
    """While the network is measured, when the folder exists already under another name."""
    seen = []

    def signalled(folder, record):
        seen.extend(path.name for path in tmp_path.iterdir())
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(export, "_check_record", signalled)
    before = signal.getsignal(signal.SIGTERM)
    assert main([str(finished), "--output", str(tmp_path / "out"), "--format", "npz"]) == 130
    assert [name.startswith(".out.") for name in seen] == [True]
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


# Points


def choose(spec, recipe="line", metrics=None, **changes):
    changes |= {"num_epochs": 12} if recipe in ("swag", "fge") else {}
    run, config = tiny.run(recipe, **changes), tiny.config(recipe, **changes)
    metrics = metrics or {"points": [{"nll": 1.0}] * 5}
    return points.choose(spec, run, make_settings(config, run), metrics)


@pytest.mark.parametrize(
    ("recipe", "spec", "weights"),
    [
        ("line", "midpoint", [0.5, 0.5]),
        ("line", "1", [0, 1]),
        ("layerwise_line", "3/10", [0.7, 0.3]),
        ("curve", "0.5", [0.25, 0.5, 0.25]),
        ("simplex_3", "midpoint", [1 / 3, 1 / 3, 1 / 3]),
        ("simplex_3", "0.2,0.3,0.5", [0.2, 0.3, 0.5]),
        ("simplex_3", "edge_0-2", [0.5, 0, 0.5]),
        ("standard", "midpoint", [1]),
        ("ema", "midpoint", [1]),
        ("swag", "midpoint", [1, 0, 0, 0, 0, 0]),
        ("swag", "sample_1", [0, 0, 1, 0, 0, 0]),
        ("fge", "midpoint", [0.2, 0.2, 0.2, 0.2, 0.2]),
        ("fge", "endpoint 4", [0, 0, 0, 0, 1]),
    ],
)
def test_points_are_mixtures_of_what_a_method_trained(recipe, spec, weights):
    found = choose(spec, recipe)
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    assert found.inside
    assert found.validation_nll is None


def test_the_best_point_is_that_of_the_lowest_validation_nll_whatever_test_images_say():
    nll = [0.9, 0.2, None, 0.3, 0.8]
    records = [{"nll": 1 - (value or 0), "validation": {"nll": value}} for value in nll]
    found = choose("best", metrics={"points": records})
    assert (float(found.coords), found.validation_nll) == (0.25, 0.2)


@pytest.mark.parametrize(
    ("recipe", "spec", "sentence"),
    [
        ("line", "best", "held out no validation images to choose it by"),
        ("line", "middle", "'middle'; use endpoint_0, midpoint, endpoint_1, best, or a number"),
        ("line", "nan", "'nan'; use endpoint_0"),
        ("line", "1/0", "'1/0'; use endpoint_0"),
        ("curve", "0.2,0.3,0.5", "has 3 coordinates but a point of this curve has 1"),
        ("simplex_3", "0.5", "has 1 coordinate but a point of this simplex of 3 networks has 3"),
        ("simplex_3", "0.5,0.5", "give 3 coordinates such as 0.5,0.5,0"),
        ("simplex_3", "0.3,0.3,0.3", "which sums to 0.9, but barycentric coordinates sum to 1"),
        ("standard", "0.3", "but the run has one network; use midpoint"),
        ("swag", "0.3", "but SWAG's networks span no subspace; use midpoint"),
    ],
)
def test_points_that_do_not_exist_are_refused(recipe, spec, sentence):
    with pytest.raises(UserError, match=rf"^--point .*{sentence}"):
        choose(spec, recipe)


def test_what_lies_outside_is_known():
    given_ = {"subspace__given": ()}  # the middle of a complex lies outside of it
    for recipe, spec, inside, changes in (
        ("line", "1.01", False, {}),
        ("line", "-0.01", False, {}),
        ("simplex_3", "-0.1,0.6,0.5", False, {}),
        ("simplex_3", "0,0.5,0.5", True, {}),
        ("spro_1", "midpoint", False, given_),
        ("spro_1", "0.5,0,0.5", True, given_),
        ("spro_1", "sample_0", True, given_),
    ):
        assert choose(spec, recipe, **changes).inside == inside, (recipe, spec)


def test_a_point_outside_is_refused_and_allowed_with_a_warning(finished, tmp_path, here, capsys):
    said = refused(capsys, finished, tmp_path / "out", "--point", "1.5")
    assert re.search(r"1\.5 lies outside of what .*; choose one inside, or pass --allow_out", said)
    found = exported(finished, tmp_path / "out", "--point=1.2", "--allow_outside")
    assert "warning: --point 1.2 lies outside" in capsys.readouterr().err
    assert not found["point"]["inside"]
    assert any("outside" in sentence for sentence in found["limits"])


# Runs that can't be exported


def test_folders_without_a_finished_run_are_refused(finished, tmp_path, capsys):
    empty, suite, unfinished = (tmp_path / name for name in ("empty", "suite", "unfinished"))
    empty.mkdir()
    (suite / "runs").mkdir(parents=True)
    unfinished.mkdir()
    shutil.copy(finished / "config.json", unfinished)
    for folder, sentence in (
        (tmp_path / "nowhere", "is no folder"),
        (empty, "has no config.json"),
        (suite, "holds a suite of runs"),
        (unfinished, "that is not finished; finish it with `python -m experiments.cifar"),
    ):
        assert sentence in refused(capsys, folder, tmp_path / "out")


def test_the_command_that_finishes_a_run_is_that_of_its_config(finished, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(command_of(finished))
    assert words[:3] == ["python", "-m", "experiments.cifar"]
    assert cifar.main(words[3:]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_weights_that_are_missing_damaged_or_of_another_network(finished, tmp_path, capsys):
    folder, output = tmp_path / "run", tmp_path / "out"
    shutil.copytree(finished, folder)
    weights = folder / "weights.npz"
    weights.write_bytes(weights.read_bytes()[:2000])
    assert "can't be read as weights" in refused(capsys, folder, output)
    weights.unlink()
    assert "has no weights.npz; delete its metrics.json and run" in refused(capsys, folder, output)
    with np.load(finished / "weights.npz") as file:
        np.savez(weights, **{name: file[name][:1] for name in file.files})
    assert "holds 1 networks but the run of config.json has 2" in refused(capsys, folder, output)
    model = json.loads((finished / "config.json").read_text())["model"]
    other = changed(finished, tmp_path / "wider", model=model | {"widths": [4, 9]})
    assert "use weights of the same config.model" in refused(capsys, other, output)


def test_data_that_moved_are_found_and_other_data_refused(npz, finished, tmp_path, here, capsys):
    moved, other, output = (tmp_path / name for name in ("moved.npz", "other.npz", "out"))
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


def test_usage(capsys):
    for arguments, code in ((["--help"], 0), (["run", "--format", "onnx"], 2), ([], 2)):
        with pytest.raises(SystemExit, match=str(code)):
            main(arguments)
        said = capsys.readouterr()
        assert "safetensors" in said.out + said.err
        assert ("0.2,0.3,0.5" in said.out) == (code == 0)
