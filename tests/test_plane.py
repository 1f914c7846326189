"""The command that looks at the loss around a finished run, on networks that were never trained."""

import json
import shutil

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

    def make(recipe, **changes):
        folder = tmp_path / recipe
        config = tiny.config(recipe, dataset="tiny", data_dir=npz, **changes)
        workdir.prepare(folder, config, overwrite=False)
        stack = steps.init_state(tiny.run(recipe, **changes)).endpoints
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
    assert 'id="plane"' in (folder / "report.html").read_text()
    assert (folder / "figures" / "plane.png").stat().st_size > 1000
    workdir.prepare(folder, config, overwrite=True)
    assert not (folder / "landscape.json").exists()


def test_what_has_no_plane_is_one_sentence_and_writes_nothing(finished, tmp_path, capsys):
    line, network, curve = finished("line"), finished("standard"), finished("curve")
    unfinished, other = (shutil.copytree(curve, tmp_path / name) for name in "ab")
    (unfinished / "metrics.json").unlink()
    shutil.copy(line / "weights.npz", other)
    for arguments, sentence in (
        ([line], "2 endpoints, through which many planes go; give one more"),
        ([network, "--beside", line], "--beside is given but"),
        ([finished("simplex_4")], "lies in no plane"),
        (
            [line, "--beside", tmp_path],
            "can't be read as weights of a finished run (No such",
        ),
        ([unfinished], "holds a run that is not finished; finish it"),
        ([other], "holds 2 networks but the run of config.json has 3"),
    ):
        assert plane.main(list(map(str, arguments))) == 2
        (said,) = capsys.readouterr().err.splitlines()
        assert sentence in said
        assert not (arguments[0] / "landscape.json").exists()
        assert not (arguments[0] / "report.html").exists()
