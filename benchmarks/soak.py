"""Whether runs survive what machines do to them: kills, signals, full disks, damaged files."""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import faults
from benchmarks.command import Count, make_main
from benchmarks.table import table

DESCRIPTION = """Does to real runs what machines do to them, and measures what is lost.

    python -m benchmarks.soak [--kills 50] [--signals 3] [--seed 0] [--output FOLDER]

A line is trained on scikit-learn's digits again and again: killed at random moments and started again
until it finishes; told to stop; on a disk that fills up; with a damaged checkpoint; beside a second
process in its folder; and on images of which some are corrupt. Every run that finishes must equal the
one that nothing happened to, bit for bit: one that does not ends this command with the exit code 2."""

_NOTED = {"training": "from", "first step": "step", "evaluation": "evaluate", "report": "report"}


COUNTS = {
    "kills": Count(50, help="by SIGKILL, at random moments"),
    "signals": Count(3, help="SIGTERM, at random moments of the work"),
    "seed": Count(0, least=0, help="of the moments"),
}


def measure(options: argparse.Namespace) -> dict:
    """All faults; it raises `Failed` if a run does not survive or is not the same."""
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        setting = faults.make_setting(Path(folder))
        expected, seconds = None, []
        for name in ("cold", "warm"):  # the second takes the compiled programs of the first
            before = time.monotonic()
            run = faults.Run(setting, Path(folder) / name)
            run.finish()
            end = time.monotonic()
            seconds.append(end - before)
            expected = expected or faults.outcome(run.workdir)
            run.check_same(expected)
        notes, life = run.notes, seconds[-1]
        moments = {note.kind: note.seconds - end + life for note in reversed(notes.entries)}
        rest = life - moments["step"]
        found = {
            "full_disk": faults.full_disk(setting, expected),
            "damage": faults.damage(setting, expected),
            "second_process": faults.second_process(setting, expected),
            "corrupt_images": faults.corrupt_images(setting, rng),
            "signals": faults.terminations(setting, rng, options.signals, rest, expected),
            "kills": faults.kills(setting, rng, options.kills, life, expected),
        }
    return {
        "run": {
            "arguments": list(setting.arguments),
            "steps": notes.step,
            "seconds": dict(zip(("cold", "warm"), seconds, strict=True)),
            "warm_from_start_to": {k: round(moments[kind], 2) for k, kind in _NOTED.items()},
            "sha256": expected["sha256"],
        },
        **found,
        "provenance": {"seed": options.seed},
    }


def markdown(results: dict) -> str:
    """The faults as a table."""
    killed, told, disk = (results[name] for name in ("kills", "signals", "full_disk"))
    stopped = ", ".join(map(str, told["stopped_at_steps"]))
    damaged, images = results["damage"], results["corrupt_images"]
    rows = [
        [
            f"SIGKILL, {killed['kills']} times in {killed['runs']} runs",
            "; ".join(f"{name} {count}" for name, count in killed["moments"].items()),
            f"{_losses(killed)}; bit for bit",
        ],
        [
            f"SIGTERM, {told['signals']} times",
            f"stopped at step {stopped or 'none'} of {results['run']['steps']}; after the evaluation, "
            f"so that the report was finished: {told['report_finished']}; too late and tried again: "
            f"{told['too_late']}",
            "it ended by itself, no step lost; bit for bit",
        ],
        [
            "the disk fills up",
            disk.get("skipped") or f"`{disk['said']}`",
            "not tried"
            if "skipped" in disk
            else f"checkpoint {disk['kept']} is kept and used; bit for bit",
        ],
        [
            "a byte of a checkpoint flips",
            f"checkpoint {damaged['damaged']}",
            f"resumed at {damaged['resumed_at']}, the one before; bit for bit",
        ],
        [
            "a second process in the folder",
            f"`{results['second_process']['said']}`",
            "refused; the first one's results bit for bit",
        ],
        [
            f"corrupt training images, {images['limit']} allowed",
            "; ".join(f"{n}: {what}" for n, what in images["by_number"].items()),
            f"a corrupt test image: {images['test_image']}",
        ],
    ]
    return table(["fault", "when, or what was said", "what became of the run"], rows) + "\n"


def _losses(killed: dict) -> str:
    """What kills lost, apart by how many intervals between checkpoints it may be."""
    parts = []
    for intervals, when in ((1, "between checkpoints"), (2, "while one was being written")):
        found = [loss for loss in killed["losses"] if loss["intervals"] == intervals]
        if found:
            steps, seconds = (max(loss[name] for loss in found) for name in ("steps", "seconds"))
            limit = "one interval" if intervals == 1 else "two intervals"
            parts.append(
                f"{len(found)} {when}, {limit} at most: up to {steps} steps, {seconds:.1f} s"
            )
    nothing = sum(loss["intervals"] == 0 for loss in killed["losses"])
    every = f"a checkpoint every {killed['checkpoint_seconds']} s"
    return "; ".join([f"training lost, with {every}: none by {nothing} kills", *parts])


main = make_main("soak", DESCRIPTION, measure, markdown, COUNTS)

if __name__ == "__main__":
    sys.exit(main())
