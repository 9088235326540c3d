"""The speed of a run on this machine, as loaded as it is: the real parts, for some seconds.

A trainer of its own plays and learns in the real loop; of it nothing is used but the times.
"""

import contextlib
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch

from dqn_zoo.algorithms.replay_plan import with_mean_train_freq
from dqn_zoo.errors import UserError
from dqn_zoo.play.evaluation import evaluation_seeds, play
from dqn_zoo.runs.metrics import FinishedEpisode
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config
from dqn_zoo.system.files import write_file
from dqn_zoo.system.signals import Stop
from dqn_zoo.system.stopwatch import Stopwatch
from dqn_zoo.training.duties import Duties
from dqn_zoo.training.invocation import prepare_process, started
from dqn_zoo.training.loop import training_loop
from dqn_zoo.training.snapshot import snapshot
from dqn_zoo.training.time_budget import Speed, too_short
from dqn_zoo.training.trainer import Trainer

RANDOM_STEPS = 2_000  # most of random play; the first updates draw from them
BUFFER_SIZE = 100_000  # at most; what is not written takes no memory on a CPU
LEARNING_S = 8.0  # at most
LEARNING_SHARE = 0.04  # of the time that there is, at most
WARM_UP, EVALUATION = 0.25, 0.4  # as long as that part of the measured learning
ONE_GAME = 1.5  # at most so many times as long as the evaluation, where no game of it has ended
FIRST_PERIODS = 8  # at least so many rounds of updates until it is warm
LATER_GAMES = 1.5
"""As long as a beginner's are taken to be the games of a run, where nobody knows: who plays better
often plays longer."""


def learning_seconds(seconds: float) -> float:
    """Return how long learning is measured if there is so much time."""
    return min(LEARNING_S, LEARNING_SHARE * seconds)


def measure(config: Config, seconds: float) -> Speed:
    """Measure how fast a run is, in a small part of the seconds that there are for it.

    Its settings are complete.

    Raises:
        UserError: too little, as was seen while measuring.
    """
    prepare_process(config)
    small = {
        "learning_starts": max(min(config.learning_starts, RANDOM_STEPS), 1),
        "buffer_size": max(min(config.buffer_size, BUFFER_SIZE), config.batch_size),
    }
    try:
        return _measured(with_mean_train_freq(config.model_copy(update=small)), seconds)
    finally:  # the run needs the memory
        gc.collect()
        if config.device == "cuda":
            torch.cuda.empty_cache()


def _measured(config: Config, seconds: float) -> Speed:
    began = time.monotonic()
    with contextlib.closing(started(config, Stopwatch())) as trainer:
        return _measure(trainer, time.monotonic() - began, seconds)


def _measure(trainer: Trainer, build_s: float, seconds: float) -> Speed:
    config = trainer.config
    learning_s, asked = learning_seconds(seconds), time.monotonic() + seconds / 2
    parallel = config.algorithm == "parallel"
    random_steps = 0 if parallel else config.learning_starts
    random_s = _go_on(trainer, random_steps)
    period = (
        config.rollout_steps * config.n_envs
        if parallel
        else math.lcm(config.n_envs, config.train_freq)
    )
    periods = _periods(trainer, period, give_up_at=asked, seconds=seconds)
    warm_s, warm_periods = _until(periods, WARM_UP * learning_s, FIRST_PERIODS)
    took_s, num_periods = _until(periods, learning_s, 1)
    step_s = took_s / num_periods / period
    trained = trainer.statistics.length_mean
    evaluation_start_s, evaluation_step_s, evaluated = _evaluation(trainer, EVALUATION * learning_s)
    save_s, frames_s = _saving(trainer)
    # A GPU's graph is recorded again; what a CPU's first updates wait for is there by now.
    recording_s = warm_s - warm_periods * period * step_s if config.device == "cuda" else 0.0
    return Speed(
        start=build_s + max(0.0, recording_s),
        random_step=random_s / random_steps if random_steps else step_s,
        learning_step=step_s,
        evaluation_start=evaluation_start_s,
        evaluation_step=evaluation_step_s,
        game_steps=_later_game_steps(config, trained, evaluated),
        save=save_s,
        save_step=frames_s / trainer.algorithm.steps,
    )


def _later_game_steps(config: Config, trained: float, evaluated: float) -> float:
    """Return how long games will get; the protocol ends those that are longer.

    `trained` and `evaluated` are the mean steps of games so far; NaN: none has ended.
    """
    game_steps = evaluated if math.isnan(trained) else max(trained, evaluated)
    protocol = protocol_from_config(config)
    return min(LATER_GAMES * game_steps, protocol.max_frames / protocol.frame_skip)


class _NoDuties:
    """Between the steps of a trainer that only measures nothing is due."""

    def perform(self) -> None:
        pass

    def note_games(self, games: list[FinishedEpisode]) -> None:
        pass


def _go_on(trainer: Trainer, steps: int) -> float:
    """Make so many more steps and return the seconds."""
    began = time.perf_counter()
    duties = cast("Duties", _NoDuties())
    training_loop(trainer, duties, Stop(None), until_steps=trainer.algorithm.steps + steps)
    if trainer.config.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _periods(
    trainer: Trainer, period: int, *, give_up_at: float, seconds: float
) -> Iterator[float]:
    """Learn for ever; yield the seconds of every `period` steps.

    Raises:
        UserError: half the time is over.
    """
    while True:
        yield _go_on(trainer, period)
        if time.monotonic() > give_up_at:
            raise UserError(too_short(seconds, 4 * seconds))


def _until(periods: Iterator[float], seconds: float, least: int) -> tuple[float, int]:
    """Take periods until so many, and so many seconds, are over; return their sum and number."""
    total_s, number = 0.0, 0
    while total_s < seconds or number < least:
        total_s += next(periods)
        number += 1
    return total_s, number


class _SeenEnoughError(Exception):
    """The evaluation was watched for long enough."""


def _evaluation(trainer: Trainer, seconds: float) -> tuple[float, float, float]:
    """Watch an evaluation of the run for some seconds.

    Returns:
        Seconds until its first step, seconds of each step, and the mean steps of a game: of those
        that ended, or of all so far, if that is more.
    """
    began = time.perf_counter()
    begins: tuple[float, int] | None = None
    now = (began, 0)
    lengths: list[int] = []

    def on_progress(steps: int) -> None:
        nonlocal begins, now
        now = (time.perf_counter(), steps)
        if steps and begins is None:
            begins = now
        if begins is not None and now[0] - begins[0] > seconds:
            raise _SeenEnoughError

    with contextlib.suppress(_SeenEnoughError):
        trainer.evaluate(
            0, on_progress=on_progress, on_game=lambda game: lengths.append(game.length_steps)
        )
    assert begins is not None, "an evaluation has steps"
    ended = lengths or [_one_game(trainer, ONE_GAME * seconds)]
    game_steps = max(statistics.fmean(ended), now[1] / trainer.config.eval_episodes)
    if now[1] == begins[1]:  # over before it was looked at again
        return 0.0, (now[0] - began) / now[1], game_steps
    step_s = (now[0] - begins[0]) / (now[1] - begins[1])
    start_s = max(0.0, begins[0] - began - begins[1] * step_s)
    return start_s, step_s, game_steps


def _one_game(trainer: Trainer, seconds: float) -> int:
    """Play a game of an evaluation alone; return its steps, or those made in so many seconds."""
    config = trainer.config
    assert config.seed is not None
    turns = play(
        trainer.algorithm.q_values,
        game=config.env,
        settings=trainer.evaluation_settings,
        seeds=evaluation_seeds(config.seed, 0, 1),
    )
    steps, give_up_at = 0, time.monotonic() + seconds
    with contextlib.closing(turns):
        for turn in turns:
            steps += 1
            if turn.finished or time.monotonic() > give_up_at:
                break
    return steps


def _saving(trainer: Trainer) -> tuple[float, float]:
    """Write a checkpoint away: seconds of all but the frames, and seconds of these."""
    frames_s = other_s = 0.0
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        for name, content in snapshot(trainer, {}, None):
            write_file(Path(folder) / name, content or b"")
            now = time.perf_counter()
            if name.startswith("frames"):
                frames_s += now - began
            else:
                other_s += now - began
            began = now
    return other_s, frames_s
