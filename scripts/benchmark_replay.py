"""Measure the replay memory: milliseconds per minibatch, and bytes.

    python scripts/benchmark_replay.py --sizes 50_000 1_000_000 --replay prioritized

Frames are random bytes, written through the same path as in training. After every minibatch its
priorities are set to random numbers; that is timed apart.
"""

import argparse
import functools
import statistics
import sys
import time

import benchmarking
import numpy as np
import torch
from benchmarking import Benchmark, Contender, Measurement

from dqn_zoo.algorithms.replay_q import replay_shape
from dqn_zoo.replay.memory import Replay
from dqn_zoo.replay.samplers import SAMPLERS, build_sampler
from dqn_zoo.replay.transitions import Transition
from dqn_zoo.settings.config import Config
from dqn_zoo.system.machine import process_memory_bytes

CPU = torch.device("cpu")
STACK = 4
ROWS = 1_000  # transitions written at once


def fill(replay: Replay, generator: np.random.Generator) -> None:
    """Write as many transitions as fit, each observation made of the four frames before it."""
    last = np.zeros(STACK, np.int32)
    for _ in range(replay.shape.capacity // ROWS):
        frames = generator.integers(0, 256, (ROWS, 84, 84), dtype=np.uint8)
        ids = np.concatenate([last, replay.frames.append(frames)])
        stacks = np.lib.stride_tricks.sliding_window_view(ids, STACK).copy()
        last = ids[-STACK:]
        replay.add(
            Transition(
                observation=stacks[:-1],
                action=generator.integers(0, 6, ROWS),
                reward=np.ones(ROWS, np.float32),
                discount=np.full(ROWS, 0.99, np.float32),
                next_observation=stacks[1:],
            )
        )


def measure(size: int, arguments: argparse.Namespace) -> Measurement:
    """Fill a memory, then draw minibatches and set their priorities."""
    generator = np.random.default_rng(0)
    before = process_memory_bytes()
    config = Config(buffer_size=size, replay=arguments.replay)
    replay = Replay(replay_shape(config), build_sampler(config, CPU), CPU)
    fill(replay, generator)
    occupied = process_memory_bytes() - before
    milliseconds, updates = [], []
    for _ in range(arguments.draws):
        began = time.perf_counter()
        batch = replay.sample(arguments.batch_size, generator)
        milliseconds.append(1e3 * (time.perf_counter() - began))
        priority = torch.from_numpy(generator.random(arguments.batch_size))
        began = time.perf_counter()
        replay.update_priorities(batch.rows, priority)
        updates.append(1e3 * (time.perf_counter() - began))
    low, middle, high = (float(np.quantile(milliseconds, q)) for q in (0.05, 0.5, 0.95))
    mean, update = statistics.fmean(milliseconds), statistics.median(updates)
    return Measurement(
        middle,
        {
            "transitions": len(replay),
            "bytes_measured": occupied,
            "bytes_computed": replay.shape.num_bytes,
            "quantile_5_ms": low,
            "quantile_95_ms": high,
            "mean_ms": mean,
            "priorities_ms": update,
        },
        note=f" (5 % {low:.3f}, 95 % {high:.3f}, mean {mean:.3f}), its priorities {update:.3f} ms; "
        f"{len(replay):,} transitions, {occupied / 1e9:.2f} GB measured, "
        f"{replay.shape.num_bytes / 1e9:.2f} GB computed",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 1_000_000])
    parser.add_argument("--replay", choices=sorted(SAMPLERS), default="uniform")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--draws", type=int, default=2_000)
    parser.add_argument("--num-threads", type=int, default=2)
    benchmarking.add_arguments(parser, repetitions=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.num_threads)
    settings = {key: getattr(arguments, key) for key in ("batch_size", "draws", "num_threads")}
    return benchmarking.run(
        Benchmark(name="replay", unit="ms per minibatch", settings=settings),
        [
            Contender(
                arguments.replay, {"buffer_size": size}, functools.partial(measure, size, arguments)
            )
            for size in arguments.sizes
        ],
        repetitions=arguments.repetitions,
        json_file=arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
