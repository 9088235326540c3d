"""What is settled before a run starts: device, threads, precision, memory, likely duration."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.settings.config import Config
from dqn_zoo.system import machine
from dqn_zoo.training.rates import about

NOMINAL_EMULATOR_S = 4e-4  # one step of one environment on one core: 2,300 to 2,900 a second
BESIDE_BYTES = {"cpu": 500_000_000, "cuda": 1_500_000_000}
"""Everything of a run but what its algorithm keeps: 0.43 to 0.5 GB were measured on a CPU; on a GPU
it is networks, minibatches, a CUDA graph and cuDNN's workspaces."""

BUSY = 1.5
"""From this factor on a machine counts as busy; clocks and caches alone make less of it."""

MANY = 1_000  # more of what decides the memory, to see what each takes


def complete(config: Config) -> Config:
    """Settle what the config leaves open: seed, device, threads, precision, checkpoint interval.

    Raises:
        UserError: if the device is cuda and there is none.
    """
    device = machine.choose_device(config.device)
    precision = config.precision
    if precision == "auto":
        fast = device == "cuda" or machine.supports_bfloat16()
        precision = "bfloat16" if fast else "float32"
    save_freq = config.save_freq
    if save_freq is None:
        save_freq = _default_save_freq(config.n_timesteps, device)
    seed = config.seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    threads = config.num_threads or machine.default_num_threads(device, machine.usable_cores())
    settled = {"device": device, "precision": precision, "save_freq": save_freq}
    return config.model_copy(update=settled | {"seed": seed, "num_threads": threads})


def _default_save_freq(n_timesteps: int, device: str) -> int:
    """Return the steps between checkpoints, rarer where steps are fast and the run is long."""
    return min(1_000_000, max(100_000, n_timesteps // 10)) if device == "cuda" else 100_000


def memory_bytes(config: Config) -> int:
    """Return what a run with this (complete) config takes on the device where it learns."""
    return BESIDE_BYTES[config.device] + algorithm_of(config).memory_bytes(config)


def check_memory(config: Config) -> None:
    """Refuse a run that does not fit, with the largest that would.

    Raises:
        UserError: if it does not fit.
    """
    key = algorithm_of(config).size_key
    size: int = getattr(config, key)
    larger = config.model_copy(update={key: size + MANY})
    needed = memory_bytes(config)
    machine.check_memory(
        needed,
        (memory_bytes(larger) - needed) / MANY,
        key=key,
        size=size,
        available=_free_memory_bytes(config.device),
    )


class Estimate(NamedTuple):
    """Roughly how long a run will take.

    Attributes:
        seconds: as busy as the machine is now.
        alone_s: if it were not, at most; on a GPU the same as `seconds`.
    """

    seconds: float
    alone_s: float

    @property
    def busy_factor(self) -> float:
        """How many times as long it takes because of other programs, at least."""
        return self.seconds / self.alone_s

    @property
    def busy_note(self) -> str | None:
        """One line where the machine is busy, else None."""
        if self.busy_factor < BUSY:
            return None
        return (
            f"other programs slow this down at least {self.busy_factor:.1f} times; alone on the "
            f"machine it would take about {about(self.alone_s)}"
        )


def estimate(config: Config) -> Estimate:
    """Estimate the duration of a run from a few updates on made-up data.

    A network of its own is timed, with the threads of the run; the run's own networks and
    generators are not touched. Where other programs are in the way, one thread is timed as well:
    its time on the processor does not depend on them.
    """
    timed = _estimate(config, config.num_threads or torch.get_num_threads())
    if timed.busy_factor < BUSY:
        return timed
    return timed._replace(alone_s=min(timed.alone_s, _estimate(config, 1).alone_s))


def _estimate(config: Config, num_threads: int) -> Estimate:
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    timer = _Timer()
    try:
        learning_s = algorithm_of(config).estimate_seconds(config, timer)
    finally:
        torch.set_num_threads(threads_before)
    emulator_s = config.n_timesteps * NOMINAL_EMULATOR_S
    undisturbed = 1.0 if config.device == "cuda" else timer.undisturbed
    return Estimate(emulator_s + learning_s, emulator_s + learning_s * undisturbed)


class _Timer:
    """Times work, and notes how much of the time this thread was computing.

    A thread waits for others of its own only while these are kept from computing, too.
    """

    def __init__(self) -> None:
        self._wall_s = self._computing_s = 0.0

    def __call__(self, work: Callable[[], object], *, num_first: int = 1) -> float:
        """Return the seconds of the fastest of three runs after the first; of slow work, fewer."""
        runs: list[tuple[float, float]] = []
        while len(runs) < num_first + 3 and sum(wall for wall, _ in runs[num_first - 1 :]) < 2.0:
            began, computing = time.perf_counter(), time.thread_time()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            runs.append((time.perf_counter() - began, time.thread_time() - computing))
        wall_s, computing_s = min(runs[num_first:] or runs)
        self._wall_s += wall_s
        self._computing_s += computing_s
        return wall_s

    @property
    def undisturbed(self) -> float:
        """The share of the time in which this thread was computing, at most 1."""
        return min(1.0, self._computing_s / self._wall_s) if self._computing_s > 0 else 1.0


def _free_memory_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return machine.memory_available_bytes()
