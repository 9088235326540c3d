"""The last minute of a game, as a page got it: what can be looked at, and gone back to."""

import zlib
from collections import deque
from typing import NamedTuple

from dqn_zoo.settings.protocols import FRAMES_PER_SECOND, FRAMES_PER_STEP
from dqn_zoo.watching.game import Moment, Place
from dqn_zoo.watching.messages import picture

MOST_STEPS = 60 * FRAMES_PER_SECOND // FRAMES_PER_STEP
"""A minute at the speed of the console; some 3 MB."""


class _Kept(NamedTuple):
    place: Place
    packed: bytes


class Past:
    """Moments, the latest last."""

    def __init__(self) -> None:
        self._kept: deque[_Kept] = deque(maxlen=MOST_STEPS)
        self._back = 0

    def add(self, moment: Moment) -> None:
        """Keep a moment with its last screen; what is looked at is the present again."""
        self._back = 0
        shown = picture(moment, moment.screens[-1:], ms=0, trail=[], is_past=True)
        self._kept.append(_Kept(moment.place, zlib.compress(shown, 1)))

    def look(self, back: int) -> bytes | None:
        """Return the picture of a moment so many steps ago, or of the earliest."""
        if not self._kept:
            return None
        self._back = min(back, len(self._kept) - 1)
        return zlib.decompress(self._looked_at().packed)

    def place(self) -> Place | None:
        """Return the place that was looked at last."""
        return self._looked_at().place if self._kept else None

    def forget_later(self) -> None:
        """Make the moment that was looked at last the present."""
        for _ in range(self._back):
            self._kept.pop()
        self._back = 0

    def _looked_at(self) -> _Kept:
        return self._kept[-1 - self._back]
