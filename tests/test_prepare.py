"""Preparing CIFAR without TensorFlow, from tiny archives in the published format."""

import functools
import http.server
import threading

import fake_cifar
import numpy as np
import pytest
import tensorflow_datasets as tfds

from experiments import prepare
from experiments.data import tfds as tfds_module
from experiments.data.tfds import Cifar10
from experiments.system.errors import UserError

NAMES = ("cifar10", "cifar100")
NOWHERE = "http://127.0.0.1:9"  # the discard port: refused at once


def files_below(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def read(name, data_dir, part):
    return list(tfds.data_source(name, data_dir=data_dir, split=part))


@pytest.fixture
def web(tmp_path, monkeypatch):
    """An archive that comes from a server on this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    fake = fake_cifar.place("cifar10", tmp_path / "elsewhere", monkeypatch)
    folder = fake.archive.parent
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{fake.archive.name}"
        fake_cifar.set_url("cifar10", url, monkeypatch)
        yield fake.archive, url
        server.shutdown()


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_builder_opens_what_the_archive_holds_without_it(name, tmp_path, monkeypatch):
    fake = fake_cifar.place(name, tmp_path, monkeypatch)
    folder = tfds_module.prepare(name, str(tmp_path))
    fake.archive.unlink()
    assert tfds_module.prepare(name, str(tmp_path)) == folder

    builder = tfds.builder(name, data_dir=tmp_path)
    assert builder.is_prepared()
    assert str(builder.data_dir) == folder == str(tmp_path / name / "3.0.2")
    assert builder.info.features["label"].names[3] == "class_3"
    for part, want in (("train", fake.train), ("test", fake.test)):
        records = sorted(read(name, tmp_path, part), key=lambda record: record["id"])
        np.testing.assert_array_equal([r["image"] for r in records], want.images)
        assert [r["label"] for r in records] == want.labels.tolist()
        if name == "cifar100" and part == "train":
            assert builder.info.features["coarse_label"].names[3] == "group_3"
            assert [r["coarse_label"] for r in records] == fake.coarse_labels.tolist()


def test_the_archive_is_downloaded_and_not_kept_and_a_wrong_one_refused(tmp_path, web, capsys):
    assert prepare.main(["cifar10", "--data_dir", str(tmp_path / "data")]) == 0
    assert len(read("cifar10", tmp_path / "data", "train")) == fake_cifar.NUM_TRAIN
    assert [p.name for p in (tmp_path / "data").iterdir()] == ["cifar10"]
    assert capsys.readouterr().out == f"ready: {tmp_path / 'data' / 'cifar10' / '3.0.2'}\n"
    (archive, source), other = web, tmp_path / "other"
    archive.write_bytes(archive.read_bytes() + b"more")
    with pytest.raises(UserError, match=rf"^{source} is not the published .* size or sha256"):
        tfds_module.prepare("cifar10", str(other))
    assert files_below(other) == []
    archive.unlink()
    with pytest.raises(UserError, match=r"cannot be reached \(HTTPError\)"):
        tfds_module.prepare("cifar10", str(other))


@pytest.mark.parametrize("name", NAMES)
def test_the_published_checksums_are_known_and_a_wrong_archive_stays(name, tmp_path):
    archive = tmp_path / "downloads" / "manual" / fake_cifar.url_of(name).rsplit("/", 1)[1]
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"something else")
    with pytest.raises(UserError, match=f"^{archive} is not the published {archive.name}"):
        tfds_module.prepare(name, str(tmp_path))
    assert len(files_below(tmp_path)) == 1


def test_a_failure_half_way_leaves_nothing_and_can_be_repeated(tmp_path, monkeypatch):
    fake_cifar.place("cifar10", tmp_path, monkeypatch)
    complete = Cifar10._generate_examples

    def broken(self, prefix, batches):
        yield from list(complete(self, prefix, batches))[:3]
        if prefix == "test_":
            raise OSError("No space left on device")

    before = files_below(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Cifar10, "_generate_examples", broken)
        with pytest.raises(UserError, match="could not be prepared .*No space left"):
            tfds_module.prepare("cifar10", str(tmp_path))
    assert files_below(tmp_path) == before
    tfds_module.prepare("cifar10", str(tmp_path))
    assert len(read("cifar10", tmp_path, "test")) == fake_cifar.NUM_TEST


def test_no_network_is_one_sentence_with_what_to_do(tmp_path, monkeypatch, capsys):
    fake = fake_cifar.place("cifar10", tmp_path / "elsewhere", monkeypatch)
    fake_cifar.set_url("cifar10", f"{NOWHERE}/{fake.archive.name}", monkeypatch)
    data = tmp_path / "data"
    assert prepare.main(["cifar10", "--data_dir", str(data)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: cifar10 is not prepared in {data}")
    for hint in ("cannot be reached", str(data / "downloads" / "manual" / fake.archive.name)):
        assert hint in said
    assert not data.exists()
