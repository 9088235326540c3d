"""From a backup on the Hub to a run that can be resumed here.

What a repository holds may be anybody's. Names and sizes are checked before a file is downloaded,
digests before one is opened; of what is opened nothing is run.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from dqn_zoo.errors import UserError, plain
from dqn_zoo.play.weights import parse_weights
from dqn_zoo.runs.checkpoint import DamagedError, FileEntry, newest_checkpoint, verify
from dqn_zoo.runs.manifest import Manifest, goal_steps, has_finished
from dqn_zoo.runs.run import Run, checkpoint_name, place_run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.agent_files import check_names
from dqn_zoo.sharing.backup_files import BackedUp, Document, check_entries, stored_as
from dqn_zoo.sharing.backup_target import Target, read_target
from dqn_zoo.sharing.backup_upload import read_document
from dqn_zoo.system import shell
from dqn_zoo.system.documents import read_document as read_file
from dqn_zoo.system.files import digest, link_or_copy

SCHEME = "hf://"
_SPARE_BYTES = 2**28
_VALUES, _BEGINNINGS = 2**23, (b",", b"[", b"{")
"""How many values a state may hold, which take far more room in Python, and what precedes each."""

Say = Callable[[str], None]


def fetch_run(
    repo: str, *, log_folder: Path, may_be_finished: bool = True, say: Say = print
) -> Run:
    """Return a run folder of a backup: the one that is here, if it is as far, or a new one.

    Args:
        repo: `hf://USER/REPO`, which the run will be backed up to from here on, or
            `hf://USER/REPO@REVISION`, a backup as it was, which it will not.
        log_folder: folder of all runs.
        may_be_finished: False refuses a run that has nothing left to train.
        say: takes one line for the user.

    Raises:
        UserError: the Hub does not have it, or nothing in it verifies; then no run is made.
    """
    name = hub.parse_repo(repo)
    remote = hub.look_up(*name)
    if remote is None:
        raise UserError(
            f"the Hub has no repository {name.repo_id} that you may see: check the name, or log in "
            "with `hf auth login` if it is private"
        )
    document = read_document(remote)
    if document is None:
        raise UserError(f"{hub.page(remote.repo_id)} holds no backup yet: start a new run")
    here = None if name.revision else _run_here(document, log_folder)
    if here is not None:
        say(f"{here.path} is {document.name} and as far as {repo}: nothing is fetched")
        return here
    target = None
    if name.revision is None and _may_write(remote.repo_id, say):
        target = Target(
            repo_id=remote.repo_id,
            run_id=document.run_id,
            every_s=document.every_s,
            known_step=document.newest.step,  # also where an older one is taken
            writers=[document.writer],
        )
    for backed_up in document.checkpoints:
        try:
            if not may_be_finished:
                _refuse_finished(remote, document.name, backed_up)
            run = _fetch(remote, document.name, backed_up, target, log_folder, say)
        except (_RefusedError, DamagedError) as error:
            say(f"skipped step {backed_up.step:,} of {repo}: {plain(error)}")
            continue
        hub.forget(remote.commit)
        return run
    hub.forget(remote.commit)
    raise UserError(f"{repo} holds no checkpoint that can be resumed: start a new run")


def _refuse_finished(remote: hub.Remote, name: str, backed_up: BackedUp) -> None:
    _check_entries(backed_up, remote)
    file = _download(remote, backed_up.run_files["manifest.json"])
    try:
        manifest = read_file(file, Manifest)
    except UserError as error:
        raise _RefusedError(str(error).replace(str(file), "manifest.json")) from error
    if has_finished(manifest):
        goal = goal_steps(manifest)
        raise UserError(
            f"{name} has finished its {goal:,} steps; to train on, give a larger -n: "
            + shell.command("dqn-train", "--resume", f"hf://{remote.repo_id}", "-n", 2 * goal)
        )


def _check_entries(backed_up: BackedUp, remote: hub.Remote) -> None:
    try:
        check_entries(backed_up, remote.files)
    except UserError as error:
        raise _RefusedError(str(error)) from error


class _RefusedError(Exception):
    """A checkpoint of a repository is not what it should be."""


def _run_here(document: Document, log_folder: Path) -> Run | None:
    """Return a run that is the one of the backup and not behind it, as far as it is intact."""
    for file in sorted(log_folder.glob("*/*_*/backup.json")):
        run = Run(file.parent)
        try:
            target = read_target(run)
            if target is None or target.run_id != document.run_id:
                continue
            if target.writers is not None and document.writer not in target.writers:
                continue  # it went on elsewhere, from before the newest checkpoint of this one
            newest, _ = newest_checkpoint(run.checkpoints)
        except UserError:
            continue
        if newest is not None and newest.step >= document.newest.step:
            return run
    return None


def _may_write(repo_id: str, say: Say) -> bool:
    """Return whether a run can be backed up to where it came from; if not, say why."""
    owner, _, name = repo_id.partition("/")
    try:
        hub.choose_owner(hub.read_account(), owner, name, instead="name another USER/REPO")
    except UserError as error:
        if not hub.may_pass(error):
            say(
                f"this run is not backed up any more ({error}); --hub-backup USER/REPO names a "
                "place"
            )
            return False
    return True


def _fetch(
    remote: hub.Remote,
    name: str,
    backed_up: BackedUp,
    target: Target | None,
    log_folder: Path,
    say: Say,
) -> Run:
    """Download a checkpoint and make a run of it.

    Raises:
        _RefusedError, DamagedError: it is not what it should be.
        UserError: the Hub does not answer, or there is no room.
    """
    _check_entries(backed_up, remote)
    num_bytes = sum(entry.size for entry in backed_up.entries())
    _check_room(log_folder, num_bytes)
    say(
        f"{remote.repo_id} at commit {remote.commit[:8]} holds {name} at step "
        f"{backed_up.step:,}: fetching {num_bytes / 1e6:,.1f} MB"
    )
    settings = _download(remote, backed_up.run_files["config.yml"])
    config = _read_config(settings)

    def fill(run: Run) -> None:
        place = run.checkpoint(backed_up.step)
        place.mkdir(parents=True)
        for file, entry in backed_up.files.items():
            link_or_copy(_download(remote, entry), place / file)
        _check_checkpoint(place, backed_up.step)
        for file, entry in backed_up.run_files.items():
            shutil.copyfile(_download(remote, entry), run.path / file)
        _make_manifest_local(run, is_own=target is not None)
        if target is not None:
            run.backup_file.write_text(target.model_dump_json(indent=1), encoding="utf-8")

    run = place_run(log_folder, config.algo, config.env, fill)
    say(f"fetched into {run.path}")
    return run


def _check_room(log_folder: Path, num_bytes: int) -> None:
    folder = log_folder.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if num_bytes + _SPARE_BYTES > free:
        raise UserError(
            f"the checkpoint takes {num_bytes / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB "
            "free: make room, or name a folder on another disk with -f FOLDER"
        )


def _download(remote: hub.Remote, entry: FileEntry) -> Path:
    """Return where a file lies in the cache, whose content is what was named."""
    path = hub.download(remote.repo_id, stored_as(entry), remote.commit).resolve()
    if path.stat().st_size != entry.size or digest(path) != entry.sha256:
        raise _RefusedError(f"{stored_as(entry)[:14]}... was changed (SHA-256 differs)")
    return path


def _read_config(file: Path) -> Config:
    try:
        config = load_config(file)
        check_names(config, "config.yml")
    except UserError as error:
        raise _RefusedError(str(error).replace(str(file), "config.yml")) from error
    return config


def _check_checkpoint(place: Path, step: int) -> None:
    """Refuse a checkpoint whose own manifest disagrees, and files of weights that are none."""
    try:
        checkpoint = verify(place)
    except UserError as error:  # of a newer version
        raise _RefusedError(f"it {str(error).removeprefix(f'{place} ')}") from error
    if checkpoint.step != step or place.name != checkpoint_name(step):
        raise _RefusedError(f"it is of step {checkpoint.step:,}")
    for name in checkpoint.files:
        if name == "state.json" and sum(map(checkpoint.read(name).count, _BEGINNINGS)) > _VALUES:
            raise _RefusedError(f"{name} holds more than {_VALUES:,} values")
        if name.endswith(".safetensors"):
            try:
                parse_weights(checkpoint.read(name))
            except DamagedError as error:
                raise _RefusedError(f"{name}: {error}") from error


def _make_manifest_local(run: Run, *, is_own: bool) -> None:
    """Take out of a manifest what would lead to other folders, or to a project of somebody else.

    Raises:
        _RefusedError: it is damaged, or holds what a terminal would obey.
    """
    try:
        manifest = read_file(run.manifest_file, Manifest)
    except UserError as error:
        raise _RefusedError(str(error)) from error
    changes = [change for each in manifest["invocations"] for change in each["changes"]]
    if not all(change.isprintable() for change in changes):
        raise _RefusedError("manifest.json holds what is no text")
    manifest["tensorboard"] = None
    manifest.pop("origin", None)
    if not is_own:
        manifest["tracking"] = None
    run.manifest_file.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
