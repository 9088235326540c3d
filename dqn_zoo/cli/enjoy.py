"""dqn-enjoy: watch a trained agent play, and measure how good it is."""

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_zoo.cli.arguments import EXIT_INTERRUPTED, run_command
from dqn_zoo.cli.enjoy_arguments import DEFAULT_EPISODES, DEFAULT_FILM, MOST_ENVS, build_parser
from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from dqn_zoo.config import Config
    from dqn_zoo.enjoy import Session
    from dqn_zoo.evaluation import Game, Turn
    from dqn_zoo.runs import Run
    from dqn_zoo.video import Film

OnFrame = Callable[[int, Any], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run dqn-enjoy and return its exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    return run_command(lambda: _enjoy(build_parser().parse_args(arguments)))


def _enjoy(arguments: argparse.Namespace) -> int:
    warnings.showwarning = _print_warning
    has_window = _wants_window(arguments)
    run = _find_run(arguments)

    from dqn_zoo.agent import build_agent
    from dqn_zoo.enjoy import headline

    session = _session(arguments, run, has_window)
    agent = build_agent(session.weights.file, session.config, device=session.device)
    output = arguments.output or run.results_file
    _check_writable(output)
    film = _film(arguments, session)
    print(headline(session), flush=True)
    if arguments.render is None and arguments.record is None and not has_window:
        print("no display here: playing headless (--record films the games)", flush=True)
    try:
        games, was_interrupted = _play(session, agent.q_values, film, has_window, arguments)
    finally:
        is_filmed = film is not None and film.close()
    _report(session, games, output, was_interrupted)
    if film is not None and is_filmed:
        print(f"film: {film.path} ({film.seconds:.1f} s)")
    return EXIT_INTERRUPTED if was_interrupted else 0


def _find_run(arguments: argparse.Namespace) -> "Run":
    from dqn_zoo.games import parse_game
    from dqn_zoo.recipes import load_config
    from dqn_zoo.runs import find_run

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
        raise UserError(f"--env {arguments.env}: {run.path} was trained on {config.env}; drop --env")
    return run


def _session(arguments: argparse.Namespace, run: "Run", has_window: bool) -> "Session":
    import torch

    from dqn_zoo.enjoy import Session, choose_weights

    device = arguments.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    if arguments.num_threads > 0:
        torch.set_num_threads(arguments.num_threads)
    num_games = arguments.episodes
    if num_games is None and arguments.n_timesteps is None:
        num_games = DEFAULT_EPISODES
    one_by_one = has_window or arguments.record is not None or num_games is None
    num_envs = arguments.n_envs or (1 if one_by_one else MOST_ENVS)
    return Session(
        run=run,
        weights=choose_weights(run, "default" if arguments.weights is None else arguments.weights),
        config=_config_as_played(arguments, run),
        seed=arguments.seed,
        num_games=num_games,
        max_steps=arguments.n_timesteps,
        num_envs=num_envs if num_games is None else min(num_envs, num_games),
        device=device,
    )


def _config_as_played(arguments: argparse.Namespace, run: "Run") -> "Config":
    """Return the settings of the run under the protocol and the epsilon of the command line."""
    from dqn_zoo.recipes import load_config

    changes: dict[str, object] = {}
    if arguments.protocol is not None:
        changes["protocol"] = arguments.protocol
    if arguments.epsilon is not None:
        changes["eval_epsilon"] = arguments.epsilon
    return load_config(run.config_file).model_copy(update=changes)


def _film(arguments: argparse.Namespace, session: "Session") -> "Film | None":
    from dqn_zoo.video import Film

    path = arguments.record
    if path is None:
        return None
    if path == DEFAULT_FILM or path.is_dir():
        folder = session.run.path / "videos" if path == DEFAULT_FILM else path
        weights = session.weights.name.replace(",", "").replace(" ", "-")
        protocol = session.protocol.name
        path = folder / f"{weights}-{session.config.env}-{protocol}-seed-{session.seed}.mp4"
    if path.suffix != ".mp4":
        raise UserError(f"--record {path}: films are mp4; give a name that ends in .mp4")
    return Film(path, max_seconds=arguments.record_seconds)


def _play(
    session: "Session",
    q_values: Callable[[Any], Any],
    film: "Film | None",
    has_window: bool,
    arguments: argparse.Namespace,
) -> "tuple[list[Game], bool]":
    """Play, print every game as it ends, and return the games and whether Ctrl-C ended them."""
    from dqn_zoo.enjoy import game_line

    games: list[Game] = []
    steps_played = 0
    try:
        with _progress_bar(arguments, session) as progress:
            for turn in _turns(session, q_values, film, has_window):
                if film is not None:
                    _caption(film, turn)
                steps_played += len(turn.games)
                for game in turn.finished:
                    games.append(game)
                    progress.console.print(
                        game_line(session, game), markup=False, highlight=False, soft_wrap=True
                    )
                done = steps_played if session.num_games is None else len(games)
                progress.update(progress.task_ids[0], completed=done, steps=steps_played)
    except KeyboardInterrupt:
        return games, True
    return games, False
