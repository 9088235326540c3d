"""dqn-tune: search hyperparameters, run the best again on other seeds, and write the winner."""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_zoo.cli.arguments import (
    Parser,
    add_number,
    add_seed,
    add_set,
    command,
    flag_value,
    parse_whole_number,
    parsed_by,
    settings_of,
)
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.refused_flags import REFUSED_TUNE, add_refused_flags
from dqn_zoo.errors import UserError
from dqn_zoo.system import shell

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from dqn_zoo.experiments.sweep import Launch
    from dqn_zoo.experiments.tuning import Goal

_EPILOG = """\
  dqn-tune --env SpaceInvaders --algo dqn --n-trials 50 --budget-steps 300000
  dqn-tune --env Pong --algo laptop --search mine.yml --n-jobs 2 -f tuning/pong

The same command continues a study that was stopped; see docs/experiments.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-tune."""
    parser = Parser("dqn-tune", "Search the hyperparameters of a recipe on one game.", _EPILOG)
    _add_what_is_tuned(parser.add_argument_group("what is tuned"))
    _add_how(parser.add_argument_group("how"))
    finals = parser.add_argument_group("finals")
    add_number(
        finals,
        "--top",
        least=0,
        default=3,
        help="best trials that are run again beside the recipe; 0: none (default: 3)",
    )
    add_number(finals, "--seeds", least=1, default=3, help="seeds of each (default: 3)")
    parser.add_argument(
        "-f",
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="folder of the study; an existing one is continued (default: tuning/ALGO-GAME)",
    )
    add_refused_flags(parser, REFUSED_TUNE)
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> int:
    """Run dqn-tune and return its exit code: 0, 1 where a final failed, 2 for a user's mistake."""
    from dqn_zoo.experiments.job_needs import machine_settings
    from dqn_zoo.experiments.plots import draw_study
    from dqn_zoo.experiments.search import find_space, read_space
    from dqn_zoo.experiments.tuning import Goal, open_study, optimize
    from dqn_zoo.settings.games import parse_game

    game = parse_game(arguments.env).game
    folder = arguments.folder or Path("tuning") / f"{arguments.algo}-{game}"
    space = read_space(find_space(arguments.search))
    goal = Goal(
        game=arguments.env,
        algo=arguments.algo,
        settings=_settings(arguments, space.ranges),
        budget_steps=arguments.budget_steps,
    )
    machine = machine_settings(arguments.n_jobs)
    launch = _launcher(arguments, folder, goal, machine)
    if arguments.dry_run:
        return 0
    study = open_study(
        folder,
        goal,
        space,
        sampler=arguments.sampler,
        pruner=arguments.pruner,
        seed=arguments.seed,
        storage=arguments.storage,
    )
    optimize(
        study,
        folder,
        goal,
        space,
        launch,
        num_trials=arguments.n_trials,
        num_jobs=arguments.n_jobs,
        machine=machine,
        on_trial=lambda trial: print(_trial_line(study, trial), flush=True),
    )
    for picture in draw_study(study, folder):
        print(f"picture: {picture}")
    return _finals(study, folder, goal, arguments, launch, machine) if arguments.top else 0


def _add_what_is_tuned(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--env", default="SpaceInvaders", metavar="GAME", help="the game (default: SpaceInvaders)"
    )
    group.add_argument(
        "--algo", default="laptop", metavar="NAME", help="recipe to start from (default: laptop)"
    )
    group.add_argument(
        "--budget-steps",
        type=flag_value(parse_whole_number),
        default=100_000,
        metavar="N",
        help="steps of every trial (default: 100,000)",
    )
    add_set(group, "single settings of all trials; may be repeated")
    group.add_argument(
        "--search",
        default="atari",
        metavar="NAME",
        help="search space: a name in hyperparams/search/, or a file (default: atari)",
    )


def _add_how(group: argparse._ArgumentGroup) -> None:
    add_number(group, "--n-trials", least=1, default=50, help="trials (default: 50)")
    group.add_argument("--sampler", choices=("tpe", "random"), default="tpe", help="(default: tpe)")
    group.add_argument(
        "--pruner",
        choices=("halving", "median", "none"),
        default="halving",
        help="stops hopeless trials by their evaluations (default: halving)",
    )
    add_seed(group, default=0, help="seed of the search (default: 0)")
    add_number(group, "--n-jobs", least=1, default=1, help="trials at once (default: 1)")
    group.add_argument(
        "--storage",
        metavar="URL",
        help="database that several machines share (default: a journal in the folder)",
    )
    group.add_argument(
        "--ray", metavar="ADDRESS", help="run the trials on a Ray cluster: its address, or auto"
    )
    group.add_argument("--dry-run", action="store_true", help="show the cost, and stop")


def _settings(arguments: argparse.Namespace, searched: "Mapping[str, object]") -> dict[str, Any]:
    settings = settings_of(arguments)
    if "n_timesteps" in settings:
        raise UserError("--set n_timesteps: --budget-steps sets the steps of every trial")
    if "seed" in settings:
        raise UserError("--set seed: every trial has seed 1, and finals others (--seeds)")
    if arguments.top == 0 and "seeds" in arguments.given:
        raise UserError("--seeds are those of the finals, and --top 0 has none: leave one out")
    every = settings.get("eval_freq", 1)
    if isinstance(every, int | float) and not 1 <= every <= arguments.budget_steps:
        raise UserError(
            f"--set eval_freq={every}: a trial is judged by its evaluations, so that there must be "
            f"one every 1 to {arguments.budget_steps:,} steps"
        )
    for key in settings:
        if key in searched:
            raise UserError(f"--set {key}: the search space has it, too; take it out of one")
    return settings


def _launcher(
    arguments: argparse.Namespace, folder: Path, goal: "Goal", machine: "Mapping[str, Any]"
) -> "Launch":
    """Say what the study costs; refuse what cannot run; return what starts its jobs."""
    from dqn_zoo.experiments.job_needs import jobs_at_once, needs_of_jobs, side_by_side
    from dqn_zoo.experiments.plan import Sweep
    from dqn_zoo.experiments.sweep import JobProcess
    from dqn_zoo.experiments.tuning import TRIAL
    from dqn_zoo.training.rates import about

    nowhere = folder / "trials" / "none"  # a sweep that is never written
    sweep = Sweep.new(nowhere, goal.plan({TRIAL: {}}, seeds=(1,), episodes=1), machine)
    [need] = needs_of_jobs(sweep.configs()).values()
    num_finals = (1 + arguments.top) * arguments.seeds if arguments.top else 0
    all_s, finals_s = (
        need.seconds * number / side_by_side([need], min(arguments.n_jobs, max(number, 1)))
        for number in (arguments.n_trials, num_finals)
    )
    for note in sweep.notes:
        print(f"note: {note}")
    for warning in sweep.warnings:
        print(f"warning: {warning}")
    print(
        f"{arguments.n_trials} trials of {goal.budget_steps:,} steps, {arguments.n_jobs} at once: "
        f"about {about(need.seconds)} each, {about(all_s)} together if none is "
        f"stopped early, then {about(finals_s) if arguments.top else 'no time'} for the "
        "finals, beside evaluations",
        flush=True,
    )
    if need.busy_note is not None:
        print(f"each: {need.busy_note}", flush=True)
    if arguments.ray is None:
        jobs_at_once([need], arguments.n_jobs, num_left=max(arguments.n_trials, num_finals))
        return JobProcess
    from dqn_zoo.experiments.cluster import Cluster

    cluster = Cluster(arguments.ray)
    return lambda sweep, job: cluster.launch(sweep, job, need)


def _trial_line(study: "Study", trial: "FrozenTrial") -> str:
    """Say how a trial ended, and which is the best so far."""
    from dqn_zoo.experiments.tuning import CUT_OFF, FAILURE
    from dqn_zoo.experiments.tuning_finals import best_trials

    values = trial.intermediate_values
    if trial.value is not None and trial.state.name == "COMPLETE":
        how = f"{trial.value:,.1f}"
    elif trial.state.name == "PRUNED":
        step = max(values, default=0)
        how = f"stopped at step {step:,} with {values.get(step, float('nan')):,.1f}"
    elif CUT_OFF in trial.user_attrs:
        how = "cut off and saved; the same command continues it"
    else:
        how = f"failed: {trial.user_attrs.get(FAILURE, 'no reason is known')}"
    settings = ", ".join(f"{key} {_short(value)}" for key, value in trial.params.items())
    best = next(iter(best_trials(study)), None)
    known = "" if best is None else f"; best {best.value:,.1f}, trial {best.number}"
    return f"trial {trial.number}: {how} ({settings}){known}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _finals(
    study: "Study",
    folder: Path,
    goal: "Goal",
    arguments: argparse.Namespace,
    launch: "Launch",
    machine: "Mapping[str, Any]",
) -> int:
    """Run the best trials and the recipe on other seeds, and write the winner."""
    from rich.console import Console

    from dqn_zoo.experiments.board import Board
    from dqn_zoo.experiments.summary import as_markdown, summarize_sweep
    from dqn_zoo.experiments.sweep import work_off
    from dqn_zoo.experiments.tuning_finals import BEST, finals, train_flags, write_best
    from dqn_zoo.system.locks import LockedError

    try:
        sweep = finals(
            study, folder, goal, num_best=arguments.top, num_seeds=arguments.seeds, machine=machine
        )
        print(f"finals in {sweep.folder}: {', '.join(each.name for each in sweep.plan.variants)}")
        with Board(Console()) as board:
            statuses = work_off(sweep, launch, arguments.n_jobs, board.show)
    except LockedError:  # several machines share the study
        print(f"another process runs the finals, and writes {folder / BEST}")
        return 0
    work_is_kept()
    summary = summarize_sweep(sweep)
    print(as_markdown(summary), end="")
    failed = [job.name for job, status in statuses.items() if status.state == "failed"]
    if failed:
        print(f"{', '.join(failed)} failed; the same command tries again", file=sys.stderr)
        return 1
    winner = write_best(folder, goal, sweep, summary)
    print(f"best: {winner}; {shell.command('dqn-train', *train_flags(goal, folder))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
