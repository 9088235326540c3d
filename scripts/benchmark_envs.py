"""Measure the environments: steps per second under random actions, beside what they are made of.

    python scripts/benchmark_envs.py --num-envs 8 --json envs.json

A step is one decision in one environment (4 frames), summed over environments: Space Invaders,
preprocessed and stacked. `vector` and `gymnasium` are the backends of dqn_zoo, with the bookkeeping
for lives, restarts and exact resume; `AtariVectorEnv` is ale-py's, bare; EnvPool runs in the peers'
virtual environment. Only the threads of the emulator differ within a number of environments.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import benchmarking
import numpy as np
import numpy.typing as npt
from benchmarking import Benchmark, Contender, Measurement
from peers import environment as peers

from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.envs.making import make_envs
from dqn_zoo.system.machine import usable_cores

Step = Callable[[npt.NDArray[np.int64]], object]
NUM_ACTIONS = 6


class Span(NamedTuple):
    """What is measured: so many seconds, after so many steps."""

    warm_up_steps: int
    seconds: float


def measure_steps(step: Step, num_envs: int, span: Span) -> Measurement:
    """Call `step`, which takes actions int64 [num_envs], with random ones until the time is up."""
    generator = np.random.default_rng(1)
    steps = 0
    while steps < span.warm_up_steps:
        step(generator.integers(NUM_ACTIONS, size=num_envs))
        steps += num_envs
    steps, passed = 0, 0.0
    began = time.perf_counter()
    while passed < span.seconds:
        step(generator.integers(NUM_ACTIONS, size=num_envs))
        steps += num_envs
        passed = time.perf_counter() - began
    return Measurement(steps / passed, {"steps": steps, "seconds": passed})


def thread_counts(num_envs: int, cores: int) -> list[int]:
    """Return 1, 2, 4, ... and the number of cores, as far as there are environments for them."""
    most = min(num_envs, cores)
    powers = [2**power for power in range(most.bit_length()) if 2**power < most]
    return [*powers, most]


def own_contender(
    backend: Literal["vector", "gymnasium"], num_envs: int, num_threads: int, span: Span
) -> Contender:
    """Return a backend of dqn_zoo."""

    def measure() -> Measurement:
        settings = EnvSettings(backend=backend)
        with make_envs(
            "SpaceInvaders", num_envs, settings=settings, seed=1, num_threads=num_threads
        ) as envs:
            envs.reset()
            return measure_steps(envs.step, num_envs, span)

    return Contender(f"dqn_zoo, {backend}", _traits(num_envs, num_threads), measure)


def bare_contender(num_envs: int, num_threads: int, span: Span) -> Contender:
    """Return ale-py's vector environment, with the settings that our backend gives it."""

    def measure() -> Measurement:
        from ale_py import AtariVectorEnv

        envs = AtariVectorEnv(
            "space_invaders",
            num_envs,
            batch_size=0,
            num_threads=num_threads,
            repeat_action_probability=0.0,
            full_action_space=False,
            noop_max=31,
            use_fire_reset=False,
        )
        envs.reset(seed=1)
        return measure_steps(envs.step, num_envs, span)

    return Contender("AtariVectorEnv", _traits(num_envs, num_threads), measure)


def envpool_contender(python: Path, num_envs: int, num_threads: int, span: Span) -> Contender:
    """Return EnvPool's vector environment."""
    words = [f"--num-envs={num_envs}", f"--num-threads={num_threads}"]
    words += [f"--warm-up={span.warm_up_steps}", f"--seconds={span.seconds}"]

    def measure() -> Measurement:
        timeout_s = 60 + 10 * span.seconds
        result = peers.run_peer(python, peers.HERE / "envpool_steps.py", words, timeout_s=timeout_s)
        return Measurement(result["steps"] / result["seconds"], result)

    return Contender("EnvPool", _traits(num_envs, num_threads), measure)


def contenders_for(
    num_envs: int, cores: int, python: Path | None, span: Span
) -> Iterator[Contender]:
    """Yield all contenders with so many environments."""
    yield own_contender("gymnasium", num_envs, 1, span)
    for num_threads in thread_counts(num_envs, cores):
        yield own_contender("vector", num_envs, num_threads, span)
        yield bare_contender(num_envs, num_threads, span)
        if python is not None:
            yield envpool_contender(python, num_envs, num_threads, span)


def _traits(num_envs: int, num_threads: int) -> dict[str, str | int]:
    return {"envs": num_envs, "threads": num_threads}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--num-envs", type=int, nargs="+", default=[1, 8, 32], help="(default: 1 8 32)"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="measured each time (default: 1)"
    )
    parser.add_argument("--warm-up", type=int, default=1_000, help="steps before (default: 1,000)")
    benchmarking.add_arguments(parser, repetitions=3)
    peers.add_arguments(parser)
    arguments = parser.parse_args()
    span = Span(arguments.warm_up, arguments.seconds)
    python = peers.find_python(arguments)
    return benchmarking.run(
        Benchmark(
            name="environments",
            unit="steps/s",
            settings={
                **span._asdict(),
                "peers": None if python is None else peers.versions(python),
            },
        ),
        [
            contender
            for num_envs in arguments.num_envs
            for contender in contenders_for(num_envs, usable_cores(), python, span)
        ],
        repetitions=arguments.repetitions,
        json_file=arguments.json,
    )


if __name__ == "__main__":
    sys.exit(main())
