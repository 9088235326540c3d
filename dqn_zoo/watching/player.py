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
from dqn_zoo.watching.duel import Duel
from dqn_zoo.watching.filming import Filming
from dqn_zoo.watching.game import WatchedGame
from dqn_zoo.watching.messages import (
    Branch,
    Epsilon,
    Film,
    Go,
    Hand,
    Look,
    Message,
    Open,
    OpenDuel,
    Press,
    Saliency,
    Speed,
    read_picture,
)
from dqn_zoo.watching.outlet import Outlet
from dqn_zoo.watching.past import Past
from dqn_zoo.watching.saliency import Onlooker, Seen

LATE_S = 0.25
"""Lost time up to this is made up for; more is forgotten, as when a laptop slept."""


class Player(threading.Thread):
    """Plays for a page until it is closed; nothing is computed while it stands still.

    Args:
        gallery: what may be opened.
        outlet: takes every moment and picture, and notices of this thread and that of a film.
        onlooker: makes maps of saliency for the page.
        film_folder: where films for the page are put.
        log_folder: where the games of a person are kept.
        errors: where it stands why a game has failed, in words for the page.
        begin: called in this thread before anything else.
    """

    def __init__(
        self,
        gallery: Gallery,
        outlet: Outlet,
        onlooker: Onlooker,
        *,
        film_folder: Path,
        log_folder: Path,
        errors: str,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name="player", daemon=True)
        self._gallery = gallery
        self._outlet = outlet
        self._onlooker = onlooker
        self._film_folder = film_folder
        self._log_folder = log_folder
        self._errors = errors
        self._begin = begin
        self._filming: Filming | None = None
        self._past = Past()
        self._newer: Callable[[], Opened | None] = lambda: None
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._game: WatchedGame | None = None
        self._duel: Duel | None = None  # in the place of a game
        self._plays = False
        self._speed = 1.0
        self._due = 0.0  # when the next step is to be shown
        self._rest_s = 0.0  # what was left until then when it came to stand still
        self._by_hand = False
        self._held = self._pressed = NOOP
        self._press: int | None = None  # that the next picture answers

    @property
    def num_waiting(self) -> int:
        """Messages of the page that nothing was done about yet."""
        return self._messages.qsize()

    def tell(self, message: Message) -> None:
        """Hand on what the page sent."""
        self._messages.put(message)

    def close(self) -> None:
        """End the thread, without waiting for it."""
        self._closing.set()
        self._messages.put(None)

    def run(self) -> None:
        """Play."""
        self._begin()
        try:
            while not self._closing.is_set():
                self._turn()
        finally:
            self._onlooker.want(False)
            if self._filming is not None:
                self._filming.end()
            self._leave()

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
            elif not self._closing.is_set():
                self._step()
        except UserError as error:
            self._stand_still()
            self._outlet.put_notice({"error": str(error)})
        except Exception:  # a bug of ours: the page hears of it, and the others go on
            traceback.print_exc()
            self._stand_still()
            self._outlet.put_notice({"error": f"this game has failed; {self._errors} says why"})

    def _next_message(self) -> Message | None:
        """Return a message, None where a step is due first."""
        if not self._plays:
            return self._messages.get()
        with suppress(queue.Empty):
            wait = self._due - time.monotonic()
            return self._messages.get(timeout=wait) if wait > 0 else self._messages.get_nowait()
        return None

    def _obey(self, message: Message) -> None:
        _ANSWERS[type(message)](self, message)

    def _stand_still(self) -> None:
        """Stop the clock; what is left until the next step is left when it goes on.

        So a person who pauses again and again gets no more time than the console gives.
        """
        if self._plays:
            self._rest_s = max(self._due - time.monotonic(), 0.0)
            if self._duel is not None:
                self._duel.pause()
        self._plays = False

    def _going(self) -> WatchedGame:
        if self._duel is not None:
            raise UserError("not in a duel: use the page Play")
        if self._game is None:
            raise UserError("no agent plays yet: choose one of the list")
        return self._game

    def _leave(self) -> None:
        """End what is played now."""
        for each in (self._game, self._duel):
            if each is not None:
                each.close()
        self._game = self._duel = None
        self._held = self._pressed = NOOP
        self._press = None
        self._rest_s = 0.0
        self._onlooker.see(None)

    def _open(self, message: Open) -> None:
        opened = self._gallery.open(message.agent)
        config = with_rules(opened.agent.config, protocol=message.protocol)
        game = WatchedGame(opened.agent, config, seed=message.seed)
        self._leave()
        self._game, self._past, self._newer = game, Past(), opened.newer
        self._plays = True
        self._due = time.monotonic()
        self._outlet.put_notice(
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

    def _open_duel(self, message: OpenDuel) -> None:
        duel = Duel(self._gallery, message, log_folder=self._log_folder)
        self._leave()
        self._duel = duel
        self._plays = not duel.has_person  # who begins when ready
        self._due = time.monotonic()
        self._outlet.put_notice(duel.describe())

    def _go(self, message: Go) -> None:
        if self._duel is None:
            self._going()
        elif self._duel.is_over:
            return
        elif message.do == "step" and self._duel.is_by_hand:
            raise UserError("a person plays at the console's speed, not step by step")
        if message.do != "play":
            self._stand_still()
        elif not self._plays:
            self._plays, self._due = True, time.monotonic() + self._rest_s
        if message.do == "step":
            self._due = time.monotonic()
            self._step()

    def _set_speed(self, message: Speed) -> None:
        self._speed = message.times
        self._due = min(self._due, time.monotonic() + self._length_s(FRAMES_PER_STEP))

    def _set_epsilon(self, message: Epsilon) -> None:
        self._going().epsilon = message.chance

    def _take_over(self, message: Hand) -> None:
        self._by_hand = message.to == "you"
        self._held = self._pressed = NOOP

    def _hold(self, message: Press) -> None:
        game = self._duel or self._going()
        if message.action >= len(game.action_meanings):
            raise UserError(f"this game has no action {message.action}")
        self._held = message.action
        self._press = message.press
        if message.action != NOOP:
            self._pressed = message.action  # also if it is let go before the next step
        by_hand = self._by_hand if self._duel is None else self._duel.is_by_hand
        if self._plays and by_hand and self._is_next():
            self._step()  # at once; the one behind it comes when it is due

    def _look(self, message: Look) -> None:
        if self._duel is not None:
            self._going()  # says why not
        self._stand_still()
        shown = self._past.look(message.back)
        if shown is not None:
            self._outlet.put_picture(shown)
            head, observation = read_picture(shown)
            self._see(observation, head["choice"], head["game"], head["step"])

    def _see(self, observation: NDArray[np.uint8], choice: int, game: int, step: int) -> None:
        self._onlooker.see(Seen(self._going().agent, observation, choice, game, step))

    def _branch(self, _: Branch) -> None:
        game, place = self._going(), self._past.place()
        if place is None:
            raise UserError("no earlier moment is looked at: move the slider first")
        if game.go_back(place, self._going_back):
            self._past.forget_later()
            self._outlet.put_notice({"branched": [place.game, place.step]})
            self._plays = True
            self._due = time.monotonic()

    def _going_back(self, done: int, in_all: int) -> bool:
        self._outlet.put_notice({"going_back": done / max(in_all, 1)})
        return not self._closing.is_set()

    def _film(self, message: Film) -> None:
        game = self._going()
        try:
            if self._filming is not None and not self._filming.is_done:
                raise UserError("a film is being made: wait for it")
            record = game.record(message.game)
        except UserError as error:  # which the game that is played is no part of
            self._outlet.put_notice({"film": None, "error": str(error)})
            return
        if self._filming is not None:
            self._filming.end()
        last_steps = len(record.actions)
        if message.seconds is not None:
            last_steps = message.seconds * FRAMES_PER_SECOND // FRAMES_PER_STEP
        self._filming = Filming(
            record,
            game.config,
            seed=game.seed,
            first_step=max(0, len(record.actions) - last_steps),
            folder=self._film_folder,
            notify=self._outlet.put_notice,
        )
        self._filming.start()

    def _step(self) -> None:
        """Make a step, and say when the next one is due."""
        held = self._pressed if self._held == NOOP else self._held
        num_screens = self._step_game(held) if self._duel is None else self._step_duel(held)
        now = time.monotonic()
        if self._due < now - LATE_S:
            self._due = now
        self._due += self._length_s(num_screens)

    def _step_duel(self, held: int) -> int:
        assert self._duel is not None
        duel, speed = self._duel, self._speed_now()
        notices = duel.step(held)
        self._pressed = NOOP
        self._outlet.put_picture(duel.picture(speed))
        for notice in notices:
            self._outlet.put_notice(notice)
        if duel.is_over or any(each.get("stops") or "error" in each for each in notices):
            self._stand_still()
        return duel.num_screens

    def _step_game(self, held: int) -> int:
        game = self._going()
        if (newer := self._newer()) is not None:
            game.use(newer.agent)
            self._outlet.put_notice({"newer": newer.weights, "steps": newer.steps})
        more = {} if self._press is None else {"press": self._press}
        self._press, self._pressed = None, NOOP
        moment = game.step(held if self._by_hand else None)
        self._past.add(moment)
        self._outlet.put_moment(moment, self._speed, more)
        self._see(moment.observation, moment.choice, moment.game, moment.step)
        return len(moment.screens)

    def _is_next(self) -> bool:
        """Return whether the next step is the one whose turn it is: not if that came early."""
        return time.monotonic() > self._due - self._length_s(FRAMES_PER_STEP)

    def _speed_now(self) -> float:
        """Return the speed: a person's game for a score has the console's."""
        return 1.0 if self._duel is not None and self._duel.is_by_hand else self._speed

    def _length_s(self, num_screens: int) -> float:
        return num_screens / FRAMES_PER_SECOND / self._speed_now()


_ANSWERS: dict[type[Message], Callable[[Player, Any], None]] = {
    Open: Player._open,
    OpenDuel: Player._open_duel,
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
