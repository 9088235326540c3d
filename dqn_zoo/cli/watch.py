"""dqn-watch: a page on which an agent plays and shows what it sees and expects."""

import argparse
import re
import secrets
import sys
import warnings
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import Parser, command, whole_number
from dqn_zoo.cli.play_session import add_whom, find_asked_run, print_warning, refuse_beside
from dqn_zoo.errors import UserError
from dqn_zoo.runs.finding import NoRunError
from dqn_zoo.system.extras import need

if TYPE_CHECKING:
    from dqn_zoo.watching.agents import Choice, Gallery
    from dqn_zoo.watching.visitors import Visits

_EPILOG = """\
The page is served on this machine alone, and its address holds a token without which nobody gets
in, unless --visitors serves anybody. It trains nothing. Ctrl-C ends it; docs/watch.md shows it.
"""


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Run dqn-watch until it is ended, by Ctrl-C."""
    _watch(build_parser().parse_args(arguments))


def build_parser() -> Parser:
    """Return the parser of dqn-watch."""
    parser = Parser(
        "dqn-watch",
        "Open a page on which an agent plays and shows what it sees and expects.",
        _EPILOG,
    )
    whom = parser.add_argument_group("which agent to begin with")
    add_whom(whom)
    whom.add_argument("--hub", metavar="USER/REPO", help="an agent of the Hub; USER/REPO@REVISION")
    whom.add_argument(
        "--agents",
        nargs="+",
        metavar="AGENT",
        help="offer these and no others: runs, pretrained/GAME, hf://USER/REPO, or folders with "
        "config.json and weights (default: the runs of the folder, and the agents that come with "
        "dqn_zoo)",
    )
    _add_server(parser.add_argument_group("server"))
    _add_visitors(parser.add_argument_group("visitors: a page for anybody, without a token"))
    return parser


def _add_server(server: argparse._ArgumentGroup) -> None:
    server.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="HOST",
        help="address to serve; with another than the default, such as 0.0.0.0, whoever can reach "
        "this machine and knows the token may watch (default: 127.0.0.1, this machine alone)",
    )
    server.add_argument(
        "--port",
        type=whole_number(1, 65_535),
        metavar="N",
        help="port to serve (default: 8600, or a free one if that is taken)",
    )
    server.add_argument(
        "--no-browser",
        dest="browser",
        action="store_false",
        default=True,
        help="only print the address (default: open it, where there is a display)",
    )


def _add_visitors(visitors: argparse._ArgumentGroup) -> None:
    visitors.add_argument(
        "--visitors",
        type=whole_number(1, 1_000),
        metavar="N",
        help="serve anybody, N games at once, the agents of --agents and nothing else of this "
        "machine (default: off)",
    )
    visitors.add_argument(
        "--idle-minutes",
        type=whole_number(1, 1_000_000),
        default=5,
        metavar="M",
        help="a visitor's game ends after M minutes in which nothing is done (default: 5)",
    )
    visitors.add_argument(
        "--allow-host",
        action="append",
        default=(),
        metavar="NAME",
        help="a name by which visitors ask for the page; may be repeated (default: this machine's)",
    )


def _watch(arguments: argparse.Namespace) -> None:
    warnings.showwarning = print_warning
    need("watch", "dqn-watch")
    import torch

    from dqn_zoo.watching.server import Watch
    from dqn_zoo.watching.serving import bind, is_loopback, make_server

    torch.set_num_threads(1)  # each page has a thread of its own
    visits = _visits(arguments)
    first, gallery = _choose(arguments)
    socket = bind(arguments.host, arguments.port)
    token = secrets.token_urlsafe(24)
    port = socket.getsockname()[1]
    watch = Watch(
        gallery,
        first=first.key,
        token=token,
        log_folder=arguments.folder,
        host=arguments.host,
        visits=visits,
    )
    is_open = not is_loopback(arguments.host)
    if is_open and visits is None:
        print_warning(
            f"--host {arguments.host}: whoever reaches this machine and knows the token may watch, "
            "and what is sent is not encrypted"
        )
    address = f"http://{_in_address(arguments.host)}:{port}/"
    if visits is None:
        address += f"?token={token}"
    print(f"{first.key} plays at {address}\nCtrl-C ends it", flush=True)
    open_page(address, asked=arguments.browser)
    with socket:
        make_server(watch.app(), compresses=is_open).run(sockets=[socket])


def _visits(arguments: argparse.Namespace) -> "Visits | None":
    """Return the rules for visitors, where there are to be any."""
    from dqn_zoo.watching.visitors import Visits

    if arguments.visitors is None:
        alone = {"idle_minutes", "allow_host"} & arguments.given
        if alone:
            flag = f"--{min(alone).replace('_', '-')}"
            raise UserError(f"{flag} goes with --visitors N, which serves anybody")
        return None
    if arguments.agents is None:
        raise UserError("--visitors shows what --agents names and nothing else: name it")
    hosts = frozenset(name.lower() for name in arguments.allow_host if name)
    for name in hosts:
        if not re.fullmatch(r"[\w.-]+", name):
            raise UserError(
                f"--allow-host {name} is never asked for: expected a name alone, such as "
                "example.org, without https:// and port"
            )
    return Visits(arguments.visitors, idle_s=60.0 * arguments.idle_minutes, hosts=hosts)


def open_page(address: str, *, asked: bool) -> None:
    """Open a page that is to be served, where there is a display; its socket listens already."""
    from dqn_zoo.play.window import has_display

    if asked and has_display():
        webbrowser.open(address)


def _choose(arguments: argparse.Namespace) -> "tuple[Choice, Gallery]":
    """Return the agent to begin with, and the list of all that a page may open."""
    from dqn_zoo.watching.agents import Gallery, named_agent, of_hub

    whom = {"env", "algo", "run", "exp_id"}
    if arguments.agents is not None:
        refuse_beside(arguments, "--agents", {*whom, "hub"})
        named = [named_agent(name, arguments.folder) for name in arguments.agents]
        names: dict[str, str] = {}
        for name, choice in zip(arguments.agents, named, strict=True):
            if (other := names.setdefault(choice.key, name)) != name:
                raise UserError(f"--agents: {other} and {name} are both called {choice.key}")
        return named[0], Gallery(None, named)
    if arguments.hub is not None:
        refuse_beside(arguments, "--hub", whom)
        first = of_hub(arguments.hub)
    else:
        first = _run_or_packaged(arguments)
    return first, Gallery(arguments.folder, [first])


def _run_or_packaged(arguments: argparse.Namespace) -> "Choice":
    """Return the run that is asked for; where none is named and there is none, what we bring."""
    from dqn_zoo.settings.games import COURSE_GAME, parse_game
    from dqn_zoo.sharing.pretrained import find_pretrained
    from dqn_zoo.watching.agents import of_package, of_run

    try:
        return of_run(find_asked_run(arguments)[0], beside=arguments.folder)
    except NoRunError:
        game = parse_game(arguments.env or COURSE_GAME).game
        is_named = {"run", "algo", "exp_id", "folder"} & arguments.given
        if is_named or find_pretrained(game) is None:
            raise
        return of_package(game)


def _in_address(host: str) -> str:
    """Return a host as it stands in an address that opens on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
