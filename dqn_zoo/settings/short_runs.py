"""Runs of another length than their recipe means: what follows from the length is made to fit."""

from collections.abc import Collection, Mapping, Sequence

from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.yaml_reader import Entry

LEAST_COPIES = 10  # to the target network
LEAST_ROWS = 20  # of progress.csv
MOST_RANDOM_PLAY = 0.1  # of a run, unless its recipe has more
MOST_FALL = 0.25  # of epsilon, likewise


def default_save_freq(n_timesteps: int, device: str) -> int:
    """Return the steps between checkpoints, rarer where steps are fast and the run is long."""
    return 100_000 if device == "cpu" else min(1_000_000, max(100_000, n_timesteps // 10))


def ends_before_it_learns(config: Config) -> bool:
    """Return whether a run is all random play."""
    starts = config.learning_starts
    return "learning_starts" not in without_effect(config) and starts >= config.n_timesteps


def shortened(
    config: Config, *, usual_steps: int, asked: Collection[str]
) -> dict[str, int | float]:
    """Return the settings that a short run needs in place of those made for its usual length.

    Random play keeps its share of the run, and at least a minibatch; epsilon still falls while the
    run learns; target network, log and evaluation keep their periods unless too few would fit. Keys
    that somebody asked for stay as they are.

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


def of_length(
    config: Config, steps: int, *, evaluations: int, asked: Collection[str]
) -> dict[str, int | float]:
    """Return the settings with which a run makes so many steps, fewer or more than its recipe.

    Random play and the fall of epsilon stay as long as the recipe has them, in steps, unless they
    would take too much of a short run; the rest is that of `shortened`. The last of the evaluations
    comes at the end.

    Returns:
        New values by key, only those that differ.
    """
    usual, starts, share = config.n_timesteps, config.learning_starts, config.exploration_fraction
    most_starts = max(int(steps * max(MOST_RANDOM_PLAY, starts / usual)), config.batch_size)
    most_share = max(MOST_FALL, share)
    lengths: dict[str, int | float] = {
        "n_timesteps": steps,
        "learning_starts": min(starts, most_starts, steps // 2),
        "exploration_fraction": float(f"{min(share * usual / steps, most_share):.4g}"),
        "eval_freq": steps // evaluations if evaluations else config.eval_freq,
    }
    idle = without_effect(config)
    lengths = {key: value for key, value in lengths.items() if key not in {*asked, *idle}}
    changed = config.model_copy(update=lengths)
    lengths |= shortened(changed, usual_steps=steps, asked=asked)
    return {key: value for key, value in lengths.items() if value != getattr(config, key)}


def fitted(
    config: Config, layers: Sequence[Mapping[str, Entry]], sources: dict[str, str]
) -> tuple[Config, list[str]]:
    """Make a run that would end before it learns short instead; keep `sources` true, and note it.

    What was set together with `n_timesteps`, or over it, is what somebody asked for.
    """
    usual_steps: object = None
    steps: object = Config.model_fields["n_timesteps"].default
    asked: set[str] = set()
    for layer in layers:
        if "n_timesteps" in layer:
            usual_steps, steps, asked = steps, layer["n_timesteps"].value, set()
        asked |= layer.keys()
    if "learning_starts" in asked or not ends_before_it_learns(config):
        return config, []
    usual = int(usual_steps) if isinstance(usual_steps, int | float) else config.n_timesteps
    changes = shortened(config, usual_steps=usual, asked=asked)
    told = []
    for key, value in changes.items():
        old = getattr(config, key)
        told.append(f"{key} {value:,} instead of {old:,}")
        sources[key] = f"for {config.n_timesteps:,} steps; {old:,} in {sources[key]}"
    note = f"a short run of settings for {usual:,} steps: {', '.join(told)}; --set decides"
    return config.model_copy(update=changes), [note]


def _at_most(period: int, bound: int) -> int:
    return max(1, min(period, bound))
