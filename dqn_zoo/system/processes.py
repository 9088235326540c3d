"""Programs that this one starts: apart from its Ctrl-C, and asked to end so that they can save."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import psutil

from dqn_zoo.system.signals import ENDING

PACKAGES = Path(__file__).parents[2]
"""The folder that this package lies in."""


def python_module(name: str) -> list[str]:
    """Return the command that runs a module of this package in a Python like this one.

    `python -m` looks for every import in the working folder first, where a file such as `yaml.py`
    of the user, or of a download, would be run instead of the library.
    """
    is_here = Path.cwd() == PACKAGES  # a clone without an installation
    return [sys.executable, *([] if is_here else ["-P"]), "-m", f"dqn_zoo.{name}"]


def apart() -> dict[str, Any]:
    """Return arguments for `Popen` that keep the terminal's Ctrl-C from the new process."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    """Let a process that was started `apart` save and end; one that has ended is left alone."""
    if sys.platform == "win32":  # SIGTERM would end it where it stands
        process.send_signal(signal.CTRL_BREAK_EVENT)
    else:
        process.terminate()


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Start a process that Ctrl-C does not reach, not even before its first line."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stand_apart(errors: Path) -> None:
    """Hear nothing that is meant for a whole program; what it writes to a terminal goes to a file.

    A terminal, a batch system and a shell's `kill %1` tell all of its processes to end.
    """
    for number in ENDING.values():
        signal.signal(number, signal.SIG_IGN)
    with errors.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def step_back() -> None:
    """Let other programs go first."""
    if sys.platform == "win32":
        psutil.Process().nice(psutil.BELOW_NORMAL_PRIORITY_CLASS)
    else:
        os.nice(10)  # further back than its parent, which may stand back itself


def most_open_files() -> int:
    """Return how many files and connections this process may have open at a time."""
    if sys.platform == "win32":
        return 1 << 16  # of sockets there is no limit
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 16 if soft == resource.RLIM_INFINITY else soft


def take_what_is_left() -> None:
    """Let this thread, and those that it starts, compute only where nothing else wants the core.

    A low priority is no such thing: whoever wakes often is let in each time. Only Linux can do it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def end_at_once(code: int = 0) -> NoReturn:
    """End this process where it stands, from any of its threads; nothing is tidied."""
    os._exit(code)


def end_this() -> None:
    """Ask this process to save and end, from any of its threads."""
    if sys.platform == "win32":  # kill would end it where it stands
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)


def end_with_parent() -> None:
    """Save and stop once the process at the other end of the standard input is gone.

    A driver that was killed can ask for nothing; its jobs would go on beside those of the next one.
    """

    def wait() -> None:
        # Not sys.stdin: Python could not end while a thread waits in it.
        while os.read(0, 1):
            pass
        end_this()

    threading.Thread(target=wait, daemon=True).start()
