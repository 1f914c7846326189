"""The landscape of tiny networks as entries of a suite."""

import jax
import numpy as np
import pytest
import tiny
from records import flat

from experiments.data import augment
from experiments.evaluation.inputs import Inputs
from experiments.reproduce import scenes, scheduler
from experiments.reproduce.records import Entry, Suite, finished, identity, run_folder, weights_path
from experiments.runs import workdir
from experiments.system import files
from experiments.training import steps, weights
from experiments.training.model import initial_stats

OPTIONS = {"resolution": 5, "hessian_images": 20, "hessian_batch_size": 6, "hessian_iterations": 2}
INPUTS = Inputs()


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return tiny.npz_file(tmp_path_factory.mktemp("data") / "tiny.npz")


def entry_of(npz, recipe, setting="article", seed=0, needs=()):
    config = tiny.config(recipe, dataset="tiny", data_dir=npz, seed=seed)
    return Entry(recipe, setting, 0.0, seed, config, needs=needs)


def scene_of(npz, recipe, seed=0):
    names = (recipe, "standard") if recipe == "line" else (recipe,)
    needs = tuple(f"article/{name}/noise0/seed{seed}" for name in names)
    return entry_of(npz, recipe, "landscape", seed, needs)


def look(entry, folder, first_seed=0, **options):
    suite = Suite(folder, INPUTS, lambda: False)
    return scenes.record(entry, lambda share: None, suite, OPTIONS | options, first_seed)


def networks_of(entry):
    """A stack as a run of this entry begins with."""
    return steps.init_state(tiny.run(entry.method, seed=entry.seed)).endpoints


@pytest.fixture(scope="module")
def trained(npz, tmp_path_factory):
    """The folder of a suite with a line and an ordinary network, and their records."""
    folder = tmp_path_factory.mktemp("trained")
    suite = Suite(folder, INPUTS, lambda: False)
    return folder, {
        recipe: scheduler.run_entry(entry_of(npz, recipe), lambda share: None, suite)
        for recipe in ("standard", "line")
    }


@pytest.fixture(scope="module")
def untrained(npz, tmp_path_factory):
    """The folder of a suite with the weights of networks that were not trained."""
    folder = tmp_path_factory.mktemp("untrained")
    for recipe in ("layerwise_line", "curve", "simplex_3", "line", "standard"):
        entry = entry_of(npz, recipe)
        own = run_folder(folder, entry.id)
        workdir.prepare(own, entry.config, False, entry.in_suite)
        files.write_json(own / workdir.METRICS, {"points": []})
        weights.save(weights_path(folder, entry.id), networks_of(entry))
    return folder


@pytest.fixture(scope="module")
def seen(npz, trained):
    """The records of the line and of the ordinary network."""
    return {name: look(scene_of(npz, name), trained[0]) for name in ("standard", "line")}


def test_a_record_is_that_of_an_entry_and_has_a_plane_and_curvature(npz, trained, seen):
    for name, kind in (("line", "line"), ("standard", "point")):
        entry, record = scene_of(npz, name), seen[name]
        assert record == finished(trained[0], entry)
        assert identity(entry).items() <= record.items()
        found = record["landscape"]
        assert found["slice"]["kind"] == kind
        assert np.shape(found["slice"]["nll"]) == np.shape(found["slice"]["accuracy"]) == (5, 5)
        assert np.isfinite(found["path"]["curvature"]["eigenvalue"]).all()
        assert np.isfinite(found["slice"]["nll"]).all()
        assert record["places"] == {}


def test_in_the_middle_of_its_slice_is_the_network_as_it_was_evaluated(trained, seen):
    middle = trained[1]["standard"]["places"]["midpoint"]
    found, line = (seen[name]["landscape"]["slice"] for name in ("standard", "line"))
    assert line["other"] == line["corners"][2]
    assert found["x"][2] == found["y"][2] == 0
    np.testing.assert_allclose(found["nll"][2][2], middle["nll"], rtol=1e-4)
    np.testing.assert_allclose(found["accuracy"][2][2], middle["accuracy"], rtol=1e-5)
    assert found["num_images"] == tiny.NUM_TEST
    assert found["recalibration_images"] == tiny.NUM_TRAIN


def test_the_loss_is_that_of_training_without_augmentation():
    run = tiny.run("standard", label_smoothing=0.1)
    params = jax.tree.map(lambda x: x[0], steps.init_state(run).endpoints)
    batch = run.images[:12], run.labels[:12]
    model = run.program.model
    logits, _ = model.network.apply(
        {"params": params, "batch_stats": initial_stats(model, batch[0])},
        augment.normalize(batch[0], model.normalization),
        train=True,
        mutable=["batch_stats"],
    )
    log_probs = np.asarray(jax.nn.log_softmax(logits))
    expected = -log_probs[np.arange(12), np.asarray(batch[1])].mean()
    np.testing.assert_allclose(scenes.loss_fn(model)(params, batch), expected, rtol=1e-5)
    # It is one function for every run of a model, so that nothing is compiled twice.
    assert scenes.loss_fn(model) == scenes.loss_fn(tiny.run("standard", seed=3).program.model)


def test_the_hessian_is_of_whole_batches_of_different_training_images(npz, untrained, monkeypatch):
    given = []
    path_record = lambda *had: given.extend(had[-1].keywords["batches"]) or {}
    monkeypatch.setattr(scenes.landscape, "path_record", path_record)
    for recipe, first_seed in (("layerwise_line", 0), ("curve", 7)):  # of which none has a slice
        found = look(scene_of(npz, recipe), untrained, first_seed)
        assert set(found["landscape"]) == {"path"}
    own = tiny.dataset().train
    places = {image.tobytes(): i for i, image in enumerate(own.images)}
    images, labels = (np.concatenate(parts) for parts in zip(*given[:3], strict=True))
    found = [places[image.tobytes()] for image in images]
    assert len(found) == len(set(found)) == 18  # of the 20 that are asked for
    assert found != sorted(found)  # in no order of the data set
    np.testing.assert_array_equal(own.labels[found], labels)


def test_a_triangle_has_a_slice_of_every_seed_and_places_inside_and_outside_of_it(npz, untrained):
    record = look(scene_of(npz, "simplex_3"), untrained, first_seed=7, resolution=7)
    assert set(record["landscape"]) == {"slice"}
    found = record["landscape"]["slice"]
    assert found["kind"] == "simplex"
    for region in ("inside", "outside"):
        assert found[region]["num_points"] > 0
        expected = {name: found[region][name] for name in ("accuracy", "nll")}
        assert record["places"][f"{region} the triangle"] == {"inference_passes": 1} | expected
    assert found["inside"]["nll"] != found["outside"]["nll"]


def test_a_midpoint_predicts_corrupted_images_as_its_run_would_have(npz, trained, tmp_path):
    more = {"evaluation__corruptions": ("snow", "fog"), "evaluation__severities": (1, 3)}
    folder, rows = trained
    for recipe in ("standard", "line"):
        config = tiny.config(recipe, dataset="tiny", data_dir=npz, seed=0, **more)
        needs = (f"article/{recipe}/noise0/seed0",)
        record = look(Entry(recipe, "corrupted", 0.0, 0, config, needs=needs), folder)
        found, own = record["places"]["midpoint"], rows[recipe]["places"]["midpoint"]
        for name in ("accuracy", "nll", "ece"):
            assert found[name] == pytest.approx(own[name], rel=1e-5)
        suite = Suite(tmp_path, INPUTS, lambda: False)
        whole = scheduler.run_entry(
            Entry(recipe, "article", 0.0, 0, config), lambda share: None, suite
        )
        expected = flat(whole["places"]["midpoint"]["corruptions"])
        assert flat(found["corruptions"]) == pytest.approx(expected, rel=1e-5)
