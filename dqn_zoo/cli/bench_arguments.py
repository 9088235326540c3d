"""The flags of dqn-bench."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import Parser, add_set, flag_value, parse_setting, parse_whole_number
from dqn_zoo.cli.play_arguments import whole_number
from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from dqn_zoo.experiments.plan import Variant

_EPILOG = """\
  dqn-bench --algos dqn,rainbow --games pong,breakout --seeds 3 -n 1e6 -f sweeps/first
  dqn-bench -f sweeps/first                 # continue with what is left, or show the table
  dqn-bench --variant greedy=laptop,bootstrap=greedy --algos laptop --games atari-3 --dry-run

A plan is made once and kept in FOLDER/plan.yml; see docs/experiments.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-bench."""
    parser = Parser(
        prog="dqn-bench",
        description="Train every variant on every game with every seed, and compare them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    plan = parser.add_argument_group("the plan")
    plan.add_argument("--algos", type=_names, metavar="A,B", help="recipes to compare")
    plan.add_argument(
        "--variant",
        type=flag_value(_variant),
        action="append",
        default=(),
        metavar="NAME=ALGO[,KEY=VALUE...]",
        help="a recipe with settings of its own; may be repeated",
    )
    plan.add_argument(
        "--games",
        type=_names,
        metavar="A,B",
        help="games, or atari-3, atari-5, atari-57",
    )
    plan.add_argument(
        "--seeds", type=whole_number(1), metavar="N", help="runs with seeds 1 to N (default: 3)"
    )
    plan.add_argument(
        "-n",
        "--n-timesteps",
        type=flag_value(parse_whole_number),
        metavar="N",
        help="steps of every run (default: the recipe's)",
    )
    add_set(plan, "one setting of all variants; may be repeated")
    plan.add_argument(
        "--episodes",
        type=whole_number(1),
        metavar="N",
        help="full games that every run plays at its end (default: 30)",
    )
    plan.add_argument(
        "--plan",
        type=Path,
        metavar="FILE",
        help="a plan written by hand, instead of these flags",
    )
    plan.add_argument(
        "-f",
        "--folder",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of the sweep; one that holds a plan is continued",
    )
    how = parser.add_argument_group("how it is run")
    how.add_argument(
        "--jobs",
        type=whole_number(1),
        metavar="N",
        help="jobs at once (default: what cores and memory allow)",
    )
    how.add_argument(
        "--ray", metavar="ADDRESS", help="run the jobs on a Ray cluster: its address, or auto"
    )
    how.add_argument(
        "--dry-run", action="store_true", help="show plan, cost and commands, and stop"
    )
    how.add_argument(
        "--plan-only", action="store_true", help="write the plan, run nothing (for SLURM)"
    )
    how.add_argument(
        "--job", metavar="JOB", help="run only this job, by name or number (for SLURM)"
    )
    how.add_argument("--tethered", action="store_true", help=argparse.SUPPRESS)
    output = parser.add_argument_group("output")
    output.add_argument("--table", action="store_true", help="show the table so far, run nothing")
    output.add_argument(
        "--reference",
        action="append",
        default=(),
        metavar="NAME",
        help="published scores to show alongside: rl-zoo, dopamine, dopamine-impala",
    )
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _variant(text: str) -> "Variant":
    """Read NAME=ALGO,KEY=VALUE,...; a value may be a list, [0, 0, 8, 8]."""
    from dqn_zoo.experiments.plan import Variant

    name, _, rest = text.partition("=")
    algo, *settings = re.split(r",(?![^\[]*\])", rest)
    if not name.strip() or not algo.strip():
        raise UserError(f"expected NAME=ALGO[,KEY=VALUE...], got {text!r}")
    return Variant(name.strip(), algo.strip(), dict(map(parse_setting, settings)))
