"""The manifest of a run: on what, with what and how it was computed, and every time it was started.

origin: only in a run that was trained elsewhere: where it came from
format, seed, protocol, device, num_threads, evaluation_threads, precision, python, platform,
machine, cpu, cores, memory_bytes, versions, git, command: as the run was started first
invocations: one entry per start or resume; `changes` says what differed from the first start,
    `seconds` where its wall-clock went, `updates` how they were made in the end
"""

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError
from dqn_zoo.runs.run import RUN_FORMAT, Run
from dqn_zoo.system.documents import AS_WRITTEN, Count, DocumentError, Word, checked, read_document
from dqn_zoo.system.files import replace_file
from dqn_zoo.system.locks import last_holder
from dqn_zoo.system.machine import describe_machine


@with_config(AS_WRITTEN)
class Git(TypedDict):
    """The commit that a run was made with."""

    revision: NotRequired[Word | None]
    dirty: NotRequired[bool | None]


@with_config(AS_WRITTEN)
class Machine(TypedDict):
    """What the numbers of a run depend on."""

    seed: NotRequired[int | None]
    device: NotRequired[Word | None]
    num_threads: NotRequired[Count | None]
    evaluation_threads: NotRequired[Count | None]
    precision: NotRequired[Word | None]
    python: NotRequired[Word | None]
    platform: NotRequired[Word | None]
    machine: NotRequired[Word | None]
    cpu: NotRequired[Word | None]
    cores: NotRequired[Count | None]
    memory_bytes: NotRequired[Count | None]
    versions: NotRequired[dict[Word, Word | None] | None]
    git: NotRequired[Git | None]
    begins_with: NotRequired[Word | None]


class Training(Machine):
    """How an agent was trained, as its config.json says."""

    steps: NotRequired[Count | None]
    seconds: NotRequired[Annotated[float, Field(ge=0)] | None]
    later: NotRequired[list[Word] | None]  # `changes` of its invocations
    came_from: NotRequired[Word | None]  # whose agent it is, of a run that was trained elsewhere


@with_config(AS_WRITTEN)
class Origin(TypedDict):
    """Where a run came from that was trained elsewhere: a repository, a file, or the package."""

    repo: NotRequired[Word | None]
    commit: NotRequired[Word | None]
    pretrained: NotRequired[Word | None]
    library: NotRequired[Word | None]
    version: NotRequired[Word | None]
    score: NotRequired[Word | None]
    training: NotRequired[Training | None]
    results: NotRequired[dict[str, Any] | None]


@with_config(AS_WRITTEN)
class Invocation(TypedDict):
    """One start or resume."""

    command: str
    until_steps: Count
    changes: list[str]
    end_reason: str | None
    end_step: Count | None


Tracker = Literal["wandb", "trackio"]

FRESH_S = 3_600.0  # a training that is under way writes rows far more often


@with_config(AS_WRITTEN)
class Tracking(TypedDict):
    """The run of a tracker that a run is logged to; a resume goes on in it."""

    tracker: Tracker
    project: Word
    entity: Word | None
    group: Word | None
    tags: list[Word]
    name: Word
    id: Word


class Manifest(Machine):
    """The whole document."""

    format: int
    command: NotRequired[str]
    protocol: NotRequired[dict[str, Any]]
    tensorboard: NotRequired[str | None]
    tracking: NotRequired[Tracking | None]
    origin: NotRequired[Origin]
    invocations: Annotated[list[Invocation], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a run computes: beside machine and versions, what its bits depend on.

    Attributes:
        device: For example `cpu`, or `cuda` and the name of the GPU.
        num_threads: Threads of PyTorch.
        evaluation_threads: Threads that play the games of an evaluation.
        precision: `float32` or `bfloat16`.
    """

    device: str
    num_threads: int
    evaluation_threads: int
    precision: str


def write_manifest(
    run: Run,
    setup: Setup,
    *,
    command: Sequence[str],
    seed: int,
    protocol: Mapping[str, Any],
    until_steps: int,
    tensorboard: Path | None = None,
    tracking: Tracking | None = None,
    begins_with: str | None = None,
) -> None:
    """Write the manifest of a new run, with its first invocation.

    `tensorboard` is the folder of its events where that is not in the run folder; `begins_with`
    says whose weights it starts from, in words without a path.

    Raises:
        UserError: The file cannot be written.
    """
    manifest = {
        "format": RUN_FORMAT,
        "seed": seed,
        "protocol": dict(protocol),
        "tensorboard": None if tensorboard is None else str(tensorboard.absolute()),
        "tracking": tracking,
        **vars(setup),
        **describe_machine(),
        "command": shlex.join(command),
        "begins_with": begins_with,
        "invocations": [_invocation(command, None, until_steps, [])],
    }
    _write(run, manifest)


def write_origin_manifest(
    run: Run,
    *,
    command: Sequence[str],
    seed: int | None,
    protocol: Mapping[str, Any],
    steps: int | None,
    origin: Mapping[str, Any],
) -> None:
    """Write the manifest of a run that was trained elsewhere and came here as weights.

    `origin` says from where, as in `{"repo": "user/name", "commit": "..."}`.

    Raises:
        UserError: The file cannot be written.
    """
    arrival = _invocation(command, None, steps or 0, [])
    manifest = {
        "format": RUN_FORMAT,
        "seed": seed,
        "protocol": dict(protocol),
        "origin": dict(origin),
        **describe_machine(),
        "command": shlex.join(command),
        "invocations": [arrival | {"ended": _now(), "end_reason": "arrived", "end_step": steps}],
    }
    _write(run, manifest)


def append_invocation(
    run: Run,
    setup: Setup,
    *,
    command: Sequence[str],
    resumed_from_step: int,
    until_steps: int,
    settings: Sequence[str] = (),
) -> list[str]:
    """Record that a run is resumed; `settings` says what differs in them from its checkpoint.

    Returns:
        What differs, now or at an earlier resume, from the machine and the setup the run started
        with, as in `torch: 2.13.0 before, 2.14.0 now`; where anything does, the run is not
        bit-exact.

    Raises:
        UserError: The manifest cannot be read or written.
    """
    manifest = read_manifest(run)
    changes = [*settings, *_differences(manifest, {**vars(setup), **describe_machine()})]
    earlier = [change for entry in manifest["invocations"] for change in entry["changes"]]
    invocation = _invocation(command, resumed_from_step, until_steps, changes)
    manifest["invocations"].append(checked(invocation, Invocation, "the invocation"))
    _write(run, manifest)
    return changes or [f"an earlier resume had {change}" for change in dict.fromkeys(earlier)]


def end_invocation(
    run: Run, reason: str, *, step: int, seconds: Mapping[str, float], updates: str
) -> None:
    """Record how the last invocation ended.

    `reason` is `finished`, `time_limit` or the signal, `seconds` where the wall-clock went, by
    section, and `updates` how they were made: `eager`, `CUDA graph`, or `eager` and why.

    Raises:
        UserError: The manifest cannot be read or written.
    """
    manifest = read_manifest(run)
    last: dict[str, Any] = {
        "ended": _now(),
        "end_reason": reason,
        "end_step": step,
        "seconds": {section: round(spent, 3) for section, spent in seconds.items()},
        "updates": updates,
    }
    manifest["invocations"][-1].update(last)  # type: ignore[typeddict-item]
    _write(run, manifest)


def read_manifest(run: Run) -> Manifest:
    """Return the manifest of a run.

    Raises:
        UserError: The file is missing or damaged.
    """
    try:
        return read_document(run.manifest_file, Manifest)
    except DocumentError as error:
        raise DocumentError(f"{error}; restore it from a backup, or start a new run") from error


def goal_steps(manifest: Manifest) -> int:
    """Return the steps that a run is to reach: the largest that any invocation was given."""
    return max(entry["until_steps"] for entry in manifest["invocations"])


def has_finished(manifest: Manifest) -> bool:
    """Return whether a run has reached its goal, its last evaluation and weights included.

    The last invocation tells: a run that has finished is begun again only to go further, or back.
    """
    last = manifest["invocations"][-1]
    return last["end_reason"] == "finished" and (last["end_step"] or 0) >= goal_steps(manifest)


def may_be_training(run: Run) -> bool:
    """Return whether a run goes on, as far as can be told without trying its lock.

    Of another computer's run its rows tell: a container has a name of its own each time, and what
    was killed there would seem to go on for ever.

    Raises:
        UserError: The file is missing or damaged.
    """
    if read_manifest(run)["invocations"][-1].get("ended") is not None:
        return False
    where = last_holder(run.path)
    return where == "here" or (where == "elsewhere" and _is_fresh(run))


def _is_fresh(run: Run) -> bool:
    """Return whether a run has written something lately, or has just begun."""
    files = (run.progress_file, run.manifest_file)
    return any(file.exists() and time.time() - file.stat().st_mtime < FRESH_S for file in files)


def _invocation(
    command: Sequence[str], resumed_from_step: int | None, until_steps: int, changes: list[str]
) -> dict[str, Any]:
    return {
        "started": _now(),
        "command": shlex.join(command),
        "resumed_from_step": resumed_from_step,
        "until_steps": until_steps,
        "changes": changes,
        "ended": None,
        "end_reason": None,
        "end_step": None,
        "seconds": None,
        "updates": None,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(run: Run, manifest: Mapping[str, object]) -> None:
    try:
        replace_file(run.manifest_file, json.dumps(manifest, indent=2).encode())
    except OSError as error:
        raise UserError(f"{run.manifest_file} cannot be written: {error.strerror}") from error


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    def bits(machine: Mapping[str, Any]) -> dict[str, Any]:
        keys = (
            "device", "num_threads", "evaluation_threads", "precision", "python", "machine", "cpu",
            "cores",
        )  # fmt: skip
        git = machine.get("git") or {}
        revision = f"{git.get('revision')}{' with changes' if git.get('dirty') else ''}"
        return {
            **{key: machine.get(key) for key in keys},
            **(machine.get("versions") or {}),
            "git revision": revision,
        }

    old, new = bits(before), bits(now)
    unknown = {"evaluation_threads"} - before.keys()  # to earlier versions
    return [
        f"{key}: {old.get(key)} before, {value} now"
        for key, value in new.items()
        if old.get(key) != value and key not in unknown
    ]
