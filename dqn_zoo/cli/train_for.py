"""dqn-train --for: the length of a run from the time that there is."""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dqn_zoo.errors import UserError
from dqn_zoo.settings.checks import check, warnings
from dqn_zoo.settings.expectations import EXPECTATIONS, STANDS_WITH, Expectation
from dqn_zoo.settings.protocols import protocol_from_config
from dqn_zoo.settings.recipe_files import packaged_folder
from dqn_zoo.settings.recipes import Resolved, resolve
from dqn_zoo.system.stopwatch import Stopwatch
from dqn_zoo.training.rates import about
from dqn_zoo.training.time_budget import LaterGames, duration, fit, summary, time_for

LEAST_S = 30.0


@dataclass(frozen=True, slots=True)
class Fitted:
    """A run that fits in the time.

    Attributes:
        resolved: its settings.
        seconds: what it will take from here on.
        lines: for the preview.
    """

    resolved: Resolved
    seconds: float
    lines: tuple[str, ...]


def fit_to_time(
    resolved: Resolved, flags: argparse.Namespace, overrides: "dict[str, str]", watch: Stopwatch
) -> Fitted:
    """Measure the speed here and choose the length of the run.

    `overrides` has the flag that gave each setting; `watch` runs since the command's start, which
    is where the time of --for begins.

    Raises:
        UserError: --for is given with what decides the length as well, or it is too short.
    """
    seconds: float = getattr(flags, "for")
    _refuse_beside(flags, overrides)
    if seconds < LEAST_S:
        raise UserError(
            f"--for {seconds:g}s is too short to measure the speed and learn: "
            f"the least is --for {LEAST_S:g}s"
        )
    from dqn_zoo.training.measuring import learning_seconds, measure
    from dqn_zoo.training.preparation import check_memory, complete

    save_freq = resolved.config.save_freq  # left open, it follows from the length
    config = complete(resolved.config).model_copy(update={"save_freq": save_freq})
    check_memory(config)
    asked = {key for key, source in resolved.sources.items() if source in overrides.values()}
    expected = _expectation(resolved)
    later = None
    if expected is not None and expected.game_steps is not None:
        later = LaterGames(expected.game_steps, expected.steps)
    print(
        f"measuring the speed for {about(2 * learning_seconds(seconds))} or a little more ...",
        file=sys.stderr,
        flush=True,
    )
    speed = measure(config, seconds)
    spent_s = sum(watch.seconds().values())
    changes = fit(config, speed, seconds, spent_s=spent_s, asked=asked, later=later)
    chosen = config.model_copy(update=changes)
    check(chosen)
    takes = duration(chosen, speed, later)
    lines = [f"  time         {summary(chosen, speed, takes, seconds)}"]
    if expected is not None and _is_as_measured(resolved):
        reaches_s = None
        if chosen.n_timesteps < expected.steps:
            longer = config.model_copy(update={"n_timesteps": expected.steps})
            reaches_s = time_for(spent_s + duration(longer, speed, later).seconds)
        lines += _expected_lines(expected, config.algo, chosen.n_timesteps, reaches_s)
    return Fitted(_changed(resolved, changes, seconds), takes.seconds, tuple(lines))


def _refuse_beside(flags: argparse.Namespace, overrides: "dict[str, str]") -> None:
    if "n_timesteps" in overrides:
        raise UserError(
            f"--for chooses n_timesteps, and {overrides['n_timesteps']} sets it: leave one of "
            "them out; --time-limit stops a run of given steps"
        )
    if flags.time_limit is not None:
        raise UserError("--for ends the run in time by itself: leave --time-limit out")


def _expectation(resolved: Resolved) -> Expectation | None:
    """Return what is known of the recipe and the game; of somebody's own recipe nothing is."""
    path, config = resolved.recipe_path, resolved.config
    packaged = path is not None and path.resolve().parent == packaged_folder().resolve()
    usual = config.protocol == "zoo" and protocol_from_config(config).is_usual_game
    if not packaged or not usual:
        return None
    return EXPECTATIONS.get((config.algo, config.env))


def _is_as_measured(resolved: Resolved) -> bool:
    """Return whether the recipe learns as it is in the package."""
    config = resolved.config
    packaged = resolve(env=config.env, algo=config.algo).config.model_dump(exclude=STANDS_WITH)
    return config.model_dump(exclude=STANDS_WITH) == packaged


def _expected_lines(
    expected: Expectation, algo: str, steps: int, reaches_s: float | None
) -> Iterator[str]:
    if reaches_s is not None:
        yield (
            f"  warning      {expected.event} after some {expected.steps:,} steps of {algo}; "
            f"{steps:,} are likely too few: --for {math.ceil(reaches_s / 60)}m would reach it"
        )
        return
    yield (
        f"  expect       {expected.event} after some {expected.steps:,} steps of {algo}, which "
        f"reached {expected.reached} after {expected.reached_after:,}"
    )


def _changed(resolved: Resolved, changes: "dict[str, int | float]", seconds: float) -> Resolved:
    before = resolved.config
    sources = dict(resolved.sources)
    for key in changes:
        sources[key] = (
            f"for {about(seconds)} here; {getattr(before, key):,} in {resolved.sources[key]}"
        )
    config = before.model_copy(update=changes)
    old = warnings(before)
    kept = [line for line in resolved.warnings if line not in old]
    return replace(resolved, config=config, sources=sources, warnings=(*kept, *warnings(config)))
