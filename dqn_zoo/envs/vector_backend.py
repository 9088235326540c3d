"""The fast backend: `ale_py.AtariVectorEnv`, which preprocesses and stacks in C++ threads."""

import numpy as np
from ale_py import AtariVectorEnv

from dqn_zoo.envs.backend import (
    SCREEN_SIZE,
    Actions,
    BackendStep,
    Counts,
    Mask,
    Observations,
    Seeds,
)
from dqn_zoo.settings.protocols import Protocol


class VectorBackend:
    """All environments in one C++ object.

    Synchronous mode (`batch_size=0`) is byte-deterministic for any number of threads. Life loss and
    clipping stay off: `episodic_life` would reset the whole game at every lost life,
    `life_loss_info` can expose uninitialised memory, and a clipped reward cannot be unclipped.
    """

    def __init__(
        self, rom: str, num_envs: int, *, protocol: Protocol, frame_stack: int, num_threads: int
    ) -> None:
        self._environment = AtariVectorEnv(
            rom,
            num_envs,
            batch_size=0,
            num_threads=num_threads,
            max_num_frames_per_episode=protocol.max_frames,
            repeat_action_probability=protocol.action_repeat_probability,
            full_action_space=False,
            img_height=SCREEN_SIZE,
            img_width=SCREEN_SIZE,
            stack_num=frame_stack,
            frameskip=protocol.frame_skip,
            # It draws uniformly from 0 .. noop_max - 1, and takes 0 for "none".
            noop_max=protocol.noop_max + 1 if protocol.noop_max > 0 else 0,
            episodic_life=False,
            life_loss_info=False,
            reward_clipping=False,
            use_fire_reset=False,
        )
        self.action_meanings: tuple[str, ...] = tuple(
            action.name for action in self._environment.ale.get_action_set()
        )
        self._never = np.zeros(num_envs, dtype=np.bool_)

    def reset(self, rows: Mask, seeds: Seeds) -> tuple[Observations, Counts]:
        """Start games where `rows`; done right after a game ended, it forestalls the autoreset."""
        observation, info = self._environment.reset(seed=seeds[rows], options={"reset_mask": rows})
        return observation, info["lives"].astype(np.int64)

    def send(self, actions: Actions) -> None:
        """Hand the actions to the emulator threads."""
        self._environment.send(actions)

    def recv(self) -> BackendStep:
        """Wait for the emulator threads."""
        observation, reward, terminated, truncated, info = self._environment.recv()
        return BackendStep(
            observation=observation,
            next_observation=observation,
            reward=reward.astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            restarted=self._never,
            lives=info["lives"].astype(np.int64),
        )

    def close(self) -> None:
        """End the threads; `AtariVectorEnv.close` alone leaves them running."""
        self._environment.close()
        del self._environment
