"""Two games of one seed beside each other: agent against agent, or a person against an agent.

Both are played by the same rules and begin with the same pictures. As long as both sides act alike
they are the same game, so the first step at which they do not is where they part. A person's game
is kept for the leaderboard; `play/by_hand.py` says which count.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from dqn_zoo.errors import UserError
from dqn_zoo.play.agent import Outlook
from dqn_zoo.play.by_hand import HumanGame, folder_of, played, seeds_begun, write_game
from dqn_zoo.play.session import with_rules
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import RULES_OF_THE_CONFIG, protocol_from_config, rules_in_words
from dqn_zoo.system import shell
from dqn_zoo.watching.agents import Gallery, Opened
from dqn_zoo.watching.game import Moment, WatchedGame
from dqn_zoo.watching.messages import OpenDuel, picture_in_time

RULES = ("protocol", "mode", "difficulty", *RULES_OF_THE_CONFIG)


class Side:
    """One of the two games.

    Args:
        name: key of its agent on the list; None: a person acts.
        opened: the agent; the other side's where a person acts, who hears nothing of it.
        config: its settings, with the rules of the duel.
        seed: of the game.

    Attributes:
        record: of the game, which is the first of its seed.
        moment: the latest.
        has_moved: whether that is of the last step of the duel.
    """

    def __init__(self, name: str | None, opened: Opened, config: Config, *, seed: int) -> None:
        self.name = name
        self.opened = opened
        self.config = config
        self.game = WatchedGame(opened.agent, config, seed=seed)
        self.record = self.game.record(0)
        self.moment: Moment | None = None
        self.has_moved = False

    @property
    def is_over(self) -> bool:
        """Whether the game has ended; the next one of the seed is never played."""
        return self.record.result is not None

    def step(self, by_hand: int) -> Moment:
        """Make a step."""
        self.has_moved = True
        self.moment = self.game.step(by_hand if self.name is None else None)
        if self.name is None:
            nothing = Outlook(np.zeros_like(self.moment.outlook.q_values))
            self.moment = self.moment._replace(outlook=nothing, choice=self.moment.action)
        return self.moment

    def describe(self) -> dict[str, Any]:
        """Return what a page says about it."""
        return {
            "name": self.name,
            "recipe": self.config.algo,
            "weights": self.opened.weights,
            "steps": self.opened.steps,
            "atoms": [self.config.v_min, self.config.v_max],
        }


class Duel:
    """Both games until they have ended, and what is kept of them.

    Args:
        gallery: what may be opened.
        asked: by the page.
        log_folder: where the games of a person are kept.

    Attributes:
        num_screens: how long the last step lasted.

    Raises:
        UserError: an agent is not on the list, or the two do not play the same game.
    """

    def __init__(self, gallery: Gallery, asked: OpenDuel, *, log_folder: Path) -> None:
        self._asked = asked
        self._sides = _open_sides(gallery, asked)
        left, right = self._sides
        self.has_person = left.name is None
        self.action_meanings = left.game.action_meanings
        self.num_screens = 0
        self._num_alike = 0
        self._has_parted = False
        self._trouble: UserError | None = None
        # Nothing acts at random in a person's place.
        self._rules = replace(protocol_from_config(right.config), eval_epsilon=0.0)
        self._folder = folder_of(log_folder, right.config.env)
        self._is_known = self.has_person and asked.seed in self._known_seeds()
        self._kept: HumanGame | None = None
        self._file = self._folder
        self._begun_s = 0.0

    @property
    def is_by_hand(self) -> bool:
        """Whether a person's game is under way: at the console's speed, without a way back."""
        return self.has_person and not self._sides[0].is_over

    @property
    def is_over(self) -> bool:
        """Whether both games have ended."""
        return all(side.is_over for side in self._sides)

    def describe(self) -> dict[str, Any]:
        """Return what a page is told when it begins."""
        right = self._sides[1]
        return {
            "opened": self._asked.right,
            "sides": [side.describe() for side in self._sides],
            "game": right.config.env,
            "seed": self._asked.seed,
            "protocol": rules_in_words(self._rules),
            "sticky": self._rules.action_repeat_probability,
            "noops": self._rules.noop_max,
            "epsilon": right.game.epsilon,
            "actions": self.action_meanings,
            "is_known": self._is_known,
        }

    def step(self, by_hand: int) -> list[dict[str, Any]]:
        """Make a step of each game that goes on, or of the one whose turn it is.

        Args:
            by_hand: what a person holds, if one plays.

        Returns:
            Notices for the page.

        Raises:
            UserError: a person's game cannot be kept, or an agent cannot go on; then neither does.
        """
        if self.is_by_hand and self._kept is None:
            self._begin_to_keep()
        was_by_hand, was_over = self.is_by_hand, self.is_over
        for side in self._sides:
            side.has_moved = False
        if self._trouble is not None:  # or the side that can would go on alone
            raise self._trouble
        try:
            moments = [side.step(by_hand) for side in self._going()]
        except UserError as error:
            self._trouble = error
            raise
        self.num_screens = max(len(moment.screens) for moment in moments)
        notices = self._look_for_parting()
        if was_by_hand > self.is_by_hand or was_over < self.is_over:
            notices += self._end()
        return notices

    def pause(self) -> None:
        """Take note that a person paused."""
        if self.is_by_hand and self._kept is not None:
            self._kept["pauses"] += 1

    def picture(self, speed: float) -> bytes:
        """Return both sides as a page gets them; of a game that stands still its last screen."""
        parts = []
        for place, side in enumerate(self._sides):
            moment = side.moment
            if moment is None:  # it waits for its turn
                continue
            if not side.has_moved:
                moment = moment._replace(screens=moment.screens[-1:])
            parts.append(picture_in_time(moment, speed, side=place))
        return b"".join(parts)

    def close(self) -> None:
        """Free the emulators."""
        _close(self._sides)

    def _going(self) -> list[Side]:
        going = [side for side in self._sides if not side.is_over]
        return going[:1] if self.has_person and self._asked.order == "you first" else going

    def _look_for_parting(self) -> list[dict[str, Any]]:
        """Return a notice of the first step at which the two act differently."""
        left, right = (side.record.actions for side in self._sides)
        if self._has_parted:
            return []
        while self._num_alike < min(len(left), len(right)):
            pair = left[self._num_alike], right[self._num_alike]
            self._num_alike += 1
            if pair[0] != pair[1]:
                self._has_parted = True
                names = [self.action_meanings[action] for action in pair]
                stops = self._asked.stops and not self.has_person
                return [{"parted": self._num_alike, "actions": names, "stops": stops}]
        return []

    def _end(self) -> list[dict[str, Any]]:
        """Keep a person's game, and tell of the end of both."""
        kept, notices = self._kept, list[dict[str, Any]]()
        if kept is not None:
            left, right = (_played(side) for side in self._sides)
            if kept["played"] is None:
                kept["seconds"] = round(monotonic() - self._begun_s, 1)
            kept["played"], kept["agent"]["played"] = left, right
            try:
                write_game(self._file, kept)
            except UserError as error:  # the game goes on; at the end of both it is tried again
                notices.append({"error": str(error)})
        if self.is_over:
            scores = [side.record.result.score for side in self._sides if side.record.result]
            is_kept = kept is not None and not notices
            notices.append(
                {
                    "over": scores,
                    "file": str(self._file) if is_kept else None,
                    "is_known": self._is_known,
                    "leaderboard": self._leaderboard(),
                }
            )
        return notices

    def _begin_to_keep(self) -> None:
        """Note that a person has begun: whoever gives a game up has played its seed."""
        right, now = self._sides[1], datetime.now(UTC)
        self._is_known = self._asked.seed in self._known_seeds()  # by now: another page may be open
        self._file = self._folder / f"{now:%Y-%m-%d-%H%M%S-%f}-seed-{self._asked.seed}.json"
        kept: HumanGame = {
            "env": right.config.env,
            "seed": self._asked.seed,
            "protocol": self._rules.as_json(),
            "begun": now.isoformat(timespec="seconds"),
            "order": self._asked.order,
            "played": None,
            "pauses": 0,
            "seconds": 0.0,
            "agent": {
                "name": _as_word(right.name or ""),
                "weights": _as_word(right.opened.weights),
                "steps": right.opened.steps,
                "epsilon": right.game.epsilon,
                "played": None,
            },
        }
        write_game(self._file, kept)
        self._kept, self._begun_s = kept, monotonic()

    def _leaderboard(self) -> str:
        """Return the command that ranks the games of a person among others."""
        log_folder = self._folder.parents[1]
        return shell.command(
            "dqn-leaderboard", "--env", self._sides[1].config.env, "-f", log_folder, "--offline"
        )

    def _known_seeds(self) -> set[int]:
        return seeds_begun(self._folder, self._rules)


def _open_sides(gallery: Gallery, asked: OpenDuel) -> tuple[Side, Side]:
    """Open both games by the rules of the right one, or by those that were asked for."""
    right = gallery.open(asked.right)
    left = right if asked.left is None else gallery.open(asked.left)
    config = with_rules(right.agent.config, protocol=asked.protocol)
    if left.agent.config.env != config.env:
        raise UserError(
            f"{asked.left} plays {left.agent.config.env} and {asked.right} {config.env}: "
            "choose two that play the same game"
        )
    rules = {key: getattr(config, key) for key in RULES}
    own = left.agent.config.model_copy(update=rules)
    sides: list[Side] = []
    try:
        sides.append(Side(asked.left, left, own, seed=asked.seed))
        sides.append(Side(asked.right, right, config, seed=asked.seed))
    except UserError:
        _close(sides)
        raise
    return sides[0], sides[1]


def _close(sides: Sequence[Side]) -> None:
    for side in sides:
        side.game.close()


def _played(side: Side) -> Any:
    result = side.record.result
    return None if result is None else played(result, side.record.actions)


def _as_word(text: str) -> str:
    """Return a name as a file may hold it."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]
