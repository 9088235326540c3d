"""dqn-train --hub-backup: where checkpoints go, and how the end of a finished run gets there."""

import argparse
from typing import TYPE_CHECKING

from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from dqn_zoo.runs.run import Run
    from dqn_zoo.sharing.backup import HubBackup
    from dqn_zoo.training.backup import EndedBackup

_OF_THE_BACKUP = frozenset(
    {"hub_backup", "hub_backup_every", "resume", "log_folder", "env", "algo", "exp_id", "progress"}
)


def backup_of(arguments: argparse.Namespace, run: "Run | None") -> "HubBackup | EndedBackup | None":
    """Return where checkpoints go, checked where it was named just now; `run`: one to resume.

    Raises:
        UserError: nothing can be backed up there, or a flag means nothing here.
    """
    asked, every_s = arguments.hub_backup, arguments.hub_backup_every
    if asked is None and (run is None or not run.backup_file.exists()):
        if every_s is not None:
            raise UserError("this run has no backup: say where to with --hub-backup")
        return None
    from dqn_zoo.sharing.backup import HubBackup
    from dqn_zoo.sharing.backup_target import new_target, read_target
    from dqn_zoo.training.backup import EndedBackup

    if asked == "none":
        return None if run is None or not run.backup_file.exists() else EndedBackup()
    before = None if run is None else read_target(run)
    backup = HubBackup(new_target(asked, every_s, before))
    if asked is not None:
        backup.check(0 if run is None else max(run.checkpoint_steps(), default=0))
    return backup


def sends_the_end(
    arguments: argparse.Namespace, run: "Run", backup: "HubBackup | EndedBackup | None"
) -> bool:
    """Back a run up that has finished, where that is all that was asked for; return whether it is.

    Raises:
        UserError: as `HubBackup.send`.
    """
    from dqn_zoo.runs.manifest import has_finished, read_manifest
    from dqn_zoo.training.backup import EndedBackup

    if arguments.hub_backup is None or backup is None or isinstance(backup, EndedBackup):
        return False
    if arguments.given - _OF_THE_BACKUP or not has_finished(read_manifest(run)):
        return False
    for line in backup.send(run):
        print(line)
    return True
