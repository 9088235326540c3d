"""Where a run is backed up to, and what it knows of the backup there: `backup.json`."""

import secrets

from dqn_zoo.errors import UserError
from dqn_zoo.runs.run import Run
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.backup_files import MOST_S, Identity, Interval
from dqn_zoo.system.documents import DocumentError, Word, read_document
from dqn_zoo.system.saved import Count, Saved

EVERY_S = 600.0
"""Between the beginnings of two uploads, where nothing else is asked for."""


class Target(Saved):
    """Where a run is backed up to; `backup.json` in its folder.

    Attributes:
        repo_id: `owner/name`.
        run_id: see `backup_files.Document`.
        every_s: see `Document`.
        known_step: the newest checkpoint that the run has had here, or knows of there; a run that
            has gone back is behind it.
        writers: the processes that wrote what the run came from, see `Document`; None: of a version
            that did not keep them.
    """

    repo_id: Word
    run_id: Identity
    every_s: Interval = EVERY_S
    known_step: Count = 0
    writers: list[Identity] | None = None


def read_target(run: Run) -> Target | None:
    """Return where a run is backed up to; None: nowhere.

    Raises:
        UserError: the note of it is damaged.
    """
    if not run.backup_file.exists():
        return None
    try:
        return read_document(run.backup_file, Target)
    except DocumentError as error:
        raise DocumentError(f"{error}; remove it, and name the backup again") from error


def new_target(repo: str | None, every_s: float | None, before: Target | None) -> Target:
    """Return where a run is to be backed up to.

    Args:
        repo: as a user named it; None: to where it was.
        every_s: seconds between uploads, as a user said it; None: as it was.
        before: where it was; None: nowhere.

    Raises:
        UserError: it is no repository, or one of its commits.
    """
    every_s = None if every_s is None else min(every_s, MOST_S)
    if repo is None:
        assert before is not None, "nothing says where to"
        kept_s = before.every_s if every_s is None else every_s
        return before.model_copy(update={"every_s": kept_s})
    name = hub.parse_repo(repo)
    if name.revision is not None:
        raise UserError(f"{repo}: a backup goes to a repository, leave @{name.revision} out")
    if before is None:
        before = Target(repo_id=name.repo_id, run_id=secrets.token_hex(16), writers=[])
    kept_s = before.every_s if every_s is None else every_s
    return before.model_copy(update={"repo_id": name.repo_id, "every_s": kept_s})
