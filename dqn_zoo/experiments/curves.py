"""Learning curves: read from run folders, ours and Stable-Baselines3's, and laid over each other.

What others wrote is read as numbers alone: `monitor.csv` as text, `evaluations.npz` without pickle.
"""

import csv
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.aggregates import estimate_mean
from dqn_zoo.runs.elsewhere import instead_of_missing
from dqn_zoo.runs.learning_curve import columns
from dqn_zoo.runs.run import Run, is_unfinished
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.expectations import STANDS_WITH
from dqn_zoo.settings.games import parse_folder, parse_game, random_score
from dqn_zoo.settings.protocols import FRAMES_PER_STEP, protocol_from_config
from dqn_zoo.settings.recipes import load_config

Floats = NDArray[np.float64]
Kind = Literal["training", "evaluation"]
Warn = Callable[[str], None]
Axis = Literal["steps", "frames", "time"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SMOOTHING: dict[Kind, int] = {"training": 3, "evaluation": 1}

MONITORS = "*monitor.csv"
EVALUATIONS = "evaluations.npz"

# What reading a file of somebody else can raise, cut off or not what its name says.
_DAMAGE = (
    OSError, EOFError, BadZipFile, csv.Error, RecursionError,
    ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError, MemoryError,
    zlib.error,
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
        is_usual_game: whether random play's score is of this game, which has modes of its own.
    """

    source: Path
    game: str
    group: str
    seed: int | None
    steps: Floats
    seconds: Floats
    scores: Floats
    is_usual_game: bool = True

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


def random_of(curves: Sequence[Curve]) -> float | None:
    """Return random play's mean raw score in the one game of some curves, where it is known."""
    return random_score(curves[0].game) if all(each.is_usual_game for each in curves) else None


def find_curves(
    paths: Iterable[Path],
    kind: Kind,
    *,
    by: str = "algo",
    env: str | None = None,
    warn: Warn = lambda line: None,
) -> list[Curve]:
    """Read the curves of run folders, or of all run folders below the given ones.

    Args:
        paths: of runs, log folders or sweeps; ours, RL-Zoo's or Stable-Baselines3's.
        kind: training games, or evaluations.
        by: key of the settings whose value names a curve's group; others' runs are named by the
            folder that holds them, `dqn (sb3)`.
        env: game of the others' runs that do not say which they play, in any spelling.
        warn: takes a line for each run that is left out, and why.

    Raises:
        UserError: there is no such setting or game, or no curve at all.
    """
    if by not in Config.model_fields:
        raise UserError(f"the settings of a run have no key {by!r}: group by another with --by")
    game = None if env is None else parse_game(env).game
    curves: list[Curve] = []
    left_out: list[str] = []
    for folder in _all_run_folders(paths, left_out):
        try:
            curve = read_curve(folder, kind, by=by, game=game, warn=warn)
        except UserError as error:
            left_out.append(str(error))
            continue
        if curve is None:
            left_out.append(f"{folder} has no {kind} scores yet")
        else:
            curves.append(curve)
    if not curves and len(left_out) == 1:
        raise UserError(left_out[0])
    for reason in left_out:
        warn(f"left out: {reason}")
    if not curves:
        raise UserError("nothing is left to draw: the lines above say why")
    return curves


def read_curve(
    folder: Path,
    kind: Kind,
    *,
    by: str = "algo",
    game: str | None = None,
    warn: Warn = lambda line: None,
) -> Curve | None:
    """Read the curve of one run folder; None: it has no such scores yet.

    `game` is for others' runs that do not say what they play; the rest is as in `find_curves`.

    Raises:
        UserError: a file is damaged or of another game than Atari's; the message names the folder.
    """
    run = Run(folder)
    try:
        if run.config_file.exists():
            return _ours(run, kind, by)
        return _theirs(folder, kind, game, warn)
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UserError):
            raise UserError(f"{folder}: {reason}") from error
        raise UserError(f"{folder} cannot be read: {reason}") from error


def group_name(config: Config, by: str) -> str:
    """Return the name of the group of a run, whose seeds share the value of a setting."""
    value = str(getattr(config, by))
    return value if by == "algo" else f"{by} {value}"


def mixed_groups(curves: Iterable[Curve]) -> Iterator[str]:
    """Say of which games and groups the runs learned with different settings: they are no seeds."""
    groups: dict[tuple[str, str], list[Config]] = {}
    for curve in curves:
        if Run(curve.source).config_file.exists():
            config = load_config(Run(curve.source).config_file)
            groups.setdefault((curve.game, curve.group), []).append(config)
    for (game, group), configs in groups.items():
        keys = [key for key in Config.model_fields if key not in STANDS_WITH | {"algo", "env"}]
        differing = [
            key for key in keys if any(getattr(c, key) != getattr(configs[0], key) for c in configs)
        ]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            yield (
                f"the runs of {group} on {game} are drawn as seeds of one group and differ in "
                f"{', '.join(differing[:3])}{more}: --by {differing[0]} draws them apart"
            )


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


def _all_run_folders(paths: Iterable[Path], left_out: list[str]) -> Iterable[Path]:
    """Return the run folders at or below some paths, and note the paths that have none."""
    folders: dict[Path, Path] = {}  # a run that is named twice is one run
    for path in paths:
        found = {folder.resolve(): folder for folder in _run_folders(path)}
        folders |= found
        if not found:
            expected = f"expected progress.csv, monitor.csv or {EVALUATIONS} in it or below"
            left_out.append(f"{path} holds no run: {instead_of_missing(path) or expected}")
    return folders.values()


def _run_folders(path: Path) -> Iterator[Path]:
    """Yield the run folders at or below a path: those that hold logs of their own.

    What `dqn-push` has prepared below a run holds its logs once more, and no manifest.
    """
    logs = ("progress.csv", MONITORS, EVALUATIONS)
    files = (file for name in logs for file in sorted(path.rglob(name)))
    for run in map(Run, dict.fromkeys(file.parent for file in files)):
        is_copy = run.config_file.exists() and not run.manifest_file.exists()
        if not is_copy and not is_unfinished(run.path, path):
            yield run.path


def _ours(run: Run, kind: Kind, by: str) -> Curve | None:
    config = load_config(run.config_file)
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
    return Curve(
        source=run.path,
        game=config.env,
        group=group_name(config, by),
        seed=config.seed,
        steps=steps,
        seconds=np.interp(steps, at, seconds),
        scores=scores,
        is_usual_game=protocol_from_config(config).is_usual_game,
    )


def _theirs(folder: Path, kind: Kind, game: str | None, warn: Warn) -> Curve | None:
    """Read what Stable-Baselines3's Monitor and EvalCallback wrote."""
    monitors = sorted(folder.glob(MONITORS))
    if kind == "training":
        if not monitors:
            return None
        seconds, lengths, scores = _on_one_clock([_monitored(file, warn) for file in monitors]).T
        if not len(seconds):
            return None
        # The Monitor sits below the frame skip and counts frames.
        steps = lengths.cumsum() / FRAMES_PER_STEP
    else:
        if not (folder / EVALUATIONS).exists():
            return None
        with (
            (folder / EVALUATIONS).open("rb") as file,  # NumPy leaves a damaged one open
            np.load(file, allow_pickle=False) as arrays,
        ):
            steps = arrays["timesteps"].astype(np.float64)
            results = arrays["results"].astype(np.float64)
        if not len(steps):
            return None
        if steps.ndim != 1 or results.ndim != 2 or len(steps) != len(results):
            raise ValueError(f"{EVALUATIONS} holds no row of results for each of its timesteps")
        scores = results.mean(axis=1)
        seconds = np.full(len(steps), np.nan)
    return Curve(
        source=folder,
        game=_game_of(folder, monitors, otherwise=game),
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


def _monitored(file: Path, warn: Warn) -> _Monitored:
    """Read a monitor.csv; where its clock begins anew, because it was appended to, it goes on.

    Rows that are no game are told and left out, as two that were written into one; a last row
    without its end is just being written.
    """
    text = file.read_text(encoding="utf-8")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) < 2:  # the first line is what the Monitor says of itself
        return _Monitored(np.nan, np.empty((0, 3)))
    began = json.loads(lines[0][1].lstrip("#")).get("t_start")
    names, *rows = csv.reader(line for _, line in lines[1:])
    if not {"r", "l", "t"} <= set(names):
        raise ValueError(f"{file.name} has the columns {','.join(names)!r:.60}, expected r,l,t")
    games, odd = [], []
    for (number, _), row in zip(lines[2:], rows, strict=True):
        game = _numbers(row[names.index(name)] for name in "tlr") if len(row) == len(names) else []
        if game:
            games.append(game)
        elif row is not rows[-1] or text.endswith("\n"):
            odd.append(number)
    if odd:
        more = f" ({len(odd) - 1} more like it)" if len(odd) > 1 else ""
        warn(f"left out: {file}, line {odd[0]}, which is no game{more}")
    whole: Floats = np.array(games).reshape(-1, 3)
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


def _numbers(cells: Iterable[str]) -> list[float]:
    """Return the numbers in some cells; [] where one is none."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return []
    return numbers if np.isfinite(numbers).all() else []


def _game_of(folder: Path, monitors: Sequence[Path], *, otherwise: str | None) -> str:
    """Return the game that a Monitor names, or the folder, as in PongNoFrameskip-v4_1, or that."""
    for file in monitors:
        with file.open(encoding="utf-8") as lines:
            named = json.loads(next(lines, "").lstrip("#") or "{}").get("env_id")
        if named not in (None, "", "None"):  # "None": an environment that was not made by its name
            return parse_game(str(named)).game
    try:
        return parse_folder(folder.name).game
    except UserError:
        if otherwise is None:
            raise UserError("nothing in it says which game it plays; --env GAME does") from None
        return otherwise


def _binned(at: Floats, scores: Floats, edges: Floats, smoothing: int) -> Floats:
    place = np.clip(np.searchsorted(edges, at, side="left") - 1, 0, len(edges) - 2)
    window = np.ones(smoothing)
    sums, counts = (
        np.convolve(np.bincount(place, weights, len(edges) - 1), window)[: len(edges) - 1]
        for weights in (scores, np.ones_like(scores))
    )
    means = np.full(len(counts), np.nan)
    known = np.flatnonzero(counts[: place.max() + 1])  # the mean of the last points ends with them
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
