"""Made-up streams of steps in which every frame is unique, and a naive reading of them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dqn_zoo.envs.environments import EnvStep

STACK = 4


def frame(number: int) -> np.ndarray:
    """Return a frame that carries its number in its first pixels; number 0 is black."""
    pixels = np.zeros((84, 84), np.uint8)
    pixels[0, :4] = list(int(number).to_bytes(4, "little"))
    return pixels


def number_of(pixels: np.ndarray) -> int:
    """Return the number in a frame."""
    return int.from_bytes(bytes(pixels[0, :4].tolist()), "little")


def numbers(stacks: np.ndarray) -> list[list[int]]:
    """Return the frame numbers of uint8 [batch, stack, 84, 84]."""
    first_pixels = np.ascontiguousarray(stacks[:, :, 0, :4])
    found: list[list[int]] = first_pixels.view("<u4")[:, :, 0].tolist()
    return found


@dataclass
class Stream:
    """Endless play in `num_envs` environments with random ends, truncations and lost lives."""

    num_envs: int
    generator: np.random.Generator
    end_chance: float = 0.08
    life_chance: float = 0.08
    frames: int = 0
    stacks: list[list[int]] = field(default_factory=list)

    def next_number(self) -> int:
        self.frames += 1
        return self.frames

    def reset(self) -> np.ndarray:
        self.stacks = [[0, 0, 0, self.next_number()] for _ in range(self.num_envs)]
        return self.pixels(self.stacks)

    def pixels(self, stacks: list[list[int]]) -> np.ndarray:
        pixels = np.zeros((len(stacks), STACK, 84, 84), np.uint8)
        pixels[:, :, 0, :4] = np.array(stacks, "<u4")[..., None].view(np.uint8)
        return pixels

    def step(self) -> EnvStep:
        draw = self.generator.random
        successors = [[*stack[1:], self.next_number()] for stack in self.stacks]
        ended = draw(self.num_envs) < self.end_chance
        truncated = ended & (draw(self.num_envs) < 0.5)
        life_lost = ~ended & (draw(self.num_envs) < self.life_chance)
        self.stacks = [
            [0, 0, 0, self.next_number()] if over else list(stack)
            for over, stack in zip(ended, successors, strict=True)
        ]
        return EnvStep(
            observation=self.pixels(self.stacks),
            next_observation=self.pixels(successors),
            action=self.generator.integers(18, size=self.num_envs),
            reward=self.generator.integers(-3, 4, size=self.num_envs).astype(np.float32),
            terminated=ended & ~truncated,
            truncated=truncated,
            life_lost=life_lost,
            restarted=ended,
        )


@dataclass
class NaiveRow:
    """One transition, read off the whole history by the definition."""

    observation: list[int]
    action: int
    reward: float
    discount: float
    next_observation: list[int]


def naive_transitions(
    history: list[dict[str, Any]], *, n_steps: int, gamma: float, life_stops: bool
) -> list[NaiveRow]:
    """Return the completed transitions of ONE environment, in the order of their first step.

    Each entry of `history` holds observation, action, reward, next_observation (frame numbers) and
    the flags terminated, truncated, life_lost, restarted.
    """
    rows = []
    for start, first in enumerate(history):
        total, completed = 0.0, None
        for length, entry in enumerate(history[start : start + n_steps], start=1):
            total += gamma ** (length - 1) * float(np.sign(entry["reward"]))
            stops = entry["terminated"] or (entry["life_lost"] and life_stops)
            if stops or entry["truncated"] or entry["restarted"] or length == n_steps:
                discount = 0.0 if stops else gamma**length
                completed = (total, discount, entry["next_observation"])
                break
        if completed is not None:
            rows.append(NaiveRow(first["observation"], first["action"], *completed))
    return rows
