"""What commands that let a trained agent play share: flags, the session they ask for, its games."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_zoo.cli.arguments import (
    add_env_kwargs,
    add_number,
    add_seed,
    device,
    flag_of,
    flag_value,
    parse_whole_number,
    whole_number,
)
from dqn_zoo.errors import UserError, plain

if TYPE_CHECKING:
    from rich.progress import Progress

    from dqn_zoo.play.evaluation import Game, Turn
    from dqn_zoo.play.film import Film
    from dqn_zoo.play.session import Session, Weights
    from dqn_zoo.runs.run import Run
    from dqn_zoo.settings.config import Config

DEFAULT_EPISODES = 10
MOST_EPISODES = 100_000  # that a results.json may be of


def add_whom(group: argparse._ArgumentGroup) -> None:
    """Add the flags that choose a run."""
    group.add_argument("--env", metavar="GAME", help="the latest run of this game (default: any)")
    group.add_argument(
        "--algo", metavar="NAME", help="the latest run of this recipe (default: any)"
    )
    group.add_argument(
        "--run", metavar="RUN", help="a run, by folder or name (default: the latest)"
    )
    group.add_argument(
        "--exp-id",
        type=flag_value(_run_number),
        default=0,
        metavar="N",
        help="number of the run; 0: the latest (default: 0)",
    )
    add_log_folder(group)


def add_log_folder(group: argparse._ArgumentGroup) -> None:
    """Add the flag that says where the runs are."""
    group.add_argument(
        "-f",
        "--folder",
        "--log-folder",
        type=Path,
        default=Path("logs"),
        metavar="FOLDER",
        help="where the runs are (default: logs)",
    )


def add_weights(group: argparse._ArgumentGroup) -> None:
    """Add the flags that choose among the weights of a run."""
    which = group.add_mutually_exclusive_group()
    for flag, weights, text in (
        ("--load-best", "best", "the model of the best evaluation (default, if there was one)"),
        ("--load-last", "last", "the last model"),
        ("--load-last-checkpoint", "last_checkpoint", "the newest checkpoint"),
    ):
        which.add_argument(flag, dest="weights", action="store_const", const=weights, help=text)
    which.add_argument(
        "--load-checkpoint",
        dest="weights",
        type=whole_number(0),
        metavar="N",
        help="the checkpoint of step N",
    )
    group.add_argument(
        "--weights",
        dest="kind",
        choices=("averaged", "online"),
        help="of a run that averages its weights: that average, or the weights that learn, of the "
        "last model unless another is named (default: what its evaluations played, the average)",
    )


def add_rules(group: argparse._ArgumentGroup) -> None:
    """Add the flags that depart from the rules of the run, and the seed."""
    group.add_argument(
        "--protocol",
        choices=("zoo", "machado", "sb3"),
        help="rules of play; settings in which the run departs from its own protocol stay "
        "(default: those of the run)",
    )
    epsilon = group.add_mutually_exclusive_group()
    epsilon.add_argument(
        "--epsilon",
        type=flag_value(_fraction),
        metavar="E",
        help="chance of a random action (default: the run's, else the protocol's)",
    )
    epsilon.add_argument(
        "--deterministic",
        dest="epsilon",
        action="store_const",
        const=0.0,
        help="always the best action: epsilon 0",
    )
    epsilon.add_argument("--stochastic", action="store_true", help="the default epsilon")
    add_env_kwargs(group)
    add_seed(group, default=0, help="seed of the games, never those of training (default: 0)")


def add_machine(group: argparse._ArgumentGroup, *, one_by_one: str = "") -> None:
    """Add the flags that decide the speed.

    Args:
        group: where they are added.
        one_by_one: what makes the command play its games one at a time, if anything does.
    """
    add_number(
        group,
        "--n-envs",
        least=1,
        most=4_096,
        help="games played at once (default: up to 8 for each core"
        + (f"; 1 {one_by_one})" if one_by_one else ")"),
    )
    add_number(
        group,
        "--num-threads",
        least=-1,
        most=1_024,
        default=0,
        help="threads that play, each with its share of the games"
        + (f" ({one_by_one}: threads of PyTorch)" if one_by_one else "")
        + "; 0, and RL-Zoo's -1: chosen from the cores (default: 0)",
    )
    group.add_argument(
        "--device",
        type=flag_value(device),
        choices=("auto", "cpu", "cuda", "mps"),
        default="auto",
        help="where the network lives (default: auto, a CUDA GPU where there is one)",
    )


def add_progress(group: argparse._ArgumentGroup) -> None:
    """Add the flag of the progress bar."""
    group.add_argument(
        "-P",
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar (default: none)",
    )


def find_asked_run(arguments: argparse.Namespace) -> "tuple[Run, Config]":
    """Return the run that --run, --env, --algo, --exp-id and -f choose, and its settings."""
    from dqn_zoo.runs.finding import find_run
    from dqn_zoo.settings.games import parse_game
    from dqn_zoo.settings.recipes import load_config

    game = None if arguments.env is None else parse_game(arguments.env).game
    run = find_run(
        arguments.folder,
        run=arguments.run,
        algo=arguments.algo,
        game=game if arguments.run is None else None,
        exp_id=arguments.exp_id,
    )
    config = load_config(run.config_file)
    if game is not None and game != config.env:
        raise UserError(
            f"--env {arguments.env}: {run.path} was trained on {config.env}; drop --env"
        )
    return run, config


def add_asked_agent(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that exports an agent of a run."""
    parser.add_argument(
        "asked", nargs="?", metavar="RUN", help="a run, by folder or name, as with --run"
    )
    add_whom(parser.add_argument_group("which agent to export"))
    add_weights(parser.add_argument_group("weights"))


def find_asked_agent(arguments: argparse.Namespace) -> "tuple[Run, Config, Weights]":
    """Return the run that `add_asked_agent` lets one name, its settings, and which weights."""
    from dqn_zoo.play.session import WeightsChoice, choose_weights

    if arguments.asked is not None:
        if arguments.run is not None:
            raise UserError(f"give a run once: {arguments.asked}, or --run {arguments.run}")
        arguments.run = arguments.asked
    run, config = find_asked_run(arguments)
    choice: WeightsChoice = "default" if arguments.weights is None else arguments.weights
    return run, config, choose_weights(run, choice, arguments.kind)


def refuse_beside(
    arguments: argparse.Namespace, flag: str, others: set[str], because: str = "names the agent"
) -> None:
    """Refuse flags that ask for something else than another flag does.

    Raises:
        UserError: one of them was given.
    """
    clash = sorted(others & arguments.given)
    if clash:
        several = {"weights": "--load-last and the like", "kind": "--weights"}
        given = several.get(clash[0], flag_of(clash[0]))
        raise UserError(f"{flag} {because}: leave out {given}")


def make_session(
    arguments: argparse.Namespace,
    run: "Run",
    config: "Config",
    *,
    num_games: int | None,
    weights: "Weights | None" = None,
    max_steps: int | None = None,
    has_window: bool = False,
    is_filmed: bool = False,
    is_kept: bool = False,
) -> "Session":
    """Return what the flags of a command ask for; PyTorch gets its threads.

    `weights` is given where no flag chooses them; `is_kept` says that every step is written down.
    """
    import torch

    from dqn_zoo.play.evaluation import ENVS_PER_CORE
    from dqn_zoo.play.session import Session, WeightsChoice, choose_weights
    from dqn_zoo.system.machine import choose_device, default_num_threads, usable_cores

    asked, cores, device = arguments.num_threads, usable_cores(), choose_device(arguments.device)
    num_threads = asked if asked > 0 else default_num_threads(device, cores)
    torch.set_num_threads(num_threads)
    choice: WeightsChoice = "default" if arguments.weights is None else arguments.weights
    one_by_one = has_window or is_filmed or is_kept or max_steps is not None
    num_envs = arguments.n_envs or (1 if one_by_one else ENVS_PER_CORE * cores)
    return Session(
        run=run,
        weights=weights or choose_weights(run, choice, arguments.kind),
        config=_as_played(config, arguments),
        seed=arguments.seed,
        num_games=num_games,
        max_steps=max_steps,
        num_envs=num_envs if num_games is None else min(num_envs, num_games),
        num_threads=num_threads,
        device=device,
        has_window=has_window,
        is_filmed=is_filmed,
    )


def play_games(
    session: "Session",
    q_values: Callable[[Any], Any],
    *,
    film: "Film | None" = None,
    on_turn: "Callable[[Turn], None] | None" = None,
    has_progress_bar: bool = False,
) -> "tuple[list[Game], KeyboardInterrupt | None]":
    """Play, print every game as it ends, and return the games and what ended them early."""
    from dqn_zoo.play.results import game_line
    from dqn_zoo.play.session import play_session

    games: list[Game] = []

    def on_game(game: "Game") -> None:
        games.append(game)
        progress.console.print(game_line(session, game))

    def on_progress(steps_played: int) -> None:
        done = steps_played if session.num_games is None else len(games)
        progress.update(progress.task_ids[0], completed=done, steps=steps_played)

    try:
        with _progress_bar(session, is_shown=has_progress_bar) as progress:
            play_session(
                session,
                q_values,
                on_game=on_game,
                on_progress=on_progress,
                film=film,
                on_turn=on_turn,
            )
    except KeyboardInterrupt as interruption:
        return games, interruption
    return games, None


def print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Take the place of `warnings.showwarning`: one line, no source code."""
    print(f"warning: {plain(message)}", file=sys.stderr)


def _run_number(text: str) -> int:
    number = parse_whole_number(text)
    if number == -1:
        raise UserError(
            "-1 is RL-Zoo's word for an agent outside the numbered folders; here --run RUN names "
            "any folder"
        )
    if number < 0:
        raise UserError(f"expected a whole number of at least 0, got {text}")
    return number


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UserError(f"expected a number from 0 to 1, got {text!r}")
    return value


def _as_played(config: "Config", arguments: argparse.Namespace) -> "Config":
    """Return the settings of the run under the protocol and the epsilon of the command line."""
    from dqn_zoo.play.session import with_rules

    played = with_rules(config, protocol=arguments.protocol, epsilon=arguments.epsilon)
    given = dict(vars(arguments).get("env_kwargs", ()))  # not every command has it
    return _with_env_kwargs(played, given)


def _with_env_kwargs(config: "Config", given: dict[str, object]) -> "Config":
    from dqn_zoo.settings.config import build_config
    from dqn_zoo.settings.game_modes import check_mode
    from dqn_zoo.settings.rl_zoo_keys import translate
    from dqn_zoo.settings.yaml_reader import Entry

    if not given:
        return config
    flag = "--env-kwargs"
    changes = {
        key: entry.value
        for key, entry in translate({"env_kwargs": Entry(given, flag)}).entries.items()
    }
    flags = dict.fromkeys(changes, flag)
    played = build_config(config.model_dump() | changes | {"backend": "auto"}, flags)
    try:
        check_mode(played.env, played.mode, played.difficulty)
    except UserError as error:
        raise UserError(f"{flag}: {error}") from None
    return played


def _progress_bar(session: "Session", *, is_shown: bool) -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} {task.description}"),
        TextColumn("{task.fields[steps]:,} steps"),
        TimeElapsedColumn(),
        console=Console(highlight=False, markup=False, soft_wrap=True),
        disable=not is_shown,
        transient=True,
    )
    unit, total = ("games", session.num_games) if session.num_games else ("", session.max_steps)
    progress.add_task(unit, total=total, steps=0)
    return progress
