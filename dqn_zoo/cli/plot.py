"""dqn-plot: learning curves of many runs on one picture."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import Parser, add_number, command, parsed_by
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import print_warning
from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from dqn_zoo.experiments.curves import Curve

_EPILOG = """\
  dqn-plot logs/laptop/Pong_1 logs/laptop/Pong_2 -o pong.png
  dqn-plot sweeps/first --what evaluation -o curves.svg      # every run below a folder
  dqn-plot logs ~/rl-zoo/logs/dqn --x time                   # beside RL-Zoo's monitor.csv
"""


def build_parser() -> Parser:
    """Return the parser of dqn-plot."""
    parser = Parser(
        "dqn-plot",
        "Draw learning curves: a panel for each game, a colour for each algorithm.",
        _EPILOG,
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders, or folders with runs below; also those of RL-Zoo and Stable-Baselines3",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("curves.png"),
        metavar="FILE",
        help="PNG, SVG or PDF (default: curves.png)",
    )
    parser.add_argument(
        "--what",
        choices=("training", "evaluation"),
        default="training",
        help="scores of training games, or of evaluations (default: training)",
    )
    parser.add_argument(
        "--x",
        choices=("steps", "frames", "time"),
        default="steps",
        help="what the curves are drawn over (default: steps)",
    )
    parser.add_argument(
        "--by",
        default="algo",
        metavar="KEY",
        help="runs that share a value of this setting are seeds of one group (default: algo)",
    )
    parser.add_argument(
        "--env",
        metavar="GAME",
        help="game of the runs that do not say which they play (default: such a run is left out)",
    )
    _add_lines(parser)
    return parser


def _add_lines(parser: Parser) -> None:
    add_number(
        parser,
        "--smooth",
        least=1,
        most=100,
        help="a point is the mean over N hundredths of the axis (default: 3, for evaluations 1)",
    )
    parser.add_argument(
        "--mark",
        type=float,
        action="append",
        default=(),
        metavar="SCORE",
        help="mark a score with a line; may be repeated",
    )


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> None:
    """Run dqn-plot and return its exit code: 0, or 2 for a user's mistake."""
    from dqn_zoo.experiments.curves import find_curves, mixed_groups

    formats = (".png", ".svg", ".pdf")
    if arguments.output.suffix.lower() not in formats:
        raise UserError(f"--output: expected a name that ends in {', '.join(formats)}")
    curves = find_curves(
        arguments.paths, arguments.what, by=arguments.by, env=arguments.env, warn=print_warning
    )
    for mixed in mixed_groups(curves):
        print_warning(mixed)
    if arguments.x == "time":
        curves = _with_times(curves)

    from dqn_zoo.experiments.plots import draw_curves

    try:
        draw_curves(
            curves,
            arguments.output,
            kind=arguments.what,
            axis=arguments.x,
            smoothing=arguments.smooth,
            marks=arguments.mark,
        )
    except OSError as error:
        raise UserError(f"{arguments.output} cannot be written: {error.strerror}") from error
    work_is_kept()
    for line in _table(curves):
        print(line)
    print(f"picture: {arguments.output}")


def _with_times(curves: "Sequence[Curve]") -> "list[Curve]":
    import numpy as np

    timed = [curve for curve in curves if not np.isnan(curve.seconds).any()]
    reasons = [
        f"{curve.source} holds no times; --x steps draws it"
        for curve in curves
        if np.isnan(curve.seconds).any()
    ]
    if not timed:
        raise UserError(reasons[0])
    for reason in reasons:
        print_warning(f"left out: {reason}")
    return timed


def _table(curves: "Sequence[Curve]") -> list[str]:
    """Return a line per run: what was read, how far it went, how it scored in the end."""
    rows = ["game             group                 seed        steps    last tenth"]
    for curve in curves:
        last = curve.scores[curve.steps > 0.9 * curve.steps.max()].mean()
        seed = "-" if curve.seed is None else curve.seed
        steps = curve.steps.max()
        rows.append(f"{curve.game:<16} {curve.group:<20} {seed:>5} {steps:>12,.0f} {last:>13,.1f}")
    return rows


if __name__ == "__main__":
    sys.exit(main())
