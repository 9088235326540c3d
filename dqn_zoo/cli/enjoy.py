"""dqn-enjoy: watch a trained agent play, and measure how good it is."""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_zoo.cli.arguments import EXIT_INTERRUPTED, run_command
from dqn_zoo.cli.enjoy_arguments import DEFAULT_EPISODES, DEFAULT_FILM, build_parser
from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress

    from dqn_zoo.config import Config
    from dqn_zoo.enjoy import Session
    from dqn_zoo.evaluation import Game
    from dqn_zoo.runs import Run
    from dqn_zoo.video import Film


def main(arguments: Sequence[str] | None = None) -> int:
    """Run dqn-enjoy and return its exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    return run_command(lambda: _enjoy(build_parser().parse_args(arguments)))


def _enjoy(arguments: argparse.Namespace) -> int:
    warnings.showwarning = _print_warning
    has_window = _wants_window(arguments)
    run, config = _find_run(arguments)

    from dqn_zoo.agent import build_agent
    from dqn_zoo.results import headline

    session = _session(arguments, run, config, has_window)
    agent = build_agent(session.weights.file, session.config, device=session.device)
    output = arguments.output or run.results_file
    _check_writable(output)
    film = _film(arguments, session)
    print(headline(session), flush=True)
    if arguments.render is None and arguments.record is None and not has_window:
        print("no display here: playing headless (--record films the games)", flush=True)
    try:
        games, was_interrupted = _play(session, agent.q_values, film, arguments)
    finally:
        is_filmed = film is not None and film.close()
    _report(session, games, output, was_interrupted)
    if film is not None and is_filmed:
        print(f"film: {film.path} ({film.seconds:.1f} s)")
    return EXIT_INTERRUPTED if was_interrupted else 0


def _find_run(arguments: argparse.Namespace) -> "tuple[Run, Config]":
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
        raise UserError(
            f"--env {arguments.env}: {run.path} was trained on {config.env}; drop --env"
        )
    return run, config


def _session(
    arguments: argparse.Namespace, run: "Run", config: "Config", has_window: bool
) -> "Session":
    import torch

    from dqn_zoo.enjoy import Session, choose_weights
    from dqn_zoo.evaluation import ENVS_PER_THREAD
    from dqn_zoo.machine import choose_device, default_num_threads, usable_cores

    asked = arguments.num_threads
    num_threads = asked if asked > 0 else default_num_threads(usable_cores())
    torch.set_num_threads(num_threads)
    num_games = arguments.episodes
    if num_games is None and arguments.n_timesteps is None:
        num_games = DEFAULT_EPISODES
    one_by_one = has_window or arguments.record is not None or arguments.n_timesteps is not None
    num_envs = arguments.n_envs or (1 if one_by_one else ENVS_PER_THREAD * num_threads)
    return Session(
        run=run,
        weights=choose_weights(run, "default" if arguments.weights is None else arguments.weights),
        config=_as_played(config, arguments),
        seed=arguments.seed,
        num_games=num_games,
        max_steps=arguments.n_timesteps,
        num_envs=num_envs if num_games is None else min(num_envs, num_games),
        num_threads=num_threads,
        device=choose_device(arguments.device),
        has_window=has_window,
        is_filmed=arguments.record is not None,
    )


def _as_played(config: "Config", arguments: argparse.Namespace) -> "Config":
    """Return the settings of the run under the protocol and the epsilon of the command line."""
    changes: dict[str, object] = {}
    if arguments.protocol is not None:
        changes["protocol"] = arguments.protocol
    if arguments.epsilon is not None:
        changes["eval_epsilon"] = arguments.epsilon
    return config.model_copy(update=changes)


def _film(arguments: argparse.Namespace, session: "Session") -> "Film | None":
    from dqn_zoo.video import Film

    if arguments.record is None:
        return None
    is_unnamed = arguments.record == DEFAULT_FILM
    path = session.run.path / "videos" if is_unnamed else Path(arguments.record)
    if is_unnamed or path.is_dir():
        weights = session.weights.name.replace(",", "").replace(" ", "-")
        protocol = session.protocol.name
        path = path / f"{weights}-{session.config.env}-{protocol}-seed-{session.seed}.mp4"
    if path.suffix != ".mp4":
        raise UserError(f"--record {path}: films are mp4; give a name that ends in .mp4")
    return Film(path, max_seconds=arguments.record_seconds)


def _play(
    session: "Session",
    q_values: Callable[[Any], Any],
    film: "Film | None",
    arguments: argparse.Namespace,
) -> "tuple[list[Game], bool]":
    """Play, print every game as it ends, and return the games and whether Ctrl-C ended them."""
    from dqn_zoo.enjoy import play_session
    from dqn_zoo.results import game_line

    games: list[Game] = []

    def on_game(game: "Game") -> None:
        games.append(game)
        progress.console.print(game_line(session, game))

    def on_progress(steps_played: int) -> None:
        done = steps_played if session.num_games is None else len(games)
        progress.update(progress.task_ids[0], completed=done, steps=steps_played)

    try:
        with _progress_bar(arguments, session) as progress:
            play_session(session, q_values, on_game=on_game, on_progress=on_progress, film=film)
    except KeyboardInterrupt:
        return games, True
    return games, False


def _report(session: "Session", games: "list[Game]", output: Path, was_interrupted: bool) -> None:
    """Print the summary and write results.json; an interrupted evaluation is not written."""
    from dqn_zoo.checkpoint import replace_file
    from dqn_zoo.evaluation import summarize
    from dqn_zoo.results import results, summary_lines

    if not games:
        print("interrupted: no game was finished")
        return
    summary = summarize([game.score for game in games])
    print(*summary_lines(session, summary), sep="\n")
    if was_interrupted:
        print(f"interrupted: {output} is not written, because the games cut short would bias it")
        return
    games = sorted(games, key=lambda game: game.index)
    content = json.dumps(results(session, games, summary), indent=2)
    try:
        replace_file(output, content.encode())
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error.strerror})") from error
    print(f"results: {output}")


def _progress_bar(arguments: argparse.Namespace, session: "Session") -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    progress = Progress(
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} {task.description}"),
        TextColumn("{task.fields[steps]:,} steps"),
        TimeElapsedColumn(),
        console=Console(highlight=False, markup=False, soft_wrap=True),
        disable=not arguments.progress,
        transient=True,
    )
    unit, total = ("games", session.num_games) if session.num_games else ("", session.max_steps)
    progress.add_task(unit, total=total, steps=0)
    return progress


def _wants_window(arguments: argparse.Namespace) -> bool:
    """Decide on a window: as told, else where there is a display and no film is made.

    Raises:
        UserError: a window is asked for and there is no display.
    """
    has_display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if arguments.render and not has_display:
        raise UserError(
            "--render needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: "
            "use --no-render, or --record for a film"
        )
    if arguments.render is None:
        return has_display and arguments.record is None
    return bool(arguments.render)


def _check_writable(output: Path) -> None:
    """Find out before the games whether the results can be written after them."""
    probe = output.with_name(f"{output.name}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"results cannot be written to {output} ({error.strerror}): "
            "name a file that you can write with --output FILE"
        ) from error


def _print_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
