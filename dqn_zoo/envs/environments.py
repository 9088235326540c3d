"""Atari games, several played together: the first stop of a transition.

    environments = make_envs("SpaceInvaders", num_envs=8)
    observation = environments.reset()           # uint8 [8, 4, 84, 84]
    environments.send(choose(observation))       # the emulators work while the learner does
    step = environments.recv()                   # EnvStep; act on step.observation next

Where a game ended the next one starts within the same `recv`, so every row of every `EnvStep` is a
real transition. Rewards are raw, a lost life is only reported, and FIRE is pressed where the
protocol says so; everything else about learning happens further down the line.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, NamedTuple, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

from dqn_zoo.envs.backend import (
    KEEP_GENERATOR,
    Actions,
    Backend,
    BackendStep,
    Counts,
    Mask,
    Observations,
    Seeds,
)
from dqn_zoo.envs.env_settings import EnvSettings, ReseedPlan
from dqn_zoo.envs.exact_resume import History, check_saved
from dqn_zoo.envs.guard import Guard, Phase
from dqn_zoo.errors import UserError
from dqn_zoo.settings.games import GameName


class EnvStep(NamedTuple):
    """One step of every environment; arrays may share memory, so do not write into them.

    Attributes:
        observation: uint8 [num_envs, stack, 84, 84], oldest frame first: act on this next.
        next_observation: same shape, the true successor; differs only where `restarted`.
        action: int64 [num_envs], what was executed; FIRE may stand in for what was sent.
        reward: float32 [num_envs], score change, never clipped.
        terminated: bool [num_envs], the game is over.
        truncated: bool [num_envs], the game ran into the frame cap; never with `terminated`.
        life_lost: bool [num_envs], a life was lost and the game goes on.
        restarted: bool [num_envs], `observation` begins a new stack: the game ended or, in the
            protocol `sb3`, a life was lost.
    """

    observation: Observations
    next_observation: Observations
    action: Actions
    reward: npt.NDArray[np.float32]
    terminated: Mask
    truncated: Mask
    life_lost: Mask
    restarted: Mask


class Environments:
    """Games stepped together: one guard and one bookkeeping for every backend.

    The emulator hangs, crashes or returns garbage on calls out of order, on actions out of range
    and in a forked process. So every call is checked here, and nothing else touches a backend.

    Attributes:
        game: the game's name, such as "SpaceInvaders".
        rom: its name in ale-py, such as "space_invaders".
        num_envs: environments stepped together.
        settings: how they are played.
        action_meanings: names of the actions, in their order.
        num_actions: how many there are.
        lives: int64 [num_envs], those left now.
    """

    def __init__(
        self,
        backend: Backend,
        name: GameName,
        *,
        num_envs: int,
        settings: EnvSettings,
        reseed: ReseedPlan,
    ) -> None:
        self.game = name.game
        self.rom = name.rom
        self.num_envs = num_envs
        self.settings = settings
        self.action_meanings = backend.action_meanings
        self.num_actions = len(backend.action_meanings)

        self._backend = backend
        self._history = History(num_envs, reseed)
        self._guard = Guard(num_envs, self.num_actions)
        # In the protocol sb3 the backend presses FIRE itself, between the steps of the agent.
        self._is_sb3 = settings.protocol.name == "sb3"
        self._fires = settings.protocol.fire and not self._is_sb3 and "FIRE" in self.action_meanings
        self._fire = self.action_meanings.index("FIRE") if self._fires else 0
        self._must_fire: Mask = np.zeros(num_envs, dtype=np.bool_)
        self.lives: Counts = np.zeros(num_envs, dtype=np.int64)
        self._observation: Observations = np.zeros((num_envs, 0), dtype=np.uint8)
        self._executed: Actions = np.zeros(num_envs, dtype=np.int64)

    def reset(self) -> Observations:
        """Seed and start every environment; once, before the first step.

        Returns:
            uint8 [num_envs, stack, 84, 84].
        """
        self._guard.enter("reset", Phase.NEW)
        self._start_games(np.ones(self.num_envs, dtype=np.bool_), self._history.seeds())
        self._guard.phase = Phase.READY
        return self._observation

    def send(self, action: npt.NDArray[np.integer[Any]]) -> None:
        """Begin a step, and return at once.

        Args:
            action: integers [num_envs], each 0 <= action < num_actions.

        Raises:
            ValueError: another shape, type or range.
            RuntimeError: reset() or recv() has to come first.
        """
        self._guard.check("send", Phase.READY)
        self._executed = self._guard.checked(action)
        self._executed[self._must_fire] = self._fire
        self._guard.phase = Phase.BROKEN
        self._backend.send(self._executed)
        self._guard.phase = Phase.IN_FLIGHT

    def recv(self) -> EnvStep:
        """Wait for the step that `send` began.

        Raises:
            RuntimeError: no step is on its way.
        """
        self._guard.enter("recv", Phase.IN_FLIGHT)
        step = self._backend.recv()
        seeds = self._history.note(self._executed, step.terminated | step.truncated)
        result = self._complete(step, seeds)
        self._guard.phase = Phase.READY
        return result

    def step(self, action: npt.NDArray[np.integer[Any]]) -> EnvStep:
        """Send and receive."""
        self.send(action)
        return self.recv()

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs, as JSON; changes nothing.

        Raises:
            RuntimeError: a step is on its way, or nothing was reset yet.
        """
        self._guard.check("state", Phase.READY)
        return {
            "settings": self._fingerprint(),
            "environments": self._history.state(),
            "check": self._digest(),
        }

    def restore(
        self, state: dict[str, Any], on_progress: Callable[[int, int], None] | None = None
    ) -> Observations:
        """Seed every environment as it was, and replay its actions since.

        Every further step equals, bit for bit, what it would have been without the interruption.

        Args:
            state: what `state` returned, also after a trip through JSON.
            on_progress: called now and then with (steps replayed, steps in all), per environment.

        Returns:
            The observation to act on, uint8 [num_envs, stack, 84, 84].

        Raises:
            UserError: the state is of other environments, or the replay gave something else.
            ValueError: the state is damaged.
        """
        self._guard.check("restore", Phase.NEW)
        check_saved(state, self._fingerprint())
        self._history.restore(state["environments"], num_actions=self.num_actions)
        self._guard.phase = Phase.BROKEN
        self._history.replay(self._start_games, self._step_again, on_progress)
        if self._digest() != state["check"]:
            raise UserError(
                "the replayed games differ from the saved ones: the state is damaged, or ale-py or "
                "the machine is another; resume where it was saved"
            )
        self._guard.phase = Phase.READY
        return self._observation

    def close(self) -> None:
        """Free the emulators and close the windows; a second call does nothing."""
        if self._guard.phase is not Phase.CLOSED:
            self._guard.phase = Phase.CLOSED
            self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _complete(self, step: BackendStep, seeds: Seeds) -> EnvStep:
        """Work out lives and FIRE, and start the next game where one ended."""
        ended = step.terminated | step.truncated
        life_lost = (step.lives < self.lives) & ~ended
        if self._is_sb3:  # for SB3 the last one is lost when the game ends, some frames later
            life_lost &= (step.lives > 0) | step.restarted
        self._observation, self.lives = step.observation, step.lives
        self._must_fire = life_lost & self._fires
        if ended.any():
            self._start_games(ended, seeds)
        return EnvStep(
            observation=self._observation,
            next_observation=step.next_observation,
            action=self._executed,
            reward=step.reward,
            terminated=step.terminated,
            truncated=step.truncated & ~step.terminated,
            life_lost=life_lost,
            restarted=step.restarted | ended,
        )

    def _start_games(self, rows: Mask, seeds: Seeds) -> None:
        self._observation, self.lives = self._backend.reset(rows, seeds)
        self._must_fire[rows] = self._fires

    def _step_again(self, actions: Actions) -> None:
        """Make a step of the past; nothing is noted, since the history has it."""
        self._backend.send(actions)
        keep_generators = np.full(self.num_envs, KEEP_GENERATOR, dtype=np.int64)
        self._complete(self._backend.recv(), keep_generators)

    def _fingerprint(self) -> dict[str, Any]:
        return {"game": self.game, "num_envs": self.num_envs, **self.settings.fingerprint()}

    def _digest(self) -> dict[str, list[int]]:
        """Return what a replay is checked by: lives, and a checksum of every stack."""
        stacks = [crc32(stack.tobytes()) for stack in self._observation]
        return {"lives": self.lives.tolist(), "stack_crc32": stacks}
