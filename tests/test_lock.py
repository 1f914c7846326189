"""One process in a workdir: who is refused, what is left, when the lock is given up."""

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def holder(tmp_path):
    """Another process that holds `tmp_path / "run"` until its standard input ends."""
    folder = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refuses(number):
    def refuse(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    return refuse


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


COMMANDS = {
    "run": (cifar.main, [f"--config={ROOT / 'experiments/configs/digits.py'}:line"]),
    "suite": (reproduce.main, ["digits"]),
}


@pytest.mark.parametrize(("command", "arguments"), COMMANDS.values(), ids=COMMANDS)
def test_the_second_process_is_refused_by_name_and_touches_nothing(
    tmp_path, holder, capsys, command, arguments
):
    folder = tmp_path / "run"
    for more in ([], ["--overwrite"]):
        before = contents(folder)
        assert command([*arguments, "--workdir", str(folder), *more]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {folder} is in use by process {holder.pid} on ")
        assert said.endswith(
            "; wait until it has finished, stop it, or choose another --workdir.\n"
        )
        assert said.count("\n") == 1
        assert contents(folder) == before
        # What another config left there, which would be deleted.
        (folder / "config.json").write_text('{"seed": 1}')
        (folder / "runs").mkdir(exist_ok=True)
        (folder / "runs" / "record.json").write_text("{}")
    holder.kill()  # leaves it to the next
    holder.wait()
    assert (folder / lock.LOCK).exists()
    with lock.hold(folder):
        pass


def test_it_is_given_up_at_the_end_and_nothing_is_left(tmp_path):
    folder = tmp_path / "a" / "b"
    with lock.hold(folder):
        assert json.loads((folder / lock.LOCK).read_text())["process"] == os.getpid()
        with (
            pytest.raises(UserError, match=f"in use by process {os.getpid()} on"),
            lock.hold(folder),
        ):
            pass
    assert not (tmp_path / "a").exists()
    with pytest.raises(RuntimeError), lock.hold(folder):
        (folder / "kept").write_text("")
        raise RuntimeError
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_file_systems_without_locks_are_named_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fcntl, "flock", refuses(errno.ENOLCK))
    with lock.hold(tmp_path / "run"):
        (tmp_path / "run" / "kept").write_text("")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]
    said = capsys.readouterr().err
    assert said.startswith(f"{tmp_path / 'run'} can't be locked (No locks available): see to it")
    assert said.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "open", refuses(errno.EACCES))
    with (
        pytest.raises(UserError, match=r"run can't be written \(Permission denied\); mend that or"),
        lock.hold(tmp_path / "run"),
    ):
        pass
    assert not (tmp_path / "run").exists()
