"""Runs of the experiments on several devices are those of one."""

import re

import chex
import jax
import numpy as np
import pytest

from experiments import cifar, predict, suite, train
from experiments.data import Split
from experiments.errors import UserError
from experiments.suite import Entry
from tests import compilations, tiny

LAYOUTS = ["data=8", "data=4,endpoint=2"]


def make_run(mesh, recipe="line", **changes):
    return tiny.run(recipe, batch_size=8, mesh=mesh, **changes)


def trained(run, state=None):
    history = train.History(run)
    for latest in train.fit(run, state or train.init_state(run), history):
        state = latest
    return state


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_begins_and_goes_on_as_on_one_device(layout):
    alone, spread = make_run(""), make_run(layout)
    chex.assert_trees_all_equal(train.init_state(spread), train.init_state(alone))
    state = trained(spread)
    chex.assert_trees_all_close(state, trained(alone), rtol=2e-3, atol=2e-4)
    shards = 1 if layout == "data=8" else 2
    for leaf in jax.tree.leaves(state.endpoints):
        assert leaf.addressable_shards[0].data.shape[0] == 2 // shards


def test_predictions_are_those_of_one_device():
    """Batches of evaluation need not be divisible."""
    images = tiny.dataset().test.images[:19]
    test = {"test": Split(images, np.zeros(19, np.int32))}

    def logits(run):
        config = tiny.config("line", batch_size=8, evaluation__batch_size=7)
        settings = predict.make_settings(config, run)
        stack = train.init_state(run).endpoints
        return predict.predict_networks(run, stack, test, settings)[0]["test"]

    np.testing.assert_allclose(
        logits(make_run("data=4,endpoint=2")), logits(make_run("")), rtol=1e-4, atol=1e-4
    )


def test_a_suite_s_run_is_the_same_run_on_every_mesh():
    entries = [
        Entry("line", "article", 0.0, 0, tiny.config("line", mesh=mesh)) for mesh in ("", "data=8")
    ]
    assert suite.digest(entries[0]) == suite.digest(entries[1])


@pytest.mark.parametrize("layout", ["", "data=4,endpoint=2"])
def test_the_program_of_a_run_is_not_compiled_again(layout):
    run = make_run(layout)
    trained(run)
    state = train.init_state(run)
    with compilations.noted() as names:
        train.compiled_call(run, state)
    assert "train_call" not in str(names)


def test_a_batch_is_computed_by_all_devices():
    """The convolutions of the compiled call are those of an eighth of the batch."""
    run = make_run("data=4,endpoint=2")
    text = train.compiled_call(run, train.init_state(run)).as_text()
    batches = {int(size) for size in re.findall(r"f32\[(\d+),8,8,4\]\S* convolution", text)}
    assert batches == {1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mesh": "data=3"}, "The mesh 'data=3' is for 3 devices but there are 8"),
        (
            {"mesh": "endpoint=4"},
            "splits endpoints 4 ways but there are 2 of them; use endpoint=1 or 2",
        ),
        (
            {"mesh": "data=8", "batch_size": 6},
            "config.batch_size is 6 but is to be split over 8 devices and 1 sampled networks; use 8.",
        ),
        (
            {"mesh": "data=8", "batch_size": 40, "subspace__num_samples": 2},
            "config.batch_size is 40 but is to be split over 8 devices and 2 sampled networks; "
            "use 32 or 48.",
        ),
        ({"mesh": "run=2"}, "config.mesh is 'run=2' but a run trains alone"),
        ({"mesh": "pods=8"}, "'pods=8' in the mesh 'pods=8' is no axis and size"),
    ],
)
def test_bad_input(changes, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        tiny.run("line", **({"batch_size": 8} | changes))


def test_a_run_goes_on_from_a_checkpoint_of_another_mesh(tmp_path, monkeypatch):
    data = tiny.dataset()
    file = tmp_path / "tiny.npz"
    np.savez(
        file,
        train_images=data.train.images,
        train_labels=data.train.labels,
        test_images=data.test.images,
        test_labels=data.test.labels,
    )
    config = "experiments/configs/cifar10.py:line"
    small = {"model.depth": 8, "model.width": 4, "num_epochs": 3, "batch_size": 8, "seed": 1}
    small |= {"optimizer.warmup_epochs": 1, "evaluation.num_points": 3, "checkpoint_seconds": 0}
    small |= {"evaluation.recalibration_batch_size": 16, "normalization": "none"}
    small |= {"validation_size": 8, "data_dir": file, "dataset": "tiny"}
    arguments = [f"--config.{name}={value}" for name, value in small.items()]

    def main(workdir, mesh):
        where = ["--config", config, "--workdir", str(tmp_path / workdir)]
        return cifar.main([*where, *arguments, f"--config.mesh={mesh}"])

    assert main("whole", "") == 0

    class Stopped(Exception):
        pass

    saved = []

    def fit(*arguments):
        for latest in original(*arguments):
            yield latest
            saved.append(int(latest.step))
            if len(saved) == 5:
                raise Stopped

    original = train.fit
    monkeypatch.setattr(train, "fit", fit)
    with pytest.raises(Stopped):
        main("moved", "data=4,endpoint=2")
    monkeypatch.setattr(train, "fit", original)
    assert main("moved", "data=8") == 0
    found, expected = (np.load(tmp_path / name / "weights.npz") for name in ("moved", "whole"))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-2, atol=1e-3)
