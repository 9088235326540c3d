"""What the emulators do not survive, refused before they see it.

They hang, crash or return garbage on calls out of order, on actions out of range and in a forked
process.
"""

import os
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from dqn_zoo.envs.backend import Actions


class Phase(Enum):
    """Where the environments stand; the value completes "cannot ...: "."""

    NEW = "reset() or restore() comes first"
    READY = "no step is on its way, and a reset comes only once"
    IN_FLIGHT = "a step is on its way, recv() comes first"
    BROKEN = "an earlier call failed half-way, build new environments"
    CLOSED = "the environments are closed"


class Guard:
    """Knows in which order calls may come, and checks actions.

    Attributes:
        phase: where the environments stand.
    """

    def __init__(self, num_envs: int, num_actions: int) -> None:
        self.phase = Phase.NEW
        self._process = os.getpid()
        self._num_envs = num_envs
        self._num_actions = num_actions

    def check(self, call: str, expected: Phase) -> None:
        """Refuse a call out of its order, or in a forked process.

        Raises:
            RuntimeError: with what has to come first.
        """
        if os.getpid() != self._process:
            raise RuntimeError(
                f"cannot {call}: emulators do not survive a fork, build environments in the child"
            )
        if self.phase is not expected:
            raise RuntimeError(f"cannot {call}: {self.phase.value}")

    def enter(self, call: str, expected: Phase) -> None:
        """Begin a call that changes the emulators; until it succeeds they count as broken."""
        self.check(call, expected)
        self.phase = Phase.BROKEN

    def checked(self, action: npt.NDArray[np.integer[Any]]) -> Actions:
        """Return a copy as int64; one action out of range would hang the emulator for ever."""
        if not isinstance(action, np.ndarray) or action.dtype.kind not in "iu":
            raise ValueError(f"actions are a numpy array of integers, got {action!r}")
        if action.shape != (self._num_envs,):
            raise ValueError(f"actions have shape ({self._num_envs},), got {action.shape}")
        if action.min() < 0 or action.max() >= self._num_actions:
            raise ValueError(f"actions are 0 .. {self._num_actions - 1}, got {action.tolist()}")
        return action.astype(np.int64)
