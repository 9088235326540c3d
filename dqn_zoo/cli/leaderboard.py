"""dqn-leaderboard: everybody's agents of a game, ranked by what their cards say."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import Parser, add_number, command, parsed_by
from dqn_zoo.cli.play_session import add_log_folder, print_warning
from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.table import Table

    from dqn_zoo.sharing.leaderboard import Leaderboard, Row

_EPILOG = """\
Ranked by mean minus standard deviation, as the Hugging Face course did. The numbers are those of
the cards, which nobody has checked; dqn-verify USER/REPO does. See docs/leaderboard.md.
"""

_ELSEWHERE = "name a file in a folder that you can write"

_WIDE = 110
"""Columns of a terminal in which library and date fit beside the rest."""


def build_parser() -> Parser:
    """Return the parser of dqn-leaderboard."""
    parser = Parser(
        "dqn-leaderboard",
        "Everybody's agents of a game on the Hugging Face Hub, and your own runs.",
        _EPILOG,
    )
    what = parser.add_argument_group("what is ranked")
    what.add_argument(
        "--env", default="SpaceInvaders", metavar="GAME", help="the game (default: SpaceInvaders)"
    )
    what.add_argument(
        "--protocol",
        choices=("zoo", "machado", "sb3"),
        default="zoo",
        help="rules to compare with; other rows are marked (default: zoo)",
    )
    what.add_argument(
        "--library", metavar="NAME", help="only cards of this library, such as dqn-zoo or sb3"
    )
    what.add_argument("--offline", action="store_true", help="only your own runs")
    add_log_folder(what)
    output = parser.add_argument_group("output")
    add_number(
        output,
        "--top",
        least=1,
        default=30,
        help="rows in the terminal; your own runs are always shown (default: 30)",
    )
    output.add_argument("--csv", type=Path, metavar="FILE", help="all rows as CSV")
    output.add_argument(
        "--html", type=Path, metavar="FILE", help="all rows as a page that sorts and filters"
    )
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> None:
    """Run dqn-leaderboard and return its exit code: 0, or 2 for a user's mistake."""
    from dqn_zoo.play.by_hand import folder_of
    from dqn_zoo.runs.finding import check_log_folder
    from dqn_zoo.settings.games import parse_game

    game = parse_game(arguments.env).game
    if "folder" in arguments.given and not folder_of(arguments.folder, game).is_dir():
        check_log_folder(arguments.folder)
    _check_files(arguments.csv, arguments.html)

    from dqn_zoo.sharing.hub import UnreachableError
    from dqn_zoo.sharing.leaderboard import as_csv, as_html, make_leaderboard

    try:
        with _progress() as on_card:
            board = make_leaderboard(
                game,
                arguments.protocol,
                log_folder=arguments.folder,
                offline=arguments.offline,
                library=arguments.library,
                on_card=on_card,
                warn=print_warning,
            )
    except UnreachableError as error:
        raise UserError(f"{error}; --offline ranks your own runs alone") from error
    _print(board, arguments.top)
    _write("csv", arguments.csv, lambda: as_csv(board))
    _write("page", arguments.html, lambda: as_html(board))


def _print(board: "Leaderboard", top: int) -> None:
    from rich.console import Console

    total = len(board.rows)
    shown = [row for place, row in enumerate(board.rows) if place < top or row.is_own]
    if shown:
        # In a file or a pipe a row stays a line, however long.
        console = Console(width=None if sys.stdout.isatty() else 1_000, highlight=False)
        console.print(_table(board, shown, top, is_wide=console.width >= _WIDE))
    else:
        print(f"no agent of {board.game} has a score here")
    if total > len(shown):
        print(f"{total - len(shown):,} more: --top {total}, --csv FILE, --html FILE")
    if not all(row.is_same_protocol for row in shown):
        print(
            f"* not played by the protocol {board.protocol}, or not known to be: such numbers do "
            "not compare"
        )
    if any(row.has_few_games for row in shown):
        print("- fewer than ten games: too few for a rank, so that a lucky one decides nothing")
    if board.is_offline:
        print("your own runs alone; without --offline the cards on the Hub are ranked beside them")
        return
    print(
        f"{board.num_cards:,} cards read, {board.num_unreadable:,} of them without a score that "
        "can be read; nobody has checked the others"
    )


def _table(board: "Leaderboard", rows: "Sequence[Row]", top: int, *, is_wide: bool) -> "Table":
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"{board.game}, by mean - std", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in ("rank", "mean - std", "mean +/- std", "games"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("agent", overflow="fold")
    table.add_column("protocol", overflow="fold", min_width=12)
    for heading in ("library", "updated") if is_wide else ():
        table.add_column(heading, no_wrap=True)
    for place, row in enumerate(rows):
        if place == top:
            table.add_section()
        cells = [
            "-" if row.rank is None else f"{row.rank}",
            f"{row.result:,.1f}",
            f"{row.mean:,.1f} +/- {row.std:,.1f}",
            "?" if row.num_games is None else f"{row.num_games}",
            f"{row.name} (yours)" if row.is_own else row.name,
            row.protocol if row.is_same_protocol else f"{row.protocol} *",
            *((row.library, row.updated) if is_wide else ()),
        ]
        # Text, because a path may hold what rich would take for markup.
        table.add_row(*map(Text, cells), style="bold" if row.is_own else "")
    return table


@contextmanager
def _progress() -> "Iterator[Callable[[int], None]]":
    """Count the cards that are read, on stderr, in a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda count: None
        return
    with console.status("asking the Hub") as status:
        yield lambda count: status.update(f"{count:,} cards read")


def _check_files(*files: Path | None) -> None:
    """Find out before the Hub is asked whether the files can be written after it."""
    from dqn_zoo.system.files import check_writable, writing

    asked = [file.absolute() for file in files if file is not None]
    if len(set(asked)) < len(asked):
        raise UserError("--csv and --html name the same file: name two")
    for file in asked:
        with writing(file, _ELSEWHERE):
            check_writable(file)


def _write(what: str, file: Path | None, make: "Callable[[], str]") -> None:
    from dqn_zoo.system.files import replace_file, writing

    if file is None:
        return
    with writing(file, _ELSEWHERE):
        replace_file(file, make().encode())
    print(f"{what}: {file}")


if __name__ == "__main__":
    sys.exit(main())
