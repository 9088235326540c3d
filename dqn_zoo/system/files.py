"""Files that are there whole, or not at all: what is written survives a kill and a power cut."""

import errno
import os
import shlex
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never half of it.

    A link stays, and what it leads to is replaced. A device or a pipe is written to.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(content)
        return
    path = path.resolve()
    temporary = path.with_name(path.name + ".tmp")
    try:
        write_file(temporary, content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


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
    probe = path.with_name(f"{path.name}.tmp")
    probe.touch()
    probe.unlink()


def write_file(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def flush_directory(path: Path) -> None:
    """Make a rename or a new name durable; Windows can neither open nor flush a directory."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plain_path(path: Path) -> str:
    """Return a path that no command takes for a flag: `./-x` for `-x`."""
    return f"./{path}" if str(path).startswith("-") else str(path)


def quoted(path: Path) -> str:
    """Return a path as a shell takes it, for commands in messages."""
    return shlex.quote(plain_path(path))
