"""Runs of the experiments on several devices are those of one."""

import re

import chex
import jax
import numpy as np
import pytest

from experiments import cifar
from experiments.data.sets import Split
from experiments.evaluation import predict
from experiments.reproduce import records
from experiments.reproduce.records import Entry
from experiments.runs import job
from experiments.runs.checkpoint import Checkpoints
from experiments.system.errors import UserError
from experiments.training import placement, steps
from experiments.training.history import History
from tests import compilations, tiny

LAYOUTS = ["data=8", "data=4,endpoint=2"]


def make_run(mesh, recipe="line", **changes):
    return tiny.run(recipe, batch_size=8, mesh=mesh, **changes)


def trained(run, state=None):
    history = History(run)
    for latest in steps.fit(run, state or steps.init_state(run), history):
        state = latest
    return state


def data_file(folder):
    data = tiny.dataset()
    file = folder / "tiny.npz"
    np.savez(
        file,
        train_images=data.train.images,
        train_labels=data.train.labels,
        test_images=data.test.images,
        test_labels=data.test.labels,
    )
    return file


def main(file, workdir, mesh):
    """The command for a line; its exit code."""
    small = {"model.depth": 8, "model.width": 4, "num_epochs": 3, "batch_size": 8, "seed": 1}
    small |= {"optimizer.warmup_epochs": 1, "evaluation.num_points": 3, "checkpoint_seconds": 0}
    small |= {"evaluation.recalibration_batch_size": 16, "normalization": "none"}
    small |= {"validation_size": 8, "data_dir": file, "dataset": "tiny", "mesh": mesh}
    where = ["--config", "experiments/configs/cifar10.py:line", "--workdir", str(workdir)]
    return cifar.main([*where, *(f"--config.{name}={value}" for name, value in small.items())])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_begins_and_goes_on_as_on_one_device(layout):
    alone, spread = make_run(""), make_run(layout)
    chex.assert_trees_all_equal(steps.init_state(spread), steps.init_state(alone))
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
        stack = steps.init_state(run).endpoints
        return predict.predict_networks(run, stack, test, settings)[0]["test"]

    np.testing.assert_allclose(
        logits(make_run("data=4,endpoint=2")), logits(make_run("")), rtol=1e-4, atol=1e-4
    )


def test_a_suite_s_run_is_the_same_run_on_every_mesh():
    entries = [
        Entry("line", "article", 0.0, 0, tiny.config("line", mesh=mesh)) for mesh in ("", "data=8")
    ]
    assert records.digest(entries[0]) == records.digest(entries[1])


@pytest.mark.parametrize("layout", ["", "data=4,endpoint=2"])
def test_the_program_of_a_run_is_not_compiled_again(layout):
    # A program of this test alone: what an earlier one compiled may be forgotten by now.
    run = make_run(layout, model__widths=(6,))
    trained(run)
    state = steps.init_state(run)
    with compilations.noted() as names:
        steps.compiled_call(run, state)
    assert "train_call" not in str(names)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_is_known_before_the_first_step_and_nothing_is_compiled_twice(layout, capsys):
    run = make_run(layout, model__widths=(5,))  # a program that no other test compiles
    state = steps.init_state(run)
    with compilations.noted() as names:
        report = job.step_report(run, state)
        trained(run, state)
    assert names.count("jit(train_call)") == 1
    shards = 1 if layout == "data=8" else 2
    assert report.endpoints == sum(x.nbytes for x in jax.tree.leaves(state.endpoints)) // shards
    assert report.sentence() in capsys.readouterr().err


def test_a_run_on_one_cpu_compiles_nothing_for_it(monkeypatch, capsys):
    monkeypatch.setattr(steps, "compiled_call", None)
    run = make_run("")
    assert job.step_report(run, steps.init_state(run)) is None
    assert not capsys.readouterr().err


def test_a_run_that_will_not_fit_is_refused_before_its_first_step(tmp_path, monkeypatch, capsys):
    original = job.memory_report
    limited = lambda *given: original(*given)._replace(limit=1000)
    monkeypatch.setattr(job, "memory_report", limited)
    monkeypatch.setattr(steps, "fit", None)
    assert main(data_file(tmp_path), tmp_path / "run", "data=8") == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"A step needs .* and it has .* GiB; enlarge the axis (data|endpoint)", said)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_a_batch_is_computed_by_all_devices():
    """The convolutions of the compiled call are those of an eighth of the batch."""
    run = make_run("data=4,endpoint=2")
    text = steps.compiled_call(run, steps.init_state(run)).as_text()
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


def test_a_run_goes_on_from_a_checkpoint_of_another_mesh(tmp_path):
    first, second = make_run("data=4,endpoint=2"), make_run("data=8")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for state in steps.fit(first, steps.init_state(first), History(first)):
        if int(state.step) == 5:
            break
    checkpoints.save(5, state, {})
    checkpoints.close()
    found, _ = Checkpoints(tmp_path / "checkpoints").restore(steps.init_state(second))
    state = trained(second, placement.place(second.program.model.mesh, found))
    chex.assert_trees_all_close(state, trained(make_run("")), rtol=2e-3, atol=2e-4)
