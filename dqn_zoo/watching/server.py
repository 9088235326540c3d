"""The server of dqn-watch: who may ask, and what each open page gets."""

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from dqn_zoo.errors import UserError
from dqn_zoo.runs.run import Run
from dqn_zoo.watching.agents import Gallery
from dqn_zoo.watching.groups import MOST_DRAWN, Groups, settings_that_differ
from dqn_zoo.watching.messages import Drawn, read_message
from dqn_zoo.watching.outlet import Outlet
from dqn_zoo.watching.player import Player
from dqn_zoo.watching.runs import describe_run, read_curves
from dqn_zoo.watching.saliency import Onlooker
from dqn_zoo.watching.visitors import FRAMED_BY, Visit, Visits

MOST_PAGES = 16
"""Open at once, each with a game."""

MOST_MESSAGES_S = 400
"""From one page in a second, drawn pictures included."""

MOST_WAITING = 500
"""Messages of one page that its game has not come to, while an agent is loaded or it goes back."""

CLOSE_S = 5.0
"""For a page to take the code with which its connection is closed."""

PAGE_FOLDER = Path(str(resources.files("dqn_zoo.watching").joinpath("page")))

CLOSED_FULL, CLOSED_IDLE, CLOSED_WAIT, CLOSED_TOO_MANY = 4001, 4002, 4003, 4008
"""Codes with which a page's connection is closed; the page has words for them."""

Answer = Callable[[Request], Awaitable[Response]]

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors {}",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Watch:
    """What the pages have in common: the list of agents, the token, and how many there are.

    Args:
        gallery: agents that may be opened.
        first: key of the agent that a page begins with.
        token: that the address holds.
        log_folder: where the scores of people are kept.
        errors: where this process writes why a game has failed, in words for the page.
        host: a name that this machine is asked for by, beside those that it always has.
        visits: serve anybody, by these rules, without the token; agents and nothing else.
        begin_game: called in the thread of each game before anything else.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        first: str,
        token: str,
        log_folder: Path,
        errors: str = "the terminal of dqn-watch",
        host: str = "",
        visits: Visits | None = None,
        begin_game: Callable[[], None] = lambda: None,
    ) -> None:
        self._gallery = gallery
        self._first = first
        self._token = token
        self._log_folder = log_folder
        self._errors = errors
        self._visits = visits
        self._begin_game = begin_game
        self._hosts = {host.lower(), *(visits.hosts if visits else ())} - {""}
        self._players: set[Player] = set()
        self._saliency = threading.Lock()
        self._groups_of = Groups()
        self._films = tempfile.TemporaryDirectory(prefix="dqn-watch-", ignore_cleanup_errors=True)

    @property
    def num_pages(self) -> int:
        """Pages that are open."""
        return len(self._players)

    def app(self) -> ASGIApp:
        """Return the application that a server runs."""
        answers = {"/": _page("index.html"), "/agents": self._agents}
        if self._visits is None:
            answers |= {
                "/duel": _page("duel.html"),
                "/train": _page("train.html"),
                "/runs": self._runs,
                "/curves": self._curves,
                "/settings": self._settings,
                "/groups": self._groups,
                "/films/{name}": self._film,
            }
        routes = [Route(path, self._with_token(answer)) for path, answer in answers.items()]
        play = WebSocketRoute("/play", self._play)
        app = Starlette(routes=[*routes, play], lifespan=self._lifespan)
        app.mount("/page", StaticFiles(directory=PAGE_FOLDER))
        framed_by = FRAMED_BY if self._visits else "'none'"
        return _Guarded(app, frozenset(self._hosts), framed_by)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        yield
        for player in list(self._players):
            player.close()
        self._films.cleanup()

    def _knows(self, connection: HTTPConnection) -> bool:
        if self._visits is not None:
            return True
        said = connection.query_params.get("token", "")
        return secrets.compare_digest(said.encode(), self._token.encode())

    def _with_token(self, answer: Answer) -> Answer:
        """Refuse whoever does not know the token, before anything is looked up."""

        async def answer_or_refuse(request: Request) -> Response:
            if not self._knows(request):
                return _refuse("open the address that dqn-watch printed, with the token in it")
            return await answer(request)

        return answer_or_refuse

    async def _agents(self, request: Request) -> Response:
        choices = await asyncio.to_thread(self._gallery.choices)
        agents = [{"key": choice.key, "game": choice.game} for choice in choices]
        visitors = None if self._visits is None else self._visits.as_told()
        return JSONResponse({"agents": agents, "first": self._first, "visitors": visitors})

    async def _runs(self, request: Request) -> Response:

        def describe() -> list[dict[str, Any]]:
            return [describe_run(key, run) for key, run in self._gallery.runs().items()]

        return JSONResponse({"runs": await asyncio.to_thread(describe)})

    async def _curves(self, request: Request) -> Response:
        key, since = (request.query_params.get(name, "") for name in ("run", "since"))
        found = await asyncio.to_thread(self._gallery.find, [key])
        if key not in found:
            return PlainTextResponse("there is no such run\n", status_code=404)
        return JSONResponse(await asyncio.to_thread(read_curves, found[key], since))

    async def _settings(self, request: Request) -> Response:
        def answer(runs: dict[str, Run]) -> dict[str, Any]:
            return {"settings": settings_that_differ(runs)}

        return await self._of_several(request, answer)

    async def _groups(self, request: Request) -> Response:
        by, since = (request.query_params.get(name, "") for name in ("by", "since"))
        return await self._of_several(request, lambda runs: self._groups_of.read(runs, by, since))

    async def _of_several(
        self, request: Request, answer: Callable[[dict[str, Run]], dict[str, Any]]
    ) -> Response:
        """Answer a question about some runs of the list."""
        asked = request.query_params.getlist("run")[:MOST_DRAWN]

        def look_up_and_answer() -> dict[str, Any]:
            return answer(self._gallery.find(asked))

        try:
            return JSONResponse(await asyncio.to_thread(look_up_and_answer))
        except UserError as error:
            return PlainTextResponse(f"{error}\n", status_code=404)

    async def _film(self, request: Request) -> Response:
        name = request.path_params["name"]
        for player in self._players:
            if (file := player.has_film(name)) is not None:
                return FileResponse(file, media_type="video/mp4")
        return PlainTextResponse("there is no such film\n", status_code=404)

    async def _play(self, websocket: WebSocket) -> None:
        """Serve one page until it goes away."""
        if not self._knows(websocket):
            await websocket.close()
            return
        await websocket.accept()
        most = MOST_PAGES if self._visits is None else self._visits.games
        if len(self._players) >= most:
            await websocket.close(CLOSED_FULL if self._visits is None else CLOSED_WAIT)
            return
        outlet = Outlet(asyncio.get_running_loop())
        player = Player(
            self._gallery,
            outlet,
            Onlooker(outlet.put_map, self._saliency),
            film_folder=Path(self._films.name),
            log_folder=self._log_folder,
            errors=self._errors,
            begin=self._begin_game,
        )
        self._players.add(player)
        player.start()
        sending, code = asyncio.create_task(_send_all(websocket, outlet)), None
        try:
            code = await _receive_all(websocket, outlet, player, Visit(self._visits))
        finally:
            player.close()
            self._players.discard(player)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
                await sending
        if code is not None:
            # Whoever reads nothing cannot be told either, and is not waited for.
            with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
                await asyncio.wait_for(websocket.close(code), CLOSE_S)


def _page(name: str) -> Answer:
    """Return what answers with a file of the page."""

    async def answer(_: Request) -> Response:
        return Response((PAGE_FOLDER / name).read_bytes(), media_type="text/html")

    return answer


async def _send_all(websocket: WebSocket, outlet: Outlet) -> None:
    while True:
        content = await outlet.take()
        if isinstance(content, bytes):
            await websocket.send_bytes(content)
        else:
            await websocket.send_text(content)


async def _receive_all(
    websocket: WebSocket, outlet: Outlet, player: Player, visit: Visit
) -> int | None:
    """Hand on what the page sends, until it goes away, sends too much, or its time is up.

    Returns:
        The code to close its connection with; None: it is gone.
    """
    second, count = 0, 0
    while True:
        try:
            text = await asyncio.wait_for(websocket.receive_text(), visit.seconds_left())
        except TimeoutError:
            return CLOSED_IDLE
        except (WebSocketDisconnect, KeyError):  # gone, or binary
            return None
        now = int(time.monotonic())
        second, count = now, (count + 1 if now == second else 1)
        if count > MOST_MESSAGES_S or player.num_waiting > MOST_WAITING:
            return CLOSED_TOO_MANY
        try:
            message = read_message(text)
            visit.take(message)
        except UserError as error:
            outlet.put_notice({"error": str(error)})
            continue
        if isinstance(message, Drawn):
            outlet.drawn()
        else:
            player.tell(message)


class _Guarded:
    """Refuses what another page in the same browser may send, and names what a page may load.

    A page of a stranger can point a name of its own at this machine; then `Host` has that name. It
    can also send from its own address; then `Origin` is another than `Host`.
    """

    def __init__(self, app: ASGIApp, own_hosts: frozenset[str], framed_by: str) -> None:
        self._app = app
        self._own_hosts = own_hosts
        self._headers = {name: value.format(framed_by) for name, value in _HEADERS.items()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        is_foreign = origin is not None and origin.partition("://")[2] != host
        if is_foreign or not _is_here(host, self._own_hosts):
            await _refuse("this address is not one of dqn-watch")(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._app(scope, receive, send_guarded)


def _is_here(host: str, own_hosts: frozenset[str]) -> bool:
    """Return whether a `Host` names this machine: by number, or by a name that only it has."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name and name in {"localhost", socket.gethostname().lower(), *own_hosts}:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _refuse(reason: str) -> Response:
    return PlainTextResponse(f"{reason}\n", status_code=403)
