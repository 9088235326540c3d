"""The versatile backend: one emulator per environment, stepped one after the other in Python.

Windows, a view of every frame, cropping and SB3's pixels are what the vector backend cannot do.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import numpy.typing as npt

from dqn_zoo.envs.backend import (
    KEEP_GENERATOR,
    SCREEN_SIZE,
    Actions,
    BackendStep,
    Counts,
    Mask,
    Observations,
    Seeds,
)
from dqn_zoo.envs.wrappers import RESTART_FRAME, Screen, make_game
from dqn_zoo.settings.protocols import Protocol
from dqn_zoo.settings.screen import Crop

OnFrame = Callable[[int, Screen], None]


class GymnasiumBackend:
    """A row of games, and the stacks of their last frames.

    Args:
        rom: name of the game in ale-py's snake_case.
        num_envs: how many.
        protocol: how they are played.
        frame_stack: frames in one observation; zeros stand before the first frame of a game.
        crop: rows and columns cut off before the resize: top, bottom, left, right.
        on_frame: called with (environment, RGB uint8 [210, 160, 3]) for every emulator frame.
        render_mode: "human" shows environment 0 in a window.
    """

    def __init__(
        self,
        rom: str,
        num_envs: int,
        *,
        protocol: Protocol,
        frame_stack: int,
        crop: Crop | None = None,
        on_frame: OnFrame | None = None,
        render_mode: Literal["human"] | None = None,
    ) -> None:
        self._games = [
            make_game(
                rom,
                protocol=protocol,
                crop=crop,
                on_frame=None if on_frame is None else partial(on_frame, row),
                render_mode=render_mode if row == 0 else None,
            )
            for row in range(num_envs)
        ]
        self.action_meanings: tuple[str, ...] = tuple(
            self._games[0].get_wrapper_attr("get_action_meanings")()
        )
        self._stacks = np.zeros((num_envs, frame_stack, SCREEN_SIZE, SCREEN_SIZE), dtype=np.uint8)
        self._lives = np.zeros(num_envs, dtype=np.int64)
        self._actions: list[int] = []

    def reset(self, rows: Mask, seeds: Seeds) -> tuple[Observations, Counts]:
        """Start games where `rows`."""
        for row in np.flatnonzero(rows).tolist():
            seed = None if seeds[row] == KEEP_GENERATOR else int(seeds[row])
            frame, info = self._games[row].reset(seed=seed)
            self._start_stack(row, frame)
            self._lives[row] = info["lives"]
        return self._stacks.copy(), self._lives.copy()

    def send(self, actions: Actions) -> None:
        """Note the actions; the work is done in `recv`."""
        self._actions = actions.tolist()

    def recv(self) -> BackendStep:
        """Step every game."""
        num_envs = len(self._games)
        reward = np.zeros(num_envs, dtype=np.float32)
        terminated, truncated, restarted = np.zeros((3, num_envs), dtype=np.bool_)
        restart_frames: dict[int, Screen] = {}
        self._stacks[:, :-1] = self._stacks[:, 1:]
        for row, (game, action) in enumerate(zip(self._games, self._actions, strict=True)):
            frame, reward[row], terminated[row], truncated[row], info = game.step(action)
            self._stacks[row, -1] = frame
            self._lives[row] = info["lives"]
            if RESTART_FRAME in info:
                restart_frames[row] = info[RESTART_FRAME]

        next_observation = observation = self._stacks.copy()
        if restart_frames:
            for row, frame in restart_frames.items():
                self._start_stack(row, frame)
                restarted[row] = True
            observation = self._stacks.copy()
        return BackendStep(
            observation=observation,
            next_observation=next_observation,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            restarted=restarted,
            lives=self._lives.copy(),
        )

    def close(self) -> None:
        """Close the windows and free the emulators."""
        for game in self._games:
            game.close()
        self._games.clear()

    def _start_stack(self, row: int, frame: npt.NDArray[np.uint8]) -> None:
        self._stacks[row] = 0
        self._stacks[row, -1] = frame
