"""What a command is doing, on standard error: progress bars, and an answer to a signal at once."""

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

import tqdm

from experiments.system.errors import KILLED, Interrupted

COMPILING = "compiling (about 20 s)"
_doing = "what has begun (compiling takes about 20 s)"  # until it is known more exactly


def say(doing: str, shown: bool = True) -> None:
    """Notes what a signal waits for from now on, and says it on a line."""
    global _doing
    _doing = doing
    if shown:
        print(f"{doing[0].upper()}{doing[1:]} ...", file=sys.stderr)


class Bar(tqdm.tqdm):
    """A progress bar that says that a program is compiled until the first part is done."""

    def __init__(self, what: str, shown: bool = True, **more):
        self._what = what
        more |= {"desc": f"{what}: {COMPILING}", "bar_format": "{desc}", "mininterval": 0.5}
        super().__init__(disable=not shown, **more)
        if shown:
            say(COMPILING, False)

    def update(self, n: float = 1) -> None:
        if not self.disable and n and self.bar_format:
            self.bar_format = None
            self.start_t = self.last_print_t = self._time()  # the time left is without compiling
            self.set_description(self._what, refresh=False)
            say(f"the present {self.unit} ({self._what})", False)
        super().update(n)


def batches(items: Sequence, what: str, shown: bool = True) -> Iterator:
    """Items with a progress bar."""
    with Bar(what, shown, total=len(items), unit="batch") as bar:
        for item in items:
            yield item
            bar.update()


class Stop:
    """Remembers that SIGTERM or Ctrl-C came, so that the work can stop where nothing is lost.

    A thread says what is waited for, and ends the process at a second signal: Python's own handlers
    would wait for what is being compiled.
    """

    def __init__(self, alone: bool = True):
        self.requested, self._alone, self._previous = False, alone, {}

    def __enter__(self) -> "Stop":
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        self._wakeup = signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)
        if isinstance(error, Interrupted) and self._alone and self.requested == signal.SIGINT:
            error.code = KILLED  # of several processes all stop as one that was told to

    def _handle(self, number, frame) -> None:
        self.requested = self.requested or number

    def _answer(self) -> None:
        told = ""
        while number := os.read(self._reading, 1):
            if number[0] in self._previous:
                if told:
                    os._exit(KILLED)
                told = "Stopping after {}; a second signal ends at once, without saving."
                print(f"\n{told.format(_doing)}", file=sys.stderr)
