"""A film for a page, made beside the game in a thread of its own."""

import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config
from dqn_zoo.watching.game import Record, film_game

TELL_EVERY_S = 0.3


class Filming(threading.Thread):
    """Makes one film, and tells the page how far it is.

    Args:
        record: of the game.
        config: its settings.
        seed: of its games.
        first_step: where the film begins.
        folder: where the film is put, under a name that cannot be guessed.
        notify: takes notices, in this thread.

    Attributes:
        file: of the film, once `is_done`; not there if it failed.
        is_done: whether the page was told.
    """

    def __init__(
        self,
        record: Record,
        config: Config,
        *,
        seed: int,
        first_step: int,
        folder: Path,
        notify: Callable[[dict[str, Any]], None],
    ) -> None:
        super().__init__(name="filming", daemon=True)
        self.file = folder / f"{secrets.token_hex(8)}.mp4"
        self._record = replace(record, actions=bytearray(record.actions))  # the game goes on
        self._config = config
        self._seed = seed
        self._first_step = first_step
        self._notify = notify
        self.is_done = False
        self._ending = threading.Event()
        self._told_at = 0.0

    def end(self) -> None:
        """Give the film up, or remove it where it is made already."""
        self._ending.set()
        self._remove()

    def run(self) -> None:
        """Make the film."""
        notice: dict[str, Any] = {"film": None, "error": "the film has failed"}
        try:
            is_made = film_game(
                self.file,
                self._record,
                self._config,
                seed=self._seed,
                first_step=self._first_step,
                proceed=self._proceed,
            )
            name = f"{self._config.env}-seed-{self._seed}-game-{self._record.index + 1}.mp4"
            notice = {"film": self.file.name, "name": name} if is_made else {"film": None}
        except (UserError, OSError) as error:
            notice = {"film": None, "error": f"there is no film: {error}"}
        finally:  # whatever went wrong, the next film can be made
            self.is_done = True
            if self._ending.is_set():
                self._remove()
            self._notify(notice)

    def _remove(self) -> None:
        with suppress(OSError):  # somebody fetches it at this moment, on Windows
            self.file.unlink(missing_ok=True)

    def _proceed(self, done: int, in_all: int) -> bool:
        now = time.monotonic()
        if now > self._told_at + TELL_EVERY_S:
            self._told_at = now
            self._notify({"filming": done / max(in_all, 1)})
        return not self._ending.is_set()
