"""Where the metrics of epochs go: lines of JSON and TensorBoard's events, and what else is given."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments.runs import workdir
from experiments.system import files

Log = Callable[[int, Mapping[str, float]], object]  # of a step and its values, after every epoch


@contextlib.contextmanager
def jsonl(folder: Path, records: list[dict]) -> Iterator[Log]:
    """Appends lines of JSON to the records up to the checkpoint that a run resumes from."""
    path = folder / workdir.HISTORY
    files.write_atomically(path, "".join(json.dumps(record) + "\n" for record in records))
    with path.open("a", buffering=1) as file:
        yield lambda step, values: file.write(json.dumps(values) + "\n")


@contextlib.contextmanager
def tensorboard(folder: Path, records: list[dict]) -> Iterator[Log]:
    """Writes events of TensorBoard, which hides what was logged after that checkpoint."""
    (folder / workdir.TENSORBOARD).mkdir(exist_ok=True)
    # Not in a thread: one that fails on a full disk would leave this one waiting for ever.
    writer = EventsWriter(str(folder / workdir.TENSORBOARD / "events"))
    with contextlib.closing(writer):
        if records:
            step, status = records[-1]["step"] + 1, SessionLog(status=SessionLog.START)
            writer.write_event(Event(wall_time=time.time(), step=step, session_log=status))

        def log(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                scalar = summary.scalar(f"train/{name}", value)
                writer.write_event(Event(wall_time=time.time(), step=step, summary=scalar))
            writer.flush()

        yield log


KINDS = (jsonl, tensorboard)  # of every run
