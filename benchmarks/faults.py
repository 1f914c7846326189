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
from experiments import workdir

ROOT = Path(__file__).resolve().parent.parent
CONFIG = Path("experiments/configs/digits.py")
INTERVAL = 3  # steps between checkpoints: of a call, since one is due after each
# 12 steps an epoch.
SETTINGS = (
    *("num_epochs=4", "batch_size=50", "validation_size=0", "train_size=600"),
    *(f"steps_per_call={INTERVAL}", "checkpoint_seconds=0", "model.widths=(8, 16, 32)"),
    *("evaluation.num_points=3", "evaluation.recalibration_examples=200"),
)
PHASES = ("start", "first step", "training", "writing a checkpoint", "evaluation")
LIMIT = 3  # of corrupt images
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


class Notes(NamedTuple):
    """How far a process came: where training started, its last step, checkpoints that it began."""

    start: int | None
    step: int
    saves: tuple[int, ...]


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
    found = {kind: [int(n) for k, n in lines if k == kind] for kind in ("from", "step", "save")}
    begin = found["from"][0] if found["from"] else None
    return Notes(begin, max(found["step"], default=begin or 0), tuple(found["save"]))


def newest(folder: Path) -> int:
    """The step of the newest whole checkpoint; 0 without one."""
    found = (folder / workdir.CHECKPOINTS).glob("*/_CHECKPOINT_METADATA")
    return max((int(p.parent.name) for p in found if p.parent.name.isdigit()), default=0)


def phase(folder: Path) -> str:
    """What a run was doing, from what is in its folder."""
    checkpoints = folder / workdir.CHECKPOINTS
    if not (folder / workdir.CONFIG).exists():
        return "start"
    if (folder / workdir.WEIGHTS).exists():
        return "evaluation"
    if checkpoints.exists() and any(not p.name.isdigit() for p in checkpoints.iterdir()):
        return "writing a checkpoint"
    return "training" if newest(folder) else "first step"


def outcome(folder: Path) -> dict:
    """What must not depend on interruptions: the last state's SHA-256, all metrics, all records."""
    found = json.loads((folder / workdir.METRICS).read_text())
    last = folder / workdir.CHECKPOINTS / str(newest(folder))
    record = json.loads((last / "record" / "metadata").read_text())
    history = [
        {k: v for k, v in epoch.items() if k not in ("seconds", "images_per_second")}
        for epoch in found["history"]
    ]
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
    lost, phases, number = [], [], 0
    with tqdm.tqdm(desc="SIGKILL", total=count) as bar:
        while len(lost) < count:
            folder, number = setting.folder / f"killed_{number}", number + 1
            whole = None  # the newest checkpoint when it was killed
            while True:
                run = start(setting, folder)
                killed = len(lost) < count and _kill_after(run, rng.uniform(0, life))
                said = "" if killed else finish(run)
                notes = read_notes(run)
                if whole is not None and notes.start not in (None, whole):
                    raise Failed(f"Resumed at {notes.start}, not at {whole}: {said[-500:]}")
                if not killed:
                    break
                whole = newest(folder)
                lost.append(0 if notes.start is None else max(0, notes.step - whole))
                phases.append(phase(folder))
                bar.update()
            check_same(folder, expected)
            shutil.rmtree(folder)
    if max(lost) > 2 * INTERVAL:
        raise Failed(f"{max(lost)} steps were lost, more than two intervals of {INTERVAL}.")
    return {
        "kills": count,
        "runs": number,
        "moments": {name: phases.count(name) for name in PHASES},
        "steps_lost": sorted(lost),
        "interval": INTERVAL,
    }


def _kill_after(run: Process, seconds: float) -> bool:
    """Whether the process was still there."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.process.wait(seconds)
    run.process.kill()
    return run.process.wait() == -signal.SIGKILL


def terminations(setting: Setting, rng: random.Random, count: int, life: float, expected: dict):
    """SIGTERM after the folder is made: exit code 0, and no step is done twice."""
    steps = []
    for number in tqdm.trange(count, desc="SIGTERM"):
        folder = setting.folder / f"terminated_{number}"
        run = start(setting, folder)
        _wait_until(run, (folder / workdir.CONFIG).exists)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.process.wait(rng.uniform(0, life))
        run.process.terminate()
        finish(run)
        reached = read_notes(run).step
        if not (folder / workdir.METRICS).exists():
            again = start(setting, folder)
            finish(again)
            if read_notes(again).start != reached:
                raise Failed(f"Resumed at {read_notes(again).start} after SIGTERM at {reached}.")
            steps.append(reached)
        check_same(folder, expected)
        shutil.rmtree(folder)
    return {"signals": count, "stopped_at_steps": sorted(steps)}


def damage(setting: Setting, expected: dict) -> dict:
    """A byte of the newest checkpoint flips: the one before is used."""
    folder = setting.folder / "damaged"
    run = start(setting, folder)
    _wait_until(run, lambda: len(list((folder / workdir.CHECKPOINTS).glob("[0-9]*"))) > 1)
    run.process.terminate()
    finish(run)
    step = newest(folder)
    state = folder / workdir.CHECKPOINTS / str(step) / "state"
    victim = max((p for p in state.rglob("*") if p.is_file()), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(bytes(content))
    steps = [int(p.name) for p in (folder / workdir.CHECKPOINTS).iterdir() if p.name.isdigit()]
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
        if "The disk is full" not in said and "No space left" not in said:
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


def corrupt_images(setting: Setting, rng: random.Random) -> dict:
    """Images of a folder in Tiny-ImageNet's layout that can't be decoded, up to the limit and beyond."""
    root = setting.folder / "images"
    files = _make_images(root, np.random.default_rng(rng.getrandbits(32)))
    more = ["--config.dataset=tiny_imagenet", f"--config.data_dir={root}", "--config.num_epochs=1"]
    more += [
        "--config.optimizer.warmup_epochs=0",
        "--config.train_size=0",
        "--config.batch_size=20",
    ]
    more += ["--config.evaluation.batch_size=20", f"--config.max_corrupt={LIMIT}"]
    damages = (lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"text", lambda b: b[20:])
    chosen = rng.sample(files, len(damages))
    found = {}
    for count in (len(damages) - 1, len(damages)):
        for file, change in list(zip(chosen, damages, strict=True))[:count]:
            file.write_bytes(change(file.read_bytes()))
        for source in ("files", "cache"):
            folder = setting.folder / f"images_{count}_{source}"
            run = start(setting, folder, *more)
            said = finish(run, code=0 if count <= LIMIT else 2)
            if count <= LIMIT:
                data = json.loads((folder / workdir.METRICS).read_text())["data"]
                if data["num_skipped"] != count or said.count("Left out: ") != count:
                    raise Failed(f"{count} corrupt images, but {data} and {said[-500:]}")
                found[str(count)] = "named, counted and left out"
            elif folder.exists() or f"config.max_corrupt is {LIMIT}" not in said:
                raise Failed(f"{count} corrupt images were not refused: {said[-500:]}")
            else:
                found[str(count)] = "refused"
    (root / "val" / "images" / "val_0.JPEG").write_bytes(b"")
    if "val_0.JPEG can't be decoded" not in finish(start(setting, folder, *more), code=2):
        raise Failed("A corrupt test image was not refused.")
    return {"limit": LIMIT, "by_number": found, "test_image": "refused"}


def _make_images(root: Path, rng: np.random.Generator) -> list[Path]:
    files, lines = [], []
    for label in range(3):
        for number in range(30):
            files.append(root / "train" / f"n{label}" / "images" / f"n{label}_{number}.JPEG")
            _save(files[-1], rng, label)
        for number in range(label, 30, 3):
            _save(root / "val" / "images" / f"val_{number}.JPEG", rng, label)
            lines.append(f"val_{number}.JPEG\tn{label}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return files


def _save(path: Path, rng: np.random.Generator, label: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 100, (64, 64, 3)) + 70 * label
    Image.fromarray(pixels.astype(np.uint8)).save(path, "JPEG")
