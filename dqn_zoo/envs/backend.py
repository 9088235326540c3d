"""What every emulator backend offers to `envs.Environments`.

    vector_backend.py      `ale_py.AtariVectorEnv`, C++ threads: the fast one
    gymnasium_backend.py   one `AtariEnv` each, in Python: windows, cropping, SB3's pixels

A backend guards nothing: calls come in the order reset, (send, recv)*, with actions that were
checked. Nor does it decide when a game starts, except that in the protocol `sb3` it goes on by
itself after a lost life.
"""

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

Actions = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Observations = npt.NDArray[np.uint8]
Seeds = npt.NDArray[np.int64]

SCREEN_SIZE = 84
"""Rows and columns of a preprocessed frame."""

KEEP_GENERATOR = -1
"""In place of a seed: the environment's own generator goes on."""

NOOP = 0
"""First in the action set of every game but Backgammon and VideoCheckers, which have no NOOP."""


class BackendStep(NamedTuple):
    """What one step of all environments gave; nobody writes into these arrays afterwards.

    Attributes:
        observation: uint8 [num_envs, stack, 84, 84], oldest frame first.
        next_observation: same shape; differs from `observation` only where `restarted`.
        reward: float32 [num_envs], score change.
        terminated: bool [num_envs].
        truncated: bool [num_envs], the game ran into the frame cap.
        restarted: bool [num_envs], the backend itself began a new stack in the middle of a game.
        lives: int64 [num_envs], lives left.
    """

    observation: Observations
    next_observation: Observations
    reward: npt.NDArray[np.float32]
    terminated: Mask
    truncated: Mask
    restarted: Mask
    lives: Counts


class Backend(Protocol):
    """Several copies of one game, stepped together."""

    @property
    def action_meanings(self) -> tuple[str, ...]:
        """Names of the actions, in their order."""

    def reset(self, rows: Mask, seeds: Seeds) -> tuple[Observations, Counts]:
        """Start a new game in the chosen environments, without touching the others.

        Args:
            rows: bool [num_envs], which ones; all of them in the first call.
            seeds: int64 [num_envs], below 2**31, or `KEEP_GENERATOR`; read only where `rows`.

        Returns:
            Observation uint8 [num_envs, stack, 84, 84] and lives int64 [num_envs], of all of them.
        """

    def send(self, actions: Actions) -> None:
        """Begin a step; `actions` is int64 [num_envs]."""

    def recv(self) -> BackendStep:
        """Wait for the step to end."""

    def close(self) -> None:
        """Free the emulators; called once."""
