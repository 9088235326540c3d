"""The flags of dqn-tune."""

import argparse
from pathlib import Path

from dqn_zoo.cli.arguments import Parser, add_set, flag_value, parse_whole_number
from dqn_zoo.cli.play_arguments import whole_number

_EPILOG = """\
  dqn-tune --env SpaceInvaders --algo dqn --n-trials 50 --budget-steps 300000
  dqn-tune --env Pong --algo laptop --search mine.yml --n-jobs 2 -f tuning/pong

The same command continues a study that was stopped; see docs/experiments.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-tune."""
    parser = Parser(
        prog="dqn-tune",
        description="Search the hyperparameters of a recipe on one game.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what is tuned")
    what.add_argument(
        "--env", default="SpaceInvaders", metavar="GAME", help="the game (default: SpaceInvaders)"
    )
    what.add_argument(
        "--algo", default="laptop", metavar="NAME", help="recipe to start from (default: laptop)"
    )
    what.add_argument(
        "--budget-steps",
        type=flag_value(parse_whole_number),
        default=100_000,
        metavar="N",
        help="steps of every trial (default: 100,000)",
    )
    add_set(what, "one setting of all trials; may be repeated")
    what.add_argument(
        "--search",
        default="atari",
        metavar="NAME",
        help="search space: a name in hyperparams/search/, or a file (default: atari)",
    )
    how = parser.add_argument_group("how")
    how.add_argument(
        "--n-trials", type=whole_number(1), default=50, metavar="N", help="trials (default: 50)"
    )
    how.add_argument("--sampler", choices=("tpe", "random"), default="tpe", help="(default: tpe)")
    how.add_argument(
        "--pruner",
        choices=("halving", "median", "none"),
        default="halving",
        help="stops hopeless trials by their evaluations (default: halving)",
    )
    how.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="seed of the search (default: 0)",
    )
    how.add_argument(
        "--n-jobs", type=whole_number(1), default=1, metavar="N", help="trials at once (default: 1)"
    )
    how.add_argument(
        "--storage",
        metavar="URL",
        help="database that several machines share (default: a journal in the folder)",
    )
    how.add_argument(
        "--ray", metavar="ADDRESS", help="run the trials on a Ray cluster: its address, or auto"
    )
    how.add_argument("--dry-run", action="store_true", help="show the cost, and stop")
    finals = parser.add_argument_group("finals")
    finals.add_argument(
        "--top",
        type=whole_number(0),
        default=3,
        metavar="N",
        help="best trials that are run again beside the recipe; 0: none (default: 3)",
    )
    finals.add_argument(
        "--seeds", type=whole_number(1), default=3, metavar="N", help="seeds of each (default: 3)"
    )
    parser.add_argument(
        "-f",
        "--folder",
        type=Path,
        metavar="FOLDER",
        help="folder of the study; an existing one is continued (default: tuning/ALGO-GAME)",
    )
    return parser
