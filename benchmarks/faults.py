"""The faults of `benchmarks.soak`: each is done to real runs, and what they made of it is measured."""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tqdm

from benchmarks.rounds import Failed
from experiments.runs.workdir import CHECKPOINTS, METRICS

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path("experiments/configs/digits.py")
CHECKPOINT_SECONDS = 1
# 20 steps an epoch.
SETTINGS = (
    *("num_epochs=90", "batch_size=50", "validation_size=0", "train_size=1000"),
    *("steps_per_call=4", f"checkpoint_seconds={CHECKPOINT_SECONDS}", "model.widths=(8, 16, 32)"),
    *("evaluation.num_points=3", "evaluation.recalibration_examples=100"),
)
PHASES = ("start", "first step", "training", "writing a checkpoint", "evaluation", "report")
TRIES = 4  # for each SIGTERM that is to find its process still at work
_TIMEOUT = 300  # seconds that no run needs
_POLL = 0.002


class Setting(NamedTuple):
    """What all runs share.

    Attributes:
      folder: for workdirs.
      arguments: of the command, but for the workdir.
      environment: of the processes.
    """

    folder: Path
    arguments: tuple[str, ...]
    environment: dict[str, str]


class Process(NamedTuple):
    """A run in its folder; what it prints is in `output`, how far it came in `notes`."""

    process: subprocess.Popen
    workdir: Path
    notes: Path
    output: Path


class Note(NamedTuple):
    """A line of notes, as `benchmarks.soaked` writes them."""

    kind: str
    step: int
    seconds: float


class Notes(NamedTuple):
    """How far a process came."""

    entries: tuple[Note, ...]

    @property
    def start(self) -> int | None:
        """Where training started, if it did."""
        return next((note.step for note in self.entries if note.kind == "from"), None)

    @property
    def step(self) -> int:
        """The last step that was dispatched."""
        return max((n.step for n in self.entries if n.kind in ("from", "step")), default=0)

    def begun(self, whole: int) -> list[int]:
        """Checkpoints that were begun and are not whole, when the newest whole one is `whole`."""
        return [note.step for note in self.entries if note.kind == "save" and note.step > whole]


def make_setting(folder: Path) -> Setting:
    """Runs of a line on scikit-learn's digits, whose compiled programs are kept in the folder."""
    arguments = (f"--config={CONFIG}:line", *(f"--config.{value}" for value in SETTINGS))
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return Setting(folder, arguments, environment)


def start(setting: Setting, folder: Path, *more: str) -> Process:
    """Starts the command with a workdir."""
    notes = setting.folder / f"{folder.name}.notes"
    output = setting.folder / f"{folder.name}.output"
    notes.write_text("")
    command = [sys.executable, "-m", "benchmarks.soaked", str(notes), *setting.arguments, *more]
    with output.open("w") as stream:
        process = subprocess.Popen(
            [*command, f"--workdir={folder}"],
            cwd=ROOT,
            env=setting.environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
        )
    return Process(process, folder, notes, output)


def finish(run: Process, code: int = 0) -> str:
    """Waits for a process; returns what it printed.

    Raises:
      Failed: another exit code.
    """
    try:
        found = run.process.wait(_TIMEOUT)
    except subprocess.TimeoutExpired:
        run.process.kill()
        found = run.process.wait()
    said = run.output.read_text()
    if found != code:
        raise Failed(f"A run exited with {found}, not {code}: {said[-500:]}")
    return said


def read_notes(run: Process) -> Notes:
    """The notes of a process, whole lines of them."""
    lines = [line.split() for line in run.notes.read_text().split("\n")[:-1]]
    return Notes(tuple(Note(kind, int(step), float(seconds)) for kind, step, seconds in lines))


def newest(folder: Path) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    found = (folder / CHECKPOINTS).glob("*/_CHECKPOINT_METADATA")
    return max((int(p.parent.name) for p in found if p.parent.name.isdigit()), default=0)


def phase(notes: Notes, whole: int) -> str:
    """What a process was doing last, when the newest whole checkpoint is `whole`."""
    kinds = {note.kind for note in notes.entries}
    for kind, name in (("report", "report"), ("evaluate", "evaluation")):
        if kind in kinds:
            return name
    if notes.begun(whole):
        return "writing a checkpoint"
    if "step" in kinds:
        return "training"
    return "first step" if "from" in kinds else "start"


def loss(notes: Notes, whole: int, end: float) -> dict:
    """What a process that ended at a moment had done in vain.

    Args:
      notes: of the process.
      whole: the newest whole checkpoint.
      end: on the clock of the notes.

    Returns:
      The moment's phase, steps and seconds of training lost, and of how many intervals between
      checkpoints they are at most: of one, and one more for a checkpoint that was being written.

    Raises:
      Failed: more than that: two checkpoints were being written, or one was overdue.
    """
    begun = notes.begun(whole)
    if len(begun) > 1:
        raise Failed(f"Checkpoints {begun} were begun and none of them is whole.")
    turns = [i for i, note in enumerate(notes.entries) if note.kind in ("from", "saved")]
    if turns:
        last, *steps = notes.entries[turns[-1] :]
        # The last call may be the one after which the checkpoint is due.
        calls = [note.seconds for note in steps if note.kind == "step"][:-1]
        if calls and calls[-1] - last.seconds >= CHECKPOINT_SECONDS:
            raise Failed(
                f"No checkpoint was begun {calls[-1] - last.seconds:.2f} s after {last.step}."
            )
    steps = 0 if notes.start is None else max(0, notes.step - whole)
    kinds = ("from", "save")
    since = [note.seconds for note in notes.entries if note.kind in kinds and note.step <= whole]
    return {
        "moment": phase(notes, whole),
        "steps": steps,
        "seconds": round(end - since[-1], 3) if steps else 0.0,
        "intervals": 1 + len(begun) if steps else 0,
    }


def outcome(folder: Path) -> dict:
    """What must not depend on interruptions: the last state's SHA-256, all metrics, all records."""
    found = json.loads((folder / METRICS).read_text())
    last = folder / CHECKPOINTS / str(newest(folder))
    record = json.loads((last / "record" / "metadata").read_text())
    times = ("seconds", "images_per_second", "data_wait")
    history = [{k: v for k, v in epoch.items() if k not in times} for epoch in found["history"]]
    metrics = {k: v for k, v in found.items() if k not in ("provenance", "history")}
    return {"sha256": record["sha256"], "metrics": metrics, "history": history}


def check_same(folder: Path, expected: dict) -> None:
    """Compares a finished run with the one that nothing happened to.

    Raises:
      Failed: they differ in one bit.
    """
    found = outcome(folder)
    for name, value in expected.items():
        if found[name] != value:
            raise Failed(f"{folder}: {name} is not that of the run that nothing happened to.")


def _wait_until(run: Process, condition) -> None:
    end = time.monotonic() + _TIMEOUT
    while not condition():
        if run.process.poll() is not None or time.monotonic() > end:
            raise Failed(f"A run ended too early: {run.output.read_text()[-500:]}")
        time.sleep(_POLL)


def kills(setting: Setting, rng: random.Random, count: int, life: float, expected: dict) -> dict:
    """SIGKILL at moments uniform over a run's life; the same command again until it finishes."""
    losses, number = [], 0
    with tqdm.tqdm(desc="SIGKILL", total=count) as bar:
        while len(losses) < count:
            folder, number = setting.folder / f"killed_{number}", number + 1
            whole = None  # the newest checkpoint when it was killed
            while True:
                run = start(setting, folder)
                killed = len(losses) < count and _kill_after(run, rng.uniform(0, life))
                end = time.monotonic()
                said = "" if killed else finish(run)
                notes = read_notes(run)
                if whole is not None and notes.start not in (None, whole):
                    raise Failed(f"Resumed at {notes.start}, not at {whole}: {said[-500:]}")
                if not killed:
                    break
                whole = newest(folder)
                losses.append(loss(notes, whole, end))
                bar.update()
            check_same(folder, expected)
            shutil.rmtree(folder)
    moments = [lost["moment"] for lost in losses]
    return {
        "kills": count,
        "runs": number,
        "checkpoint_seconds": CHECKPOINT_SECONDS,
        "moments": {name: moments.count(name) for name in PHASES},
        "losses": losses,
    }


def _kill_after(run: Process, seconds: float) -> bool:
    """Whether the process was still there."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.process.wait(seconds)
    run.process.kill()
    return run.process.wait() == -signal.SIGKILL


def terminations(setting: Setting, rng: random.Random, count: int, rest: float, expected: dict):
    """SIGTERM to running processes: exit code 0, and no step is done twice.

    Args:
      setting: of the runs.
      rng: draws the moments, uniform from the first step to the expected end.
      count: of signals that find a process still at work; those that come too late are tried again.
      rest: seconds from a run's first step to its end.
      expected: outcome of the run that nothing happened to.
    """
    steps, finished, late = [], 0, 0
    with tqdm.tqdm(desc="SIGTERM", total=count) as bar:
        for number in range(TRIES * count):
            folder = setting.folder / f"terminated_{number}"
            run = start(setting, folder)
            _wait_until(run, lambda run=run: any(n.kind == "step" for n in read_notes(run).entries))
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.process.wait(rng.uniform(0, rest))
            done = (folder / METRICS).exists()
            run.process.terminate()
            if done:  # it may have been leaving
                run.process.wait(_TIMEOUT)
                late += 1
            else:
                finish(run)
                reached = read_notes(run).step
                if (folder / METRICS).exists():
                    finished += 1
                else:
                    again = start(setting, folder)
                    finish(again)
                    if read_notes(again).start != reached:
                        raise Failed(f"Resumed at {read_notes(again).start}, not at {reached}.")
                    steps.append(reached)
                bar.update()
            check_same(folder, expected)
            shutil.rmtree(folder)
            if len(steps) + finished == count:
                break
    return {
        "signals": len(steps) + finished,
        "stopped_at_steps": sorted(steps),
        "report_finished": finished,
        "too_late": late,
    }


def damage(setting: Setting, expected: dict) -> dict:
    """A byte of the newest checkpoint flips: the one before is used."""
    folder = setting.folder / "damaged"
    run = start(setting, folder)
    _wait_until(run, lambda: len(list((folder / CHECKPOINTS).glob("[0-9]*"))) > 1)
    run.process.terminate()
    finish(run)
    step = newest(folder)
    state = folder / CHECKPOINTS / str(step) / "state"
    victim = max((p for p in state.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    steps = [int(p.name) for p in (folder / CHECKPOINTS).iterdir() if p.name.isdigit()]
    before = max(other for other in steps if other < step)
    again = start(setting, folder)
    said = finish(again)
    if f"{step} is damaged" not in said or read_notes(again).start != before:
        raise Failed(f"Checkpoint {step} is damaged but was not passed over: {said[-500:]}")
    check_same(folder, expected)
    shutil.rmtree(folder)
    return {"damaged": step, "resumed_at": before}


def second_process(setting: Setting, expected: dict) -> dict:
    """Another process with the workdir of one that trains is refused, and changes nothing."""
    folder = setting.folder / "shared"
    run = start(setting, folder)
    _wait_until(run, lambda: read_notes(run).step > 0)
    elsewhere = setting.folder / "second"  # notes and output
    elsewhere.mkdir()
    second = start(setting._replace(folder=elsewhere), folder)
    said = finish(second, code=2)
    if f"is in use by process {run.process.pid} on" not in said:
        raise Failed(f"A second process was not refused by name: {said[-500:]}")
    if run.process.poll() is not None:
        raise Failed("The first process ended before the second one was refused.")
    finish(run)
    check_same(folder, expected)
    shutil.rmtree(folder)
    return {"said": said.strip().replace(str(setting.folder), "RUNS")}


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str]:
    """A file system of so many bytes at a folder, or none where that is not allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield "tmpfs" if mounted else ""
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def full_disk(setting: Setting, expected: dict) -> dict:
    """The disk fills up while a run trains: it stops with a sentence; with space it goes on."""
    disk = setting.folder / "disk"
    with small_disk(disk, 64 << 20) as kind:
        if not kind:
            return {"skipped": "no small file system can be mounted here"}
        folder, ballast = disk / "run", disk / "ballast"
        run = start(setting, folder)
        _wait_until(run, lambda: newest(folder) > 0)
        with ballast.open("wb") as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
                stream.flush()
        said = finish(run, code=2)
        if "The disk is full: " not in said or str(folder) not in said[said.index("error: ") :]:
            raise Failed(f"A full disk was not named: {said[-500:]}")
        kept = newest(folder)
        ballast.unlink()
        again = start(setting, folder)
        finish(again)
        if not kept or read_notes(again).start != kept:
            raise Failed(f"Resumed at {read_notes(again).start}, not at checkpoint {kept}.")
        check_same(folder, expected)
    sentence = next(line for line in said.splitlines() if "error: " in line)
    sentence = sentence[sentence.index("error: ") :].replace(str(setting.folder), "RUNS")
    return {"file_system": kind, "kept": kept, "said": sentence}
