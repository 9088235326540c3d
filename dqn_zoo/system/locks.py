"""Folders that one process writes at a time."""

import contextlib
import json
import os
import socket
import warnings
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Literal

from pydantic import with_config
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError
from dqn_zoo.system.documents import AS_WRITTEN, DocumentError, Word, checked, parse_json
from dqn_zoo.system.files import writing

LOCK_NAME = ".lock"
LOCKED_BYTE = b" "  # on Windows nobody else can read what is locked; the note follows it
NOTE_BYTES = 127  # longer than any: a note covers the one before, in one write


@with_config(AS_WRITTEN)
class _Note(TypedDict):
    pid: int
    host: Word


class LockedError(UserError):
    """Another process is writing the folder."""


@contextlib.contextmanager
def hold(folder: Path, *, what: str, otherwise: str) -> Iterator[None]:
    """Be the only process that writes a folder.

    The operating system frees the lock when the process ends, however it ends, so no lock is ever
    stale. The lock file names the process and the computer for the other's error message.

    Args:
        folder: that exists.
        what: lies in it, for error messages: `run Pong_1`.
        otherwise: what a user can do who is not the first: `start a new run`.

    Raises:
        LockedError: Another process holds the lock.
        UserError: The folder cannot be written.
    """
    path = folder / LOCK_NAME
    with writing(folder, "make it writable, or name another folder with -f FOLDER"):
        binary = getattr(os, "O_BINARY", 0)  # Windows would translate ends of lines
        file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | binary, 0o666), "r+")
    with file:
        if not _try_lock(file, path):
            raise LockedError(
                f"{what} is being written by {_holder(path)}: wait for it, stop it, or {otherwise}"
            )
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
            note = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
            file.write(LOCKED_BYTE + note.encode().ljust(NOTE_BYTES))
        yield


def last_holder(folder: Path) -> Literal["here", "elsewhere"] | None:
    """Return where the process that was the last to hold a folder may still run; None: nowhere.

    The lock is not tried, which could be in the way of somebody who is about to take it. Of another
    computer's processes nothing is known.
    """
    import psutil

    try:
        note = _note(folder / LOCK_NAME)
        if note["host"] != socket.gethostname():
            return "elsewhere"
        return "here" if psutil.pid_exists(note["pid"]) else None
    except (OSError, DocumentError, OverflowError):
        return None


def _try_lock(file: FileIO, path: Path) -> bool:
    from filelock import lock_descriptor

    try:
        return lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        # Some network file systems have no locks; refusing to train there helps nobody.
        warnings.warn(
            f"{path} cannot be locked ({error.strerror}): "
            "make sure that no other process writes there",
            stacklevel=4,
        )
        return True


def _holder(path: Path) -> str:
    try:
        note = _note(path)
        return f"process {note['pid']} on {note['host']}"
    except (OSError, DocumentError):
        return "another process"


def _note(path: Path) -> _Note:
    with path.open("rb") as file:
        file.seek(len(LOCKED_BYTE))
        return checked(parse_json(file.read(NOTE_BYTES), str(path)), _Note, str(path))
