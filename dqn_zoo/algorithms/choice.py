"""The algorithms that there are, by the name that a config gives them."""

from dqn_zoo.algorithms.algorithm import Algorithm
from dqn_zoo.algorithms.parallel_q import ParallelQ
from dqn_zoo.algorithms.replay_q import ReplayQ
from dqn_zoo.errors import UserError, short
from dqn_zoo.settings.config import Config


def algorithm_of(config: Config) -> type[Algorithm]:
    """Return the class of a run's algorithm.

    Raises:
        UserError: there is no such algorithm.
    """
    if config.algorithm not in ALGORITHMS:
        raise UserError(
            f"algorithm must be one of {', '.join(ALGORITHMS)}, got {short(config.algorithm)}"
        )
    return ALGORITHMS[config.algorithm]


ALGORITHMS: dict[str, type[Algorithm]] = {"replay": ReplayQ, "parallel": ParallelQ}
