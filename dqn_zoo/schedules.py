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


def epsilon_greedy(
    q_values: NDArray[np.float32], epsilon: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Choose an action per environment, each with its own draw.

    Args:
        q_values: float32 [num_envs, num_actions].
        epsilon: chance of a uniformly random action.
        generator: two draws per environment are always taken, so that what follows does not depend
            on how the coins fell.

    Returns:
        int64 [num_envs].
    """
    num_envs, num_actions = q_values.shape
    explores = generator.random(num_envs) < epsilon
    random_actions = generator.integers(num_actions, size=num_envs)
    return np.where(explores, random_actions, q_values.argmax(axis=1))
