"""One process in a workdir: who is refused, what is left, when the lock is given up."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from experiments import cifar
from experiments.reproduce import __main__ as reproduce
from experiments.system import lock
from experiments.system.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import pathlib, sys
from experiments.system import lock
with lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_second_process_is_refused_by_name_and_touches_nothing(tmp_path, capsys):
    folder = tmp_path / "run"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, **pipes)
    assert holder.stdout.readline() == "held\n"
    # What another config left there, which would be deleted.
    (folder / "config.json").write_text('{"seed": 1}')
    (folder / "runs").mkdir()
    (folder / "runs" / "record.json").write_text("{}")
    before = contents(folder)
    line = [f"--config={ROOT / 'experiments/configs/digits.py'}:line"]
    for command, arguments in ((cifar.main, line), (reproduce.main, ["digits"])):
        assert command([*arguments, "--workdir", str(folder), "--overwrite"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder} is in use by process {holder.pid} on ")
        assert said.endswith("wait until it has finished, stop it, or choose another --workdir.\n")
        assert contents(folder) == before
    holder.kill()  # leaves it to the next
    holder.communicate()
    assert (folder / lock.LOCK).exists()
    with lock.hold(folder):
        pass


def test_it_is_given_up_at_the_end_and_nothing_is_left(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock.hold(folder):
        refused = pytest.raises(UserError, match=f"in use by process {os.getpid()} on")
        with refused, lock.hold(folder):
            pass
    assert not (tmp_path / "a").exists()
    with pytest.raises(RuntimeError), lock.hold(folder):
        (folder / "kept").write_text("")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_what_cannot_be_locked_or_written_is_a_sentence(tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        no_locks = OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        patch.setattr(fcntl, "flock", mock.Mock(side_effect=no_locks))
        with lock.hold(tmp_path / "run"):
            (tmp_path / "run" / "kept").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"{tmp_path / 'run'} can't be locked (No locks available): see to it")
    (tmp_path / "file").write_text("")
    sentence = r"new can't be written \(.*\); mend that or"
    with pytest.raises(UserError, match=sentence), lock.hold(tmp_path / "file" / "new"):
        pass
