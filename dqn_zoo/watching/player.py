"""One page's game, in a thread of its own: it plays in time and does what the page asks."""

import queue
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.envs.backend import NOOP
from dqn_zoo.errors import UserError
from dqn_zoo.play.session import with_rules
from dqn_zoo.settings.protocols import (
    FRAMES_PER_SECOND,
    FRAMES_PER_STEP,
    protocol_from_config,
    rules_in_words,
)
from dqn_zoo.watching.agents import Gallery, Opened
from dqn_zoo.watching.filming import Filming
from dqn_zoo.watching.game import Moment, WatchedGame
from dqn_zoo.watching.messages import (
    Branch,
    Epsilon,
    Film,
    Go,
    Hand,
    Look,
    Message,
    Open,
    Press,
    Saliency,
    Speed,
    read_picture,
)
from dqn_zoo.watching.past import Past
from dqn_zoo.watching.saliency import Onlooker, Seen

LATE_S = 0.25
"""Lost time up to this is made up for; more is forgotten, as when a laptop slept."""

Notify = Callable[[dict[str, Any]], None]
Show = Callable[[Moment, float, dict[str, Any]], None]
"""Takes a moment, the speed at which it is played, and further entries of its head."""


class Player(threading.Thread):
    """Plays for a page until it is closed; nothing is computed while it stands still.

    Args:
        gallery: what may be opened.
        notify: takes a notice for the page, in this thread or that of a film.
        show: takes every moment, in this thread.
        show_past: takes a picture of the past, in this thread.
        film_folder: where films for the page are put.
        onlooker: makes maps of saliency for the page.
    """

    def __init__(
        self,
        gallery: Gallery,
        *,
        notify: Notify,
        show: Show,
        show_past: Callable[[bytes], None],
        film_folder: Path,
        onlooker: Onlooker,
    ) -> None:
        super().__init__(name="player", daemon=True)
        self._gallery = gallery
        self._notify = notify
        self._show = show
        self._show_past = show_past
        self._film_folder = film_folder
        self._onlooker = onlooker
        self._filming: Filming | None = None
        self._past = Past()
        self._newer: Callable[[], Opened | None] = lambda: None
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._game: WatchedGame | None = None
        self._plays = False
        self._speed = 1.0
        self._due = 0.0  # when the next step is to be shown
        self._by_hand = False
        self._held = self._pressed = NOOP
        self._press: int | None = None  # that the next picture answers

    def tell(self, message: Message) -> None:
        """Hand on what the page sent."""
        self._messages.put(message)

    def close(self) -> None:
        """End the thread, without waiting for it."""
        self._closing.set()
        self._messages.put(None)

    def run(self) -> None:
        """Play."""
        try:
            while not self._closing.is_set():
                self._turn()
        finally:
            self._onlooker.want(False)
            if self._filming is not None:
                self._filming.end()
            if self._game is not None:
                self._game.close()

    def has_film(self, name: str) -> Path | None:
        """Return the film of this page that has a name."""
        filming = self._filming
        is_here = filming is not None and filming.file.name == name and filming.is_done
        return filming.file if filming is not None and is_here else None

    def _turn(self) -> None:
        """Do what the page asks next, or make the step that is due."""
        try:
            message = self._next_message()
            if message is not None:
                self._obey(message)
            elif self._game is not None and not self._closing.is_set():
                self._step(self._game)
        except UserError as error:
            self._plays = False
            self._notify({"error": str(error)})
        except Exception:  # a bug of ours: the page hears of it, and the others go on
            traceback.print_exc()
            self._plays = False
            self._notify({"error": "this game has failed; where dqn-watch was started it says why"})

    def _next_message(self) -> Message | None:
        """Return a message, None where a step is due first."""
        if self._game is None or not self._plays:
            return self._messages.get()
        with suppress(queue.Empty):
            wait = self._due - time.monotonic()
            return self._messages.get(timeout=wait) if wait > 0 else self._messages.get_nowait()
        return None

    def _obey(self, message: Message) -> None:
        _ANSWERS[type(message)](self, message)

    def _going(self) -> WatchedGame:
        if self._game is None:
            raise UserError("no agent plays yet: choose one of the list")
        return self._game

    def _open(self, message: Open) -> None:
        opened = self._gallery.open(message.agent)
        config = with_rules(opened.agent.config, protocol=message.protocol)
        game = WatchedGame(opened.agent, config, seed=message.seed)
        if self._game is not None:
            self._game.close()
        self._game, self._past, self._newer = game, Past(), opened.newer
        self._held = self._pressed = NOOP
        self._onlooker.see(None)
        self._plays = True
        self._due = time.monotonic()
        self._notify(
            {
                "opened": message.agent,
                "game": config.env,
                "recipe": config.algo,
                "weights": opened.weights,
                "steps": opened.steps,
                "protocol": rules_in_words(protocol_from_config(config)),
                "epsilon": game.epsilon,
                "seed": game.seed,
                "actions": game.action_meanings,
                "gamma": config.gamma,
                "atoms": [config.v_min, config.v_max],
                "crop": config.crop or (0, 0, 0, 0),
            }
        )

    def _go(self, message: Go) -> None:
        game = self._going()
        self._plays = message.do == "play"
        self._due = time.monotonic()
        if message.do == "step":
            self._step(game)

    def _set_speed(self, message: Speed) -> None:
        self._speed = message.times
        self._due = min(self._due, time.monotonic() + self._length_s(FRAMES_PER_STEP))

    def _set_epsilon(self, message: Epsilon) -> None:
        self._going().epsilon = message.chance

    def _take_over(self, message: Hand) -> None:
        self._by_hand = message.to == "you"
        self._held = self._pressed = NOOP

    def _hold(self, message: Press) -> None:
        game = self._going()
        if message.action >= len(game.action_meanings):
            raise UserError(f"this game has no action {message.action}")
        self._held = message.action
        self._press = message.press
        if message.action != NOOP:
            self._pressed = message.action  # also if it is let go before the next step
        if self._plays and self._by_hand and self._is_next():
            self._step(game)  # at once; the one behind it comes when it is due

    def _look(self, message: Look) -> None:
        self._plays = False
        shown = self._past.look(message.back)
        if shown is not None:
            self._show_past(shown)
            head, observation = read_picture(shown)
            self._see(observation, head["choice"], head["game"], head["step"])

    def _see(self, observation: NDArray[np.uint8], choice: int, game: int, step: int) -> None:
        self._onlooker.see(Seen(self._going().agent, observation, choice, game, step))

    def _branch(self, _: Branch) -> None:
        game, place = self._going(), self._past.place()
        if place is None:
            return
        if game.go_back(place, self._going_back):
            self._past.forget_later()
            self._notify({"branched": [place.game, place.step]})
            self._plays = True
            self._due = time.monotonic()

    def _going_back(self, done: int, in_all: int) -> bool:
        self._notify({"going_back": done / max(in_all, 1)})
        return not self._closing.is_set()

    def _film(self, message: Film) -> None:
        game = self._going()
        if self._filming is not None:
            if not self._filming.is_done:
                self._notify({"film": None, "error": "a film is being made: wait for it"})
                return
            self._filming.end()
        record = game.record(message.game)
        last_steps = len(record.actions)
        if message.seconds is not None:
            last_steps = message.seconds * FRAMES_PER_SECOND // FRAMES_PER_STEP
        self._filming = Filming(
            record,
            game.config,
            seed=game.seed,
            first_step=max(0, len(record.actions) - last_steps),
            folder=self._film_folder,
            notify=self._notify,
        )
        self._filming.start()

    def _step(self, game: WatchedGame) -> None:
        by_hand = None
        if self._by_hand:
            by_hand = self._pressed if self._held == NOOP else self._held
        if (newer := self._newer()) is not None:
            game.use(newer.agent)
            self._notify({"newer": newer.weights, "steps": newer.steps})
        more = {} if self._press is None else {"press": self._press}
        self._press, self._pressed = None, NOOP
        moment = game.step(by_hand)
        self._past.add(moment)
        self._show(moment, self._speed, more)
        self._see(moment.observation, moment.choice, moment.game, moment.step)
        now = time.monotonic()
        if self._due < now - LATE_S:
            self._due = now
        self._due += self._length_s(len(moment.screens))

    def _is_next(self) -> bool:
        """Return whether the next step is the one whose turn it is: not if that came early."""
        return time.monotonic() > self._due - self._length_s(FRAMES_PER_STEP)

    def _length_s(self, num_screens: int) -> float:
        return num_screens / FRAMES_PER_SECOND / self._speed


_ANSWERS: dict[type[Message], Callable[[Player, Any], None]] = {
    Open: Player._open,
    Go: Player._go,
    Speed: Player._set_speed,
    Epsilon: Player._set_epsilon,
    Hand: Player._take_over,
    Press: Player._hold,
    Look: Player._look,
    Branch: Player._branch,
    Film: Player._film,
    Saliency: lambda player, message: player._onlooker.want(message.on),
}
