"""The algorithms that there are, by the name that a config gives them."""

from dqn_zoo.algorithms.algorithm import Algorithm
from dqn_zoo.algorithms.replay_q import ReplayQ
from dqn_zoo.settings.config import Config


def algorithm_of(config: Config) -> type[Algorithm]:
    """Return the class of a run's algorithm."""
    return ALGORITHMS[config.algorithm]


ALGORITHMS: dict[str, type[Algorithm]] = {
    "replay": ReplayQ,
}
