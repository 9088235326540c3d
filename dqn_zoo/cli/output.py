"""Standard output and error on a disk that is full: what is printed may be lost, work may not."""

import errno
import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO

NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}


class _Raw(io.FileIO):
    """A file descriptor that takes note of what it could not write, and goes on."""

    error: OSError | None = None
    tells_of_work = False

    def write(self, content: object) -> int:
        try:
            return super().write(content)  # type: ignore[arg-type]
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.error = error
            return memoryview(content).nbytes  # type: ignore[arg-type]


def guard_streams() -> None:
    """Let stdout and stderr lose what a full disk does not take, and survive the shell's `>&-`."""
    # The lowest free descriptor is taken: 1 or 2 itself, and no later file can be mistaken for it.
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(sys.stderr)


def work_is_kept() -> None:
    """Say that what is printed only tells of work that lies in files: it may be lost."""
    raw = _raw(sys.stdout)
    if raw is not None:
        raw.tells_of_work = True


def lost_output() -> tuple[OSError | None, bool]:
    """Write what is still waiting; return why any was lost, and whether it told of work."""
    raw = _raw(sys.stdout)
    sys.stdout.flush()
    return (None, False) if raw is None else (raw.error, raw.tells_of_work)


def _guarded(stream: Any) -> Any:
    with suppress(OSError, ValueError):  # no descriptor: a notebook, a test
        descriptor = stream.fileno()
        if isinstance(stream, io.TextIOWrapper) and not os.isatty(descriptor):
            stream.flush()
            raw = _Raw(descriptor, "wb", closefd=False)
            return io.TextIOWrapper(
                raw if stream.write_through else io.BufferedWriter(raw),  # PYTHONUNBUFFERED
                encoding=stream.encoding,
                errors=stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
    return stream


def _raw(stream: TextIO) -> _Raw | None:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    return raw if isinstance(raw, _Raw) else None
