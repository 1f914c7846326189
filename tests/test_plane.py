"""The command that looks at the loss around a finished run, on networks that were never trained."""

import json

import jax
import numpy as np
import pytest
import synthetic_metrics
import tiny

import subspace_jax as ss
from experiments import plane
from experiments.evaluation import predict
from experiments.runs import workdir
from experiments.system import files
from experiments.training import steps, weights
from experiments.training.run import make_run, one_network


@pytest.fixture(scope="module")
def npz(tmp_path_factory):
    return tiny.npz_file(tmp_path_factory.mktemp("data") / "tiny.npz")


@pytest.fixture
def finished(npz, tmp_path):
    """Makes the folder of a run that is finished but for its training."""

    def make(recipe, networks=None, **changes):
        folder = tmp_path / recipe
        config = tiny.config(recipe, dataset="tiny", data_dir=npz, **changes)
        workdir.prepare(folder, config, overwrite=False)
        stack = steps.init_state(tiny.run(networks or recipe, **changes)).endpoints
        weights.save(folder / workdir.WEIGHTS, stack)
        kind = "simplex" if recipe == "simplex_3" else recipe
        metrics = synthetic_metrics.run_metrics(kind) | {"config": json.loads(config.to_json())}
        files.write_json(folder / workdir.METRICS, metrics)
        return folder

    return make


def test_the_plane_of_one_network_is_around_it_and_in_its_report(finished, npz, capsys):
    folder = finished("standard")
    before = json.loads((folder / "metrics.json").read_text())
    assert plane.main([str(folder), "--resolution", "3"]) == 0
    assert capsys.readouterr().out == f"Report: {folder / 'report.html'}\n"
    found = workdir.landscape(folder)["slice"]
    assert found["kind"] == "point"
    assert np.shape(found["nll"]) == np.shape(found["accuracy"]) == (3, 3)

    config = tiny.config("standard", dataset="tiny", data_dir=npz)
    run = make_run(config, tiny.dataset())
    stack = weights.load(folder / "weights.npz", one_network(run))
    splits = {"test": tiny.dataset().test}
    settings = predict.make_settings(config, run)
    logits, _, _ = predict.predict_networks(run, stack, splits, settings)
    nll = ss.metrics.nll(jax.nn.log_softmax(logits["test"][0]), splits["test"].labels)
    np.testing.assert_allclose(found["nll"][1][1], nll, rtol=1e-4)

    assert json.loads((folder / "metrics.json").read_text()) == before
    assert '<section class="interactive" id="plane">' in (folder / "report.html").read_text()
    for name in ("plane.png", "plane.pdf", "reliability.pdf", "history.png"):
        assert (folder / "figures" / name).stat().st_size > 1000
    workdir.prepare(folder, config, overwrite=True)
    assert not (folder / "landscape.json").exists()


def refused(capsys, *arguments):
    assert plane.main(list(map(str, arguments))) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_what_has_no_plane_is_refused_in_one_sentence(finished, tmp_path, capsys):
    line = finished("line")
    assert "2 endpoints, through which many planes go; give one more" in refused(capsys, line)
    assert "--beside is given but" in refused(capsys, finished("simplex_3"), "--beside", line)
    network = finished("standard")
    assert "resolution 1" in refused(capsys, network, "--resolution", 1)
    assert "lies in no plane" in refused(capsys, finished("simplex_4"))
    for folder in (line, network):
        assert not (folder / "landscape.json").exists()
        assert not (folder / "report.html").exists()


def test_a_network_of_another_model_is_refused(finished, tmp_path, capsys):
    line, other = finished("line"), finished("standard", model__widths=(4, 6))
    said = refused(capsys, line, "--beside", other)
    assert f"--beside is a run of another network than {line} (" in said
    assert "(6,) there and (8,) here" in said


def test_a_folder_without_a_finished_run_is_refused(finished, tmp_path, capsys):
    folder = finished("curve")
    assert f"{tmp_path} has no config.json" in refused(capsys, tmp_path)
    (folder / "weights.npz").rename(tmp_path / "weights.npz")
    assert "has no weights.npz; delete its metrics.json" in refused(capsys, folder)
    (tmp_path / "weights.npz").rename(folder / "weights.npz")
    (folder / "metrics.json").unlink()
    assert "holds a run that is not finished; finish it" in refused(capsys, folder)


def test_a_file_of_other_networks_is_refused(finished, capsys):
    folder = finished("curve", networks="line")
    assert "holds 2 networks but the run of config.json has 3" in refused(capsys, folder)
