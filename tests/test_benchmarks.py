"""The benchmarks' machinery, and guards of speed that no neighbour's load can disturb: counts."""

import collections
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from benchmarks import accelerator, contestants, roofline, rounds, run, scaling, table
from benchmarks.__main__ import COMMANDS
from experiments.configs import cifar10
from experiments.data.sets import Dataset, Split
from experiments.training import networks, steps
from experiments.training import run as training_run
from tests import compilations

RESULTS = Path(__file__).parent.parent / "results" / "performance"


def test_mistakes_are_one_sentence_and_nothing_is_written(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scaling.jax.config, "update", lambda *_: None)  # devices exist already
    for main, arguments, sentence in (
        (run.main, "--only nobody", "Contestant 'nobody' is unknown; choose of standard;"),
        (run.main, "--rounds 0", "--rounds is 0; use at least 1."),
        (run.main, "--device gpu", "--device is gpu but JAX runs on cpu;"),
        (scaling.main, "--endpoints 1", "--endpoints is 1; use at least 2."),
        (scaling.main, "--devices 4", "--devices is 4 but JAX has 8; use that number."),
        (scaling.main, "--batch_size 4 --devices 8", "--batch_size is 4 but is to be split over 8"),
    ):
        output = ["--output", str(tmp_path / "made")] if main is scaling.main else []
        assert main([*arguments.split(), *output]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {sentence}")
        assert error.count("\n") == 1
    assert not (tmp_path / "made").exists()


def test_the_list_of_commands_is_that_of_the_modules():
    """Those that end by `sys.exit(main())` and are no helper of another."""
    folder, helpers = Path(run.__file__).parent, {"soaked", "worker"}
    modules = {p.stem for p in folder.glob("*.py") if "__name__" in p.read_text()}
    assert COMMANDS.keys() == modules - helpers - {"__main__"}
    assert len(COMMANDS) <= 7


def test_contestants_that_are_compared_exist():
    compared = [name for ratio in run.RATIOS for name in ratio[:2]]
    for names in (compared, *run.CHOICES.values(), accelerator.CONTESTANTS):
        assert set(names) <= set(contestants.CONTESTANTS)


def test_a_contestant_trains_in_its_own_process():
    options = SimpleNamespace(device="cpu", threads=1, batch_size=2, steps=1)
    (answers,) = rounds.measure(["standard"], options, rounds=3, sessions=2).values()
    assert [answer["images"] for answer in answers] == [2, 2, 2]
    assert all(answer["seconds"] > 0 and answer["peak_bytes"] > 2**20 for answer in answers)
    with pytest.raises(rounds.Failed, match="'nobody' ended with exit code 1"):
        rounds.measure(["nobody"], options, rounds=1)


def test_activations_of_a_residual_block_are_counted_by_hand():
    images = jax.ShapeDtypeStruct((2, 16, 16, 3), jnp.float32)
    network = networks.CifarResNet(10, depth=8, width=16)  # blocks 2 and 3 halve the resolution
    image, x, y, z = (2 * size for size in (16 * 16 * 3, 16 * 16 * 16, 8 * 8 * 32, 4 * 4 * 64))
    stem = 2 * (image + x) + 8 * x
    same = 2 * (3 * (x + x) + 8 * x) + 4 * x
    halving = [
        3 * (a + b) + 3 * (b + b) + 3 * (a + b) + 3 * 8 * b + 4 * b for a, b in ((x, y), (y, z))
    ]
    classifier = 3 * (2 * 64 + 2 * 10)
    assert roofline.moved_elements(network, images) == stem + same + sum(halving) + classifier


def test_ratios_are_of_the_same_round():
    """A machine that slows down changes no ratio."""
    ours, theirs = ([{"images": 10, "seconds": m * s} for s in (1, 2, 4)] for m in (1, 2))
    assert rounds.ratio(ours, theirs) == {"median": 2.0, "min": 2.0, "max": 2.0}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_tables_are_those_of_the_measurements(path):
    results = json.loads(path.read_text())
    assert path.with_suffix(".md").read_text() == table.markdown(results)
    assert not results["provenance"]["commit"].endswith("-dirty")
    for one in run.RATIOS:
        if one.name in results["ratios"]:
            pair = (results["training"][name]["answers"] for name in one[:2])
            found = {k: results["ratios"][one.name][k] for k in ("median", "min", "max")}
            assert found == pytest.approx(rounds.ratio(*pair))


def test_the_committed_meshes_keep_the_promise():
    """Eight endpoints on eight devices: each has what one network needs."""
    results = json.loads((RESULTS.parent / "scaling" / "scaling.json").read_text())
    text = (RESULTS.parent / "scaling" / "scaling.md").read_text()
    assert text == scaling.markdown(results)
    sizes = {name: mesh["state_bytes"] for name, mesh in results["meshes"].items()}
    one = sizes["one network, one device"]
    assert sizes["data=1,endpoint=8"] <= 1.1 * one < 7.9 * one < sizes["one device"]


def test_spreads_in_the_documentation_are_measured():
    spread = re.compile(r"\d+\.\d+ \(\d+\.\d+ to \d+\.\d+\)")
    said = spread.findall((RESULTS.parents[1] / "docs" / "performance.md").read_text())
    found = spread.findall("".join(path.read_text() for path in RESULTS.glob("*.md")))
    assert said
    assert set(said) <= set(found)


@pytest.fixture(scope="module")
def programs():
    """The compiled training steps of a small residual network."""
    split = Split(jnp.zeros((32, 8, 8, 3), jnp.uint8), jnp.zeros(32, jnp.int32))

    def compiled(recipe):
        config = cifar10.get_config(recipe)
        config.model.update(depth=8, width=4)
        config.batch_size = 8
        made = training_run.make_run(config, Dataset("zeros", split, split, split, 10))
        key, indices = jax.random.key(0), jnp.zeros((1, 8), jnp.int32)
        arguments = (made.hyper, key, made.images, made.labels, indices)
        call = {"program": made.program, "unroll": True}
        lowered = steps.train_call.lower(steps.init_state(made), *arguments, **call)
        return lowered.compile(compiler_options=compilations.USERS)

    return {recipe: compiled(recipe) for recipe in ("standard", "layerwise_line", "simplex_6")}


def kernels(program):
    """How many operations of each kind the program runs, those inside fusions left out."""
    text = program.as_text()
    entry = text[text.index("\nENTRY ") :]
    found = re.findall(r"= \S+ ([\w-]+)\(", entry)
    free = {"parameter", "constant", "bitcast", "get-tuple-element", "tuple"}
    return collections.Counter(kind for kind in found if kind not in free)


@pytest.mark.parametrize("recipe", ["layerwise_line", "simplex_6"])
def test_a_step_of_a_subspace_is_that_of_one_network_and_little_more(recipe, programs):
    """Whatever the number of endpoints, which adds no convolution and keeps no gradients."""
    plain, line, subspace = (programs[name] for name in ("standard", "layerwise_line", recipe))
    assert kernels(subspace)["convolution"] == kernels(plain)["convolution"]
    # Mixing, the penalty and the update of the stack: a few for every leaf of the network.
    leaves = 31
    assert kernels(subspace).total() - kernels(plain).total() <= 8 * leaves
    assert kernels(subspace).total() <= 1.1 * kernels(line).total()
    # Two networks (the one that is drawn, and the penalty's pair).
    network = 4 * 5_204  # bytes
    sizes = [program.memory_analysis().temp_size_in_bytes for program in (subspace, plain)]
    assert sizes[0] - sizes[1] <= 2.5 * network
