"""Files that are there whole, or not at all: what is written survives a kill and a power cut."""

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

from dqn_zoo.errors import UserError

IS_WINDOWS = os.name == "nt"
PATIENCE_S = 2.0
"""How long Windows may refuse a move because another program, a virus scanner say, looks at it."""
LEFT_AFTER_S = 86_400.0
"""A file under a temporary name that was last written so long ago has nobody who finishes it."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it.

    A link stays, and what it leads to is replaced. A device or a pipe is written to.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    temporary = _beside(path)
    try:
        write_file(temporary, content)
        move(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def update_file(path: Path, content: bytes) -> None:
    """Replace a file unless it holds the content already: that needs no room on a full disk."""
    if not path.exists() or path.read_bytes() != content:
        replace_file(path, content)


def _beside(path: Path) -> Path:
    """Return a name beside a file that nobody else uses, also on another computer.

    What a process that was killed left there goes once nobody can be writing it any more.
    """
    for left in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > LEFT_AFTER_S:
                left.unlink()
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")


def move(source: Path, target: Path) -> None:
    """Rename a file or a folder in one step; a file or an empty folder at the target goes.

    Raises:
        OSError: it cannot be; both are as they were, but for the empty folder on Windows.
    """
    if not IS_WINDOWS:
        source.replace(target)
        return
    if target.is_dir():  # there a rename replaces no folder, not even an empty one
        target.rmdir()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            source.replace(target)
        except PermissionError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(0.02)
        else:
            return


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file that does not change a second name, or a copy where there are no such links.

    Raises:
        OSError: neither can be made.
    """
    try:
        target.hardlink_to(source)
    except (OSError, NotImplementedError):
        write_file(target, source.read_bytes())


def is_portable(name: str) -> bool:
    """Return whether a file or a folder can have this name on any system."""
    return (
        re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) is not None
        and not name.endswith(".")
        and _RESERVED.fullmatch(name) is None
    )


def check_writable(path: Path) -> None:
    """Find out whether `replace_file` will be able to write a file.

    Raises:
        OSError: it will not.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.exists() and not path.is_file():
        with path.open("wb"):
            return
    path = path.resolve()
    probe = _beside(path)
    probe.touch()
    probe.unlink()


@contextlib.contextmanager
def writing(what: object, remedy: str = "") -> Iterator[None]:
    """Turn a disk that refuses into one line.

    Raises:
        UserError: what cannot be written, why, and the remedy.
    """
    try:
        yield
    except OSError as error:
        problem = f"{what} cannot be written ({error.strerror})"
        raise UserError(f"{problem}: {remedy}" if remedy else problem) from error


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_file(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_directory(path: Path) -> None:
    """Make a rename or a new name durable, where the system can.

    Windows can neither open nor flush a directory, and some file systems do not flush one.
    """
    if IS_WINDOWS:
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
