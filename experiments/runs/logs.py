"""The records of epochs as lines of JSON and as TensorBoard events."""

import json
import time
from pathlib import Path

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments.runs import workdir
from experiments.system import files


class Logs:
    """The records of epochs as lines of JSON and as TensorBoard events."""

    def __init__(self, folder: Path):
        self._path, self._events = folder / workdir.HISTORY, folder / workdir.TENSORBOARD

    def __enter__(self) -> "Logs":
        return self

    def __exit__(self, *exc) -> None:
        if hasattr(self, "_file"):
            self._file.close()
            self._writer.close()

    def start_from(self, records: list[dict]) -> None:
        """Drops what was logged after the checkpoint that a run resumes from."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        files.write_atomically(self._path, lines)
        self._file = self._path.open("a", buffering=1)
        self._events.mkdir(exist_ok=True)
        # Not in a thread: one that fails on a full disk would leave this one waiting for ever.
        self._writer = EventsWriter(str(self._events / "events"))
        if records:  # TensorBoard hides what was logged from this step on
            step, status = records[-1]["step"] + 1, SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=status))

    def write(self, record: dict) -> None:
        """Appends the record of an epoch."""
        self._file.write(json.dumps(record) + "\n")
        for name, value in record.items():
            scalar = summary.scalar(f"train/{name}", value)
            event = Event(wall_time=time.time(), step=record["step"], summary=scalar)
            self._writer.write_event(event)
        self._writer.flush()
