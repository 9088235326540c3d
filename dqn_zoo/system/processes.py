"""Programs that this one starts: apart from its Ctrl-C, and asked to end so that they can save."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

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
