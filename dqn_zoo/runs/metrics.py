"""What a run logs: the metrics, their formulas, the scores of its games.

The tables of metrics come first; docs/metrics.md explains them at length.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field

from dqn_zoo.envs.environments import EnvStep
from dqn_zoo.runs.logfiles import CsvLog, EventLog, Value, Warn
from dqn_zoo.runs.run import Run
from dqn_zoo.runs.trackers import TrackedLog
from dqn_zoo.system.saved import Count, Finite, Saved


@dataclass(frozen=True, slots=True)
class Metric:
    """One column of a log.

    Attributes:
        name: Column of the CSV file.
        formula: What it is, in one line, with its unit.
        tag: Name in TensorBoard; RL-Zoo's, where RL-Zoo logs the same quantity. None: not sent.
        timing: Whether it depends on the clock or the machine, so that two equal runs differ in it.
    """

    name: str
    formula: str
    tag: str | None = None
    timing: bool = False


PROGRESS = (
    Metric("steps", "decisions of the agent so far, summed over environments"),
    Metric("frames", "steps * frame_skip (4): emulator frames played so far"),
    Metric("time_s", "seconds of wall-clock time so far, summed over resumes", timing=True),
    Metric(
        "steps_per_second",
        "steps since the last row / seconds since the last row",
        tag="time/steps_per_second",
        timing=True,
    ),
    Metric("episodes", "games finished so far", tag="rollout/episodes"),
    Metric(
        "return_mean",
        "mean raw score of the last 100 finished games; empty before the first",
        tag="rollout/ep_rew_mean",
    ),
    Metric(
        "length_mean",
        "mean length of the last 100 finished games, in steps",
        tag="rollout/length_mean_steps",
    ),
    Metric(
        "epsilon", "chance that a random action begins, at this step", "rollout/exploration_rate"
    ),
    Metric("loss", "mean loss of the updates since the last row", tag="train/loss"),
    Metric(
        "q_mean",
        "mean Q(observation, action) of the minibatches since the last row, online network",
        tag="train/q_mean",
    ),
    Metric(
        "grad_norm",
        "mean L2 norm of the gradient before clipping, updates since the last row",
        tag="train/grad_norm",
    ),
    Metric("learning_rate", "step size of the next update", tag="train/learning_rate"),
    Metric("updates", "gradient steps so far", tag="train/n_updates"),
    Metric("replay_size", "transitions in the replay memory", tag="rollout/replay_size"),
    Metric(
        "memory_mb", "resident memory of the process / 10**6 bytes", "time/memory_mb", timing=True
    ),
)

EPISODES = (
    Metric("steps", "steps of the run when the game ended, summed over environments"),
    Metric("env", "index of the environment"),
    Metric("return", "raw score of the full game"),
    Metric("length_steps", "decisions of the agent in this game"),
    Metric("seconds", "seconds of wall-clock time of the run when the game ended", timing=True),
)

EVALUATIONS = (
    Metric("steps", "steps of the run when the evaluation began"),
    Metric("evaluation", "number of the evaluation, from 0; its games are seeded by it"),
    Metric("episodes", "full games played"),
    Metric("mean", "mean raw score", tag="eval/mean_reward"),
    Metric("std", "standard deviation of the raw scores, divisor episodes", tag="eval/std_reward"),
    Metric("mean_minus_std", "mean - std: the course's result", tag="eval/mean_minus_std"),
    Metric("min", "lowest raw score"),
    Metric("max", "highest raw score"),
    Metric("epsilon", "chance of a uniformly random action in the evaluation"),
    Metric("seconds", "seconds that the evaluation took", timing=True),
    Metric("is_best", "whether mean is above every earlier one since learning began"),
)

PROGRESS_COLUMNS = tuple(metric.name for metric in PROGRESS)
EPISODE_COLUMNS = tuple(metric.name for metric in EPISODES)
EVALUATION_COLUMNS = tuple(metric.name for metric in EVALUATIONS)
TIMING_COLUMNS = tuple(
    dict.fromkeys(metric.name for metric in (*PROGRESS, *EPISODES, *EVALUATIONS) if metric.timing)
)
"""Columns in which two otherwise identical runs differ, in any of the three files."""


class FinishedEpisode(NamedTuple):
    """One finished training game: environment, raw score, length in steps."""

    env: int
    score: float
    length_steps: int


class _SavedStatistics(Saved):
    episodes: Count
    score: list[Finite]
    length: list[Count]
    last: list[Annotated[list[Finite], Field(min_length=2, max_length=2)]]


class EpisodeStatistics:
    """Raw scores and lengths of full games; a lost life ends none."""

    def __init__(self, num_envs: int, window: int = 100) -> None:
        self.episodes = 0
        self._score = np.zeros(num_envs, np.float64)
        self._length = np.zeros(num_envs, np.int64)
        self._last: deque[tuple[float, int]] = deque(maxlen=window)

    def add(self, step: EnvStep) -> list[FinishedEpisode]:
        """Count one vector step; returns the games that ended with it, by environment."""
        self._score += step.reward
        self._length += 1
        ended = np.flatnonzero(step.terminated | step.truncated)
        finished = [
            FinishedEpisode(int(env), float(self._score[env]), int(self._length[env]))
            for env in ended
        ]
        self._score[ended] = 0.0
        self._length[ended] = 0
        self._last.extend((game.score, game.length_steps) for game in finished)
        self.episodes += len(finished)
        return finished

    @property
    def return_mean(self) -> float:
        """Mean raw score of the last games (NaN before the first)."""
        return _mean([score for score, _ in self._last])

    @property
    def length_mean(self) -> float:
        """Mean length of the last games, in steps (NaN before the first)."""
        return _mean([length for _, length in self._last])

    def state(self) -> dict[str, Any]:
        """Everything, as JSON holds it; floats survive JSON exactly."""
        return {
            "episodes": self.episodes,
            "score": self._score.tolist(),
            "length": self._length.tolist(),
            "last": [list(game) for game in self._last],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned.

        Raises:
            ValueError: it is not that.
        """
        saved = _SavedStatistics.read(state)
        if len(saved.score) != len(self._score) or len(saved.length) != len(self._length):
            raise ValueError("statistics: they are of another n_envs")
        self.episodes = state["episodes"]
        self._score[:] = state["score"]
        self._length[:] = state["length"]
        self._last.clear()
        self._last.extend((score, length) for score, length in state["last"])


class RunLog:
    """Writes the logs of one run: progress.csv, episodes.csv, evaluations.csv and TensorBoard.

    Args:
        run: Where the CSV files lie; they are continued where they exist.
        tensorboard_folder: Folder of this run's events, or None for no TensorBoard.
        warn: Called with one line when a log begins to fail. No method raises for a full disk.
        tracked: Takes what TensorBoard takes, and films; the log closes it.
    """

    def __init__(
        self,
        run: Run,
        *,
        tensorboard_folder: Path | None,
        warn: Warn,
        tracked: TrackedLog | None = None,
    ) -> None:
        self._progress = CsvLog(run.progress_file, PROGRESS_COLUMNS, warn=warn)
        self._episodes = CsvLog(run.episodes_file, EPISODE_COLUMNS, warn=warn)
        self._evaluations = CsvLog(run.evaluations_file, EVALUATION_COLUMNS, warn=warn)
        self._csv_logs = (self._progress, self._episodes, self._evaluations)
        events = EventLog(tensorboard_folder, warn=warn) if tensorboard_folder else None
        self._curves = [curves for curves in (events, tracked) if curves is not None]
        self._tracked = tracked

    def progress(self, row: Mapping[str, Value]) -> None:
        """Write one row of `PROGRESS`."""
        self._write(self._progress, PROGRESS, row)

    def episode(self, game: FinishedEpisode, *, steps: int, seconds: float) -> None:
        """Write one finished training game, at these steps and seconds of the run."""
        cells = (steps, game.env, game.score, game.length_steps, seconds)
        self._write(self._episodes, EPISODES, dict(zip(EPISODE_COLUMNS, cells, strict=True)))

    def evaluation(self, row: Mapping[str, Value]) -> None:
        """Write one row of `EVALUATIONS`."""
        self._write(self._evaluations, EVALUATIONS, row)

    @property
    def takes_films(self) -> bool:
        """Whether a film of an evaluation arrives somewhere."""
        return self._tracked is not None and self._tracked.is_on

    def film(self, file: Path, *, steps: int) -> None:
        """Pass on a film of the evaluation at these steps; the file may vanish after that."""
        if self._tracked is not None:
            self._tracked.film(steps, "eval/film", file)

    def offsets(self) -> dict[str, int]:
        """Bytes of each CSV file, for the checkpoint; what they cover is on the disk."""
        for log in self._csv_logs:
            log.sync()
        return {log.path.name: log.offset for log in self._csv_logs}

    def rollback(self, offsets: Mapping[str, int], steps: int) -> None:
        """Go back to a checkpoint, before anything is logged.

        A file without an offset is emptied; TensorBoard forgets what came after `steps`.
        """
        for log in self._csv_logs:
            log.rollback(offsets.get(log.path.name, 0))
        for curves in self._curves:
            curves.purge(steps)

    def close(self) -> None:
        """Close every file."""
        for log in self._csv_logs:
            log.close()
        for curves in self._curves:
            curves.close()

    def _write(self, log: CsvLog, metrics: tuple[Metric, ...], row: Mapping[str, Value]) -> None:
        unknown = set(row) - {metric.name for metric in metrics}
        assert not unknown, f"{sorted(unknown)} are no columns of {log.path.name}"
        log.append(row)
        if self._curves:
            cells = ((metric.tag, row.get(metric.name)) for metric in metrics)
            points = {tag: float(cell) for tag, cell in cells if tag and cell is not None}
            present = {tag: point for tag, point in points.items() if not math.isnan(point)}
            for curves in self._curves:
                curves.scalars(int(float(row["steps"] or 0)), present)


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers) if numbers else math.nan
