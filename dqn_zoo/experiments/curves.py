"""Learning curves: read from run folders, ours and Stable-Baselines3's, and laid over each other.

What others wrote is read as numbers alone: `monitor.csv` as text, `evaluations.npz` without pickle.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.aggregates import estimate_mean
from dqn_zoo.runs.learning_curve import columns
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.protocols import FRAMES_PER_STEP
from dqn_zoo.settings.recipes import load_config

Floats = NDArray[np.float64]
Kind = Literal["training", "evaluation"]
Axis = Literal["steps", "frames", "time"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SMOOTHING: dict[Kind, int] = {"training": 3, "evaluation": 1}

MONITORS = "*monitor.csv"
EVALUATIONS = "evaluations.npz"

# What reading a file of somebody else can raise, cut off or not what its name says.
_DAMAGE = (
    OSError, EOFError, BadZipFile, csv.Error, RecursionError, StopIteration,
    ValueError, KeyError, TypeError, AttributeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The games of a run in the order they ended, or its evaluations.

    Attributes:
        source: folder that it was read from.
        game: that was played.
        group: what its seeds share, such as the recipe.
        seed: of the run, where known.
        steps: float64 [num_points], decisions of the agent so far.
        seconds: float64 [num_points], wall-clock so far; NaN where nothing tells.
        scores: float64 [num_points], raw score of a game, or mean of an evaluation.
    """

    source: Path
    game: str
    group: str
    seed: int | None
    steps: Floats
    seconds: Floats
    scores: Floats

    def along(self, axis: Axis) -> Floats:
        """Return the points on an axis: steps, frames, or minutes."""
        if axis == "time":
            return self.seconds / 60
        return self.steps * (FRAMES_PER_STEP if axis == "frames" else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """The curves of one group on one grid.

    Attributes:
        group: its name.
        at: float64 [num_points], places on the axis.
        runs: float64 [num_runs, num_points], each run smoothed; NaN where it has no points.
        mean: float64 [num_points], over the runs.
        low: lower end of the 95 % bootstrap interval over runs; the mean where there is one run.
        high: upper end.
    """

    group: str
    at: Floats
    runs: Floats
    mean: Floats
    low: Floats
    high: Floats


def find_curves(paths: Iterable[Path], kind: Kind, *, by: str = "algo") -> list[Curve]:
    """Read the curves of run folders, or of all run folders below the given ones.

    Args:
        paths: of runs, log folders or sweeps; ours, RL-Zoo's or Stable-Baselines3's.
        kind: training games, or evaluations.
        by: key of the settings whose value names a curve's group; others' runs are named by the
            folder that holds them, `dqn (sb3)`.

    Raises:
        UserError: a path holds no run, a run has no such curve, or a file is damaged.
    """
    curves: list[Curve] = []
    seen: set[Path] = set()  # a run that is named twice is one run
    for path in paths:
        folders = list(_run_folders(path))
        if not folders:
            raise UserError(
                f"{path} holds no run: expected progress.csv, monitor.csv or {EVALUATIONS} in it "
                "or below"
            )
        found = [curve for folder in folders if (curve := read_curve(folder, kind, by=by))]
        if not found:
            raise UserError(f"{path} has no {kind} scores yet")
        curves += [curve for curve in found if curve.source.resolve() not in seen]
        seen.update(folder.resolve() for folder in folders)
    return curves


def read_curve(folder: Path, kind: Kind, *, by: str = "algo") -> Curve | None:
    """Read the curve of one run folder; None: it has no such scores yet.

    Raises:
        UserError: a file is damaged, or the settings have no key `by`.
    """
    run = Run(folder)
    try:
        return _ours(run, kind, by) if run.config_file.exists() else _theirs(folder, kind)
    except _DAMAGE as error:
        if isinstance(error, UserError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{folder} cannot be read: {reason}; leave it out") from error


def overlay(
    curves: Sequence[Curve], axis: Axis, *, smoothing: int, num_points: int = 100
) -> list[Band]:
    """Return the curves of each group on one grid, groups in the order they came.

    A point of a run is the mean score of what ended in the interval around it, and of so many
    intervals before it as `smoothing` says, so that long games do not count late.

    Args:
        curves: of one game.
        axis: where the grid lies.
        smoothing: intervals that a point is the mean of, at least 1; see `SMOOTHING`.
        num_points: of the grid.
    """
    ends = [curve.along(axis).max() for curve in curves if len(curve.steps)]
    edges = np.linspace(0, max(ends), num_points + 1)
    groups: dict[str, list[Floats]] = {}
    for curve in curves:
        smoothed = _binned(curve.along(axis), curve.scores, edges, smoothing)
        groups.setdefault(curve.group, []).append(smoothed)
    return [_band(group, edges[1:], np.stack(runs)) for group, runs in groups.items()]


def _run_folders(path: Path) -> Iterator[Path]:
    """Yield the run folders at or below a path: those that hold logs of their own.

    What `dqn-push` has prepared below a run holds its logs once more, and no manifest.
    """
    logs = ("progress.csv", MONITORS, EVALUATIONS)
    files = (file for name in logs for file in sorted(path.rglob(name)))
    for run in map(Run, dict.fromkeys(file.parent for file in files)):
        if run.manifest_file.exists() or not run.config_file.exists():
            yield run.path


def _ours(run: Run, kind: Kind, by: str) -> Curve | None:
    config = load_config(run.config_file)
    if by not in type(config).model_fields:
        raise UserError(f"the settings of a run have no key {by!r}: group by another with --by")
    file, name = {
        "training": (run.episodes_file, "return"),
        "evaluation": (run.evaluations_file, "mean"),
    }[kind]
    if not (file.exists() and run.progress_file.exists()):
        return None
    steps, scores = map(np.array, columns(file, "steps", name))
    at, seconds = columns(run.progress_file, "steps", "time_s")
    if not len(steps) or not at:
        return None
    value = str(getattr(config, by))
    return Curve(
        source=run.path,
        game=config.env,
        group=value if by == "algo" else f"{by} {value}",
        seed=config.seed,
        steps=steps,
        seconds=np.interp(steps, at, seconds),
        scores=scores,
    )


def _theirs(folder: Path, kind: Kind) -> Curve | None:
    """Read what Stable-Baselines3's Monitor and EvalCallback wrote."""
    monitors = sorted(folder.glob(MONITORS))
    game = _game_of(folder, monitors)
    if kind == "training":
        if not monitors:
            return None
        seconds, lengths, scores = _on_one_clock([_monitored(file) for file in monitors]).T
        if not len(seconds):
            return None
        # The Monitor sits below the frame skip and counts frames.
        steps = lengths.cumsum() / FRAMES_PER_STEP
    else:
        if not (folder / EVALUATIONS).exists():
            return None
        with np.load(folder / EVALUATIONS, allow_pickle=False) as arrays:
            steps = arrays["timesteps"].astype(np.float64)
            scores = arrays["results"].astype(np.float64).mean(axis=1)
        seconds = np.full(len(steps), np.nan)
    return Curve(
        source=folder,
        game=game,
        group=f"{folder.parent.name} (sb3)",
        seed=None,
        steps=steps,
        seconds=seconds,
        scores=scores,
    )


class _Monitored(NamedTuple):
    """What one Monitor wrote.

    Attributes:
        began: when its clock was at 0, in seconds since 1970; NaN where it does not say.
        games: float64 [num_games, 3]: time on its clock, length and score, in the order they ended.
    """

    began: float
    games: Floats


def _monitored(file: Path) -> _Monitored:
    """Read a monitor.csv; where its clock begins anew, because it was appended to, it goes on."""
    with file.open(newline="") as lines:
        began = json.loads(next(lines).lstrip("#")).get("t_start")
        rows = [(row["t"], row["l"], row["r"]) for row in csv.DictReader(lines)]
    games = np.array([[float(cell or "nan") for cell in row] for row in rows]).reshape(-1, 3)
    whole: Floats = games[np.isfinite(games).all(axis=1)]  # the last row may be cut off
    ended = whole[:, 0].copy()
    whole[1:, 0] += np.where(np.diff(ended) < 0, ended[:-1], 0.0).cumsum()
    return _Monitored(np.nan if began is None else float(began), whole)


def _on_one_clock(files: Sequence[_Monitored]) -> Floats:
    """Return the games of a run in the order they ended: float64 [num_games, 3].

    Every environment has a file, and so has every start of a run that was continued. The clock
    stands still between starts, while no file was written.
    """
    if not all(np.isfinite(file.began) for file in files):  # nothing says how they lie
        files = [file._replace(began=0.0) for file in files]
    files = sorted(files, key=lambda file: file.began)
    began = np.array([file.began for file in files])
    ended = began + [file.games[:, 0].max(initial=0.0) for file in files]
    pauses = np.maximum(began[1:] - np.maximum.accumulate(ended)[:-1], 0.0)
    starts = began - began[0] - np.append(0.0, pauses.cumsum())
    games: Floats = np.concatenate(
        [
            file.games + np.array([start, 0.0, 0.0])
            for start, file in zip(starts, files, strict=True)
        ]
    )
    return games[np.argsort(games[:, 0], kind="stable")]


def _game_of(folder: Path, monitors: Sequence[Path]) -> str:
    """Return the game that the Monitor names, or else the folder, as in PongNoFrameskip-v4_1."""
    named = re.sub(r"_\d+$", "", folder.name)
    if monitors:
        with monitors[0].open() as lines:
            named = json.loads(next(lines).lstrip("#")).get("env_id") or named
    return parse_game(named).game


def _binned(at: Floats, scores: Floats, edges: Floats, smoothing: int) -> Floats:
    place = np.clip(np.searchsorted(edges, at, side="left") - 1, 0, len(edges) - 2)
    window = np.ones(smoothing)
    sums, counts = (
        np.convolve(np.bincount(place, weights, len(edges) - 1), window)[: len(edges) - 1]
        for weights in (scores, np.ones_like(scores))
    )
    means = np.full(len(counts), np.nan)
    known = np.flatnonzero(counts)
    means[known] = sums[known] / counts[known]
    # Between its first and last point a run is somewhere, also where no game of it ended.
    inside = slice(known[0], known[-1] + 1)
    means[inside] = np.interp(np.arange(len(means))[inside], known, means[known])
    return means


def _band(group: str, at: Floats, runs: Floats) -> Band:
    known = [points[~np.isnan(points)] for points in runs.T]
    unknown = (np.nan, np.nan, np.nan)
    estimates = [estimate_mean(each, resamples=500) if len(each) else unknown for each in known]
    middle, low, high = np.array(estimates).T
    return Band(group=group, at=at, runs=runs, mean=middle, low=low, high=high)
