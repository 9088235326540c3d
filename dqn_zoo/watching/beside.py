"""The page beside a training: served by a process of its own, which ends with it.

A process and not a thread: nothing of a page can hold up the steps of the run or draw from its
random numbers.
"""

import contextlib
import multiprocessing
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.system import shell
from dqn_zoo.system.processes import (
    end_at_once,
    stand_apart,
    step_back,
    take_what_is_left,
    without_interrupts,
)

if TYPE_CHECKING:
    import uvicorn

# Nothing heavy is imported here: the new process reads this before it can hear that it is to end.

HOST = "127.0.0.1"
END_S = 5.0
"""For a page to end once the training has; then it is ended."""

Begin = Callable[[Path], str]
"""Begins to serve the runs of a folder, and returns the address."""


@contextlib.contextmanager
def page_beside(warn: Callable[[str], None]) -> Iterator[Begin]:
    """Hold a port, serve a page there once it is begun, and end that behind the block.

    Args:
        warn: takes a line where the page ends before.

    Raises:
        UserError: no port is free.
    """
    from dqn_zoo.watching.serving import bind

    with bind(HOST, None) as listening, contextlib.ExitStack() as ending:

        def begin(log_folder: Path) -> str:
            token, port = secrets.token_urlsafe(24), listening.getsockname()[1]
            ending.enter_context(_serving(listening, token, log_folder, warn))
            return f"http://{HOST}:{port}/train?token={token}"

        yield begin


@contextlib.contextmanager
def _serving(
    listening: socket.socket, token: str, log_folder: Path, warn: Callable[[str], None]
) -> Iterator[None]:
    context = multiprocessing.get_context("spawn")
    far, near = context.Pipe(duplex=False)  # `far` ends when `near` does, however that comes
    process = context.Process(
        target=_serve, args=(listening, token, log_folder, far), name="page", daemon=True
    )
    with without_interrupts():
        process.start()
    far.close()
    listening.close()  # or the port stays taken, and asking hangs, where the page has ended
    errors = _errors(log_folder, process.pid)
    has_ended = threading.Event()
    watcher = threading.Thread(
        target=_watch, args=(process, has_ended, lambda: warn(_ended(log_folder, errors)))
    )
    watcher.daemon = True
    watcher.start()
    try:
        yield
    finally:
        has_ended.set()
        near.close()
        process.join(END_S)
        process.kill()
        watcher.join()
        process.join()
        process.close()
        if not _has_content(errors):
            errors.unlink(missing_ok=True)


def _watch(process: SpawnProcess, has_ended: threading.Event, warn: Callable[[], None]) -> None:
    wait([process.sentinel])
    if not has_ended.is_set():
        warn()


def _ended(log_folder: Path, errors: Path) -> str:
    again = shell.command("dqn-watch", "-f", log_folder)
    why = f"; {errors} says why" if _has_content(errors) else ""
    return f"the page has ended: the training goes on, and {again} opens the page again{why}"


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _errors(log_folder: Path, pid: int | None) -> Path:
    """Return the file in which a page says what failed; an empty one is removed at the end.

    Hidden, so that a folder in which no run was made still counts as empty.
    """
    return log_folder / f".page-{pid}.log"


def _serve(listening: socket.socket, token: str, log_folder: Path, tether: Connection) -> None:
    """Serve until the other end of the tether is gone: by then the run is saved."""
    errors = _errors(log_folder, os.getpid())
    log_folder.mkdir(parents=True, exist_ok=True)  # as the run is about to
    stand_apart(errors)  # the terminal is the run's
    step_back()  # and so are the cores
    servers: list[uvicorn.Server] = []

    def follow() -> None:
        with contextlib.suppress(EOFError, OSError):
            tether.recv()
        if not servers:
            end_at_once()  # it was about to begin
        servers[0].should_exit = True

    threading.Thread(target=follow, daemon=True).start()

    import torch

    from dqn_zoo.watching.agents import Gallery
    from dqn_zoo.watching.server import Watch
    from dqn_zoo.watching.serving import make_server

    torch.set_num_threads(1)
    watch = Watch(
        Gallery(log_folder, []),
        first="",
        token=token,
        log_folder=log_folder,
        errors=str(errors),
        begin_game=take_what_is_left,
    )
    servers.append(make_server(watch.app(), compresses=False))
    # Behind the main thread, where it would take the signals.
    thread = threading.Thread(target=servers[0].run, kwargs={"sockets": [listening]})
    thread.start()
    thread.join()
