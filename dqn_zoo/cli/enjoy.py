"""dqn-enjoy: watch a trained agent play, and measure how good it is."""

import argparse
import contextlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import (
    REFUSED_ENJOY,
    Parser,
    add_refused_flags,
    command,
    parsed_by,
    whole_number,
)
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import (
    DEFAULT_EPISODES,
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
from dqn_zoo.errors import UserError
from dqn_zoo.runs.finding import NoRunError
from dqn_zoo.system import shell

if TYPE_CHECKING:
    from dqn_zoo.exchange.minari_games import MinariGames
    from dqn_zoo.play.evaluation import Game
    from dqn_zoo.play.film import Film
    from dqn_zoo.play.session import Session
    from dqn_zoo.runs.run import Run
    from dqn_zoo.settings.config import Config

DEFAULT_FILM = ""
"""What --record without a name stands for: a file in the run folder."""

MOST_FOLLOWED = 100_000
"""Games of --follow: weeks at the speed of the console."""

_NOT_FOLLOWED = {
    *("hub", "pretrained", "weights", "kind", "n_timesteps", "n_envs"),
    *("record", "record_seconds", "minari", "output", "progress"),
}

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
    add_machine(parser.add_argument_group("machine"))
    _add_output(parser.add_argument_group("what is shown and written"))
    add_refused_flags(parser, REFUSED_ENJOY)
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> int:
    """Run dqn-enjoy and return its exit code: 0, or see `command`."""
    warnings.showwarning = print_warning
    if arguments.list:
        return _list_pretrained()
    has_window = _wants_window(arguments)
    if arguments.follow:
        return _follow(arguments, has_window)
    run, config = _find_run(arguments)

    from dqn_zoo.play.agent import build_agent
    from dqn_zoo.play.results import headline

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
        print(
            f"data set: {kept.num_games} games, {kept.num_steps:,} steps, "
            f"{kept.megabytes:.1f} MB; next: minari.MinariDataset({str(kept.folder / 'data')!r})"
        )
    if interruption is not None:
        raise interruption
    return 0


def _add_play(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--episodes",
        type=whole_number(1),
        metavar="N",
        help=f"full games to play (default: {DEFAULT_EPISODES})",
    )
    group.add_argument(
        "-n",
        "--n-timesteps",
        type=whole_number(1, 10_000_000),
        metavar="N",
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
    group.add_argument(
        "--record-seconds",
        type=whole_number(1),
        default=120,
        metavar="N",
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


def _follow(arguments: argparse.Namespace, has_window: bool) -> int:
    """Play the newest weights of a run until it has ended and its last weights have played.

    Nothing is written: games of changing weights are no sample of any.
    """
    refuse_beside(
        arguments, "--follow", _NOT_FOLLOWED, because="plays the newest weights of a run here"
    )
    run, config = find_asked_run(arguments)

    from dqn_zoo.play.following import Follower
    from dqn_zoo.play.results import game_line, headline
    from dqn_zoo.play.session import watch
    from dqn_zoo.system.machine import choose_device

    def say_wait() -> None:
        print(f"{run.path} has no weights yet: waiting for the first", flush=True)

    follower = Follower(run, config, device=choose_device(arguments.device), on_wait=say_wait)
    session = make_session(
        arguments,
        run,
        config,
        num_games=arguments.episodes or MOST_FOLLOWED,
        weights=follower.weights,
        has_window=has_window,
    )
    session = replace(session, num_envs=1)
    told = session if arguments.episodes else replace(session, num_games=None)
    print(headline(replace(session, num_games=1)), flush=True)
    was_training = follower.is_training
    if not was_training:
        print("nobody trains it now: its last weights play one game", flush=True)
    steps = follower.weights.steps
    with contextlib.closing(watch(session, follower.q_values)) as turns:
        for turn in turns:
            if follower.weights.steps != steps:
                steps = follower.weights.steps
                print(f"newer weights: {steps or 0:,} steps of training", flush=True)
            for game in turn.finished:
                mixed = "  (newer weights came during it)" if follower.switched else ""
                print(f"{game_line(told, game)}{mixed}", flush=True)
                if game.index + 1 == session.num_games:
                    print(f"ended: {session.num_games} games were played")
                    return 0
                comes = follower.is_training if has_window else follower.wait_for_newer()
                if not (comes or follower.switched):
                    if was_training:
                        print(f"ended: nobody trains {run.path} any more; its last weights played")
                    return 0
                follower.begin_game()
    return 0


def _find_run(arguments: argparse.Namespace) -> "tuple[Run, Config]":
    from dqn_zoo.settings.recipes import load_config

    if arguments.hub is not None:
        run = _pulled(arguments)
    elif arguments.pretrained:
        run = _pretrained(arguments)
    else:
        try:
            return find_asked_run(arguments)
        except NoRunError as error:
            run = _pretrained(arguments, instead_of=error)
    return run, load_config(run.config_file)


def _pulled(arguments: argparse.Namespace) -> "Run":
    refuse_beside(arguments, "--hub", {"env", "algo", "run", "exp_id", "pretrained"})
    from dqn_zoo.sharing.pull import pull

    return pull(arguments.hub, log_folder=arguments.folder, command=sys.argv)


def _pretrained(arguments: argparse.Namespace, *, instead_of: NoRunError | None = None) -> "Run":
    """Return the run folder of an agent that comes with dqn_zoo, after saying what it is."""
    if instead_of is None:
        refuse_beside(arguments, "--pretrained", {"algo", "run", "exp_id"})
    elif arguments.env is None:
        raise instead_of
    from dqn_zoo.runs.elsewhere import foreign_agents, may_take_runs
    from dqn_zoo.settings.games import parse_game
    from dqn_zoo.sharing.pretrained import find_pretrained, list_pretrained, unpack_pretrained

    if arguments.env is None:
        raise UserError(
            f"--pretrained needs --env GAME; {shell.command('dqn-enjoy', '--list')} shows which "
            "there are"
        )
    game = parse_game(arguments.env).game
    agent = find_pretrained(game)
    if agent is None:
        known = ", ".join(each.game for each in list_pretrained()) or "none"
        if instead_of is not None:
            raise NoRunError(f"{instead_of}; dqn_zoo has agents of its own for: {known}")
        raise UserError(f"no agent for {game} comes with dqn_zoo; there are: {known}")
    folder = arguments.folder
    if instead_of is not None:
        is_named = {"run", "algo", "exp_id", "folder"} & arguments.given
        if is_named or not may_take_runs(folder) or any(foreign_agents(folder, game)):
            elsewhere = [] if may_take_runs(folder) else ["-f", "FOLDER"]
            packaged = shell.command("dqn-enjoy", "--env", game, "--pretrained", *elsewhere)
            raise NoRunError(f"{instead_of}; {packaged} plays the agent that comes with dqn_zoo")
    if not may_take_runs(folder):
        raise UserError(
            f"{folder} holds something else, and the agent gets a folder among your runs: name "
            "that of your runs, or a new one, with -f FOLDER"
        )
    why = "" if instead_of is None else f"no run of {game} in {arguments.folder}: "
    print(
        f"{why}an agent that comes with dqn_zoo, recipe {agent.recipe}, {agent.steps:,} steps: "
        f"{agent.score} in {agent.num_games} games, protocol {agent.rules}"
    )
    return unpack_pretrained(agent, log_folder=arguments.folder, command=sys.argv)


def _list_pretrained() -> int:
    from rich.console import Console
    from rich.table import Table

    from dqn_zoo.experiments.references import find_reference
    from dqn_zoo.settings.games import SCORES
    from dqn_zoo.sharing.pretrained import list_pretrained

    rl_zoo = find_reference("rl-zoo")
    table = Table("game", "recipe", box=None, pad_edge=False)
    for name in ("steps", "score", "games", "random", "human", "RL-Zoo"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("protocol", no_wrap=True)
    for agent in list_pretrained():
        known = SCORES[agent.game]
        row = (f"{agent.steps:,}", agent.score, str(agent.num_games))
        others = (f"{known.random:,.1f}", f"{known.human:,.1f}", rl_zoo.text("dqn", agent.game))
        table.add_row(agent.game, agent.recipe, *row, *others, agent.rules)
    Console(highlight=False, width=None if sys.stdout.isatty() else 130).print(table)
    print(f"RL-Zoo: its DQN after {rl_zoo.steps:,} steps, protocol {rl_zoo.protocol}")
    print("watch one: " + shell.command("dqn-enjoy", "--pretrained", "--env", "GAME"))
    return 0


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
    return Film(path, max_seconds=arguments.record_seconds)


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
            print(f"results: {output}")
            return
        kept = record(session.run, config, content)
    except OSError as error:
        raise UserError(f"{error.filename or file} cannot be written ({error.strerror})") from error
    work_is_kept()
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
