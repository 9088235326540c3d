"""The backup of a run as it lies on the Hub.

    backup.json     whose run it is, and of its last checkpoints every file with size and SHA-256
    files/SHA256    the files, named by their content: what did not change goes up once
    README.md       for people

No path of a computer is made of what a repository says but the names below.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field

from dqn_zoo.errors import UserError, short
from dqn_zoo.runs.checkpoint import KEPT, MANIFEST, FileEntry
from dqn_zoo.system.documents import Word
from dqn_zoo.system.saved import Count, Saved

FORMAT = 1
"""Version of the layout above; a program refuses backups of a newer one."""

BACKUP, CARD = "backup.json", "README.md"
STORE = "files/"

RUN_FILES = {
    "config.yml": 2**20,
    "manifest.json": 2**24,
    "progress.csv": 2**28,
    "episodes.csv": 2**30,
    "evaluations.csv": 2**28,
    "model.safetensors": 2**30,
    "online_model.safetensors": 2**30,
    "best_model.safetensors": 2**30,
}
"""Files of a run that go with its checkpoints, and how large they may be."""

_CHECKPOINT_FILES = (
    (r"frames_\d{5}\.z", 2**26),
    (r"(model|online_model|best|target|optimizer)\.safetensors", 2**30),
    (r"(rows|ready|rollout)\.z", 2**32),
    (r"state\.json", 2**28),
    (re.escape(MANIFEST), 2**22),
)
"""Files of a checkpoint: tensors, JSON, and frames that unpack to a size that is known before."""

MOST_S = 1e9
Interval = Annotated[float, Field(gt=0, le=MOST_S, allow_inf_nan=False)]
Identity = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class BackedUp(Saved):
    """A checkpoint in a backup.

    Attributes:
        step: of the run.
        files: of the checkpoint, by name.
        run_files: of the run at that time, by name.
    """

    step: Count
    files: dict[Annotated[str, Field(max_length=100)], FileEntry]
    run_files: dict[Annotated[str, Field(max_length=100)], FileEntry]

    def entries(self) -> list[FileEntry]:
        """Return what is said of each file."""
        return [*self.files.values(), *self.run_files.values()]

    def stored(self) -> set[str]:
        """Return where its files lie in the repository."""
        return {stored_as(entry) for entry in self.entries()}


class Document(Saved):
    """backup.json.

    Attributes:
        format: version of the layout.
        run_id: drawn when the run was backed up first; it stays with the run on every computer.
        writer: the process that wrote it.
        name: of the run, such as `laptop/Pong_1`.
        every_s: seconds between the beginnings of two uploads.
        checkpoints: the newest first.
    """

    format: Count
    run_id: Identity
    writer: Identity
    name: Word
    every_s: Interval
    checkpoints: Annotated[list[BackedUp], Field(min_length=1, max_length=KEPT)]

    @property
    def newest(self) -> BackedUp:
        """The newest checkpoint."""
        return self.checkpoints[0]

    def stored(self) -> set[str]:
        """Return where the files of all checkpoints lie in the repository."""
        return set().union(*(each.stored() for each in self.checkpoints))


def stored_as(entry: FileEntry) -> str:
    """Return where a file lies in the repository."""
    return f"{STORE}{entry.sha256}"


def is_ours(files: Iterable[str]) -> bool:
    """Return whether a repository holds files of a backup and nothing else."""
    known = {BACKUP, CARD, ".gitattributes"}
    return all(name in known or re.fullmatch(rf"{STORE}[0-9a-f]{{64}}", name) for name in files)


def check_entries(backed_up: BackedUp, listed: Mapping[str, int | None]) -> None:
    """Refuse a checkpoint before anything of it is downloaded.

    Args:
        backed_up: as the repository describes it.
        listed: the size in bytes of each file in the repository, where the Hub says it.

    Raises:
        UserError: a name that no checkpoint has, a size that no such file has, or a file that is
            missing or of another size.
    """
    for name, entry in backed_up.files.items():
        largest = next((most for form, most in _CHECKPOINT_FILES if re.fullmatch(form, name)), None)
        _check_entry(name, entry, largest, listed)
    for name, entry in backed_up.run_files.items():
        _check_entry(name, entry, RUN_FILES.get(name), listed)
    for name in ("config.yml", "manifest.json"):
        if name not in backed_up.run_files:
            raise UserError(f"{name} of the run is missing")


def _check_entry(
    name: str, entry: FileEntry, largest: int | None, listed: Mapping[str, int | None]
) -> None:
    if largest is None:
        raise UserError(f"{short(name)} is no file of a checkpoint of this version")
    if entry.size > largest:
        raise UserError(f"{name} has {entry.size:,} bytes, more than the {largest:,} that are read")
    if stored_as(entry) not in listed:
        raise UserError(f"{name} is missing")
    size = listed[stored_as(entry)]
    if size is None:
        raise UserError(f"{name} has a size that the Hub does not say")
    if size != entry.size:
        raise UserError(f"{name} has {size:,} bytes there, and should have {entry.size:,}")
