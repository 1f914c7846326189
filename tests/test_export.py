"""A network of a finished run in files of its own: the logits that it should give, or nothing."""

import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments import cifar, export, finished_run, formats, model_card, points, workdir
from experiments.errors import UserError
from experiments.predict import make_settings
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
    np.savez(
        path,
        train_images=images[:200],
        train_labels=labels[:200],
        test_images=images[200:],
        test_labels=labels[200:],
    )
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
            exec(model_card.code_of(made), scope)
            return np.asarray(scope["logits"](scope["weights"], images)), {"numpy"}
        finally:
            sys.modules.pop("network", None)
            monkeypatch.chdir(ROOT)

    monkeypatch.setattr(export, "_in_fresh_process", run)


def exported(folder, output, *more, name="npz"):
    """What the file holds, and the record of its card."""
    assert export.main([str(folder), "--output", str(output), "--format", name, *more]) == 0
    return np.load(output / "weights.npz"), card_of(output)


def card_of(output):
    return json.loads((output / "model_card.json").read_text())


def refused(capsys, folder, output, *more, name="npz"):
    """The sentence of a refusal, which leaves nothing."""
    before = sorted(output.parent.iterdir())
    assert export.main([str(folder), "--output", str(output), "--format", name, *more]) == 2
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


# In a fresh process


def fresh_logits(output, images, tmp_path):
    """Logits of images by the code of a card in another process, and what it imported."""
    np.save(tmp_path / "images.npy", images)
    script = f"""
import sys
{model_card.code_of(output)}
np.savez({str(tmp_path / "found.npz")!r}, modules=list(sys.modules),
         logits=logits(weights, np.load({str(tmp_path / "images.npy")!r})))
"""
    subprocess.run([sys.executable, "-c", script], cwd=output, check=True)
    found = np.load(tmp_path / "found.npz")
    return found["logits"], {name.split(".")[0] for name in found["modules"]}


@pytest.fixture(scope="module")
def wanted(finished):
    """Test images, and logits of the midpoint by evaluation itself."""
    again = finished_run.reopen(finished)
    params = export.mixtures(again.stack, np.float32([[0.5, 0.5]]))
    networks, _ = export.recalibrated(again.run, params, again.settings)
    images = again.dataset.test.images
    model = again.run.program.model
    return images, np.asarray(export.predict(model, networks, images, again.settings)[0])


def test_flax_and_orbax_alone_load_the_midpoint(finished, wanted, tmp_path):
    """As the command itself finds out in a process of its own before it says so."""
    output = tmp_path / "midpoint"
    assert export.main([str(finished), "--output", str(output)]) == 0
    found = card_of(output)["verification"]
    assert found["imported"] == ["flax", "jax", "numpy", "orbax"]
    assert found["num_test_images"] == 16
    assert found["largest_difference"] <= 1e-4 * found["largest_logit"]
    example = np.load(output / "example.npz")
    assert example["images"].shape == (4, 8, 8, 1)
    assert {path.name for path in output.iterdir()} == set(card_of(output)["files"])
    assert not list(output.rglob("__pycache__"))


def test_safetensors_and_numpy_alone_load_the_midpoint(finished, wanted, tmp_path, here):
    output = tmp_path / "midpoint"
    arguments = [str(finished), "--output", str(output), "--format", "safetensors"]
    assert export.main(arguments) == 0
    images, logits = wanted
    found, modules = fresh_logits(output, images, tmp_path)
    assert not modules & {"experiments", "subspace_jax", "jax", "flax", "orbax"}
    assert "safetensors" in modules
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)


def test_a_process_that_fails_is_quoted(finished, tmp_path, monkeypatch, capsys):
    broken = formats.FORMATS["npz"].load[:-1]
    other = dataclasses.replace(
        formats.FORMATS["npz"], load=(*broken, 'weights = dict(np.load("elsewhere.npz"))')
    )
    monkeypatch.setitem(formats.FORMATS, "npz", other)
    said = refused(capsys, finished, tmp_path / "out")
    assert "it failed: FileNotFoundError" in said
    assert "'elsewhere.npz'), so they were deleted" in said


# What is written


def test_the_card_has_the_numbers_of_the_runs_own_record(finished, tmp_path, here, capsys):
    _, card = exported(finished, tmp_path / "out")
    point = workdir.finished(finished, overwrite=False)["points"][1]
    place = workdir.finished(finished, overwrite=False)["places"]["midpoint"]
    assert card["recorded"] == point
    found = card["metrics"]["float32"]
    for name in ("accuracy", "nll", "brier", "ece", "aurc"):
        assert found[name] == pytest.approx(point[name], rel=1e-4)
    assert found["temperature"] == pytest.approx(place["temperature"], rel=1e-3)
    assert found["scaled"]["ece"] == pytest.approx(place["scaled"]["ece"], rel=1e-2)
    page = (tmp_path / "out" / "README.md").read_text()
    assert f"| float32 | {100 * point['accuracy']:.2f} | {point['nll']:.4f} |" in page
    assert "100 test images" in page
    assert "150 images of digits with clean labels" in page
    assert "| int8" not in page
    assert "midpoint (0.5) of a line (recipe `line`; Wortsman et al. 2021" in page
    assert f"test accuracy {100 * point['accuracy']:.2f} %" in capsys.readouterr().out
    assert (tmp_path / "out" / "config.json").read_bytes() == (
        finished / "config.json"
    ).read_bytes()


@pytest.mark.parametrize(("spec", "alpha"), [("0.25", 0.25), ("1/4", 0.25), ("endpoint_1", 1)])
def test_a_point_is_the_mixture_of_the_runs_networks(finished, tmp_path, here, spec, alpha):
    arrays, card = exported(finished, tmp_path / "out", "--point", spec)
    stack = np.load(finished / "weights.npz")
    first, last = stack["['Conv_0']['kernel']"]
    np.testing.assert_allclose(arrays[KERNEL], (1 - alpha) * first + alpha * last, atol=1e-6)
    assert card["point"]["coords"] == alpha
    assert (card["recorded"] is None) == (alpha == 0.25)
    assert {name.split(".")[0] for name in arrays} == {"params", "batch_stats", "metadata"}


def test_the_default_folder_lies_in_the_run_and_the_run_stays_as_it_is(finished, here):
    before = {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}
    assert export.main([str(finished), "--point", "1/4", "--format", "npz"]) == 0
    assert (finished / "export" / "1_4-npz" / "README.md").exists()
    shutil.rmtree(finished / "export")
    assert before == {p: p.read_bytes() for p in finished.rglob("*") if p.is_file()}


def test_int8_weights_are_measured_beside_those_of_float32(finished, tmp_path, here):
    arrays, card = exported(finished, tmp_path / "out", "--int8")
    plain, before = exported(finished, tmp_path / "plain")
    assert arrays[KERNEL].dtype == np.int8
    back = arrays[KERNEL] * arrays[f"{KERNEL}_scale"]
    moved = np.abs(back - plain[KERNEL])
    assert 0 < moved.max() <= 0.5 * arrays[f"{KERNEL}_scale"].max() * (1 + 1e-4)
    assert arrays["batch_stats.BatchNorm_0.mean"].dtype == np.float32
    # Statistics of their own: the moments of other weights.
    assert (arrays["batch_stats.BatchNorm_0.var"] != plain["batch_stats.BatchNorm_0.var"]).any()
    nll = {name: found["nll"] for name, found in card["metrics"].items()}
    assert nll["float32"] == pytest.approx(before["metrics"]["float32"]["nll"], rel=1e-4)
    assert nll["int8"] != nll["float32"]
    assert nll["int8"] == pytest.approx(nll["float32"], rel=0.05)
    size = (tmp_path / "plain" / "weights.npz").stat().st_size
    assert card["bytes"]["float32"] == before["bytes"]["float32"] == size
    assert card["bytes"]["int8"] == (tmp_path / "out" / "weights.npz").stat().st_size
    page = (tmp_path / "out" / "README.md").read_text()
    assert "| float32 (not in this folder) |" in page
    assert "| int8 |" in page


@pytest.mark.parametrize("int8", [False, True])
def test_all_formats_hold_the_same_numbers(tmp_path, int8):
    from orbax.checkpoint import StandardCheckpointer
    from safetensors import safe_open

    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(3, 2)).astype(np.float32), np.float32([-0.0, 1e-45])
    params = {"a": {"b": {"kernel": kernel}, "bias": bias}}
    variables = {"params": export.quantised(params) if int8 else params, "batch_stats": {}}
    for name, format_ in formats.FORMATS.items():
        format_.write(tmp_path / name, variables, {"point": "midpoint"})
    wanted = formats.flat({"params": variables["params"]})
    with safe_open(tmp_path / "safetensors", "numpy") as file:
        assert file.metadata() == {"point": "midpoint"}
        read = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    with StandardCheckpointer() as checkpointer:
        orbax = formats.flat({"params": checkpointer.restore(tmp_path / "orbax")["params"]})
    with open(tmp_path / "npz.npz", "rb") as stream:
        npz = dict(np.load(stream))
    assert json.loads(npz.pop("metadata").item()) == {"point": "midpoint"}
    for found in (read, orbax, npz):
        assert set(found) == set(wanted)
        assert all(found[k].tobytes() == v.tobytes() for k, v in wanted.items())
        assert all(found[k].dtype == v.dtype for k, v in wanted.items())


# Nothing is kept that was not checked


def test_other_weights_in_the_file_are_noticed_and_deleted(
    finished, tmp_path, here, monkeypatch, capsys
):
    format_ = formats.FORMATS["npz"]

    def write(path, variables, metadata):
        params = dict(variables["params"])
        params["Conv_1"] = {"kernel": 1.1 * params["Conv_1"]["kernel"]}
        stats = variables["batch_stats"]
        format_.write(path, {"params": params, "batch_stats": stats}, metadata)

    monkeypatch.setitem(formats.FORMATS, "npz", dataclasses.replace(format_, write=write))
    # The card's own example is noise; it is not what finds this out.
    monkeypatch.setattr(export, "_tolerance", lambda model: 1e-3)
    monkeypatch.setattr(
        model_card, "loading_code", lambda *_: "\n".join(formats.FORMATS["npz"].load)
    )
    said = refused(capsys, finished, tmp_path / "out")
    assert "its logits differ by" in said
    assert "so they were deleted" in said


def test_code_that_needs_this_project_is_refused(finished, tmp_path, here, monkeypatch, capsys):
    run = export._in_fresh_process
    monkeypatch.setattr(
        export, "_in_fresh_process", lambda *given: (run(*given)[0], {"subspace_jax"})
    )
    assert "it imported subspace_jax" in refused(capsys, finished, tmp_path / "out")


def test_an_export_is_replaced_only_on_demand_and_nothing_else_ever(
    finished, tmp_path, here, capsys
):
    output = tmp_path / "out"
    exported(finished, output)
    assert "pass --overwrite" in refused(capsys, finished, output)
    exported(finished, output, "--overwrite", "--point", "0.25")
    assert card_of(output)["point"]["coords"] == 0.25
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    other = tmp_path / "other"
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

    def signalled(folder, card):
        seen.extend(path.name for path in tmp_path.iterdir())
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(export, "_check_record", signalled)
    before = signal.getsignal(signal.SIGTERM)
    arguments = [str(finished), "--output", str(tmp_path / "out"), "--format", "npz"]
    assert export.main(arguments) == 130
    assert [name.startswith(".out.") for name in seen] == [True]
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before


# Points


def choose(spec, recipe="line", metrics=None, **changes):
    run = tiny.run(recipe, **changes)
    settings = make_settings(tiny.config(recipe, **changes), run)
    simplexes = tiny.config(recipe).subspace.simplexes
    return points.choose(spec, run, settings, metrics or {"points": []}, simplexes)


@pytest.mark.parametrize(
    ("recipe", "spec", "weights"),
    [
        ("line", "midpoint", [0.5, 0.5]),
        ("line", "0.3", [0.7, 0.3]),
        ("layerwise_line", "3/10", [0.7, 0.3]),
        ("curve", "0.5", [0.25, 0.5, 0.25]),
        ("simplex_3", "midpoint", [1 / 3, 1 / 3, 1 / 3]),
        ("simplex_3", "0.2,0.3,0.5", [0.2, 0.3, 0.5]),
        ("simplex_3", "1/3,1/3,1/3", [1 / 3, 1 / 3, 1 / 3]),
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
    changes = {"num_epochs": 12} if recipe in ("swag", "fge") else {}
    found = choose(spec, recipe, **changes)
    np.testing.assert_allclose(found.weights, weights, atol=1e-6)
    assert found.inside
    assert found.validation_nll is None


def test_the_best_point_is_that_of_the_lowest_validation_nll_whatever_test_images_say():
    names = ["endpoint 0", "", "midpoint", "", "endpoint 1"]
    nll = [0.9, 0.2, None, 0.3, 0.8]
    records = [
        {"name": name, "nll": 1 - (value or 0), "validation": {"nll": value}}
        for name, value in zip(names, nll, strict=True)
    ]
    found = choose("best", metrics={"points": records})
    assert (float(found.coords), found.validation_nll) == (0.25, 0.2)


@pytest.mark.parametrize(
    ("recipe", "spec", "sentence"),
    [
        ("line", "best", "held out no validation images to choose it by"),
        ("line", "middle", "'middle'; use endpoint_0, midpoint, endpoint_1, best, or a number"),
        ("line", "nan", "'nan'; use endpoint_0"),
        ("line", "1/0", "'1/0'; use endpoint_0"),
        ("line", "0.5,0.5", "has 2 coordinates but a point of this line has 1; give a number"),
        ("curve", "0.2,0.3,0.5", "has 3 coordinates but a point of this curve has 1"),
        ("simplex_3", "0.5", "has 1 coordinate but a point of this simplex of 3 networks has 3"),
        ("simplex_3", "0.5,0.5", "give 3 coordinates such as 0.5,0.5,0"),
        ("simplex_3", "0.3,0.3,0.3", "which sums to 0.9, but barycentric coordinates sum to 1"),
        ("standard", "0.3", "but the run has one network; use midpoint"),
        ("swag", "0.3", "but SWAG's networks span no subspace; use midpoint"),
    ],
)
def test_points_that_do_not_exist_are_refused(recipe, spec, sentence):
    changes = {"num_epochs": 12} if recipe == "swag" else {}
    with pytest.raises(UserError, match=rf"^--point .*{sentence}"):
        choose(spec, recipe, metrics={"points": [{"nll": 1.0}] * 5}, **changes)


@pytest.mark.parametrize(
    ("recipe", "spec", "inside"),
    [
        ("line", "1", True),
        ("line", "1.01", False),
        ("line", "-0.01", False),
        ("simplex_3", "-0.1,0.6,0.5", False),
        ("simplex_3", "0,0.5,0.5", True),
    ],
)
def test_what_lies_outside_is_known(recipe, spec, inside):
    assert choose(spec, recipe).inside == inside


def test_the_middle_of_a_complex_lies_outside_of_it():
    changes = {"subspace__given": ()}
    assert not choose("midpoint", "spro_1", **changes).inside
    assert choose("0.5,0,0.5", "spro_1", **changes).inside
    assert choose("sample_0", "spro_1", **changes).inside


def test_a_point_outside_is_refused_and_allowed_with_a_warning(finished, tmp_path, here, capsys):
    said = refused(capsys, finished, tmp_path / "out", "--point", "1.2")
    assert "1.2 lies outside of what" in said
    assert "pass --allow_outside" in said
    _, card = exported(finished, tmp_path / "out", "--point=1.2", "--allow_outside")
    assert "warning: --point 1.2 lies outside" in capsys.readouterr().err
    assert not card["point"]["inside"]
    assert any("outside" in sentence for sentence in card["limits"])


# Runs that can't be exported


def test_folders_without_a_finished_run_are_refused(finished, tmp_path, capsys):
    empty, suite, unfinished = (tmp_path / name for name in ("empty", "suite", "unfinished"))
    empty.mkdir()
    (suite / "runs").mkdir(parents=True)
    unfinished.mkdir()
    shutil.copy(finished / "config.json", unfinished)
    output = tmp_path / "out"
    assert "is no folder" in refused(capsys, tmp_path / "nowhere", output)
    assert "has no config.json" in refused(capsys, empty, output)
    assert "holds a suite of runs" in refused(capsys, suite, output)
    said = refused(capsys, unfinished, output)
    assert "holds a run that is not finished; finish it with `python -m experiments.cifar" in said


def test_the_command_that_finishes_a_run_is_that_of_its_config(finished, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(finished_run.command_of(finished))
    assert words[:3] == ["python", "-m", "experiments.cifar"]
    assert cifar.main(words[3:]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_weights_that_are_missing_damaged_or_of_another_network(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    output, weights = tmp_path / "out", folder / "weights.npz"
    content = weights.read_bytes()
    weights.write_bytes(content[:2000])
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
    moved, other = tmp_path / "moved.npz", tmp_path / "other.npz"
    shutil.copy(npz, moved)
    with np.load(npz) as file:
        np.savez(other, **{k: v[::-1] if "images" in k else v for k, v in file.items()})
    gone = changed(finished, tmp_path / "gone", data_dir=str(tmp_path / "gone.npz"))
    output = tmp_path / "out"
    assert "there is no such file" in refused(capsys, gone, output)
    assert "is not the file that" in refused(capsys, gone, output, "--data_dir", str(other))
    silent = changed(finished, tmp_path / "silent", data_dir=str(other), data_sha256="")
    assert "data or weights are not those of the run" in refused(capsys, silent, output)
    _, card = exported(gone, output, "--data_dir", str(moved))
    assert card["recorded"]["nll"] == pytest.approx(card["metrics"]["float32"]["nll"], rel=1e-4)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--format", "onnx"], []])
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        export.main(arguments)
    said = capsys.readouterr()
    assert caught.value.code == (0 if arguments == ["--help"] else 2)
    assert "safetensors" in said.out + said.err
    assert ("0.2,0.3,0.5" in said.out) == (arguments == ["--help"])
