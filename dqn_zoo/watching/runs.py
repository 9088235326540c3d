"""The runs of the log folder as they grow: what a page lists, and the curves that it draws."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dqn_zoo.errors import UserError
from dqn_zoo.runs.learning_curve import columns, last_row, number_of
from dqn_zoo.runs.manifest import goal_steps, has_finished, may_be_training, read_manifest
from dqn_zoo.runs.run import Run

PROGRESS = (
    "steps", "time_s", "return_mean", "loss", "q_mean", "epsilon", "steps_per_second", "memory_mb",
)  # fmt: skip
EVALUATIONS = ("steps", "mean")

MOST_POINTS = 1_000
"""Of a curve; a screen shows no more."""


def describe_run(key: str, run: Run) -> dict[str, Any]:
    """Return the row of a run: how far it is, how good, and how long it takes yet.

    Args:
        key: that the run is asked for by.
        run: which may be damaged; then the row says so.
    """
    row: dict[str, Any] = {"key": key, "training": False}
    try:
        manifest = read_manifest(run)
        row |= {
            "training": may_be_training(run),
            "finished": has_finished(manifest) or "origin" in manifest,
            "goal": goal_steps(manifest),
        }
    except UserError as error:
        return row | {"error": str(error)}
    last, evaluated = last_row(run.progress_file), last_row(run.evaluations_file)
    steps, speed = number_of(last.get("steps")), number_of(last.get("steps_per_second"))
    left = None
    if row["training"] and steps is not None and speed:
        left = max(row["goal"] - steps, 0) / speed
    return row | {
        "steps": steps,
        "speed": speed,
        "seconds_left": left,
        "seconds": number_of(last.get("time_s")),
        "return": number_of(last.get("return_mean")),
        "evaluation": number_of(evaluated.get("mean")),
        "memory_mb": number_of(last.get("memory_mb")),
    }


def read_curves(run: Run, since: str) -> dict[str, Any]:
    """Return the curves of a run.

    Args:
        run: whose.
        since: the `stamp` of an earlier answer; where nothing was added, the stamp is all.
    """
    stamp = stamp_of(run)
    if stamp == since:
        return {"stamp": stamp}
    return {
        "stamp": stamp,
        "progress": _read(run.progress_file, PROGRESS),
        "evaluations": _read(run.evaluations_file, EVALUATIONS),
    }


def stamp_of(run: Run) -> str:
    """Return what changes when a row is added."""
    return "-".join(stamp_of_file(file) for file in (run.progress_file, run.evaluations_file))


def _read(file: Path, names: Sequence[str]) -> Mapping[str, list[float | None]]:
    """Return columns by name, thinned out evenly; the last row stays."""
    found = columns(file, *names) if file.exists() else [[] for _ in names]
    every = math.ceil(len(found[0]) / MOST_POINTS) or 1
    return {
        name: [None if math.isnan(cell) else float(f"{cell:.6g}") for cell in cells[::-every][::-1]]
        for name, cells in zip(names, found, strict=True)
    }


def stamp_of_file(file: Path) -> str:
    """Return what changes when a file is written."""
    try:
        status = file.stat()
    except OSError:
        return "0"
    return f"{status.st_mtime_ns}.{status.st_size}"
