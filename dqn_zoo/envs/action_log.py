"""What every environment did since it was last seeded: with the seed, the whole state of a game."""

import base64
import binascii
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from dqn_zoo.envs.backend import NOOP, Actions, Counts, Mask


class ActionLog:
    """One growing row of actions per environment, one byte per action.

    Attributes:
        lengths: int64 [num_envs], steps noted since the last `clear`.
    """

    def __init__(self, num_envs: int, *, capacity_steps: int = 1_024) -> None:
        self.lengths: Counts = np.zeros(num_envs, dtype=np.int64)
        self._actions = np.zeros((num_envs, capacity_steps), dtype=np.uint8)
        self._rows = np.arange(num_envs)

    def append(self, actions: Actions) -> None:
        """Note one action per environment, int64 [num_envs], below 256."""
        if self.lengths.max() == self._actions.shape[1]:
            self._actions = np.concatenate([self._actions, np.zeros_like(self._actions)], axis=1)
        self._actions[self._rows, self.lengths] = actions
        self.lengths += 1

    def clear(self, rows: Mask) -> None:
        """Forget the actions of the chosen environments."""
        self.lengths[rows] = 0

    def right_aligned(self) -> npt.NDArray[np.uint8]:
        """Return the actions, no-ops before shorter logs: uint8 [steps, num_envs]."""
        longest = int(self.lengths.max())
        aligned = np.full((longest, len(self.lengths)), NOOP, dtype=np.uint8)
        for row, length in enumerate(self.lengths):
            aligned[longest - length :, row] = self._actions[row, :length]
        return aligned

    def state(self) -> list[dict[str, Any]]:
        """Return one JSON object per environment."""
        return [
            {"steps": int(length), "actions": _pack(self._actions[row, :length])}
            for row, length in enumerate(self.lengths)
        ]

    @classmethod
    def from_state(cls, state: list[dict[str, Any]], *, num_actions: int) -> "ActionLog":
        """Rebuild a log.

        Raises:
            ValueError: it is not what `state` returned. (A wrong action would hang the emulator.)
        """
        logs = [_unpack(entry["actions"]) for entry in state]
        for row, (log, entry) in enumerate(zip(logs, state, strict=True)):
            if len(log) != entry["steps"] or log.max(initial=0) >= num_actions:
                raise ValueError(f"the actions of environment {row} are damaged")
        longest = max(len(log) for log in logs)
        restored = cls(len(logs), capacity_steps=max(longest, 1_024))
        for row, log in enumerate(logs):
            restored._actions[row, : len(log)] = log
            restored.lengths[row] = len(log)
        return restored


def _pack(actions: npt.NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(actions.tobytes())).decode("ascii")


def _unpack(text: str) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=np.uint8)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"the actions are damaged: {error}") from error
