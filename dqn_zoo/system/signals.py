"""Requests to stop: signals and the time limit. They set a flag; the loop stops between steps."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Literal

StopReason = Literal["time_limit", "SIGINT", "SIGTERM"]
SHOW_CURSOR = b"\x1b[?25h\n"


class Stop:
    """Whether, and why, the run was asked to stop.

    Args:
        time_limit_s: seconds from now, or None.
    """

    def __init__(self, time_limit_s: float | None) -> None:
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._signal: StopReason | None = None

    def reason(self) -> StopReason | None:
        """Return why the run should stop, or None to go on."""
        if self._signal is None and self._deadline is not None:
            return "time_limit" if time.monotonic() >= self._deadline else None
        return self._signal

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the second interrupt quits at once, saving nothing."""
        if number == signal.SIGINT and self._signal == "SIGINT":
            with contextlib.suppress(OSError):
                os.write(1, SHOW_CURSOR)  # a live display may have hidden it
            os._exit(130)
        self._signal = "SIGINT" if number == signal.SIGINT else "SIGTERM"


@contextlib.contextmanager
def stop_requests(time_limit_s: float | None) -> Iterator[Stop]:
    """Turn SIGINT, SIGTERM and the time limit into a flag while a run is in memory.

    Signals can be caught in the main thread only; elsewhere the time limit alone counts.
    """
    stop = Stop(time_limit_s)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    caught = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, stop.on_signal) for number in caught}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Let SIGTERM, and Ctrl-C in a terminal, end the process where it stands; no flag is set.

    For a start: a thousand emulators are built in C for minutes, in which no handler of Python's
    runs, and there is nothing yet to save or to remove.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    in_terminal = sys.stdin is not None and sys.stdin.isatty()  # a notebook's kernel would end, too
    numbers = (signal.SIGTERM, signal.SIGINT) if in_terminal else (signal.SIGTERM,)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
