"""How actions are chosen: schedules and epsilon-greedy."""

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
