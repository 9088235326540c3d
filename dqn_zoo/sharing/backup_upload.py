"""The process that uploads one checkpoint: `python -m dqn_zoo.sharing.backup_upload`.

Its job is in a file, the outcome goes to stdout; it ends when its stdin does.
It is a process of its own so that training computes on, and so that it can be ended: the client of
the Hub waits for ever, and its threads would keep a program from ending.
"""

import hashlib
import json
import shutil
import sys
import threading
from collections.abc import Collection
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import KEPT, MANIFEST, DamagedError, FileEntry, read_entries
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.backup_files import (
    BACKUP,
    CARD,
    FORMAT,
    RUN_FILES,
    STORE,
    BackedUp,
    Document,
    Identity,
    Interval,
    check_entries,
    is_ours,
    stored_as,
)
from dqn_zoo.system.documents import Word
from dqn_zoo.system.files import write_file
from dqn_zoo.system.processes import end_at_once, end_with_parent, step_back
from dqn_zoo.system.saved import Count, Saved

LIMIT_S = 3_600.0
"""An upload that takes longer is given up; the files that have arrived need not be sent again."""

JOB = "job.json"


class Job(Saved):
    """What to upload, and for whom.

    Attributes:
        folder: holds `checkpoint/` and `run/`, without what `last` has; removed at the end.
        repo_id: `owner/name`.
        run_id: see `Document`.
        writer: see `Document`.
        known_step: the newest checkpoint that the run had when this process began or went on.
        writers: see `backup_target.Target`.
        name: of the run.
        every_s: see `Document`.
        last: what this process has uploaded before.
        last_commit: the commit that did it.
    """

    folder: str
    repo_id: str
    run_id: Identity
    writer: Identity
    known_step: Count
    writers: list[Identity] | None
    name: Word
    every_s: Interval
    last: Document | None = None
    last_commit: str | None = None


class Outcome(Saved):
    """What became of it.

    Attributes:
        error: why it failed, in one line; None: it did not.
        may_pass: whether another try may succeed.
        wait_s: for how long the Hub wants no other try.
        num_bytes: that had to be sent.
        num_files: that were new.
        is_public: whether anybody may see the repository.
        document: that is there now.
        commit: that holds it.
    """

    error: str | None = None
    may_pass: bool = False
    wait_s: float = 0.0
    num_bytes: Count = 0
    num_files: Count = 0
    is_public: bool = False
    document: Document | None = None
    commit: str | None = None


def main() -> int:
    """Upload what the file says that is named, print the outcome, and return 0 if there is one."""
    job = Job.read(json.loads(Path(sys.argv[1]).read_bytes()))
    end_with_parent()  # a run that goes on elsewhere shall find nobody writing
    _end_in_time()
    try:
        outcome = upload(job)
    except UserError as error:
        wait_s = hub.seconds_to_wait(error)
        outcome = Outcome(error=str(error), may_pass=hub.may_pass(error), wait_s=wait_s)
    finally:
        shutil.rmtree(job.folder, ignore_errors=True)
    print(outcome.model_dump_json())
    return 0


def upload(job: Job) -> Outcome:
    """Upload a checkpoint in one commit, which removes what only older ones need.

    Raises:
        UserError: the Hub refuses or does not answer, or the repository is not this run's.
    """
    remote = hub.look_up(job.repo_id)
    before = job.last
    if remote is not None and remote.commit != job.last_commit:
        before = read_document(remote)
        check_owner(
            remote,
            before,
            run_id=job.run_id,
            writer=job.writer,
            known=job.known_step,
            writers=job.writers,
        )
    listed = {} if remote is None else remote.files
    new, places = _described(Path(job.folder))
    older = [] if before is None else [each for each in before.checkpoints if each.step < new.step]
    document = Document(
        format=FORMAT,
        run_id=job.run_id,
        writer=job.writer,
        name=job.name,
        every_s=job.every_s,
        checkpoints=[new, *(each for each in older if each.stored() <= listed.keys())][:KEPT],
    )
    needed = document.stored()
    files = {name: places[name] for name in places.keys() - listed.keys()}
    if not needed <= places.keys() | listed.keys():
        raise UserError(f"{job.repo_id} has lost files that it had: the next checkpoint goes whole")
    num_bytes = sum(place.stat().st_size for place in files.values())
    num_files = len(files)
    for name, content in ((BACKUP, document.model_dump_json(indent=1)), (CARD, _card(job))):
        if name == BACKUP or CARD not in listed:
            files[name] = Path(job.folder) / name
            write_file(files[name], content.encode())
    uploaded = hub.upload(
        job.repo_id,
        files,
        message=f"step {new.step:,} of {job.name}",
        private=True,
        before=remote,
        stale=[name for name in listed if name.startswith(STORE) and name not in needed],
    )
    return Outcome(
        num_bytes=num_bytes,
        num_files=num_files,
        is_public=remote is not None and not remote.private,
        document=document,
        commit=uploaded.commit,
    )


def read_document(remote: hub.Remote) -> Document | None:
    """Return what a repository says of the backup in it; None: there is none yet.

    Raises:
        UserError: it holds something else, is damaged, or was written by a newer version.
    """
    if not is_ours(remote.files):
        raise UserError(f"{hub.page(remote.repo_id)} holds files of something else, not a backup")
    if BACKUP not in remote.files:
        return None
    head = hub.read_json(remote.repo_id, BACKUP, remote.commit, dict[str, object])
    version = head.get("format")
    if isinstance(version, int) and version > FORMAT:
        raise UserError(
            f"{remote.repo_id} has backup format {version} and this version reads up to {FORMAT}: "
            "update dqn_zoo"
        )
    try:
        return Document.read(head)
    except ValueError as error:
        raise UserError(f"{BACKUP} of {remote.repo_id} is damaged: {error}") from error


def check_owner(
    remote: hub.Remote,
    document: Document | None,
    *,
    run_id: str | None,
    writer: str,
    known: int,
    writers: Collection[str] | None,
) -> None:
    """Refuse a repository that another run, or the same one on another computer, writes.

    Args:
        remote: the repository.
        document: what it says; None: it is empty.
        run_id: of the run; None: a new one.
        writer: this process.
        known: the newest checkpoint that the run had when this process began or went on.
        writers: of the checkpoints that the run came from; None: they were not kept.

    Raises:
        UserError: it is not this run's.
    """
    if document is None:
        return
    at = f"step {document.newest.step:,} of {document.name}"
    if document.run_id != run_id:
        raise UserError(
            f"{hub.page(remote.repo_id)} holds another run, {at}: name another repository, or go "
            f"on with that run by --resume hf://{remote.repo_id}"
        )
    is_foreign = writers is not None and document.writer not in writers
    if document.writer != writer and (is_foreign or document.newest.step > known):
        raise UserError(
            f"{hub.page(remote.repo_id)} holds {at}, which went on elsewhere: stop one of the two, "
            "or name another repository"
        )


def _described(folder: Path) -> tuple[BackedUp, dict[str, Path]]:
    """Return a checkpoint that was put aside, and where those of its files lie that are there."""
    place = folder / "checkpoint"
    try:
        manifest = read_entries(place)
    except DamagedError as error:
        raise UserError(f"the checkpoint is damaged: {error}") from error
    files = dict(manifest.files)
    files[MANIFEST] = _entry(place / MANIFEST)
    run_files = {
        name: _entry(folder / "run" / name)
        for name in RUN_FILES
        if (folder / "run" / name).exists()
    }
    backed_up = BackedUp(step=manifest.step, files=files, run_files=run_files)
    check_entries(
        backed_up,
        {stored_as(entry): entry.size for entry in (*files.values(), *run_files.values())},
    )
    places = {stored_as(entry): place / name for name, entry in files.items()}
    places |= {stored_as(entry): folder / "run" / name for name, entry in run_files.items()}
    return backed_up, {key: path for key, path in places.items() if path.exists()}


def _entry(file: Path) -> FileEntry:
    content = file.read_bytes()
    return FileEntry(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def _card(job: Job) -> str:
    return (
        "---\nlibrary_name: dqn-zoo\n---\n\n"
        f"The last checkpoints of {job.name}, a training run of dqn_zoo, memory and optimizer "
        f"included. `--resume hf://{job.repo_id}` of dqn-train goes on with it on any computer.\n"
    )


def _end_in_time() -> None:
    """Let other programs go first, and end this process where it stands after `LIMIT_S`."""
    step_back()
    timer = threading.Timer(LIMIT_S, _give_up)
    timer.daemon = True
    timer.start()


def _give_up() -> None:
    error = f"given up after {LIMIT_S / 60:.0f} minutes; what has arrived is not sent again"
    print(Outcome(error=error, may_pass=True).model_dump_json(), flush=True)
    end_at_once(1)


if __name__ == "__main__":
    sys.exit(main())
