"""The end of a search: its best trials and the recipe again, on other seeds, and the winner's file.

tuning/pong/
    finals/     a sweep of the best trials and the recipe
    best.yml    the winner, for dqn-train -c
"""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.plan import DEFAULT_EPISODES, PLAN_FILE, Sweep
from dqn_zoo.experiments.summary import Summary
from dqn_zoo.experiments.sweep import hold_sweep
from dqn_zoo.experiments.tuning import FAILURE, Goal
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.settings.yaml_reader import as_yaml
from dqn_zoo.system.files import replace_file

if TYPE_CHECKING:
    import optuna

BEST = "best.yml"

_TUNED = "dqn-tune"


def finals(
    study: "optuna.Study",
    folder: Path,
    goal: Goal,
    *,
    num_best: int,
    num_seeds: int,
    machine: Mapping[str, Any],
) -> Sweep:
    """Return the sweep of the best trials and of the recipe itself, on seeds no trial had.

    The best of many noisy trials owes a part of its score to luck, which other seeds do not repeat.
    At least one trial is complete.

    Raises:
        LockedError: another process makes the same plan.
        UserError: no trial is complete, or the folder holds finals of others.
    """
    place = folder / "finals"
    trials = best_trials(study)[:num_best]
    if not trials:
        reasons = [each.user_attrs.get(FAILURE) for each in study.get_trials(deepcopy=False)]
        last = next((reason for reason in reversed(reasons) if reason is not None), None)
        raise UserError(
            f"{folder} has no complete trial: raise --n-trials"
            + (", and use --pruner none" if last is None else f"; the last that failed: {last}")
        )
    variants = {"recipe": {}, **{f"trial-{each.number}": dict(each.params) for each in trials}}
    seeds = tuple(range(2, 2 + num_seeds))  # trials have seed 1
    plan = goal.plan(variants, seeds=seeds, episodes=DEFAULT_EPISODES)
    if not (place / PLAN_FILE).is_file():
        place.mkdir(parents=True, exist_ok=True)
        with hold_sweep(Sweep(place, plan)):
            if not (place / PLAN_FILE).is_file():
                Sweep.new(place, plan, machine).write()
    sweep = Sweep.open(place)
    if sweep.plan != plan:
        raise UserError(
            f"{place} holds finals of other trials or seeds: wait for the process that runs them, "
            "or if there is none remove the folder, and the same command runs the current ones"
        )
    return sweep


def best_trials(study: "optuna.Study") -> "list[optuna.trial.FrozenTrial]":
    """Return the complete trials, the best first."""
    from optuna.trial import TrialState

    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(trials, key=lambda trial: trial.value or 0.0, reverse=True)


def train_flags(goal: Goal, folder: Path) -> list[str]:
    """Return the flags of the dqn-train that takes the winner's settings."""
    return ["--env", goal.game, "--algo", goal.algo, "-c", str(folder / BEST)]


def write_best(folder: Path, goal: Goal, sweep: Sweep, summary: Summary) -> str:
    """Write the settings of the variant with the best mean over its seeds, and return its name."""
    [game] = {job.game for job in sweep.plan.jobs()}
    means = {
        name: float(games[game].scores("last").mean())
        for name, games in summary.cells.items()
        if games[game].runs
    }
    winner = max(means, key=lambda name: means[name])
    own = next(each.settings for each in sweep.plan.variants if each.name == winner)
    settings = {**goal.settings, **own}  # RL-Zoo's keys among them become ours
    flags = dict.fromkeys(settings, _TUNED)
    recipe = resolve(env=goal.game, algo=goal.algo, overrides=settings, flags=flags)
    lines = [
        f"# {winner} of dqn-tune: {means[winner]:.1f} after {goal.budget_steps:,} steps, mean of "
        f"{len(sweep.plan.seeds)} seeds; the recipe {goal.algo}: {means['recipe']:.1f}.",
        f"# {shlex.join(['dqn-train', *train_flags(goal, folder)])}",
        "atari:",
        *(
            f"  {key}: {as_yaml(getattr(recipe.config, key))}"
            for key, source in recipe.sources.items()
            if source == _TUNED
        ),
    ]
    replace_file(folder / BEST, ("\n".join(lines) + "\n").encode())
    return winner
