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

import numpy as np
import tqdm
from PIL import Image

from benchmarks.rounds import Failed
from experiments.runs.workdir import CHECKPOINTS, METRICS
from experiments.system.errors import STOPPED

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path("experiments/configs/digits.py")
CHECKPOINT_SECONDS = 1
# 20 steps an epoch.
SETTINGS = (
    *("num_epochs=90", "batch_size=50", "validation_size=0", "train_size=1000"),
    *("steps_per_call=4", f"checkpoint_seconds={CHECKPOINT_SECONDS}", "model.widths=(8, 16, 32)"),
    *("evaluation.num_points=3", "evaluation.recalibration_examples=100"),
)
# Of those that train on images.
_ON_IMAGES = (
    *("dataset=tiny_imagenet", "num_epochs=1", "optimizer.warmup_epochs=0", "train_size=0"),
    *("batch_size=20", "evaluation.batch_size=20"),
)
PHASES = ("start", "first step", "training", "writing a checkpoint", "evaluation", "report")
MAX_CORRUPT = 3  # images
TRIES = 4  # for each SIGTERM that is to find its process still at work
_TIMEOUT = 300  # seconds that no run needs
_POLL = 0.002


class Note(NamedTuple):
    """A line of notes, as `benchmarks.soaked` writes them."""

    kind: str
    step: int
    seconds: float


class Notes(NamedTuple):
    """How far a process came."""

    entries: tuple[Note, ...]

    @classmethod
    def read(cls, path: Path) -> "Notes":
        """Whole lines alone."""
        lines = [line.split() for line in path.read_text().split("\n")[:-1]]
        return cls(tuple(Note(kind, int(step), float(clock)) for kind, step, clock in lines))

    @property
    def kinds(self) -> set[str]:
        return {note.kind for note in self.entries}

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


class Setting(NamedTuple):
    """What all runs share: where workdirs are, and the environment of the processes."""

    folder: Path
    environment: dict[str, str]
    arguments: tuple[str, ...] = (
        f"--config={CONFIG}:line",
        *(f"--config.{value}" for value in SETTINGS),
    )


def make_setting(folder: Path) -> Setting:
    """Runs of a line on scikit-learn's digits, whose compiled programs are kept in the folder."""
    kept = {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return Setting(folder, {**os.environ, **kept})


class Run:
    """A process of the command with a workdir."""

    def __init__(self, setting: Setting, workdir: Path, *more: str):
        self.workdir = workdir
        self._notes = setting.folder / f"{workdir.name}.notes"
        self._output = setting.folder / f"{workdir.name}.output"
        self._notes.write_text("")
        command = [sys.executable, "-m", "benchmarks.soaked", str(self._notes)]
        with self._output.open("w") as stream:
            self.process = subprocess.Popen(
                [*command, *setting.arguments, *more, f"--workdir={workdir}"],
                cwd=ROOT,
                env=setting.environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    @property
    def notes(self) -> Notes:
        return Notes.read(self._notes)

    @property
    def said(self) -> str:
        return self._output.read_text()

    def finish(self, code: int = 0) -> str:
        """Waits for the process; returns what it printed, or raises `Failed` for another exit code."""
        if not self.wait(_TIMEOUT):
            self.process.kill()
        if (found := self.process.wait()) != code:
            raise Failed(f"A run exited with {found}, not {code}: {self.said[-500:]}")
        return self.said

    def wait(self, seconds: float) -> bool:
        """Whether the process ended in that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.returncode is not None

    def wait_until(self, condition) -> None:
        """Raises `Failed` if the process ends before."""
        end = time.monotonic() + _TIMEOUT
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise Failed(f"A run ended too early: {self.said[-500:]}")
            time.sleep(_POLL)

    def check_same(self, expected: dict) -> None:
        """Compares what it left, bit for bit, with what the run left that nothing happened to."""
        found = outcome(self.workdir)
        for name, value in expected.items():
            if found[name] != value:
                raise Failed(
                    f"{self.workdir}: {name} is not that of the run that nothing happened to."
                )


def newest(folder: Path) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    found = (folder / CHECKPOINTS).glob("*/_CHECKPOINT_METADATA")
    return max((int(p.parent.name) for p in found if p.parent.name.isdigit()), default=0)


def outcome(folder: Path) -> dict:
    """What must not depend on interruptions: the last state's SHA-256, all metrics, all records."""
    found = json.loads((folder / METRICS).read_text())
    last = folder / CHECKPOINTS / str(newest(folder))
    record = json.loads((last / "record" / "metadata").read_text())
    times = ("seconds", "images_per_second", "data_wait")
    history = [{k: v for k, v in epoch.items() if k not in times} for epoch in found["history"]]
    metrics = {k: v for k, v in found.items() if k not in ("provenance", "history")}
    return {"sha256": record["sha256"], "metrics": metrics, "history": history}


def phase(notes: Notes, whole: int) -> str:
    """What a process was doing last, when the newest whole checkpoint is `whole`."""
    doing = {"from": "first step", "step": "training", "evaluate": "evaluation", "report": "report"}
    if notes.begun(whole) and not notes.kinds & {"evaluate", "report"}:
        return "writing a checkpoint"
    return ["start", *(name for kind, name in doing.items() if kind in notes.kinds)][-1]


def loss(notes: Notes, whole: int, end: float) -> dict:
    """What a process that ended at a moment of its notes' clock had done in vain.

    `intervals` is how many intervals between checkpoints that is at most: one, and one more for a
    checkpoint that was being written. It raises `Failed` for more: two were being written, or one was
    overdue.
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
    since = [n.seconds for n in notes.entries if n.kind in ("from", "save") and n.step <= whole]
    return {
        "moment": phase(notes, whole),
        "steps": steps,
        "seconds": round(end - since[-1], 3) if steps else 0.0,
        "intervals": 1 + len(begun) if steps else 0,
    }


def kills(setting: Setting, rng: random.Random, count: int, life: float, expected: dict) -> dict:
    """SIGKILL at moments uniform over a run's life; the same command again until it finishes."""
    losses, number = [], 0
    with tqdm.tqdm(desc="SIGKILL", total=count) as bar:
        while len(losses) < count:
            folder, number = setting.folder / f"killed_{number}", number + 1
            whole = None  # the newest checkpoint when it was killed
            while True:
                run = Run(setting, folder)
                if killed := len(losses) < count and not run.wait(rng.uniform(0, life)):
                    run.process.kill()
                    killed = run.process.wait() == -signal.SIGKILL
                end = time.monotonic()
                said, notes = "" if killed else run.finish(), run.notes
                if whole is not None and notes.start not in (None, whole):
                    raise Failed(f"Resumed at {notes.start}, not at {whole}: {said[-500:]}")
                if not killed:
                    break
                whole = newest(folder)
                losses.append(loss(notes, whole, end))
                bar.update()
            run.check_same(expected)
            shutil.rmtree(folder)
    moments = [lost["moment"] for lost in losses]
    return {
        "kills": count,
        "runs": number,
        "checkpoint_seconds": CHECKPOINT_SECONDS,
        "moments": {name: moments.count(name) for name in PHASES},
        "losses": losses,
    }


def terminations(setting: Setting, rng: random.Random, count: int, rest: float, expected: dict):
    """SIGTERM to running processes: exit code 75, or 0 at the end, and no step is done twice.

    The moments are uniform over the `rest` seconds from a run's first step to its end; signals that come
    too late are tried again.
    """
    steps, finished, late = [], 0, 0
    with tqdm.tqdm(desc="SIGTERM", total=count) as bar:
        for number in range(TRIES * count):
            folder = setting.folder / f"terminated_{number}"
            run = Run(setting, folder)
            run.wait_until(lambda run=run: "step" in run.notes.kinds)
            run.wait(rng.uniform(0, rest))
            done = (folder / METRICS).exists()
            run.process.terminate()
            if done:  # it may have been leaving
                run.process.wait(_TIMEOUT)
                late += 1
            else:
                run.wait(_TIMEOUT)
                run.finish(0 if (folder / METRICS).exists() else STOPPED)
                reached = run.notes.step
                if (folder / METRICS).exists():
                    finished += 1
                else:
                    run = _resumed(setting, folder, reached)
                    steps.append(reached)
                bar.update()
            run.check_same(expected)
            shutil.rmtree(folder)
            if len(steps) + finished == count:
                break
    return {
        "signals": len(steps) + finished,
        "stopped_at_steps": sorted(steps),
        "report_finished": finished,
        "too_late": late,
    }


def _resumed(setting: Setting, folder: Path, step: int) -> Run:
    """The same command again, which must go on at that step and finish."""
    run = Run(setting, folder)
    said = run.finish()
    if run.notes.start != step:
        raise Failed(f"Resumed at {run.notes.start}, not at {step}: {said[-500:]}")
    return run


def damage(setting: Setting, expected: dict) -> dict:
    """A byte of the newest checkpoint flips: the one before is used."""
    folder = setting.folder / "damaged"
    run = Run(setting, folder)
    run.wait_until(lambda: len(list((folder / CHECKPOINTS).glob("[0-9]*"))) > 1)
    run.process.terminate()
    run.finish(STOPPED)
    step = newest(folder)
    state = folder / CHECKPOINTS / str(step) / "state"
    victim = max((p for p in state.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    steps = [int(p.name) for p in (folder / CHECKPOINTS).iterdir() if p.name.isdigit()]
    before = max(other for other in steps if other < step)
    again = _resumed(setting, folder, before)
    if f"{step} is damaged" not in again.said:
        raise Failed(f"Checkpoint {step} is damaged, which was not said: {again.said[-500:]}")
    again.check_same(expected)
    shutil.rmtree(folder)
    return {"damaged": step, "resumed_at": before}


def second_process(setting: Setting, expected: dict) -> dict:
    """Another process with the workdir of one that trains is refused, and changes nothing."""
    folder = setting.folder / "shared"
    run = Run(setting, folder)
    run.wait_until(lambda: run.notes.step > 0)
    elsewhere = setting.folder / "second"  # notes and output
    elsewhere.mkdir()
    said = Run(setting._replace(folder=elsewhere), folder).finish(code=2)
    if f"is in use by process {run.process.pid} on" not in said:
        raise Failed(f"A second process was not refused by name: {said[-500:]}")
    if run.process.poll() is not None:
        raise Failed("The first process ended before the second one was refused.")
    run.finish()
    run.check_same(expected)
    shutil.rmtree(folder)
    return {"said": said.strip().replace(str(setting.folder), "RUNS")}


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[bool]:
    """Whether there is a file system of so many bytes at a folder, which may not be allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def full_disk(setting: Setting, expected: dict) -> dict:
    """The disk fills up while a run trains: it stops with a sentence; with space it goes on."""
    disk = setting.folder / "disk"
    with _small_disk(disk, 64 << 20) as mounted:
        if not mounted:
            return {"skipped": "no small file system can be mounted here"}
        folder, ballast = disk / "run", disk / "ballast"
        run = Run(setting, folder)
        run.wait_until(lambda: newest(folder) > 0)
        with ballast.open("wb") as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(1 << 16))
                stream.flush()
        said = run.finish(code=2)
        if "The disk is full: " not in said or str(folder) not in said[said.index("error: ") :]:
            raise Failed(f"A full disk was not named: {said[-500:]}")
        kept = newest(folder)
        ballast.unlink()
        _resumed(setting, folder, kept).check_same(expected)
    sentence = next(line for line in said.splitlines() if "error: " in line)
    sentence = sentence[sentence.index("error: ") :].replace(str(setting.folder), "RUNS")
    return {"file_system": "tmpfs", "kept": kept, "said": sentence}


def corrupt_images(setting: Setting, rng: random.Random) -> dict:
    """Images of a folder in Tiny-ImageNet's layout that can't be decoded, up to the limit and beyond."""
    root = setting.folder / "images"
    files = _make_images(root, np.random.default_rng(rng.getrandbits(32)))
    values = (*_ON_IMAGES, f"data_dir={root}", f"max_corrupt={MAX_CORRUPT}")
    more = [f"--config.{value}" for value in values]
    damages = (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text", lambda b: b[20:])
    chosen = rng.sample(files, MAX_CORRUPT + 1)
    found = {}
    for count in (MAX_CORRUPT, MAX_CORRUPT + 1):
        for file, change in list(zip(chosen, damages, strict=True))[:count]:
            file.write_bytes(change(file.read_bytes()))
        for source in ("files", "cache"):
            folder = setting.folder / f"images_{count}_{source}"
            said = Run(setting, folder, *more).finish(code=0 if count <= MAX_CORRUPT else 2)
            if count <= MAX_CORRUPT:
                data = json.loads((folder / METRICS).read_text())["data"]
                if data["num_skipped"] != count or said.count("Left out: ") != count:
                    raise Failed(f"{count} corrupt images, but {data} and {said[-500:]}")
                found[str(count)] = "named, counted and left out"
            elif folder.exists() or f"config.max_corrupt is {MAX_CORRUPT}" not in said:
                raise Failed(f"{count} corrupt images were not refused: {said[-500:]}")
            else:
                found[str(count)] = "refused"
    (root / "val" / "images" / "val_0.JPEG").write_bytes(b"")
    if "val_0.JPEG can't be decoded" not in Run(setting, folder, *more).finish(code=2):
        raise Failed("A corrupt test image was not refused.")
    return {"limit": MAX_CORRUPT, "by_number": found, "test_image": "refused"}


def _make_images(root: Path, rng: np.random.Generator) -> list[Path]:
    """The files of the training images, 30 of each of three classes."""
    found, lines = [], []
    for label in range(3):
        training = root / "train" / f"n{label}" / "images"
        names = [f"val_{number}.JPEG" for number in range(label, 30, 3)]
        lines += [f"{name}\tn{label}\t0\t0\t63\t63\n" for name in names]
        found += [training / f"n{label}_{number}.JPEG" for number in range(30)]
        for path in (*found[-30:], *(root / "val" / "images" / name for name in names)):
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 100, (64, 64, 3)) + 70 * label
            Image.fromarray(pixels.astype(np.uint8)).save(path, "JPEG")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return found
