"""The soak test's parts, and its committed record; the whole of it runs for minutes."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import faults, soak, soaked
from benchmarks.rounds import Failed
from experiments import cifar, data, train
from experiments.checkpoint import Checkpoints
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "results" / "soak" / "soak.json"


def process(tmp_path, code="", **more):
    """A Python process as `faults.start` gives it, without a run in it."""
    output, notes = tmp_path / "output", tmp_path / "notes"
    notes.write_text("")
    with output.open("w") as stream:
        child = subprocess.Popen([sys.executable, "-c", code], stdout=stream, stderr=stream, **more)
    return faults.Process(child, tmp_path / "run", notes, output)


@pytest.mark.parametrize("name", ["kills", "signals"])
def test_bad_input(tmp_path, capsys, name):
    assert soak.main([f"--{name}=0", f"--output={tmp_path / 'none'}"]) == 2
    assert capsys.readouterr().err == f"error: --{name} is 0; use at least 1.\n"
    assert not (tmp_path / "none").exists()


def test_notes_say_where_training_starts_and_how_far_it_comes(tmp_path, monkeypatch):
    """Of the real command's training, which is then stopped."""
    run = tiny.run()

    def command(arguments):
        assert arguments == ["--workdir=there"]
        history = train.History(run)
        for count, state in enumerate(train.fit(run, train.init_state(run), history)):
            if count == 3:
                checkpoints = Checkpoints(tmp_path / "checkpoints")
                checkpoints.save(int(state.step), state, {})
                checkpoints.close()
                return 0
        return 1

    monkeypatch.setattr(train, "fit", train.fit)
    monkeypatch.setattr(Checkpoints, "save", Checkpoints.save)
    monkeypatch.setattr(cifar, "main", command)
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path / "notes"), "--workdir=there"])
    assert soaked.main() == 0
    notes = faults.read_notes(SimpleNamespace(notes=tmp_path / "notes"))
    assert notes == faults.Notes(0, 4, (4,))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", faults.Notes(None, 0, ())),
        ("from 6\n", faults.Notes(6, 6, ())),
        ("from 6\nstep 9\nsave 9\nstep 1", faults.Notes(6, 9, (9,))),  # killed while it wrote 12
    ],
)
def test_half_a_line_is_no_note(tmp_path, lines, expected):
    (tmp_path / "notes").write_text(lines)
    assert faults.read_notes(SimpleNamespace(notes=tmp_path / "notes")) == expected


def test_phases_follow_from_what_is_in_the_folder(tmp_path):
    seen = [faults.phase(tmp_path)]
    for name in (
        "config.json",
        "checkpoints/3.orbax-checkpoint-tmp/x",
        "checkpoints/3/_CHECKPOINT_METADATA",
        "weights.npz",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
        seen.append(faults.phase(tmp_path))
    assert seen == ["start", "first step", *["writing a checkpoint"] * 2, "evaluation"]
    assert faults.newest(tmp_path) == 3
    (tmp_path / "weights.npz").unlink()
    (tmp_path / "checkpoints/3.orbax-checkpoint-tmp/x").unlink()
    (tmp_path / "checkpoints/3.orbax-checkpoint-tmp").rmdir()
    assert faults.phase(tmp_path) == "training"


def test_a_process_is_killed_unless_it_has_ended(tmp_path):
    sleeping = process(tmp_path, "import time; time.sleep(60)")
    assert faults._kill_after(sleeping, 0.05)
    assert sleeping.process.returncode == -signal.SIGKILL
    assert not faults._kill_after(process(tmp_path), 60)


def test_another_exit_code_is_a_failure(tmp_path):
    assert faults.finish(process(tmp_path, "print('fine')")) == "fine\n"
    with pytest.raises(Failed, match=r"A run exited with 3, not 0: broken"):
        faults.finish(process(tmp_path, "print('broken', flush=True); exit(3)"))


def test_runs_are_compared_but_for_times(tmp_path):
    def write(sha256="a", loss=1.0, accuracy=0.5, seconds=1.0):
        record = tmp_path / "checkpoints" / "3" / "record" / "metadata"
        record.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkpoints" / "3" / "_CHECKPOINT_METADATA").write_text("")
        record.write_text(json.dumps({"sha256": sha256}))
        epoch = {"loss": loss, "seconds": seconds, "images_per_second": 1 / seconds}
        found = {"points": [accuracy], "history": [epoch], "provenance": {"seconds": seconds}}
        (tmp_path / "metrics.json").write_text(json.dumps(found))

    write()
    expected = faults.outcome(tmp_path)
    write(seconds=2.0)
    faults.check_same(tmp_path, expected)
    for name, change in (
        ("sha256", {"sha256": "b"}),
        ("history", {"loss": 2.0}),
        ("metrics", {"accuracy": 0.6}),
    ):
        write(**change)
        with pytest.raises(Failed, match=f": {name} is not that of the run"):
            faults.check_same(tmp_path, expected)


def test_generated_images_are_a_data_set(tmp_path):
    files = faults._make_images(tmp_path / "images", faults.np.random.default_rng(0))
    found = data.load("tiny_imagenet", str(tmp_path / "images"), validation_size=0)
    assert len(files) == len(found.train.labels) == 90
    assert sorted(found.test.labels) == [0] * 10 + [1] * 10 + [2] * 10


def test_the_committed_record_is_what_the_documentation_shows():
    found = json.loads(RECORD.read_text())
    text = (ROOT / "docs" / "scaling.md").read_text()
    assert soak.markdown(found) == RECORD.with_suffix(".md").read_text()
    assert soak.markdown(found) in text
    assert "dirty" not in found["provenance"]["commit"]
    killed = found["kills"]
    assert killed["kills"] == len(killed["steps_lost"]) == sum(killed["moments"].values()) >= 50
    assert max(killed["steps_lost"]) <= 2 * killed["interval"]
