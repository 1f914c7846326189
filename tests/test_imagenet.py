"""ImageNet end to end, on a folder of small generated JPEGs."""

import json
import signal

import chex
import jax
import jax.numpy as jnp
import jpegs
import numpy as np
import pytest
from PIL import Image

from benchmarks.faults import outcome
from experiments import imagenet
from experiments.data import corrupted, decode, loader, sets
from experiments.evaluation import predict
from experiments.training import feed, steps
from experiments.training import run as training_run
from experiments.training.history import History
from subspace_jax import sharding


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return jpegs.make(tmp_path_factory.mktemp("imagenet") / "folder")


def arguments(folder, workdir, *more, recipe="line"):
    config, data_dir = f"{jpegs.__file__}:{recipe}", f"--config.data_dir={folder}"
    return ["--config", config, "--workdir", str(workdir), data_dir, *more]


def metrics(workdir):
    return json.loads((workdir / "metrics.json").read_text())


def make_run(folder, recipe="line", **changes):
    config = jpegs.config(folder, recipe, **changes)
    return config, training_run.make_run(config, sets.of(config))


def corrupted_set(root, classes, side):
    """Two images of one grey for each class."""
    for label, name in enumerate(classes):
        target = root / "weather" / "snow" / "2" / name
        target.mkdir(parents=True)
        for i in range(2):
            grey = (60 + 40 * label + i,) * 3
            Image.new("RGB", (side, side), grey).save(target / f"{i}.JPEG", "JPEG")
    return str(root)


# Training


@pytest.fixture(scope="module")
def snow(tmp_path_factory):
    """What evaluates on published corrupted images."""
    root = corrupted_set(tmp_path_factory.mktemp("published"), jpegs.CLASSES, jpegs.SIDE)
    return (
        "--config.evaluation.corruptions=('snow',)",
        "--config.evaluation.severities=(2,)",
        f"--config.evaluation.corruption_source={root}",
    )


@pytest.fixture(scope="module")
def finished(folder, snow, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished") / "line"
    assert imagenet.main(arguments(folder, workdir, *snow)) == 0
    return workdir


def test_the_command_trains_evaluates_and_reports(finished):
    found = metrics(finished)
    assert all(epoch["data_wait"] >= 0 for epoch in found["history"])
    assert found["recalibration"] == {"num_examples": 16, "batch_size": 8, "augmented": True}
    assert found["places"]["midpoint"]["corruptions"]["snow"].keys() == {"2"}
    assert "</html>" in (finished / "report.html").read_text()


def test_an_interrupted_run_goes_on_where_it_was_whatever_loads_it(
    folder, snow, finished, tmp_path, monkeypatch, capsys
):
    fit, workdir = steps.fit, tmp_path / "line"

    def interrupted(run, state, history, *rest):
        for count, latest in enumerate(fit(run, state, history, *rest), start=1):
            if count == 7:
                signal.raise_signal(signal.SIGTERM)
            yield latest

    monkeypatch.setattr(steps, "fit", interrupted)
    assert imagenet.main(arguments(folder, workdir, *snow)) == 75
    assert "Stopped at step 7 of 15" in capsys.readouterr().out
    assert not (workdir / "metrics.json").exists()
    monkeypatch.setattr(steps, "fit", fit)
    other = "--config.loader.num_threads=3", "--config.loader.num_workers=1"
    assert imagenet.main(arguments(folder, workdir, *snow, *other)) == 0
    assert metrics(workdir)["provenance"]["resumed_at_step"] == 7
    found, expected = outcome(workdir), outcome(finished)
    del found["metrics"]["config"], expected["metrics"]["config"]  # of another loader
    assert found == expected


def streamed_batches(run, first=0):
    """All batches of a run from a step on, on the host."""
    order = loader.Order(len(run.labels), run.batch_size, 3, run.seed)
    rows = run.loader.rows(run.batch_size)
    options = {"crop": run.crops, "seed": run.seed, "stream": loader.TRAINING}
    batches = loader.Batches(run.images, run.labels, order, rows, **options)
    return [batches[step][:2] for step in range(first, len(order))]


def test_streamed_training_is_resident_training_on_the_same_batches(folder):
    """Whether its calls are single steps or scans over several batches."""
    _, run = make_run(folder)
    images, labels = (np.concatenate(x) for x in zip(*streamed_batches(run), strict=True))
    resident, key = steps.init_state(run), jax.random.fold_in(jax.random.key(run.seed), 2)
    examples, losses = (jnp.asarray(images), jnp.asarray(labels)), []
    for index in np.arange(len(labels), dtype=np.int32).reshape(-1, 1, run.batch_size):
        resident, found = steps.train_call(
            *(resident, run.hyper, key, *examples, jnp.asarray(index)),
            program=run.program,
            unroll=True,
        )
        losses.append(float(found["loss"][0]))
    means = np.reshape(losses, (3, -1)).mean(1)
    for steps_per_call in (1, 5):
        _, run = make_run(folder, steps_per_call=steps_per_call)
        history = History(run)
        *_, last = steps.fit(run, steps.init_state(run), history)
        chex.assert_trees_all_close(last, resident, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose([e["loss"] for e in history.epochs], means, rtol=1e-4)


def test_batches_lie_on_the_devices_that_share_them(folder):
    _, run = make_run(folder, mesh="data=4,endpoint=2")
    chunks = feed.training_calls(run, 13)
    (images, labels, indices), measured = next(chunks)
    chunks.close()
    mesh = run.program.model.mesh
    assert images.sharding == sharding.batch_sharding(mesh, 8, axis=1)
    assert (images.shape, labels.shape, indices) == ((1, 8, 16, 16, 3), (1, 8), None)
    assert measured["data_wait"].shape == (1,)
    expected = streamed_batches(run, 13)[0]
    np.testing.assert_array_equal(images[0], expected[0])
    np.testing.assert_array_equal(labels[0], expected[1])


def test_what_was_passed_over_before_an_interruption_is_kept(folder):
    (_, run), (_, again) = make_run(folder), make_run(folder)
    run.loader.corrupt.append("one.JPEG")
    History(again).restore(json.loads(json.dumps(History(run).to_json())))
    assert again.loader.corrupt == ["one.JPEG"]


# Evaluation


def test_recalibration_reads_each_of_its_images_once_and_again_alike(folder):
    config, run = make_run(folder, evaluation__recalibration_augment=False)
    settings = predict.make_settings(config, run)
    batches = predict.recalibration_batches(run, settings)
    found = [np.asarray(images) for _, images in batches]
    assert len(found) == len(batches) == 2
    known = {image.tobytes() for image in run.images[:]}
    images = np.concatenate(found)
    assert {image.tobytes() for image in images} <= known
    assert len({image.tobytes() for image in images}) == 16
    np.testing.assert_array_equal(np.concatenate([np.asarray(x) for _, x in batches]), images)
    config.evaluation.recalibration_augment = True
    augmented = predict.recalibration_batches(run, predict.make_settings(config, run))
    assert all((np.asarray(x) != y).any() for (_, x), y in zip(augmented, found, strict=True))


# Corrupted images


def test_folders_of_some_classes_are_decoded_where_they_are_indexed(folder, tmp_path):
    _, test, num_classes = sets.load_arrays("imagenet", str(folder), jpegs.SIDE)
    source = corrupted_set(tmp_path, ("n002", "n004"), 8)
    found = corrupted.load_corrupted(
        source, "snow", 2, test, num_classes, class_names=sets.class_names("imagenet", str(folder))
    )
    np.testing.assert_array_equal(found.columns, [1, 3])
    np.testing.assert_array_equal(found.split.labels, [0, 0, 1, 1])
    assert decode.is_lazy(found.split.images)
    levels = found.split.images[:].mean((1, 2, 3))
    np.testing.assert_allclose(levels, [60.5, 60.5, 100.5, 100.5], atol=3)
