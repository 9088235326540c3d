"""An agent at play that gets better meanwhile: the newest weights of a run that trains."""

import os
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.play.agent import Agent, build_agent
from dqn_zoo.play.session import Weights, read_weights
from dqn_zoo.play.weights import find_weights
from dqn_zoo.runs.manifest import may_be_training
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config

POLL_S = 0.5


class Follower:
    """Plays the last weights of a run, and newer ones as soon as they are written.

    `on_wait` is called once, before it waits for the first weights.

    Attributes:
        weights: that are played now.
        agent: that plays them.
        switched: whether they are others than when `begin_game` was called.

    Raises:
        UserError: there are no weights, and nobody trains the run.
    """

    def __init__(
        self, run: Run, config: Config, *, device: str, on_wait: Callable[[], None]
    ) -> None:
        self._run = run
        self._config = config
        self._device = device
        self._stamp: tuple[int, int] | None = None
        if not run.model_file.exists() and self.is_training:
            on_wait()
            while not run.model_file.exists() and self.is_training:
                time.sleep(POLL_S)
        find_weights(run, "last")  # says what is missing
        self.switched = False
        self.weights, self.agent = self._load()

    @property
    def is_training(self) -> bool:
        """Whether newer weights may come."""
        return may_be_training(self._run)

    def begin_game(self) -> None:
        """Count switches from here."""
        self.switched = False

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the values of the newest weights; see `Agent.q_values`."""
        self.look()
        return self.agent.q_values(observation)

    def wait_for_newer(self) -> bool:
        """Return True once there are newer weights, False if none will come."""
        while self.is_training:
            if self.look():
                return True
            time.sleep(POLL_S)
        return self.look()  # the last ones are written just before the end

    def look(self) -> bool:
        """Take newer weights if there are any, and return whether there were."""
        if self._stamp_now() == self._stamp:
            return False
        self.weights, self.agent = self._load()
        self.switched = True
        return True

    def _load(self) -> tuple[Weights, Agent]:
        self._stamp = self._stamp_now()  # before reading: what comes meanwhile is read next time
        weights = read_weights(self._run.model_file, "newest weights")
        return weights, build_agent(weights.file, self._config, device=self._device)

    def _stamp_now(self) -> tuple[int, int]:
        status = os.stat(self._run.model_file)
        return status.st_mtime_ns, status.st_ino
