"""Runs that are shorter than their recipe means: what follows from the length is made to fit."""

from collections.abc import Collection

from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.config import Config

LEAST_COPIES = 10  # to the target network
LEAST_ROWS = 20  # of progress.csv


def ends_before_it_learns(config: Config) -> bool:
    """Return whether a run is all random play."""
    starts = config.learning_starts
    return "learning_starts" not in without_effect(config) and starts >= config.n_timesteps


def shortened(
    config: Config, *, usual_steps: int, asked: Collection[str]
) -> dict[str, int | float]:
    """Return the settings that a short run needs in place of those made for its usual length.

    Random play keeps its share of the run, and at least a minibatch; epsilon still falls while the
    run learns; target network, log and evaluation keep their periods unless too few would fit.

    Args:
        config: with the `n_timesteps` of the short run.
        usual_steps: that the other settings are made for.
        asked: keys that stay as they are.

    Returns:
        New values by key, only those that differ.
    """
    steps = config.n_timesteps
    starts = config.learning_starts
    if "learning_starts" not in asked:
        in_proportion = round(starts * steps / max(usual_steps, 1))
        starts = min(starts, max(in_proportion, config.batch_size), steps // 2)
    learning_steps = max(steps - starts, 1)
    fall = config.exploration_fraction
    if 0 < fall * steps <= starts:
        fall = round((starts + learning_steps / 2) / steps, 2)
    fitting: dict[str, int | float] = {
        "learning_starts": starts,
        "exploration_fraction": fall,
        "target_update_interval": _at_most(
            config.target_update_interval, learning_steps // LEAST_COPIES
        ),
        "eval_freq": min(config.eval_freq, steps),
        "log_interval": _at_most(config.log_interval, steps // LEAST_ROWS),
    }
    stays = {*asked, *without_effect(config)}
    return {
        key: value
        for key, value in fitting.items()
        if key not in stays and value != getattr(config, key)
    }


def _at_most(period: int, bound: int) -> int:
    return max(1, min(period, bound))
