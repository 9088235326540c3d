"""How a run explores: epsilon as its settings say, from a stream of random numbers of its own."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.schedules import EpsilonSchedule, Explorer, spread_epsilons
from dqn_zoo.seeding import generator_state, restore_generator, stream_generator
from dqn_zoo.settings.config import Config


class Exploration:
    """Chooses the actions of training.

    Args:
        config: of the run.
        random_steps: until then every action is random.
    """

    def __init__(self, config: Config, *, random_steps: int = 0) -> None:
        assert config.seed is not None
        self._epsilon = epsilon_schedule(config, random_steps=random_steps)
        self._explorer = Explorer(
            config.n_envs, config.exploration_zeta, config.exploration_zeta_share
        )
        self._generator = stream_generator(config.seed, "exploration")

    def choose(self, q_values: NDArray[np.float32], step: int) -> NDArray[np.int64]:
        """Choose an action per environment, int64 [num_envs], by float32 [num_envs, num_actions].

        As many draws are always taken, so that what follows does not depend on how they fell.
        """
        return self._explorer.choose(q_values, self._epsilon.of_each(step), self._generator)

    def epsilon(self, step: int) -> float:
        """Return the chance of a random action, on average over the environments."""
        return self._epsilon(step)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {
            "exploration": generator_state(self._generator),
            "kept_up": self._explorer.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that has what `state` returned."""
        restore_generator(self._generator, state["exploration"])
        self._explorer.restore(state.get("kept_up", []))  # checkpoints of old versions lack it


def epsilon_schedule(config: Config, *, random_steps: int = 0) -> EpsilonSchedule:
    """Return epsilon as a function of the step (Mnih et al., 2015, Methods)."""
    horizon = int(config.exploration_fraction * config.n_timesteps)
    base, alpha = config.exploration_final_eps, config.exploration_spread
    finals = spread_epsilons(base, alpha, config.n_envs)
    return EpsilonSchedule(config.exploration_initial_eps, finals, horizon, random_steps)
