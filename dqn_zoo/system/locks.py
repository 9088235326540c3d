"""Folders that one process writes at a time."""

import contextlib
import json
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from dqn_zoo.errors import UserError

LOCK_NAME = ".lock"


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
    try:
        file = path.open("a+b")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}): make it writable, or name another "
            "folder with -f FOLDER"
        ) from error
    with file:
        if not _try_lock(file):
            raise LockedError(
                f"{what} is being written by {_holder(path)}: wait for it, stop it, or {otherwise}"
            )
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode())
            file.flush()
        yield


def _holder(path: Path) -> str:
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        return f"process {note['pid']} on {note['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: BinaryIO) -> bool:
        """Lock one byte far behind the note, so that the other process can still read the note."""
        file.seek(1 << 30)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(0)
        return True

else:
    import fcntl

    def _try_lock(file: BinaryIO) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            # Some network file systems have no locks; refusing to train there helps nobody.
            warnings.warn(
                f"{file.name} cannot be locked ({error.strerror}): "
                "make sure that no other process writes there",
                stacklevel=4,
            )
        return True
