"""Serving an application on this machine until the program is ended."""

import asyncio
import errno
import ipaddress
import socket

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from dqn_zoo.errors import UserError
from dqn_zoo.system.processes import most_open_files
from dqn_zoo.watching.messages import LARGEST_BYTES

USUAL_PORT = 8600
MOST_CONNECTIONS = 1_000
BACKLOG = 50
"""Connections that are taken at once. A failed one does not end that round in asyncio, so a system
that is out of files would be asked as many times."""
SPARE_FILES = 100  # for games, films and logs
FEWEST_CONNECTIONS = 16  # of a page or two, where there is room for none


class _Bounded(H11Protocol):
    """HTTP for as many connections as there are files for, none of which is kept without a request.

    The head of a request has arrived within five seconds of the connection or of the last answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        room = most_open_files() - SPARE_FILES - BACKLOG
        if len(self.connections) > max(FEWEST_CONNECTIONS, min(MOST_CONNECTIONS, room)):
            transport.abort()
            return
        # As uvicorn does behind an answer.
        self.timeout_keep_alive_task = asyncio.get_running_loop().call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def data_received(self, data: bytes) -> None:
        # uvicorn takes the deadline back with the first byte of a head, and this with the last.
        deadline, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self.timeout_keep_alive_task = deadline
        elif deadline is not None:
            deadline.cancel()


def bind(host: str, port: int | None) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: name or number.
        port: None: the usual one, or a free one if that is taken.

    Raises:
        UserError: the port is taken, or the host is none of this machine.
    """
    ports = [USUAL_PORT, 0] if port is None else [port]
    for each in ports:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, each), family=family, backlog=128)
        except OSError as error:
            number, reason = error.errno, error.strerror
    if number == errno.EADDRINUSE:
        raise UserError(f"port {port} of {host} is taken: name another with --port")
    if number in (errno.EACCES, errno.EPERM):
        raise UserError(
            f"port {port} may not be served ({reason}): name one above 1023 with --port"
        )
    raise UserError(
        f"{host} cannot be served ({reason}): --host names an address of this machine; leave it out"
    )


def make_server(app: ASGIApp, *, compresses: bool) -> uvicorn.Server:
    """Return a server that logs nothing and takes no long messages.

    Args:
        app: what it serves.
        compresses: whether pictures are sent compressed, to a hundredth: that pays in a network,
            and costs as much time as the game on one machine.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        http=_Bounded,
        backlog=BACKLOG,
        ws=WebSocketsSansIOProtocol,
        ws_max_size=LARGEST_BYTES,
        ws_per_message_deflate=compresses,
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
