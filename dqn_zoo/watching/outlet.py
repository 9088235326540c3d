"""What waits to be sent to a page: every notice, but of the pictures only the newest."""

import asyncio
import json
import threading
from collections import deque
from contextlib import suppress
from typing import Any, NamedTuple

from dqn_zoo.watching.game import Moment
from dqn_zoo.watching.messages import picture_in_time

MOST_NOTICES = 100
MOST_TRAIL = 512
"""Steps without a picture of their own whose value and reward are still told."""

MOST_UNDRAWN = 2
"""Pictures on their way; a page that is slower gets fewer, never later ones."""


_Trail = tuple[tuple[int, int, float, float], ...]  # game, step, value, reward


class _Waiting(NamedTuple):
    moment: Moment
    speed: float
    more: dict[str, Any]
    trail: _Trail


class Outlet:
    """Stands between the thread of a game, which puts, and the event loop, which takes.

    Args:
        loop: in which `take` is called.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = asyncio.Event()
        self._lock = threading.Lock()
        self._notices: deque[dict[str, Any]] = deque(maxlen=MOST_NOTICES)
        self._waiting: _Waiting | bytes | None = None
        self._map: dict[str, Any] | None = None
        self._undrawn = 0

    def put_notice(self, notice: dict[str, Any]) -> None:
        """Let a notice be sent, before any picture."""
        with self._lock:
            self._notices.append(notice)
            if "opened" in notice:  # what waits is of another game
                self._waiting = self._map = None
        self._wake()

    def put_moment(self, moment: Moment, speed: float, more: dict[str, Any]) -> None:
        """Let a moment be sent in the place of one that still waits."""
        value = float(moment.outlook.q_values.max())
        point = (moment.game, moment.step, round(value, 3), moment.reward)
        with self._lock:
            if moment.result is not None:  # its picture may be left out
                ended = {"game": moment.game, "step": moment.step, "result": moment.result.score}
                self._notices.append({"ended": ended})
            before = self._waiting
            trail: _Trail = ()
            if isinstance(before, _Waiting):
                trail, more = before.trail, before.more | more  # its key was pressed earlier
            self._waiting = _Waiting(moment, speed, more, (*trail[-MOST_TRAIL:], point))
        self._wake()

    def put_picture(self, shown: bytes) -> None:
        """Let a picture that is made be sent in the place of one that still waits."""
        with self._lock:
            if isinstance(self._waiting, _Waiting):  # the line has its points all the same
                self._notices.append({"trail": self._waiting.trail})
            self._waiting = shown
        self._wake()

    def put_map(self, found: dict[str, Any]) -> None:
        """Let a map of saliency be sent in the place of one that still waits."""
        with self._lock:
            self._map = found
        self._wake()

    def drawn(self) -> None:
        """Note that the page has drawn a picture."""
        self._undrawn = max(self._undrawn - 1, 0)
        self._changed.set()

    async def take(self) -> str | bytes:
        """Wait for what is to be sent next, and return it."""
        while True:
            self._changed.clear()
            with self._lock:
                if self._notices:
                    return json.dumps(self._notices.popleft())
                if self._map is not None and self._undrawn < MOST_UNDRAWN:
                    found, self._map = self._map, None
                    return json.dumps(found)
                waiting = self._waiting
                if waiting is not None and self._undrawn < MOST_UNDRAWN:
                    self._waiting = None
                    self._undrawn += 1
                    return waiting if isinstance(waiting, bytes) else _picture(waiting)
            await self._changed.wait()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._changed.set)


def _picture(waiting: _Waiting) -> bytes:
    return picture_in_time(waiting.moment, waiting.speed, trail=waiting.trail, **waiting.more)
