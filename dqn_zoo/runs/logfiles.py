"""Append-only log files that never stop a run: CSV rows, and TensorBoard's scalars and HParams.

A full disk, a lost network folder or a missing library costs rows and one warning, never the run.
"""

import contextlib
import errno
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from io import BytesIO, FileIO
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

Value = SupportsFloat | None
"""One cell of a log: a number, a flag, or None where there is nothing to report."""

Warn = Callable[[str], None]
"""Takes one line for the user."""


class CsvLog:
    """A CSV file that is appended to, survives a full disk and can be rolled back.

    Each row is one write, so a killed process leaves whole lines. Rows that cannot be written wait
    in memory (up to `PENDING_LIMIT_BYTES`) and are tried again once a minute.

    Args:
        path: The file; continued where it exists, and then its own header names the columns.
        columns: Names of the columns of a new file.
        warn: Called with one line when writing begins to fail and when it works again.
        clock: Seconds, monotonic.
    """

    RETRY_S = 60.0
    PENDING_LIMIT_BYTES = 1_000_000

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        *,
        warn: Warn,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.columns = tuple(columns)
        self.offset = 0
        """Bytes of whole lines in the file, the header included."""
        self._warn = warn
        self._clock = clock
        self._file: FileIO | None = None
        self._pending = b""
        self._lost_rows = 0
        self._retry_at: float | None = None
        self._write_pending()

    def append(self, row: Mapping[str, Value]) -> None:
        """Write one row; a missing column, None and NaN leave the cell empty."""
        if len(self._pending) < self.PENDING_LIMIT_BYTES:
            self._pending += _line(_text(row.get(column)) for column in self.columns)
        else:
            self._lost_rows += 1
        if self._retry_at is None or self._clock() >= self._retry_at:
            self._write_pending()

    def rollback(self, offset: int) -> None:
        """Forget every row behind `offset` bytes; the header stays."""
        self._pending = b""
        if offset > self.offset:
            self._warn(f"{self.path.name} has lost rows: {self.offset} of {offset} bytes are left")
        if self._file is None:
            return
        try:
            content = self.path.read_bytes()
            header_end = content.find(b"\n") + 1
            self.offset = max(content.rfind(b"\n", 0, offset) + 1, header_end)
            self._file.truncate(self.offset)
        except OSError as error:
            self._failed(error)
        if self.offset == 0:  # not even the header could be written so far
            self._pending = _line(self.columns)

    def sync(self) -> None:
        """Bring every row to the disk, so that `offset` still holds after a power cut."""
        if self._pending:
            self._write_pending()
        if self._file is not None:
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failed(error)

    def close(self) -> None:
        """Write what waits, if possible, and close the file."""
        if self._pending:
            self._write_pending()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write_pending(self) -> None:
        try:
            file = self._open()
            file.truncate(self.offset)  # what a failed write may have left behind
            _write_whole(file, self._pending)
        except OSError as error:
            self._failed(error)
            return
        self.offset += len(self._pending)
        self._pending = b""
        if self._retry_at is not None:
            self._warn(f"{self.path.name} is written again; {self._lost_rows} rows were lost")
            self._retry_at = None
            self._lost_rows = 0

    def _open(self) -> FileIO:
        if self._file is None:
            content = self.path.read_bytes() if self.path.exists() else b""
            self._file = FileIO(self.path, "a")
            self.offset = content.rfind(b"\n") + 1
            if self.offset:
                header = content[: content.find(b"\n")]
                self.columns = tuple(header.decode("ascii", "replace").split(","))
            else:
                self._pending = _line(self.columns) + self._pending
        return self._file

    def _failed(self, error: OSError) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.truncate(self.offset)  # never leave a torn line
        if self._retry_at is None:
            self._warn(
                f"{self.path} cannot be written ({error.strerror}): "
                "the run goes on and tries again every minute"
            )
        self._retry_at = self._clock() + self.RETRY_S


class EventLog:
    """TensorBoard's curves in an event file of this process; the first failure switches it off.

    Not `SummaryWriter`: that one writes from a thread, where a full disk ends in a traceback on the
    screen and is noticed a row later; and it imports torch.

    Args:
        folder: Folder of the event files of the run; created with the first scalar.
        warn: Called with one line when TensorBoard is switched off.
    """

    def __init__(self, folder: Path, *, warn: Warn) -> None:
        self._folder = folder
        self._warn = warn
        self._file: FileIO | None = None
        self._off = False
        self._purge_from: int | None = None

    def purge(self, steps: int) -> None:
        """Make TensorBoard forget what was logged after `steps` by a process that was killed."""
        # What was logged at `steps` itself came before the checkpoint and is not logged again.
        self._purge_from = steps + 1 if steps else 0

    def scalars(self, steps: int, values: Mapping[str, float]) -> None:
        """Write one point for each tag."""

        def points() -> Any:
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

            return Summary(
                value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
            )

        if values:
            self._try_to_write(steps, points)

    def hparams(self, settings: Mapping[str, bool | float | str]) -> None:
        """Write what the run is a row of in TensorBoard's table of settings against scores."""

        def row() -> Any:
            from tensorboard.plugins.hparams.summary_v2 import (  # type: ignore[import-untyped]
                hparams_pb,
            )

            return hparams_pb(dict(settings))

        self._try_to_write(0, row)

    def close(self) -> None:
        """Close the event file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _try_to_write(self, steps: int, summary: Callable[[], Any]) -> None:
        if self._off:
            return
        try:
            self._write(steps, summary())
        except Exception as error:  # also what a broken installation raises on import
            self._off = True
            self._warn(f"TensorBoard is switched off, the run goes on: {error}")

    def _write(self, steps: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
            Event,
            SessionLog,
        )
        from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
            RecordWriter,
        )

        buffer = BytesIO()
        records = RecordWriter(buffer)
        now = time.time()
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads the files of a folder in the order of their names.
            name = f"events.out.tfevents.{now:017.6f}.{os.getpid()}"
            self._file = FileIO(self._folder / name, "a")
            records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            if self._purge_from is not None:
                start = SessionLog(status=SessionLog.START)
                purge = Event(wall_time=now, step=self._purge_from, session_log=start)
                records.write(purge.SerializeToString())
        event = Event(wall_time=now, step=steps, summary=summary)
        records.write(event.SerializeToString())
        _write_whole(self._file, buffer.getvalue())


def _write_whole(file: FileIO, data: bytes) -> None:
    """Write all of it, or raise: a full disk takes what fits and reports success."""
    if file.write(data) < len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _line(cells: Iterable[str]) -> bytes:
    return (",".join(cells) + "\n").encode("ascii")


def _text(value: Value) -> str:
    """Equal numbers give equal text, and the text gives back the same number."""
    if value is None:
        return ""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | np.integer):
        return str(int(value))
    number = float(value)
    return "" if math.isnan(number) else repr(number)
