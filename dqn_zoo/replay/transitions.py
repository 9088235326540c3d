"""From environment steps to transitions: clip, discount, fold n steps into one.

Everything that later stops would have to know about rewards, lives and the ends of games is decided
here, once. What leaves this module is a `discount`: 0 where bootstrapping must stop, else gamma**k.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.envs.environments import EnvStep

BLANK = 0  # the id of the black frame that pads the first observations of a game


class Transition(NamedTuple):
    """Rows of n-step transitions; frames are ids, not pixels.

    Attributes:
        observation: int32 [rows, stack], oldest frame first.
        action: int64 [rows].
        reward: float32 [rows], discounted sum of k <= n clipped rewards.
        discount: float32 [rows], gamma**k, or 0 where bootstrapping must stop.
        next_observation: int32 [rows, stack], k steps after `observation`.
    """

    observation: NDArray[np.int32]
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    discount: NDArray[np.float32]
    next_observation: NDArray[np.int32]


class TransitionRule(NamedTuple):
    """How a step becomes part of a transition.

    Attributes:
        n_steps: most rewards summed before the bootstrap.
        gamma: discount per step.
        clip_reward: replace a reward by its sign (Mnih et al., 2015, Methods).
        terminal_on_life_loss: a lost life stops the bootstrap; the game and its stack go on.
    """

    n_steps: int
    gamma: float
    clip_reward: bool
    terminal_on_life_loss: bool


class TransitionAccumulator:
    """Turns a stream of `EnvStep` into transitions.

    Per environment it keeps the ids of the current stack and the last `n_steps` steps that still
    wait for their bootstrap, in a ring of columns. A step leaves when n rewards are summed, or at
    once when its game ends, its observation starts anew, or (by the rule) a life is lost. With
    n = 3, rewards r0, r1, ... and the state s4 in which the game is over:

        vector step     0    1    2              3              4 (the game is over)
        column          0    1    2              0              1
        waiting before  -    s0   s0 s1          s1 s2          s2 s3
        leaves          -    -    s0             s1             s2, s3, s4
        its reward      -    -    r0+g r1+g2 r2  r1+g r2+g2 r3  r2+g r3+g2 r4, r3+g r4, r4
        its discount    -    -    g3             g3             0, 0, 0

    Args:
        num_envs: environments in every `EnvStep`.
        stack: frames in one observation.
        rule: see `TransitionRule`.
        append_frames: stores uint8 [rows, 84, 84] and returns their ids, int32 [rows].
    """

    def __init__(
        self,
        num_envs: int,
        stack: int,
        rule: TransitionRule,
        append_frames: Callable[[NDArray[np.uint8]], NDArray[np.int32]],
    ) -> None:
        self._rule = rule
        self._append_frames = append_frames
        self._observation = np.full((num_envs, stack), BLANK, np.int32)
        self._vector_steps = 0
        self._num_waiting = np.zeros(num_envs, np.int64)
        self._waiting_observation = np.zeros((num_envs, rule.n_steps, stack), np.int32)
        self._waiting_action = np.zeros((num_envs, rule.n_steps), np.int64)
        self._waiting_reward = np.zeros((num_envs, rule.n_steps), np.float64)

    @property
    def observation(self) -> NDArray[np.int32]:
        """Ids of the observation to act on next, int32 [num_envs, stack]."""
        return self._observation.copy()

    def reset(self, observation: NDArray[np.uint8]) -> None:
        """Start with the first observations, uint8 [num_envs, stack, 84, 84]."""
        every = np.ones(len(observation), np.bool_)
        self._start_stacks(every, observation)

    def add(self, step: EnvStep) -> Transition:
        """Store the frames of one vector step and return the transitions that it completes."""
        rule = self._rule
        self._vector_steps += 1
        self._num_waiting += 1
        newest = self._column(age=0)
        self._waiting_observation[:, newest] = self._observation
        self._waiting_action[:, newest] = step.action
        self._waiting_reward[:, newest] = 0.0
        reward = np.sign(step.reward) if rule.clip_reward else step.reward
        for age in range(rule.n_steps):
            waits = self._num_waiting > age
            self._waiting_reward[waits, self._column(age)] += rule.gamma**age * reward[waits]

        # The true successor first; where a new game begins, its first frame is stored after it.
        successor = self._append_frames(np.ascontiguousarray(step.next_observation[:, -1]))
        next_observation = np.column_stack([self._observation[:, 1:], successor]).astype(np.int32)
        self._observation = next_observation.copy()
        if step.restarted.any():
            self._start_stacks(step.restarted, step.observation)

        stops = step.terminated | (step.life_lost & rule.terminal_on_life_loss)
        flushes = stops | step.truncated | step.restarted
        return self._emit(next_observation, stops, flushes)

    def _column(self, age: int) -> int:
        """Return where the step waits that was taken `age` vector steps before the newest."""
        return (self._vector_steps - 1 - age) % self._rule.n_steps

    def _start_stacks(self, starts: NDArray[np.bool_], observation: NDArray[np.uint8]) -> None:
        """Begin a new stack in the marked environments: blanks and the first frame."""
        first = self._append_frames(np.ascontiguousarray(observation[starts, -1]))
        self._observation[starts] = BLANK
        self._observation[starts, -1] = first

    def _emit(
        self,
        next_observation: NDArray[np.int32],
        stops: NDArray[np.bool_],
        flushes: NDArray[np.bool_],
    ) -> Transition:
        """Collect the rows that are complete, the oldest first."""
        rule = self._rule
        blocks = []
        for age in reversed(range(rule.n_steps)):
            full = age == rule.n_steps - 1
            rows = np.flatnonzero((self._num_waiting > age) & (flushes | full))
            column = self._column(age)
            discount = np.where(stops[rows], 0.0, rule.gamma ** (age + 1))
            blocks.append(
                Transition(
                    observation=self._waiting_observation[rows, column],
                    action=self._waiting_action[rows, column],
                    reward=self._waiting_reward[rows, column].astype(np.float32),
                    discount=discount.astype(np.float32),
                    next_observation=next_observation[rows],
                )
            )
        self._num_waiting = np.where(
            flushes, 0, np.minimum(self._num_waiting, rule.n_steps - 1)
        ).astype(np.int64)
        if len(blocks) == 1:
            return blocks[0]
        return Transition(*(np.concatenate(column) for column in zip(*blocks, strict=True)))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps, as JSON: the ids are those of the frame store."""
        return {
            "vector_steps": self._vector_steps,
            "num_waiting": self._num_waiting.tolist(),
            "observation": self._observation.tolist(),
            "waiting_observation": self._waiting_observation.tolist(),
            "waiting_action": self._waiting_action.tolist(),
            "waiting_reward": self._waiting_reward.tolist(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        self._vector_steps = state["vector_steps"]
        self._num_waiting[:] = state["num_waiting"]
        self._observation[:] = state["observation"]
        self._waiting_observation[:] = state["waiting_observation"]
        self._waiting_action[:] = state["waiting_action"]
        self._waiting_reward[:] = state["waiting_reward"]
