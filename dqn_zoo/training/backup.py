"""What training knows of a backup: it is told of checkpoints, and never waited for."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from dqn_zoo.runs.checkpoint import Checkpoint
from dqn_zoo.runs.run import Run
from dqn_zoo.system.signals import Stop


class Backup(Protocol):
    """Takes the checkpoints of a run elsewhere while it trains. No method fails."""

    def begin(self, run: Run) -> Iterable[str]:
        """Take note of the run that begins or goes on; return lines for the user."""
        ...

    def claims_save(self) -> bool:
        """Return whether a checkpoint shall be saved now, only to be taken; once each time."""
        ...

    def take(self, checkpoint: Checkpoint) -> None:
        """Begin to take a checkpoint, unless one is still under way."""
        ...

    def news(self) -> Iterable[str]:
        """Return lines for the user that have come up since."""
        ...

    def finish(self, say: Callable[[str], None], stop: Stop) -> None:
        """Take the last checkpoint; this is waited for, within bounds, until another signal."""
        ...


@contextlib.contextmanager
def finishing(backup: Backup, say: Callable[[str], None], stop: Stop) -> Iterator[None]:
    """Finish a backup behind the block, also where that ends by an error."""
    try:
        yield
    except Exception:  # not Ctrl-C, which ends a run before it goes on: there is nothing to take
        backup.finish(say, stop)
        raise
    backup.finish(say, stop)


class NoBackup:
    """Takes nothing."""

    def begin(self, run: Run) -> Iterable[str]:
        """Do nothing."""
        return ()

    def claims_save(self) -> bool:
        """Return False."""
        return False

    def take(self, checkpoint: Checkpoint) -> None:
        """Do nothing."""

    def news(self) -> Iterable[str]:
        """Return nothing."""
        return ()

    def finish(self, say: Callable[[str], None], stop: Stop) -> None:
        """Do nothing."""


class EndedBackup(NoBackup):
    """Takes nothing any more from a run that was backed up."""

    def begin(self, run: Run) -> Iterable[str]:
        """Forget where it was backed up to; nothing else writes the run by now."""
        run.backup_file.unlink(missing_ok=True)
        return ["not backed up any more"]
