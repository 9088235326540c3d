"""Independent streams of random numbers, all derived from the seed of the run."""

from typing import Any, Literal

import numpy as np

RandomStream = Literal["network", "environments", "exploration", "replay", "evaluation", "learner"]
# The place of a stream is part of its seed: new ones go to the end.
STREAMS: tuple[RandomStream, ...] = (
    "network",
    "environments",
    "exploration",
    "replay",
    "evaluation",
    "learner",
)


def stream_seed(seed: int, stream: RandomStream, *numbers: int) -> int:
    """Return a seed below 2**31 for one stream, or for one numbered part of it.

    The emulator takes Python integers below 2**31, hence the bound.
    """
    key = (STREAMS.index(stream), *numbers)
    sequence = np.random.SeedSequence(seed, spawn_key=key)
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)


def stream_generator(seed: int, stream: RandomStream) -> np.random.Generator:
    """Return the generator of one stream."""
    key = (STREAMS.index(stream),)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def generator_state(generator: np.random.Generator) -> dict[str, Any]:
    """Return the state of a generator, as JSON."""
    return dict(generator.bit_generator.state)


def restore_generator(generator: np.random.Generator, state: dict[str, Any]) -> None:
    """Continue from `generator_state`."""
    generator.bit_generator.state = state
