"""A page for anybody: without a token, and each visitor with a game that ends."""

import time
from typing import Any, NamedTuple

from dqn_zoo.errors import UserError
from dqn_zoo.watching.messages import Drawn, Film, Message, OpenDuel

FRAMED_BY = "https://huggingface.co"
"""Shows a Space inside a page of its own."""


class Visits(NamedTuple):
    """What visitors may do together.

    Attributes:
        games: at once; the next visitor waits.
        idle_s: after which a game ends whose visitor does nothing.
        longest_s: after which every game ends.
        hosts: names that the page is asked for by, beside those of this machine.
    """

    games: int
    idle_s: float = 300.0
    longest_s: float = 3_600.0
    hosts: frozenset[str] = frozenset()

    def as_told(self) -> dict[str, Any]:
        """Return what the page says of it."""
        return {"games": self.games, "minutes": round(self.idle_s / 60, 1)}


class Visit:
    """One visitor's time.

    Args:
        visits: the rules; None: no visitor, who may stay.
    """

    def __init__(self, visits: Visits | None) -> None:
        self._visits = visits
        self._begun = self._acted = time.monotonic()

    def seconds_left(self) -> float | None:
        """Return how long to wait for the next message; None: as long as it takes."""
        if self._visits is None:
            return None
        end = min(self._acted + self._visits.idle_s, self._begun + self._visits.longest_s)
        return max(end - time.monotonic(), 0.0)

    def take(self, message: Message) -> None:
        """Note that the visitor acts; a picture that was drawn is no act.

        Raises:
            UserError: visitors may not ask for that.
        """
        if not isinstance(message, Drawn):
            self._acted = time.monotonic()
        if self._visits is not None and isinstance(message, Film | OpenDuel):
            raise UserError("visitors cannot make films or duels")
