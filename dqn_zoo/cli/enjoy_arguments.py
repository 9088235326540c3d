"""The flags of dqn-enjoy."""

import argparse
from collections.abc import Callable
from pathlib import Path

from dqn_zoo.cli.arguments import (
    REFUSED_ENJOY,
    Parser,
    add_refused_flags,
    flag_value,
    parse_whole_number,
)
from dqn_zoo.errors import UserError

DEFAULT_EPISODES = 10
DEFAULT_FILM = ""
"""What --record without a name stands for: a file in the run folder."""

_EPILOG = """\
Scores are raw and games are full: a lost life ends none. A step is one decision of the agent
(4 frames). results.json holds every score, seed and rule; docs/evaluation.md has the formulas.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-enjoy."""
    parser = Parser(
        prog="dqn-enjoy",
        description="Watch a trained agent play, and measure how good it is.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_whom(parser.add_argument_group("whom to watch"))
    _add_weights(parser.add_argument_group("weights").add_mutually_exclusive_group())
    _add_play(parser.add_argument_group("games"))
    _add_machine(parser.add_argument_group("machine"))
    _add_output(parser.add_argument_group("what is shown and written"))
    add_refused_flags(parser, REFUSED_ENJOY)
    return parser


def _add_whom(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--env", metavar="GAME", help="the latest run of this game (default: any)")
    group.add_argument(
        "--algo", metavar="NAME", help="the latest run of this recipe (default: any)"
    )
    group.add_argument(
        "--run", metavar="RUN", help="a run, by folder or name (default: the latest)"
    )
    group.add_argument(
        "--exp-id",
        type=_whole_number(0),
        default=0,
        metavar="N",
        help="number of the run; 0: the latest (default: 0)",
    )
    group.add_argument(
        "-f",
        "--folder",
        "--log-folder",
        type=Path,
        default=Path("logs"),
        metavar="FOLDER",
        help="where the runs are (default: logs)",
    )


def _add_weights(group: argparse._MutuallyExclusiveGroup) -> None:
    for flag, weights, text in (
        ("--load-best", "best", "the model of the best evaluation (default, where there was one)"),
        ("--load-last", "last", "the last model"),
        ("--load-last-checkpoint", "last_checkpoint", "the newest checkpoint"),
    ):
        group.add_argument(flag, dest="weights", action="store_const", const=weights, help=text)
    group.add_argument(
        "--load-checkpoint",
        dest="weights",
        type=_whole_number(0),
        metavar="N",
        help="the checkpoint of step N",
    )


def _add_play(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--episodes",
        type=_whole_number(1),
        metavar="N",
        help=f"full games to play (default: {DEFAULT_EPISODES})",
    )
    group.add_argument(
        "-n",
        "--n-timesteps",
        type=_whole_number(1),
        metavar="N",
        help="begin no further game after N steps; the last ones are played to their end "
        "(default: no limit; with it, --episodes has no default)",
    )
    group.add_argument(
        "--protocol",
        choices=("zoo", "machado", "sb3"),
        help="rules of play (default: those of the run)",
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
        help="the best action always: epsilon 0",
    )
    epsilon.add_argument("--stochastic", action="store_true", help="the default epsilon")
    group.add_argument(
        "--seed",
        type=_whole_number(0),
        default=0,
        metavar="N",
        help="seed of the games; never the games of training (default: 0)",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--n-envs",
        type=_whole_number(1),
        metavar="N",
        help="games played at once (default: up to 8 for each thread; "
        "1 with a window, a film or -n)",
    )
    group.add_argument(
        "--num-threads",
        type=_whole_number(-1),
        default=0,
        metavar="N",
        help="threads that play, each with its share of the games (with a window, a film or -n: "
        "threads of PyTorch); 0, and RL-Zoo's -1: chosen from the cores (default: 0)",
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the network lives (default: auto, a GPU where there is one)",
    )


def _add_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--render",
        action=argparse.BooleanOptionalAction,
        help="a window at true speed (default: where there is a display, unless --record is given)",
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
        type=_whole_number(1),
        default=120,
        metavar="N",
        help="the film ends after N seconds, the games go on (default: 120)",
    )
    group.add_argument(
        "--output", type=Path, metavar="FILE", help="results (default: RUN/results.json)"
    )
    group.add_argument(
        "-P",
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar (default: none)",
    )


def _whole_number(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        number = parse_whole_number(text)
        if number < least:
            raise UserError(f"expected a whole number of at least {least}, got {text}")
        return number

    return flag_value(read)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UserError(f"expected a number from 0 to 1, got {text!r}")
    return value
