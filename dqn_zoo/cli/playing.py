"""From flags to a session of play, and the session played before the user's eyes."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from dqn_zoo.play.evaluation import Game
    from dqn_zoo.play.film import Film
    from dqn_zoo.play.session import Session, Weights
    from dqn_zoo.runs.run import Run
    from dqn_zoo.settings.config import Config


def find_asked_run(arguments: argparse.Namespace) -> "tuple[Run, Config]":
    """Return the run that --run, --env, --algo, --exp-id and -f choose, and its settings."""
    from dqn_zoo.runs.run import find_run
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
) -> "Session":
    """Return what the flags of `play_arguments` ask for; PyTorch gets its threads.

    `weights` is given where no flag chooses them.
    """
    import torch

    from dqn_zoo.play.evaluation import ENVS_PER_CORE
    from dqn_zoo.play.session import Session, WeightsChoice, choose_weights
    from dqn_zoo.system.machine import choose_device, default_num_threads, usable_cores

    asked, cores, device = arguments.num_threads, usable_cores(), choose_device(arguments.device)
    num_threads = asked if asked > 0 else default_num_threads(device, cores)
    torch.set_num_threads(num_threads)
    choice: WeightsChoice = "default" if arguments.weights is None else arguments.weights
    one_by_one = has_window or is_filmed or max_steps is not None
    num_envs = arguments.n_envs or (1 if one_by_one else ENVS_PER_CORE * cores)
    return Session(
        run=run,
        weights=weights or choose_weights(run, choice),
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
    has_progress_bar: bool = False,
) -> "tuple[list[Game], bool]":
    """Play, print every game as it ends, and return the games and whether Ctrl-C ended them."""
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
            play_session(session, q_values, on_game=on_game, on_progress=on_progress, film=film)
    except KeyboardInterrupt:
        return games, True
    return games, False


def print_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Take the place of `warnings.showwarning`: one line, no source code."""
    print(f"warning: {message}", file=sys.stderr)


def _as_played(config: "Config", arguments: argparse.Namespace) -> "Config":
    """Return the settings of the run under the protocol and the epsilon of the command line."""
    changes: dict[str, object] = {}
    if arguments.protocol is not None:
        changes |= {"protocol": arguments.protocol, "backend": "auto"}  # not every one serves it
    if arguments.epsilon is not None:
        changes["eval_epsilon"] = arguments.epsilon
    return config.model_copy(update=changes)


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
