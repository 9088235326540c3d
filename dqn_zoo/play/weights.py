"""Weights on disk: each file carries a digest of what it holds, and none is used that is damaged.

Files of earlier versions carry none. What else is known of them is asked instead: the manifest of
their checkpoint, the results of their games, where they came from.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NotRequired

import torch
from pydantic import with_config
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import DamagedError, read_entries
from dqn_zoo.runs.finding import find_run
from dqn_zoo.runs.manifest import may_be_training
from dqn_zoo.runs.run import Run, checkpoint_folders, checkpoint_name
from dqn_zoo.system import shell
from dqn_zoo.system.documents import (
    AS_WRITTEN,
    Count,
    DocumentError,
    Word,
    checked,
    parse_json,
    read_document,
)
from dqn_zoo.system.files import digest, replace_file

WEIGHTS_NOTE = "dqn_zoo"  # the one entry in the header of a weights file
OWN_DIGEST = "sha256"  # of note and tensors, in the note
BEST_OF_CHECKPOINT = "best.safetensors"
Which = Literal["best", "last"]
Kind = Literal["averaged", "online"]
AVERAGED: Kind = "averaged"
ONLINE: Kind = "online"


@with_config(AS_WRITTEN)
class WeightsNote(TypedDict):
    """What a file of weights says of itself."""

    env: NotRequired[Word]
    algo: NotRequired[Word]
    protocol: NotRequired[Word]
    steps: NotRequired[Count]
    weights: NotRequired[Word]  # averaged or online, of a run that has both
    sha256: NotRequired[Word]


def find_weights(run: Run, which: Which | int, kind: Kind | None = None) -> Path:
    """Return the weights file of a run: best, last, or that of a checkpoint's step.

    `kind` is averaged or online; None: what evaluations in training played. The best online weights
    of a run that averages are the last ones, because no evaluation chose among them.

    Raises:
        UserError: if the run has no such weights.
    """
    played = _find_played(run, which)
    if kind is None:
        return played
    is_averaged = weights_note(played).get("weights") == AVERAGED
    if kind == AVERAGED and not is_averaged:
        raise UserError(f"{played} holds no averaged weights: leave averaged out")
    if kind == AVERAGED or not is_averaged:
        return played
    online = (played.parent if isinstance(which, int) else run.path) / run.online_model_file.name
    if not online.exists():
        raise UserError(f"{run.path} has averaged weights only: leave online out")
    return online


def _find_played(run: Run, which: Which | int) -> Path:
    if isinstance(which, int):
        steps = run.checkpoint_steps()
        if which not in steps:
            have = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{run.path} has no checkpoint at step {which}; it has {have}")
        return run.checkpoint(which) / run.model_file.name
    if which == "best" and run.best_model_file.exists():
        return run.best_model_file
    if not run.model_file.exists() and may_be_training(run):
        raise UserError(
            f"{run.path} has no weights yet: the first come about a minute after its start, and "
            f"{shell.command('dqn-enjoy', '--follow', '--run', run.path)} waits for them"
        )
    if not run.model_file.exists():
        raise UserError(
            f"{run.path} has no weights yet: it has neither finished nor reached its first "
            f"checkpoint; train it on with {shell.command('dqn-train', '--resume', run.path)}"
        )
    return run.model_file


def last_weights(run: Run) -> list[Path]:
    """Return the files that the last weights of a run are in, and those of its checkpoints."""
    folders = [run.path, *(run.checkpoint(step) for step in run.checkpoint_steps())]
    names = (run.model_file.name, run.online_model_file.name)
    files = [folder / name for folder in folders for name in names]
    return [file for file in files if file.is_file()]


def weights_bytes(weights: Mapping[str, Tensor], note: Mapping[str, str | int]) -> bytes:
    """Return a safetensors file of weights on the CPU.

    The note becomes one entry of the header, with the digest of all: safetensors writes several in
    random order, and equal runs shall give equal files.
    """
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    content = {**note, OWN_DIGEST: _digest(contiguous, note)}
    return save_tensors(contiguous, metadata={WEIGHTS_NOTE: json.dumps(content)})


def weights_note(file: Path) -> WeightsNote:
    """Return what `weights_bytes` noted in a file; {} where nothing."""
    try:
        with safe_open(file, framework="numpy") as tensors:
            note = (tensors.metadata() or {}).get(WEIGHTS_NOTE, "{}")
        return checked(parse_json(note, str(file)), WeightsNote, str(file))
    except (OSError, DocumentError, SafetensorError):  # reading the tensors will tell
        return {}


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read the weights of a run folder (best, else last) or of a safetensors file.

    A damaged file of a run is replaced by an intact copy of it, where the run has one.

    Raises:
        UserError: if there are none, or they are damaged and there is no copy.
    """
    file = find_weights(find_run(path.parent, run=str(path)), "best") if path.is_dir() else path
    try:
        return _read(file)
    except FileNotFoundError as error:
        raise UserError(f"{file} does not exist; expected a run folder or weights") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except DamagedError as error:
        return _restored(file, error)


def parse_weights(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file: all numbers finite, and as they were written.

    Raises:
        DamagedError: they are not.
    """
    try:
        weights = load_tensors(content)
        note = parse_json(_metadata(content).get(WEIGHTS_NOTE, "{}"), "its note")
    except (SafetensorError, DocumentError, ValueError, RecursionError) as error:
        raise DamagedError(f"no readable safetensors file: {error}") from error
    own = note.pop(OWN_DIGEST, None) if isinstance(note, dict) else None
    if own is not None and own != _digest(weights, note):
        raise DamagedError("it was changed after it was written (SHA-256 differs)")
    for name, values in weights.items():
        try:
            wrong = int((~values.isfinite()).sum())
        except RuntimeError as error:  # PyTorch stores types that it does not compute with
            raise DamagedError(f"{name} holds {values.dtype}: {error}") from error
        if wrong:
            raise DamagedError(
                f"{wrong:,} of the {values.numel():,} numbers in {name} are not finite"
            )
    return weights


def _read(file: Path) -> dict[str, Tensor]:
    content = file.read_bytes()
    weights = parse_weights(content)
    recorded = _recorded(file)
    if recorded and hashlib.sha256(content).hexdigest() not in recorded:
        raise DamagedError("it was changed after it was written (SHA-256 differs)")
    return weights


def _recorded(file: Path) -> set[str]:
    """Return digests that a file may have by what lies beside it; empty where nothing is known.

    A file with a digest of its own has proved itself: results of weights that it replaced say
    nothing of it.
    """
    if file.parent in checkpoint_folders(file.parent.parent):
        entry = read_entries(file.parent).files.get(file.name)
        return set() if entry is None else {entry.sha256}
    note, run = weights_note(file), Run(file.parent)
    if OWN_DIGEST in note:
        return set()
    recorded = set()
    if file == run.model_file:
        recorded.add(_at(_json(run.manifest_file), "origin", "weights"))
    played = _at(_json(run.results_file), "weights")
    if _at(played, "file") == file.name and _at(played, "steps") == note.get("steps"):
        recorded.add(_at(played, "sha256"))
    if file == run.best_model_file:
        recorded |= {digest(best) for best in _bests(run) if weights_note(best) == note}
    return {each for each in recorded if isinstance(each, str)}


def _restored(file: Path, damage: DamagedError) -> dict[str, Tensor]:
    """Put an intact copy in the place of a damaged file, and say so.

    Raises:
        UserError: there is none.
    """
    run = Run(file.parent)
    copy = next(_copies(file, run), None)
    if copy is None:
        steps_kept = run.checkpoint_steps()
        newest = run.checkpoints / checkpoint_name(max(steps_kept)) if steps_kept else None
        raise UserError(
            f"{file} is damaged ({damage}): restore it from a backup, or pull or import it again"
            + (f", or take those of {newest}" if newest else "")
        ) from damage
    steps = weights_note(copy).get("steps")
    try:
        replace_file(file, copy.read_bytes())
    except OSError as error:
        raise UserError(
            f"{file} is damaged ({damage}) and cannot be written ({error.strerror}): "
            f"{copy} is an intact copy"
        ) from error
    warnings.warn(
        f"{file} was damaged ({damage}) and is again as in {copy.relative_to(run.path)}"
        + (f", of step {steps:,}" if isinstance(steps, int) else ""),
        stacklevel=3,
    )
    return _read(file)


def _copies(file: Path, run: Run) -> Iterator[Path]:
    """Yield intact copies of a damaged file; of a best model, at last what checkpoints hold."""
    try:
        known, own = _recorded(file), weights_note(file).get(OWN_DIGEST)
    except DamagedError:
        return
    others = [run.best_model_file, *last_weights(run), *run.path.glob("hub/*/model.safetensors")]
    bests = _bests(run)
    for path in [*bests, *others]:
        if path == file or not path.is_file():
            continue
        try:
            _read(path)
        except (DamagedError, OSError):
            continue
        is_same = digest(path) in known
        if is_same or (own is not None and weights_note(path).get(OWN_DIGEST) == own):
            yield path
    if file == run.best_model_file:
        yield from bests


def _bests(run: Run) -> list[Path]:
    """Return the intact best weights in the checkpoints of a run, the latest first."""
    found = []
    for folder in reversed(checkpoint_folders(run.checkpoints)):
        path = folder / BEST_OF_CHECKPOINT
        try:
            entry = read_entries(folder).files.get(path.name)
            content = path.read_bytes()
            parse_weights(content)
        except (DamagedError, OSError):
            continue
        if entry is not None and hashlib.sha256(content).hexdigest() == entry.sha256:
            found.append(path)
    return found


def _digest(weights: Mapping[str, Tensor], note: Mapping[str, Any]) -> str:
    """Return the SHA-256 of tensors and note, however a file orders them."""
    content = hashlib.sha256(json.dumps(note, sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        content.update(f"\n{name} {value.dtype} {list(value.shape)}\n".encode())
        content.update(value.contiguous().view(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def _metadata(content: bytes) -> dict[str, str]:
    """Return the metadata in the header of a safetensors file that was read without an error."""
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]).get("__metadata__") or {}


def _json(file: Path) -> Any:
    try:
        return read_document(file, dict[str, Any])
    except DocumentError:  # whoever needs it says what is wrong with it
        return None


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
