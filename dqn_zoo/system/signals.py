"""Requests to end: what a terminal, a system or a batch queue sends, and the time limit.

A run in memory turns them into a flag, and the loop stops between steps. Every other command takes
them as Ctrl-C: an exception, so that whatever closes and tidies does so.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Literal, get_args

SignalName = Literal["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK"]
"""Ctrl-C; the system; a closed terminal or a dropped connection; what batch systems send before the
limit of a job; the limit of CPU time; on Windows what asks a program to end, and a closed window.
"""

StopReason = Literal["time_limit"] | SignalName
ENDING: dict[SignalName, int] = {
    name: int(getattr(signal, name)) for name in get_args(SignalName) if hasattr(signal, name)
}
EXIT_CODES: dict[str, int] = {"time_limit": 75}
EXIT_CODES |= {name: 128 + number for name, number in ENDING.items()}  # as a shell counts

SHOW_CURSOR = b"\x1b[?25h\n"
ONE_PRESS_S = 0.5
"""Interrupts this close together are one: wrappers hand on what the terminal has sent already."""


class Ended(KeyboardInterrupt):
    """A signal asked the program to end; whatever lets Ctrl-C pass lets this pass.

    Args:
        reason: name of the signal.
    """

    def __init__(self, reason: SignalName) -> None:
        super().__init__(reason)
        self.reason = reason


class Stop:
    """Whether, and why, the run was asked to stop.

    Args:
        time_limit_s: seconds from now, or None.
    """

    def __init__(self, time_limit_s: float | None) -> None:
        self._deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
        self._signal: SignalName | None = None
        self._interrupted_at: float | None = None
        self._is_waiting = False

    def reason(self) -> StopReason | None:
        """Return why the run should stop, or None to go on."""
        if self._signal is None and self._deadline is not None:
            return "time_limit" if time.monotonic() >= self._deadline else None
        return self._signal

    def on_signal(self, name: SignalName) -> None:
        """Note the signal; of those that follow only a second Ctrl-C quits, saving nothing."""
        is_first, now = self._signal is None, time.monotonic()
        self._signal = self._signal or name
        if name != "SIGINT":
            self._is_waiting = self._is_waiting and not is_first
            return
        before, self._interrupted_at = self._interrupted_at, self._interrupted_at or now
        if before is not None and now - before < ONE_PRESS_S:
            return
        if self._is_waiting:
            self._is_waiting, self._interrupted_at = False, now
        elif before is not None:
            with contextlib.suppress(OSError):
                os.write(1, SHOW_CURSOR)  # a live display may have hidden it
            os._exit(EXIT_CODES["SIGINT"])

    @contextlib.contextmanager
    def waiting(self) -> Iterator[Callable[[], bool]]:
        """Let the next Ctrl-C, or a first signal of any kind, end a wait and nothing more.

        Yields:
            Whether the wait goes on; for the end of a run, when all is saved but for a copy of it.
        """
        self._is_waiting = True
        try:
            yield lambda: self._is_waiting
        finally:
            self._is_waiting = False


@contextlib.contextmanager
def stop_requests(time_limit_s: float | None) -> Iterator[Stop]:
    """Turn signals and the time limit into a flag while a run is in memory.

    Signals can be caught in the main thread only; elsewhere the time limit alone counts.
    """
    stop = Stop(time_limit_s)
    with _caught(stop.on_signal):
        yield stop


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Raise `Ended` at the first signal, and again at each further Ctrl-C.

    Batch systems and closed terminals repeat themselves; what is tidied meanwhile is left alone.
    """
    has_ended = False

    def on_signal(name: SignalName) -> None:
        nonlocal has_ended
        if not has_ended or name == "SIGINT":
            has_ended = True
            raise Ended(name)

    with _caught(on_signal):
        yield


def uninterrupted() -> contextlib.AbstractContextManager[None]:
    """Ignore all signals for the moment that it takes to complete what would else be lost."""
    return _caught(lambda name: None)


def exit_code(error: KeyboardInterrupt) -> int:
    """Return what a shell expects of a program that ended so."""
    return EXIT_CODES[error.reason if isinstance(error, Ended) else "SIGINT"]


def leave_closed_terminal(descriptors: Sequence[int] = (1, 2)) -> None:
    """Write to nowhere where the terminal is gone; the last words of a program are no failure."""
    for descriptor in descriptors:
        try:
            os.write(descriptor, b"")
        except OSError:
            with contextlib.suppress(OSError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, descriptor)
                os.close(nowhere)


@contextlib.contextmanager
def _caught(act: Callable[[SignalName], None]) -> Iterator[None]:
    """Tell `act` of each signal, but for those that were ignored before: `nohup` goes on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = {number: name for name, number in ENDING.items()}

    def handler(number: int, frame: FrameType | None) -> None:
        if names[number] == "SIGHUP":
            leave_closed_terminal()
        act(names[number])

    before = {number: signal.getsignal(number) for number in names if _may_catch(number)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Let signals, but Ctrl-C only in a terminal, end the process where it stands; no flag is set.

    For a start: a thousand emulators are built in C for minutes, in which no handler of Python's
    runs, and there is nothing yet to save or to remove.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    in_terminal = sys.stdin is not None and sys.stdin.isatty()  # a notebook's kernel would end, too
    numbers = [number for number in ENDING.values() if _may_catch(number)]
    if not in_terminal:
        numbers.remove(signal.SIGINT)
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _may_catch(number: int) -> bool:
    """Return whether a signal is ours: not one that somebody ignores, or handles outside Python.

    Shells ignore SIGINT for what they start in the background; a SIGINT sent there is meant.
    """
    old = signal.getsignal(number)
    return old is not None and (old != signal.SIG_IGN or number in _ALWAYS)


_ALWAYS = (signal.SIGINT, signal.SIGTERM)
