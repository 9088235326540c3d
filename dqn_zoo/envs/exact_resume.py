"""Exact resume: the state of a game is its seed and the actions since.

The emulators cannot be saved. So each environment is seeded anew now and then, at the end of a game
(`ReseedPlan`), what it does from there on is noted, and a resumed run plays it again.
"""

import base64
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from dqn_zoo.envs.backend import KEEP_GENERATOR, NOOP, Actions, Counts, Mask, Seeds
from dqn_zoo.envs.env_settings import ReseedPlan
from dqn_zoo.errors import UserError
from dqn_zoo.system.saved import Count, Saved, unpack

LONGEST_LOG = 2**28  # actions of one environment since its last seed: no game is so long


class _SavedLog(Saved):
    seeded_times: Count
    seed: Count
    steps: Count
    actions: Annotated[str, Field(max_length=2**26)]


class _SavedCheck(Saved):
    lives: list[Count]
    stack_crc32: list[Count]


class _SavedEnvironments(Saved):
    settings: dict[str, Any]
    environments: list[_SavedLog]
    check: _SavedCheck


def check_saved(state: object, fingerprint: Mapping[str, Any]) -> None:
    """Check what `Environments.state` returned, before these environments replay it.

    Raises:
        UserError: it is of other environments.
        ValueError: it is damaged.
    """
    saved = _SavedEnvironments.read(state)
    settings = dict(saved.settings)
    if isinstance(rules := settings.get("protocol"), dict):  # with more in it, of earlier versions
        settings["protocol"] = {key: rules[key] for key in rules if key != "eval_epsilon"}
    for key in fingerprint.keys() | settings.keys():
        before, now = settings.get(key), fingerprint.get(key)
        if before != now:
            raise UserError(
                f"{key} of the saved environments was {before}, here it is {now}: resume with the "
                "settings of the run"
            )
    if len(saved.environments) != fingerprint["num_envs"]:
        raise ValueError(f"{len(saved.environments)} environments were saved")


class History:
    """When every environment was seeded, with what, and what it did since."""

    def __init__(self, num_envs: int, plan: ReseedPlan) -> None:
        self._plan = plan
        self._log = ActionLog(num_envs)  # since the last seed
        self._seeded_times: Counts = np.zeros(num_envs, dtype=np.int64)  # before the last seed

    def seeds(self) -> Seeds:
        """Return the seeds with which the environments were last seeded: int64 [num_envs]."""
        return self._seeds_after(self._seeded_times)

    def _seeds_after(self, seeded_times: Counts) -> Seeds:
        """Return the seeds of environments that were seeded so often before."""
        counts = enumerate(seeded_times.tolist())
        seeds = [self._plan.seed_of(row, count) for row, count in counts]
        if not all(seed is None or 0 <= seed < 2**31 for seed in seeds):
            raise ValueError(f"seed_of has to return 0 <= seed < 2**31; it returned {seeds}")
        return np.array([KEEP_GENERATOR if seed is None else seed for seed in seeds], np.int64)

    def note(self, actions: Actions, ended: Mask) -> Seeds:
        """Note one action per environment.

        Args:
            actions: int64 [num_envs], as executed.
            ended: bool [num_envs], whose game is over.

        Returns:
            What to seed the next games with, int64 [num_envs]; `KEEP_GENERATOR` for most.
        """
        self._log.append(actions)
        due = ended & (self._log.lengths >= self._plan.every_steps)
        if not due.any():
            return np.full(len(due), KEEP_GENERATOR, dtype=np.int64)
        self._log.clear(due)
        self._seeded_times[due] += 1
        return np.where(due, self.seeds(), KEEP_GENERATOR)

    def replay(
        self,
        start: Callable[[Mask, Seeds], None],
        step: Callable[[Actions], None],
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        """Play the log again.

        The emulators step together and have to end together, so one with a shorter log first plays
        no-ops in games that do not count:

            environment 0   seed a a a a a a a a
            environment 1   -  - -  - seed a a a

        Args:
            start: starts games in the marked environments, with these seeds.
            step: makes one step of all.
            on_progress: called now and then with (steps replayed, steps in all), per environment.
        """
        actions = self._log.right_aligned()
        num_steps = len(actions)
        begins = num_steps - self._log.lengths
        seeds = self.seeds()
        start(np.ones(len(begins), dtype=np.bool_), np.full_like(seeds, KEEP_GENERATOR))
        for now in range(num_steps + 1):
            if (begins == now).any():
                start(begins == now, seeds)
            if now < num_steps:
                step(actions[now].astype(np.int64))
            if on_progress is not None and (now % 256 == 0 or now == num_steps):
                on_progress(now, num_steps)

    def state(self) -> list[dict[str, Any]]:
        """Return one JSON object per environment."""
        seeds = self.seeds()
        return [
            {"seeded_times": int(self._seeded_times[row]), "seed": int(seeds[row]), **log}
            for row, log in enumerate(self._log.state())
        ]

    def restore(self, state: list[dict[str, Any]], *, num_actions: int) -> None:
        """Continue from what `state` returned.

        Raises:
            UserError: the plan gives other seeds.
            ValueError: the state is damaged.
        """
        log = ActionLog.from_state(state, num_actions=num_actions)
        seeded_times = np.array([row["seeded_times"] for row in state], dtype=np.int64)
        if [row["seed"] for row in state] != self._seeds_after(seeded_times).tolist():
            raise UserError("the saved environments had other seeds: resume with the run's seed")
        self._log, self._seeded_times = log, seeded_times


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
        logs = [_unpack(entry["actions"], entry["steps"]) for entry in state]
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


def _unpack(text: str, steps: int) -> npt.NDArray[np.uint8]:
    try:
        packed = base64.b64decode(text, validate=True)
        return np.frombuffer(unpack(packed, min(steps, LONGEST_LOG), "a log"), dtype=np.uint8)
    except ValueError as error:
        raise ValueError(f"the actions are damaged: {error}") from error
