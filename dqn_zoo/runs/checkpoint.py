"""A checkpoint: one directory, written under another name, complete before it is renamed.

Every file is flushed to disk; a manifest with sizes and SHA-256 is written last; one rename makes
the checkpoint exist. Whatever was interrupted before that rename leaves a `.unfinished` directory
behind, which the next save removes. Nothing here knows what the files mean.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from dqn_zoo.errors import UserError
from dqn_zoo.runs.run import UNFINISHED, checkpoint_folders, checkpoint_name
from dqn_zoo.system.files import flush_directory, link_or_copy, move, write_file
from dqn_zoo.system.saved import Count, Saved

FORMAT_VERSION = 2  # 1 kept the optimizer in another format
MANIFEST = "manifest.json"
KEPT = 2  # checkpoints; the older one is there for the day the newer one cannot be read


class DamagedError(Exception):
    """A checkpoint that must not be loaded; the message says what is wrong with it."""


class FileEntry(Saved):
    """What a manifest says of one file: size in bytes and SHA-256."""

    size: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)]


class Manifest(Saved):
    """The manifest of a checkpoint: step, and what every file was when it was written."""

    step: Count
    files: dict[PlainName, FileEntry]


class Skipped(NamedTuple):
    """A checkpoint that was passed over, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: its directory.
        step: steps of the run when it was taken.
        files: size in bytes and SHA-256 of every file.
    """

    path: Path
    step: int
    files: dict[str, FileEntry]

    def read(self, name: str) -> bytes:
        """Return the content of one file."""
        return (self.path / name).read_bytes()


def write_checkpoint(
    folder: Path,
    step: int,
    files: Iterable[tuple[str, bytes | None]],
    *,
    previous: Checkpoint | None = None,
) -> Checkpoint:
    """Write one checkpoint and keep the newest `KEPT`.

    Args:
        folder: holds the checkpoints of a run; made if missing.
        step: steps of the run.
        files: name and content, one after the other so that they need not be in memory together;
            a content of None means: unchanged since `previous`, and linked from there.
        previous: the checkpoint that unchanged files are linked from.

    Raises:
        OSError: if the disk is full or refuses; everything older is as it was.
    """
    folder.mkdir(exist_ok=True)
    remove_unfinished(folder)
    target = folder / checkpoint_name(step)
    unfinished = target.with_suffix(UNFINISHED)
    unfinished.mkdir()
    try:
        entries: dict[str, FileEntry] = {}
        for name, content in files:
            if content is None:
                assert previous is not None, "an unchanged file needs a previous checkpoint"
                link_or_copy(previous.path / name, unfinished / name)
                entries[name] = previous.files[name]
            else:
                write_file(unfinished / name, content)
                entries[name] = FileEntry(size=len(content), sha256=_digest(content))
        files_written = {name: entry.model_dump() for name, entry in entries.items()}
        manifest = {"format_version": FORMAT_VERSION, "step": step, "files": files_written}
        manifest["sha256"] = _digest(_canonical(manifest))
        write_file(unfinished / MANIFEST, json.dumps(manifest, indent=1).encode())
        flush_directory(unfinished)
        replaced = target.with_suffix(f".replaced{UNFINISHED}")
        if target.exists():  # the same step again, after a resume: the new one is as good
            move(target, replaced)
        try:
            move(unfinished, target)
        except BaseException:
            if replaced.exists():
                move(replaced, target)
            raise
        flush_directory(folder)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    _prune(folder, target)
    return Checkpoint(target, step, entries)


def newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[Skipped]]:
    """Return the newest checkpoint that verifies, and those that were passed over.

    Raises:
        UserError: if one was written by a newer version, which would know better.
    """
    skipped: list[Skipped] = []
    for path in reversed(checkpoint_folders(folder)):
        try:
            return verify(path), skipped
        except DamagedError as error:
            skipped.append(Skipped(path, str(error)))
    return None, skipped


def verify(path: Path) -> Checkpoint:
    """Read the manifest and compare every file with it.

    Raises:
        DamagedError: if a file is missing, has another size or another content.
        UserError: if the checkpoint was written by a newer version.
    """
    manifest = read_entries(path)
    for name, entry in manifest.files.items():
        _verify_file(path / name, entry)
    return Checkpoint(path, manifest.step, manifest.files)


def read_entries(path: Path) -> Manifest:
    """Read the manifest of a checkpoint; its files are not looked at.

    Raises:
        DamagedError: if it is missing or was changed.
        UserError: if the checkpoint was written by a newer version.
    """
    try:
        content = json.loads((path / MANIFEST).read_bytes())
        recorded = content.pop("sha256")
        version = content["format_version"]
        is_newer = version > FORMAT_VERSION
        was_changed = _digest(_canonical(content)) != recorded
    except FileNotFoundError as error:
        raise DamagedError(f"{MANIFEST} is missing") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError, OSError) as error:
        raise DamagedError(f"{MANIFEST} cannot be read: {error}") from error
    if was_changed:
        raise DamagedError(f"{MANIFEST} was changed after it was written")
    if is_newer:
        raise UserError(
            f"{path} has checkpoint format {version} and this version reads up to "
            f"{FORMAT_VERSION}; upgrade dqn_zoo to resume it"
        )
    try:
        return Manifest.read(content)
    except ValueError as error:
        raise DamagedError(f"{MANIFEST}: {error}") from error


def remove_unfinished(folder: Path) -> None:
    """Remove what an interrupted save left behind."""
    for path in folder.glob(f"*{UNFINISHED}"):
        shutil.rmtree(path, ignore_errors=True)


def _prune(folder: Path, written: Path) -> None:
    """Keep what was just written and the `KEPT - 1` before it.

    Newer ones are damaged leftovers: the run was resumed from before them.
    """
    directories = checkpoint_folders(folder)
    position = directories.index(written)
    for path in directories[: max(0, position + 1 - KEPT)] + directories[position + 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _verify_file(path: Path, entry: FileEntry) -> None:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise DamagedError(f"{path.name} is missing") from error
    except OSError as error:
        raise DamagedError(f"{path.name} cannot be read: {error}") from error
    if len(content) != entry.size:
        raise DamagedError(f"{path.name} has {len(content)} bytes, {entry.size} were written")
    if _digest(content) != entry.sha256:
        raise DamagedError(f"{path.name} was changed after it was written (SHA-256 differs)")


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
