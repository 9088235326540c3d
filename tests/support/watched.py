"""dqn-watch, served on loopback in this process, and a page's end of the connection."""

import contextlib
import http.client
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from support.run_makers import make_run, weights_of
from websockets.sync.client import ClientConnection, connect

from dqn_zoo.runs.run import Run
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.watching.agents import Choice, Gallery
from dqn_zoo.watching.server import Watch
from dqn_zoo.watching.serving import bind, make_server
from dqn_zoo.watching.visitors import Visits

TOKEN = "the-token"
DEADLINE_S = 60.0


def untrained_run(folder: Path, algo: str = "dqn", seed: int = 1, **overrides: Any) -> Run:
    """Make the run of an agent that knows nothing of Breakout."""
    run = make_run(folder, algo=algo, **{"network": "small", **overrides})
    run.model_file.write_bytes(weights_of(seed, 10, load_config(run.config_file)))
    return run


@contextlib.contextmanager
def served(
    folder: Path | None, first: Choice, *, compresses: bool = False, visits: Visits | None = None
) -> Iterator[SimpleNamespace]:
    """Serve a page; yields its port, its address, the `Watch` behind it and the server."""
    watch = Watch(
        Gallery(folder, [first]),
        first=first.key,
        token=TOKEN,
        log_folder=folder or Path(),
        visits=visits,
    )
    server = make_server(watch.app(), compresses=compresses)
    with bind("127.0.0.1", None) as socket:
        port = socket.getsockname()[1]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
        thread.start()
        wait_until(lambda: server.started)
        try:
            url = f"http://127.0.0.1:{port}/?token={TOKEN}"
            yield SimpleNamespace(port=port, url=url, watch=watch, server=server)
        finally:
            server.should_exit = True
            thread.join(DEADLINE_S)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.02)


def get(port: int, path: str, **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE_S)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.content = answer.read()  # type: ignore[attr-defined]
    connection.close()
    return answer


class Page:
    """What a page does with its connection, without a browser."""

    def __init__(self, port: int, token: str = TOKEN, **options: Any) -> None:
        self._address = f"ws://127.0.0.1:{port}/play?token={token}"
        self._options = options

    def __enter__(self) -> "Page":
        self.socket: ClientConnection = connect(
            self._address, max_size=None, open_timeout=DEADLINE_S, **self._options
        ).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def tell(self, do: str, **more: Any) -> None:
        self.socket.send(json.dumps({"do": do, **more}))

    def open(self, agent: str, seed: int = 0) -> dict[str, Any]:
        self.tell("open", agent=agent, seed=seed)
        return self.notice("opened")

    def notice(self, key: str) -> dict[str, Any]:
        """Return the next notice that has a key; pictures before it are drawn."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            content = self.socket.recv(timeout=deadline - time.monotonic())
            if isinstance(content, str):
                notice: dict[str, Any] = json.loads(content)
                assert key in notice or "error" not in notice, notice
                if key in notice:
                    return notice
            else:
                self.tell("drawn")

    def last_picture(self) -> dict[str, Any]:
        """Return the picture behind which none comes for the time of several steps."""
        picture = self.picture()
        with contextlib.suppress(TimeoutError):
            while True:
                picture = self.picture(timeout_s=0.8)
        return picture

    def picture(self, *, is_drawn: bool = True, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        """Return the next picture, its bytes under `pixels`."""
        content = self.socket.recv(timeout=timeout_s)
        assert isinstance(content, bytes), content
        if is_drawn:
            self.tell("drawn")
        (length,) = struct.unpack_from("<I", content)
        head: dict[str, Any] = json.loads(content[4 : 4 + length])
        return head | {"pixels": content[4 + length :]}
