"""dqn-report: one page about runs or a sweep, in one file."""

import argparse
import sys
from pathlib import Path

from dqn_zoo.cli.arguments import Parser, command, parsed_by
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import print_warning
from dqn_zoo.system.files import replace_file, writing

_EPILOG = """\
  dqn-report logs/laptop/SpaceInvaders_1 -o report.html
  dqn-report sweeps/first                      # all of its runs, with the table of the sweep
"""


def build_parser() -> Parser:
    """Return the parser of dqn-report."""
    parser = Parser(
        "dqn-report",
        "Make one self-contained page: curves, results, settings, film, manifest.",
        _EPILOG,
    )
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders, sweeps, or folders with runs below",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="FILE",
        help="the page (default: report.html)",
    )
    parser.add_argument("--title", metavar="TEXT", help="its title (default: names of the folders)")
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> None:
    """Run dqn-report and return its exit code: 0, or 2 for a user's mistake."""
    from dqn_zoo.experiments.report import make_report

    title = arguments.title or ", ".join(path.resolve().name for path in arguments.paths)
    page = make_report(arguments.paths, title, warn=print_warning)
    with writing(arguments.output, "make room, or name another file with -o"):
        replace_file(arguments.output, page.encode())
    work_is_kept()
    print(f"page: {arguments.output} ({_size(len(page.encode()))}); open it in a browser")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{max(num_bytes // 1000, 1)} KB"


if __name__ == "__main__":
    sys.exit(main())
