"""How actions are chosen: schedules and epsilon-greedy."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class LinearSchedule(NamedTuple):
    """A value that moves from `initial` at step 0 to `final` at `horizon_steps`, then stays.

    It is a function of the absolute step, never of what remains: a resumed or extended run sees the
    same values as one that was never interrupted.
    """

    initial: float
    final: float
    horizon_steps: int

    def __call__(self, step: int) -> float:
        """Return the value at `step`."""
        if step >= self.horizon_steps:
            return self.final
        return self.initial + (self.final - self.initial) * (step / self.horizon_steps)


class EpsilonSchedule(NamedTuple):
    """The chance of a random action in every environment, as a function of the absolute step.

    Attributes:
        initial: at step 0, in all.
        finals: float64 [num_envs], from `horizon_steps` on; [1] if it is the same in all.
        horizon_steps: until then they move linearly.
        random_steps: until then every action is random.
    """

    initial: float
    finals: NDArray[np.float64]
    horizon_steps: int
    random_steps: int = 0

    def __call__(self, step: int) -> float:
        """Return the chance at `step`, on average over the environments."""
        return float(self.of_each(step).mean())

    def of_each(self, step: int) -> NDArray[np.float64]:
        """Return the chances at `step`: float64 [num_envs] or [1]."""
        if step < self.random_steps:
            return np.ones(1)
        if step >= self.horizon_steps:
            return self.finals
        return self.initial + (self.finals - self.initial) * (step / self.horizon_steps)


def spread_epsilons(base: float, alpha: float, num_envs: int) -> NDArray[np.float64]:
    """Return an epsilon for each environment, from `base` down to `base` ** (1 + alpha).

    Horgan et al. (2018), section 4.1, https://arxiv.org/abs/1803.00933, where base is 0.4 and alpha
    is 7. A single environment, and all of them where alpha is 0, have `base`: float64 [1].
    """
    if num_envs == 1 or alpha == 0.0:
        return np.array([base])
    return np.array([base ** (1.0 + alpha * i / (num_envs - 1)) for i in range(num_envs)])


def epsilon_greedy(
    q_values: NDArray[np.float32],
    epsilon: float | NDArray[np.float64],
    generator: np.random.Generator,
) -> NDArray[np.int64]:
    """Choose an action per environment, each with its own draw.

    Args:
        q_values: float32 [num_envs, num_actions].
        epsilon: chance of a uniformly random action; of several, [num_envs].
        generator: two draws per environment are always taken, so that what follows does not depend
            on how the coins fell.

    Returns:
        int64 [num_envs].
    """
    num_envs, num_actions = q_values.shape
    explores = generator.random(num_envs) < epsilon
    random_actions = generator.integers(num_actions, size=num_envs)
    return np.where(explores, random_actions, q_values.argmax(axis=1))


LONGEST = 10_000
"""Steps that a random action is kept up for at most."""


def durations(zeta: float) -> NDArray[np.float64]:
    """Return the chance of each number of steps, n ** -zeta up to a factor: float64 [LONGEST]."""
    weights = np.arange(1, LONGEST + 1, dtype=np.float64) ** -zeta
    chances: NDArray[np.float64] = weights / weights.sum()
    return chances


def mean_duration(zeta: float) -> float:
    """Return the steps that a random action is kept up for, on average."""
    return float(durations(zeta) @ np.arange(1, LONGEST + 1))


def num_lasting(num_envs: int, share: float) -> int:
    """Return in how many environments random actions are kept up: a share, rounded up."""
    return math.ceil(round(share * num_envs, 9))  # 0.07 of 100 are 7, and not 8


class Explorer:
    """Chooses epsilon-greedily, and keeps a random action up for a random number of steps.

    Dabney, Ostrovski and Barreto (2021), "Temporally-Extended epsilon-Greedy Exploration", appendix
    B, algorithm 1, https://arxiv.org/abs/2006.01782, where zeta is 2. Deviation: an action that is
    drawn for n steps has n, there n + 1; so one step is epsilon-greedy.

    Args:
        num_envs: each keeps up an action of its own.
        zeta: of `durations`; 0: every random action is for one step, `epsilon_greedy` to the bit.
        share: of the environments, from the first on, that keep random actions up.
    """

    def __init__(self, num_envs: int, zeta: float, share: float = 1.0) -> None:
        self._zeta = zeta
        self._num_lasting = num_lasting(num_envs, share)
        self._up_to = np.cumsum(durations(zeta))[:-1]
        self._action = np.zeros(num_envs, np.int64)
        self._left = np.zeros(num_envs, np.int64)  # steps for which the action is still kept up

    def choose(
        self,
        q_values: NDArray[np.float32],
        epsilon: NDArray[np.float64],
        generator: np.random.Generator,
    ) -> NDArray[np.int64]:
        """Choose an action per environment: int64 [num_envs].

        Args:
            q_values: float32 [num_envs, num_actions].
            epsilon: chance that a random action begins where none is kept up: [num_envs] or [1].
            generator: as many draws are always taken, two or three per environment.
        """
        if not self._zeta:
            return epsilon_greedy(q_values, epsilon, generator)
        num_envs, num_actions = q_values.shape
        begins = (generator.random(num_envs) < epsilon) & (self._left == 0)
        random_actions = generator.integers(num_actions, size=num_envs)
        lengths = 1 + np.searchsorted(self._up_to, generator.random(num_envs), side="right")
        steps = np.where(np.arange(num_envs) < self._num_lasting, lengths, 1)
        self._action = np.where(begins, random_actions, self._action)
        self._left = np.where(begins, steps, self._left)
        chosen = np.where(self._left > 0, self._action, q_values.argmax(axis=1))
        self._left = np.maximum(self._left - 1, 0)
        return chosen

    def state(self) -> list[list[int]]:
        """Return action and steps left of every environment, nothing where none is kept up."""
        return np.stack([self._action, self._left], axis=1).tolist() if self._zeta else []

    def restore(self, state: Sequence[Sequence[int]]) -> None:
        """Continue from `state`; where it has nothing, no action is kept up."""
        if self._zeta and state:
            self._action, self._left = np.array(state, np.int64).T
