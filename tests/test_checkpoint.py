"""Checkpoints are whole or not there, and a damaged one is noticed."""

import concurrent.futures
import errno
import os
import shutil
from unittest import mock

import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import subspace_jax as ss
from experiments.runs.checkpoint import Checkpoints
from experiments.system.errors import UserError

# Orbax leaves futures of a closed event loop behind when it reads damaged files.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def make_state(value: float) -> ss.TrainState:
    endpoints = {"kernel": jnp.full((2, 3, 4), value), "bias": jnp.arange(8.0).reshape(2, 4)}
    return ss.TrainState.create(endpoints, optax.sgd(0.1, momentum=0.9))


def saved(folder, steps=(10, 20)) -> None:
    checkpoints = Checkpoints(folder)
    for step in steps:
        record = {"history": {"step": step, "sum": 0.1 + 0.2}}
        checkpoints.save(step, make_state(float(step)), record)
    checkpoints.close()


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_restores_the_newest_state_and_its_record_exactly(tmp_path):
    assert Checkpoints(tmp_path / "c").restore(make_state(0.0)) is None
    saved(tmp_path / "c", steps=(1, 10, 20))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["10", "20"]
    state, record = Checkpoints(tmp_path / "c").restore(make_state(0.0))
    chex.assert_trees_all_equal(state, make_state(20.0))
    chex.assert_trees_all_equal_dtypes(state, make_state(20.0))
    assert record["history"] == {"step": 20, "sum": 0.1 + 0.2}


def test_threads_save_at_once(tmp_path):
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(saved, [tmp_path / str(i) for i in range(20)]))
    for i in range(20):
        state, _ = Checkpoints(tmp_path / str(i)).restore(make_state(0.0))
        chex.assert_trees_all_equal(state, make_state(20.0))


def test_what_was_saved_changes_no_more(tmp_path):
    """Neither with the array that it was saved from nor when its step is saved once more."""
    checkpoints = Checkpoints(tmp_path / "c")
    array = np.ones(100_000, np.float32)
    checkpoints.save(1, {"w": array}, {})
    array[:] = 2
    checkpoints.save(1, {"w": array}, {})
    checkpoints.close()
    state, _ = Checkpoints(tmp_path / "c").restore({"w": array})
    chex.assert_trees_all_equal(state["w"], jnp.ones(100_000))


@pytest.mark.parametrize("damage", ["truncate", "flip a byte"])
def test_falls_back_to_the_one_before_a_damaged_one_and_names_it(tmp_path, capsys, damage):
    saved(tmp_path / "c")
    arrays = [p for p in files_of(tmp_path / "c" / "20" / "state") if p.parent.name == "d"]
    victim = max(arrays, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    victim.write_bytes(content if damage == "flip a byte" else content[:middle])
    state, record = Checkpoints(tmp_path / "c").restore(make_state(0.0))
    chex.assert_trees_all_equal(state, make_state(10.0))
    assert record["history"]["step"] == 10
    assert f"{tmp_path / 'c' / '20'} is damaged" in capsys.readouterr().err
    assert (tmp_path / "damaged_checkpoint_20").is_dir()


def test_whole_arrays_that_the_record_is_not_of_are_damage(tmp_path, capsys):
    saved(tmp_path / "c")
    saved(tmp_path / "other", steps=(15,))
    shutil.rmtree(tmp_path / "c" / "20" / "state")
    shutil.copytree(tmp_path / "other" / "15" / "state", tmp_path / "c" / "20" / "state")
    state, _ = Checkpoints(tmp_path / "c").restore(make_state(0.0))
    chex.assert_trees_all_equal(state, make_state(10.0))
    assert "SHA-256" in capsys.readouterr().err


def test_refuses_when_all_are_damaged(tmp_path, capsys):
    saved(tmp_path / "c")
    for path in files_of(tmp_path / "c"):
        if "state" in path.parts:
            path.write_bytes(b"")
    for _ in range(2):  # nothing is moved: the same command says the same again
        with pytest.raises(UserError, match="No checkpoint can be read: .*/20, .*/10 "):
            Checkpoints(tmp_path / "c").restore(make_state(0.0))
    assert capsys.readouterr().err == ""
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["10", "20"]


def test_checkpoints_of_another_network_are_refused_and_stay_where_they_are(tmp_path, capsys):
    saved(tmp_path / "c")
    before = files_of(tmp_path / "c")
    state = make_state(0.0)
    wider = {"kernel": jnp.zeros((2, 3, 5)), "bias": jnp.zeros((2, 4))}
    deeper = state.endpoints | {"second": jnp.zeros((2, 4))}
    for endpoints, momentum, sentence in (
        (wider, 0.9, r"kernel'\] is float32 \[2, 3, 4\] there and float32 \[2, 3, 5\] here"),
        (deeper, 0.9, r"\.endpoints\['second'\] is missing there and float32 \[2, 4\] here"),
        (state.endpoints, None, "is float32 .* there and missing here"),
    ):
        like = ss.TrainState.create(endpoints, optax.sgd(0.1, momentum=momentum))
        with pytest.raises(UserError, match=rf"c/20 is of another .*{sentence}\); take the"):
            Checkpoints(tmp_path / "c").restore(like)
    assert files_of(tmp_path / "c") == before
    assert not list(tmp_path.glob("damaged*"))
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_a_sentence_and_keeps_the_one_before(tmp_path, monkeypatch):
    saved(tmp_path / "c")
    before = files_of(tmp_path / "c")
    checkpoints = Checkpoints(tmp_path / "c")
    for error in (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        ValueError("RESOURCE_EXHAUSTED: Error writing file [OS error 28: ENOSPC]"),
    ):
        monkeypatch.setattr(checkpoints._manager, "save", mock.Mock(side_effect=error))
        with pytest.raises(UserError, match="The disk is full: checkpoint 30 could not be written"):
            checkpoints.save(30, make_state(30.0), {})
    checkpoints.close()
    assert files_of(tmp_path / "c") == before
