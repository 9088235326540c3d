"""The flags of dqn-enjoy."""

import argparse
from pathlib import Path

from dqn_zoo.cli.arguments import REFUSED_ENJOY, Parser, add_refused_flags
from dqn_zoo.cli.play_arguments import (
    DEFAULT_EPISODES,
    add_machine,
    add_progress,
    add_rules,
    add_weights,
    add_whom,
    whole_number,
)

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
    whom = parser.add_argument_group("which agent to watch")
    add_whom(whom)
    whom.add_argument(
        "--hub", metavar="USER/REPO", help="an agent of the Hub, pulled first; USER/REPO@REVISION"
    )
    whom.add_argument(
        "--pretrained",
        action="store_true",
        help="the agent for --env that comes with dqn_zoo (default: only if there is no run)",
    )
    whom.add_argument(
        "--list", action="store_true", help="list the agents that come with dqn_zoo, and exit"
    )
    add_weights(parser.add_argument_group("weights").add_mutually_exclusive_group())
    _add_play(parser.add_argument_group("games"))
    add_machine(parser.add_argument_group("machine"))
    _add_output(parser.add_argument_group("what is shown and written"))
    add_refused_flags(parser, REFUSED_ENJOY)
    return parser


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
        "--output", type=Path, metavar="FILE", help="results (default: RUN/results.json)"
    )
    add_progress(group)
