"""A run for the time that somebody has: from measured speeds to its steps.

    start + random play + learning + evaluations + checkpoints = the time, but for a margin

Everything whose length follows from the number of steps follows: see `settings/short_runs.py`. What
is chosen is fixed for the run, so that a resume is exact; if the machine gets slower, the time
limit ends the run before its schedules.
"""

from collections.abc import Collection
from typing import NamedTuple

from dqn_zoo.algorithms.replay_plan import updates_owed, with_mean_train_freq
from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.short_runs import default_save_freq, of_length
from dqn_zoo.training.rates import about

MARGIN, MARGIN_S = 0.03, 1.0  # of the time, and seconds, for what changes meanwhile
MOST_EVALUATION = 0.1  # of the time
LEAST_STEPS_SHARE = 1 / 3  # of the time must be left to play and learn
MOST_STEPS = 10**12
AT_ONCE = 3  # checkpoints that no period calls for: two early ones, one at the end


class Speed(NamedTuple):
    """What was measured here, in seconds.

    Attributes:
        start: until a run makes its first step, and on a GPU what the first updates take longer.
        random_step: a step before learning starts.
        learning_step: a step with its share of the updates.
        evaluation_start: of the emulators of evaluations, which are kept from the first one on.
        evaluation_step: a step of one of its games.
        game_steps: of a beginner's game.
        save: a checkpoint without its memory.
        save_step: of what a step adds to the memory, once.
    """

    start: float
    random_step: float
    learning_step: float
    evaluation_start: float
    evaluation_step: float
    game_steps: float
    save: float
    save_step: float


class LaterGames(NamedTuple):
    """How long games get: so many steps each, in runs of at least `from_steps`."""

    game_steps: float
    from_steps: int


class Duration(NamedTuple):
    """Where the seconds of a run will go."""

    start: float
    random_play: float
    learning: float
    evaluations: float
    saving: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return sum(self)


def duration(config: Config, speed: Speed, later: LaterGames | None = None) -> Duration:
    """Return how long a run will take, all of it settled but perhaps `save_freq`.

    `later` says how long games get, if it is known.
    """
    steps = config.n_timesteps
    random_steps = 0 if config.algorithm == "parallel" else min(config.learning_starts, steps)
    evaluations = steps // config.eval_freq if config.eval_freq else 0
    every = config.save_freq
    if every is None:
        every = default_save_freq(steps, config.device)
    saves = (steps // every if every else 0) + AT_ONCE
    return Duration(
        start=speed.start,
        random_play=random_steps * speed.random_step,
        learning=(steps - random_steps) * speed.learning_step * _updates_share(config),
        evaluations=speed.evaluation_start + evaluations * _evaluation_s(config, speed, later)
        if evaluations
        else 0.0,
        saving=saves * speed.save + steps * speed.save_step,
    )


def _updates_share(config: Config) -> float:
    """Return the updates of a run as a share of those at the mean rate, at which it is measured.

    Random play is part of the first half alone, so that more of what learns is in the second.
    """
    if config.train_freq_later is None:
        return 1.0
    as_measured = updates_owed(with_mean_train_freq(config), config.n_timesteps)
    return updates_owed(config, config.n_timesteps) / max(as_measured, 1)


def fit(
    config: Config,
    speed: Speed,
    seconds: float,
    *,
    spent_s: float,
    asked: Collection[str] = (),
    later: LaterGames | None = None,
) -> dict[str, int | float]:
    """Return the settings with which a run takes so long, of which `spent_s` are over already.

    Keys that somebody asked for stay as they are.

    Raises:
        UserError: too little is left to learn in.
    """
    left_s = seconds - MARGIN * seconds - MARGIN_S - spent_s
    if later is not None:  # the games of a run that ends before get no longer
        without_evaluations = config.model_copy(
            update={"n_timesteps": later.from_steps, "eval_freq": 0}
        )
        later = later if duration(without_evaluations, speed).seconds <= left_s else None
    evaluations = _evaluations(config, speed, seconds, later)

    def changes(steps: int) -> dict[str, int | float]:
        return of_length(config, steps, evaluations=evaluations, asked=asked)

    def takes(steps: int) -> Duration:
        return duration(config.model_copy(update=changes(steps)), speed, later)

    least = takes(max(evaluations, 1))
    if left_s - least.seconds < LEAST_STEPS_SHARE * seconds:
        raise UserError(too_short(seconds, 2 * (spent_s + least.seconds)))
    low, high = 1, MOST_STEPS
    while high - low > 1:
        middle = (low + high) // 2
        if takes(middle).seconds <= left_s:
            low = middle
        else:
            high = middle
    pieces = 1 if "eval_freq" in asked else max(evaluations, 1)
    return changes(pieces * readable(low // pieces))


def time_for(seconds: float) -> float:
    """Return the time to ask for if so much of it is needed."""
    return (seconds + MARGIN_S) / (1 - MARGIN)


def readable(number: int) -> int:
    """Round down to three digits."""
    unit = int(10 ** max(0, len(str(number)) - 3))
    return max(1, number // unit * unit)


def too_short(seconds: float, least_s: float) -> str:
    """Say how long is long enough."""
    enough = 30 * (int(max(least_s, seconds) / 30) + 1)
    minutes, rest = divmod(enough, 60)
    flag = (f"{minutes}m" if minutes else "") + (f"{rest}s" if rest else "")
    return (
        f"--for {seconds:g}s is too short to measure the speed, start, learn and evaluate here: "
        f"the least is --for {flag}"
    )


def _evaluations(config: Config, speed: Speed, seconds: float, later: LaterGames | None) -> int:
    """Return how many evaluations there will be: as in the recipe, or fewer in a short time."""
    if not config.eval_freq:
        return 0
    usual = max(1, config.n_timesteps // config.eval_freq)
    most_s = MOST_EVALUATION * seconds - speed.evaluation_start
    fit_in = int(most_s / _evaluation_s(config, speed, later))
    return max(1, min(usual, fit_in))


def _evaluation_s(config: Config, speed: Speed, later: LaterGames | None) -> float:
    game_steps = speed.game_steps
    if later is not None and config.n_timesteps >= later.from_steps:
        game_steps = max(game_steps, later.game_steps)
    return config.eval_episodes * game_steps * speed.evaluation_step


def summary(config: Config, speed: Speed, takes: Duration, seconds: float) -> str:
    """Say what the time comes to here."""
    rates = f"{1 / speed.learning_step:,.0f} a second"
    if takes.random_play:
        rates += f", {1 / speed.random_step:,.0f} before it learns"
    parts = []
    if takes.evaluations:
        count = config.n_timesteps // config.eval_freq
        each = "evaluation takes" if count == 1 else "evaluations take"
        parts.append(f"{count} {each} {about(takes.evaluations)}")
    parts.append(f"saving {about(takes.saving)}")
    return (
        f"{about(seconds)} are about {config.n_timesteps:,} steps here: {rates}; {', '.join(parts)}"
    )
