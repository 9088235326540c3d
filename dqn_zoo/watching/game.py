"""A game on a page: an agent or a person acts in it, and it can go back to where it was.

The emulator is not saved. A game is its seed and its actions, as in an exact resume: going back
plays them again in new emulators, and the frames that the network gets there are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.environments import EnvStep
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.play.agent import Agent, Outlook
from dqn_zoo.play.evaluation import Game, RunningGame, enjoy_seeds
from dqn_zoo.play.film import Film
from dqn_zoo.play.session import caption
from dqn_zoo.schedules import epsilon_greedy
from dqn_zoo.seeding import generator_state, restore_generator
from dqn_zoo.settings.config import Config

Screen = NDArray[np.uint8]
OnScreen = Callable[[Screen], None]

MOST_GAMES = 10
"""Games whose actions are kept, to go back into them and to film them."""

MOST_SCREENS = 12
"""Of one step; the no-ops before a game are thirty."""

LONGEST_FILM_S = 1_800.0  # the frame cap of a game, at the speed of the console

Proceed = Callable[[int, int], bool]
"""Takes (steps done, steps in all) now and then, and says whether to go on."""


@dataclass(slots=True)
class Record:
    """All that it takes to play a game again.

    Attributes:
        index: which of the games of its seed, from 0.
        actions: as they were executed, one byte each.
        by_hand: how many of them a person chose.
        result: once it has ended.
    """

    index: int
    actions: bytearray = field(default_factory=bytearray)
    by_hand: int = 0
    result: Game | None = None


class Place(NamedTuple):
    """A moment to which a game can go back.

    Attributes:
        game: its index.
        step: how many steps were made in it.
        by_hand: how many of them by a person.
        generator: the state of the exploration.
        check: of the frames that the network gets next.
    """

    game: int
    step: int
    by_hand: int
    generator: dict[str, Any]
    check: int


class Moment(NamedTuple):
    """One step of a game, as a page shows it.

    Attributes:
        game: index of the game.
        step: steps of this game so far, this one included.
        observation: uint8 [stack, 84, 84], what the network got.
        outlook: what it made of it.
        choice: the agent's action, which was not executed if a person played.
        action: that was executed.
        by_hand: whether a person chose it.
        reward: raw change of the score.
        score: of the game so far.
        lives: left.
        result: of the game, if this step ended it.
        screens: the emulator's pictures, RGB uint8 [height, 160, 3].
        place: to come back behind this step.
    """

    game: int
    step: int
    observation: NDArray[np.uint8]
    outlook: Outlook
    choice: int
    action: int
    by_hand: bool
    reward: float
    score: float
    lives: int
    result: Game | None
    screens: list[Screen]
    place: Place


class SeededGames:
    """The games of a seed from one of them on, moved by nothing but actions.

    As long as an agent acts, they are those that `dqn-enjoy --seed` shows in a window or a film.

    Args:
        config: whose game and rules.
        seed: of all games.
        first: index of the first game.
        on_screen: see below.

    Attributes:
        on_screen: takes every picture of the emulator, RGB uint8 [height, 160, 3]; None: nobody.
        observation: uint8 [1, stack, 84, 84], to act on.
        running: the game under way.
        record: of that game.
        num_opening: pictures that the last step gave of the next game's opening.
    """

    def __init__(
        self, config: Config, *, seed: int, first: int, on_screen: OnScreen | None
    ) -> None:
        self.on_screen = on_screen
        self.num_opening = self._num_shown = self._num_of_game = 0
        self._seed = seed
        self._environments = make_envs(
            config.env,
            settings=replace(
                EnvSettings.from_config(config),
                backend="gymnasium",
                on_frame=self._show,
            ),
            reseed=ReseedPlan(lambda _, count: self._begins(first + count), every_steps=0),
        )
        self.action_meanings = self._environments.action_meanings
        self.observation = self._environments.reset()
        self._begin(first)

    @property
    def lives(self) -> int:
        """Lives left."""
        return int(self._environments.lives[0])

    def play(self, action: int, *, by_hand: bool = False) -> tuple[EnvStep, Game | None]:
        """Make a step; where it ends the game, the next one begins.

        Returns:
            What the emulator answered, and the game if it ended.
        """
        self._num_shown = 0
        step = self._environments.step(np.array([action]))
        self.observation = step.observation
        self.record.actions.append(int(step.action[0]))
        self.record.by_hand += by_hand
        self.running.score += float(step.reward[0])
        self.running.length_steps += 1
        if not (step.terminated[0] or step.truncated[0]):
            self.num_opening = 0
            return step, None
        self.num_opening = self._num_shown - self._num_of_game
        self.record.result = self.running.end(truncated=bool(step.truncated[0]))
        result = self.record.result
        self._begin(result.index + 1)
        return step, result

    def play_again(self, actions: bytes, proceed: Proceed) -> bool:
        """Make the steps of a record; return False if it was not to go on."""
        for done, action in enumerate(actions):
            if done % 256 == 0 and not proceed(done, len(actions)):
                return False
            self.play(action)
        return True

    def close(self) -> None:
        """Free the emulator."""
        self._environments.close()

    def _show(self, _: int, screen: Screen) -> None:
        self._num_shown += 1
        if self.on_screen is not None:
            self.on_screen(screen)

    def _begin(self, index: int) -> None:
        self.running = RunningGame(index, self._seed_of(index))
        self.record = Record(index)

    def _begins(self, index: int) -> int:
        """Return the seed of a game that is about to be started; a step may have ended the last."""
        self._num_of_game = self._num_shown
        return self._seed_of(index)

    def _seed_of(self, index: int) -> int:
        return enjoy_seeds(self._seed, index + 1)[index]


class WatchedGame:
    """An agent at play, a person who may act in its place, and the way back.

    Args:
        agent: that plays.
        config: of its run, with the rules that it plays by here.
        seed: of its games.

    Attributes:
        agent: that plays.
        config: as it was given.
        epsilon: chance of a random action.
        records: of the games so far, the latest last.

    Raises:
        UserError: the agent does not fit the game.
    """

    def __init__(self, agent: Agent, config: Config, *, seed: int) -> None:
        self.agent = agent
        self.config = config
        self.seed = seed
        self.epsilon = EnvSettings.from_config(config).protocol.eval_epsilon
        self._screens: list[Screen] = []
        self._games = SeededGames(config, seed=seed, first=0, on_screen=self._screens.append)
        self.records = [self._games.record]
        self.action_meanings = self._games.action_meanings
        if len(self.action_meanings) != agent.num_actions:
            self.close()
            raise UserError(
                f"{config.env} has {len(self.action_meanings)} actions and this agent "
                f"decides among {agent.num_actions}: choose one that was trained on this game"
            )

    def use(self, agent: Agent) -> None:
        """Let other weights of the same run go on."""
        self.agent = agent

    def step(self, by_hand: int | None) -> Moment:
        """Make a step.

        Args:
            by_hand: a person's action; None: the agent's.

        Raises:
            UserError: the agent's values are not finite; then no step is made.
        """
        games, observation = self._games, self._games.observation[0]
        running = games.running
        outlook = self.agent.outlook(observation)
        if not np.isfinite(outlook.q_values).all():  # JSON has no such numbers
            raise UserError(
                "the values of this agent are not finite, as after a training that diverged: "
                "choose another agent, or other weights of its run"
            )
        choice = int(epsilon_greedy(outlook.q_values[None], self.epsilon, running.generator)[0])
        step, result = games.play(
            choice if by_hand is None else by_hand, by_hand=by_hand is not None
        )
        if result is not None:
            self.records = [*self.records, games.record][-MOST_GAMES - 1 :]  # one has only begun
        # An opening lies before the first step's own pictures, and behind those of the last.
        num_screens = len(self._screens) - games.num_opening
        screens = self._screens[:num_screens][-MOST_SCREENS:]
        del self._screens[:num_screens]
        return Moment(
            game=running.index,
            step=running.length_steps,
            observation=observation,
            outlook=outlook,
            choice=choice,
            action=int(step.action[0]),
            by_hand=by_hand is not None,
            reward=float(step.reward[0]),
            score=running.score,
            lives=0 if result else games.lives,
            result=result,
            screens=screens,
            place=self._place(),
        )

    def go_back(self, place: Place, proceed: Proceed) -> bool:
        """Go back to where a game was, and forget what came after it.

        Returns:
            False if `proceed` ended it: then nothing has changed.

        Raises:
            UserError: the game is too long ago, or the emulator did not come to the same place.
        """
        actions = bytes(self.record(place.game).actions[: place.step])
        games = SeededGames(self.config, seed=self.seed, first=place.game, on_screen=None)
        if not games.play_again(actions, proceed):
            games.close()
            return False
        if crc32(games.observation.tobytes()) != place.check:
            games.close()
            raise UserError("the emulator did not come to the same place: the game goes on here")
        restore_generator(games.running.generator, place.generator)
        games.record.by_hand = place.by_hand
        self._screens.clear()
        games.on_screen = self._screens.append
        self._games.close()
        self._games = games
        self.records = [each for each in self.records if each.index < place.game] + [games.record]
        return True

    def record(self, game: int) -> Record:
        """Return the record of a game.

        Raises:
            UserError: it is too long ago.
        """
        for each in self.records:
            if each.index == game:
                return each
        raise UserError(f"game {game + 1} is not kept any more")

    def close(self) -> None:
        """Free the emulator."""
        self._games.close()

    def _place(self) -> Place:
        running = self._games.running
        return Place(
            game=running.index,
            step=running.length_steps,
            by_hand=self._games.record.by_hand,
            generator=generator_state(running.generator),
            check=crc32(self._games.observation.tobytes()),
        )


def film_game(
    path: Path, record: Record, config: Config, *, seed: int, first_step: int, proceed: Proceed
) -> bool:
    """Play a game again, and film it from a step on.

    Returns:
        Whether there is a film; not if `proceed` ended it, or the encoder failed.

    Raises:
        UserError: nothing can be written, or ffmpeg is missing.
    """
    film = Film(path, max_seconds=LONGEST_FILM_S)

    screens: list[Screen] = []
    is_complete = False
    opening = screens.append if first_step == 0 else None
    games = SeededGames(config, seed=seed, first=record.index, on_screen=opening)
    try:
        for done, action in enumerate(bytes(record.actions)):
            if done % 16 == 0 and not proceed(done, len(record.actions)):
                return False
            if done == first_step:
                games.on_screen = screens.append
            running = games.running
            games.play(action)
            for screen in screens[: len(screens) - games.num_opening]:
                film.on_frame(0, screen)
            screens.clear()
            caption(film, running)
        is_complete = True
        return film.close()
    finally:
        games.close()
        if not is_complete:
            film.close()
            path.unlink(missing_ok=True)
