"""dqn-enjoy: watch a trained agent play, and measure how good it is."""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import Parser, add_number, command, parsed_by
from dqn_zoo.cli.follow import follow
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import (
    DEFAULT_EPISODES,
    MOST_EPISODES,
    add_machine,
    add_progress,
    add_rules,
    add_weights,
    add_whom,
    find_asked_run,
    make_session,
    play_games,
    print_warning,
    refuse_beside,
)
from dqn_zoo.cli.pretrained import list_packaged, packaged_agent
from dqn_zoo.cli.refused_flags import REFUSED_ENJOY, add_refused_flags
from dqn_zoo.errors import UserError
from dqn_zoo.runs.finding import NoRunError

if TYPE_CHECKING:
    from dqn_zoo.exchange.minari_games import MinariGames
    from dqn_zoo.play.evaluation import Game
    from dqn_zoo.play.film import Film
    from dqn_zoo.play.session import Session
    from dqn_zoo.runs.run import Run
    from dqn_zoo.settings.config import Config

DEFAULT_FILM = ""
"""What --record without a name stands for: a file in the run folder."""

_EPILOG = """\
Scores are raw and games are full: a lost life ends none. A step is one decision of the agent
(4 frames). results.json holds every score, seed and rule; docs/evaluation.md has the formulas.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-enjoy."""
    parser = Parser("dqn-enjoy", "Watch a trained agent play, and measure how good it is.", _EPILOG)
    whom = parser.add_argument_group("which agent to watch")
    add_whom(whom)
    whom.add_argument(
        "--hub", metavar="USER/REPO", help="an agent of the Hub, pulled first; USER/REPO@REVISION"
    )
    whom.add_argument(
        "--pretrained",
        action="store_true",
        help="the agent for --env that comes with dqn_zoo (default: only if there is no run and "
        "neither -f nor --algo, --run or --exp-id was given)",
    )
    whom.add_argument(
        "--follow",
        action="store_true",
        help="play the newest weights of a run while it trains, and newer ones as they come; "
        "without a window one game of each (default: off)",
    )
    whom.add_argument(
        "--list", action="store_true", help="list the agents that come with dqn_zoo, and exit"
    )
    add_weights(parser.add_argument_group("weights"))
    _add_play(parser.add_argument_group("games"))
    add_machine(parser.add_argument_group("machine"), one_by_one="with a window, a film or -n")
    _add_output(parser.add_argument_group("what is shown and written"))
    add_refused_flags(parser, REFUSED_ENJOY)
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> int:
    """Run dqn-enjoy and return its exit code: 0, or see `command`."""
    warnings.showwarning = print_warning
    if arguments.list:
        return list_packaged()
    has_window = _wants_window(arguments)
    if arguments.follow:
        return follow(arguments, has_window)
    if arguments.record is None and "record_seconds" in arguments.given:
        raise UserError("--record-seconds is for a film: add --record, or leave it out")
    run, config = _find_run(arguments)

    from dqn_zoo.play.agent import build_agent
    from dqn_zoo.play.results import headline
    from dqn_zoo.play.session import check_unchanged

    if arguments.minari is not None:
        refuse_beside(arguments, "--minari", {"n_envs"}, because="plays one game at a time")
    session = make_session(
        arguments,
        run,
        config,
        num_games=_num_games(arguments),
        max_steps=arguments.n_timesteps,
        has_window=has_window,
        is_filmed=arguments.record is not None,
        is_kept=arguments.minari is not None,
    )
    agent = build_agent(session.weights.file, session.config, device=session.device)
    check_unchanged(session.weights)
    _check_writable(arguments.output or run.results_file)
    film, kept = _film(arguments, session), None
    games: list[Game] = []
    try:
        kept = _minari_games(arguments, session, agent.num_actions)
        print(headline(session), flush=True)
        if arguments.render is None and arguments.record is None and not has_window:
            print("no display here: playing headless (--record films the games)", flush=True)
        games, interruption = play_games(
            session,
            agent.q_values,
            film=film,
            on_turn=None if kept is None else kept.take,
            has_progress_bar=arguments.progress,
        )
    finally:
        is_filmed = film is not None and film.close()
        has_data_set = kept is not None and kept.close()
    _report(session, config, games, arguments.output, was_interrupted=interruption is not None)
    if film is not None and is_filmed:
        print(f"film: {film.path} ({film.seconds:.1f} s)")
    if kept is not None and has_data_set:
        games_kept = "1 game" if kept.num_games == 1 else f"{kept.num_games:,} games"
        print(
            f"data set: {games_kept}, {kept.num_steps:,} steps, "
            f"{kept.megabytes:.1f} MB; next: minari.MinariDataset({str(kept.folder / 'data')!r})"
        )
    if interruption is not None:
        raise interruption
    return 0


def _add_play(group: argparse._ArgumentGroup) -> None:
    add_number(
        group,
        "--episodes",
        least=1,
        most=MOST_EPISODES,
        help=f"full games to play (default: {DEFAULT_EPISODES})",
    )
    add_number(
        group,
        "-n",
        "--n-timesteps",
        least=1,
        most=10_000_000,
        help="begin no further game after N steps; games under way are finished "
        "(default: no limit; with it, --episodes has no default)",
    )
    add_rules(group)


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--render",
        action=argparse.BooleanOptionalAction,
        help="a window at true speed (default: if there is a display, unless --record is given)",
    )
    group.add_argument(
        "--record",
        nargs="?",
        const=DEFAULT_FILM,
        metavar="FILE",
        help="film the games as mp4 (default: no film; without FILE into RUN/videos)",
    )
    add_number(
        group,
        "--record-seconds",
        least=1,
        default=120,
        help="the film ends after N seconds; the games continue (default: 120)",
    )
    group.add_argument(
        "--minari",
        type=Path,
        metavar="FOLDER",
        help="keep the games as a Minari data set, played one at a time: what the agent saw, did "
        "and got (default: none)",
    )
    group.add_argument(
        "--output", type=Path, metavar="FILE", help="results (default: RUN/results.json)"
    )
    add_progress(group)


def _find_run(arguments: argparse.Namespace) -> "tuple[Run, Config]":
    from dqn_zoo.settings.recipes import load_config

    if arguments.hub is not None:
        run = _pulled(arguments)
    elif arguments.pretrained:
        run = packaged_agent(arguments)
    else:
        try:
            return find_asked_run(arguments)
        except NoRunError as error:
            run = packaged_agent(arguments, instead_of=error)
    return run, load_config(run.config_file)


def _pulled(arguments: argparse.Namespace) -> "Run":
    refuse_beside(arguments, "--hub", {"env", "algo", "run", "exp_id", "pretrained"})
    from dqn_zoo.sharing.pull import pull

    return pull(arguments.hub, log_folder=arguments.folder, command=sys.argv)


def _num_games(arguments: argparse.Namespace) -> int | None:
    """Return the games to play; None: as many as -n allows."""
    if arguments.episodes is None and arguments.n_timesteps is None:
        return DEFAULT_EPISODES
    number: int | None = arguments.episodes
    return number


def _minari_games(
    arguments: argparse.Namespace, session: "Session", num_actions: int
) -> "MinariGames | None":
    if arguments.minari is None:
        return None
    from dqn_zoo.exchange.minari_games import MinariGames

    return MinariGames(arguments.minari, session, num_actions)


def _film(arguments: argparse.Namespace, session: "Session") -> "Film | None":
    from dqn_zoo.play.film import Film

    if arguments.record is None:
        return None
    is_unnamed = arguments.record == DEFAULT_FILM
    path = session.run.path / "videos" if is_unnamed else Path(arguments.record)
    if is_unnamed or path.is_dir():
        weights = session.weights.name.replace(",", "").replace(" ", "-")
        rules = session.protocol.name
        for key in ("mode", "difficulty"):
            number = getattr(session.protocol, key)
            rules += "" if number is None else f"-{key}-{number}"
        path = path / f"{weights}-{session.config.env}-{rules}-seed-{session.seed}.mp4"
    if path.suffix != ".mp4":
        raise UserError(f"--record {path}: films are mp4; give a name that ends in .mp4")
    remedy = "name a file in a folder that you can write with --record FILE"
    return Film(path, max_seconds=arguments.record_seconds, remedy=remedy)


def _report(
    session: "Session",
    config: "Config",
    games: "list[Game]",
    output: Path | None,
    *,
    was_interrupted: bool,
) -> None:
    """Print the summary and write it; an interrupted evaluation is not written."""
    from dqn_zoo.play.measurements import record
    from dqn_zoo.play.results import results, summary_lines
    from dqn_zoo.play.statistics import summarize
    from dqn_zoo.system.files import replace_file

    if not games:
        print("interrupted: no game was finished")
        return
    summary = summarize([game.score for game in games])
    print(*summary_lines(session, summary), sep="\n")
    file = output or session.run.results_file
    if was_interrupted:
        print(f"interrupted: {file} is not written, because the games cut short would bias it")
        return
    games = sorted(games, key=lambda game: game.index)
    content = results(session, games, summary)
    try:
        if output is not None:
            replace_file(output, json.dumps(content, indent=2).encode())
        kept = record(session.run, config, content) if output is None else None
    except OSError as error:
        raise UserError(f"{error.filename or file} cannot be written ({error.strerror})") from error
    work_is_kept()
    if kept is None:
        print(f"results: {output}")
        return
    said = f"results: {kept.file}"
    if kept.num_games > len(games):
        said += f" keeps its {kept.num_games} games; --output FILE writes these {len(games)}"
    elif kept.file != file:
        said += f"; {file.name} keeps what the run is known by"
    print(said)


def _wants_window(arguments: argparse.Namespace) -> bool:
    """Decide on a window: as told, else where there is a display and no film is made.

    Raises:
        UserError: a window is asked for and there is no display.
    """
    from dqn_zoo.play.window import has_display

    if arguments.render and not has_display():
        raise UserError(
            "--render needs a display, and neither DISPLAY nor WAYLAND_DISPLAY is set: "
            "use --no-render, or --record for a film"
        )
    if arguments.render is None:
        return has_display() and arguments.record is None
    return bool(arguments.render)


def _check_writable(output: Path) -> None:
    """Find out before the games whether the results can be written after them."""
    from dqn_zoo.system.files import check_writable

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        check_writable(output)
    except OSError as error:
        raise UserError(
            f"results cannot be written to {output} ({error.strerror}): "
            "name a file that you can write with --output FILE"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
